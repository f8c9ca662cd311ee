//! Which phase a connection is in, and what an event means there.
//!
//! CPython counterpart: `SSLProtocolState` and `AppProtocolState`, with the tests of `_state` all over `SSLProtocol`.
//!
//! Pure: each verb says what is to be done, and the caller does it. Phases only go forward; any of them may become
//! [`Phase::Unwrapped`], which is the end once the connection has begun.
//!
//! Invariants: the program is told of the end of data at most once, and of the loss of the connection exactly once if it
//! was told of its making and the loss did not come in the middle of the handshake.

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun, or over.
    Unwrapped,
    /// Keys are being agreed on.
    Handshake,
    /// Data goes both ways.
    Wrapped,
    /// Closing: what was received before is still read, what was written is still sent.
    Flushing,
    /// `close_notify` is sent, the peer's is waited for.
    Shutdown,
}

/// What the program's protocol has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Made,
    Eof,
    Lost,
}

/// What to do with bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtInput {
    /// Go on with the handshake.
    Handshake,
    /// Read.
    Read,
    /// Read, then shut down.
    Flush,
    /// Go on with the shutdown.
    ShutDown,
    /// Nothing.
    Ignore,
}

/// What to do when the peer has ended the stream below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEof {
    /// The handshake has failed.
    FailHandshake,
    /// Read, then shut down.
    Flush,
    /// The program has paused reading: what is there waits for it.
    Wait,
    /// Write what waits, then shut down.
    WriteAndShutDown,
    /// Go on with the shutdown.
    ShutDown,
    /// Nothing.
    Ignore,
}

/// What to do when the program closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtClose {
    /// It is closing already, or has no stream yet.
    Nothing,
    /// There is nothing to shut down yet.
    Abort,
    /// Read, then shut down.
    Flush,
}

/// The state of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    phase: Phase,
    told: Told,
    /// The peer has ended the stream below.
    eof: bool,
}

impl Machine {
    /// `tells_made`: the program gets `connection_made` after the handshake; else it has had it (`start_tls`).
    pub const fn new(tells_made: bool) -> Machine {
        Machine { phase: Phase::Unwrapped, told: if tells_made { Told::Nothing } else { Told::Made }, eof: false }
    }

    /// Where the connection stands.
    #[inline]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Has the peer ended the stream below?
    pub const fn has_eof(&self) -> bool {
        self.eof
    }

    /// Is a write in vain?
    #[inline]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Shutdown | Phase::Unwrapped)
    }

    /// May received data be decrypted for the program?
    #[inline]
    pub const fn reads(&self) -> bool {
        matches!(self.phase, Phase::Wrapped | Phase::Flushing)
    }

    /// The stream below is there. False if this is not the beginning.
    pub fn start(&mut self) -> bool {
        self.advance(Phase::Unwrapped, Phase::Handshake)
    }

    /// The handshake has succeeded. False if it was not going on.
    pub fn wrap(&mut self) -> bool {
        self.advance(Phase::Handshake, Phase::Wrapped)
    }

    /// `connection_made` is due: true once, for a program that has not had it.
    pub fn tell_made(&mut self) -> bool {
        let due = self.told == Told::Nothing;
        if due {
            self.told = Told::Made;
        }
        due
    }

    /// `eof_received` is due: true once, between the making and the loss.
    pub fn tell_eof(&mut self) -> bool {
        let due = self.told == Told::Made;
        if due {
            self.told = Told::Eof;
        }
        due
    }

    /// Bytes have arrived.
    #[inline]
    pub const fn on_input(&self) -> AtInput {
        match self.phase {
            Phase::Handshake => AtInput::Handshake,
            Phase::Wrapped => AtInput::Read,
            Phase::Flushing => AtInput::Flush,
            Phase::Shutdown => AtInput::ShutDown,
            Phase::Unwrapped => AtInput::Ignore,
        }
    }

    /// The peer has ended the stream below.
    pub fn on_eof(&mut self, reading_is_paused: bool) -> AtEof {
        self.eof = true;
        match self.phase {
            Phase::Handshake => AtEof::FailHandshake,
            Phase::Wrapped => {
                self.phase = Phase::Flushing;
                if reading_is_paused { AtEof::Wait } else { AtEof::Flush }
            }
            Phase::Flushing => AtEof::WriteAndShutDown,
            Phase::Shutdown => AtEof::ShutDown,
            Phase::Unwrapped => AtEof::Ignore,
        }
    }

    /// The program closes.
    pub fn on_close(&mut self) -> AtClose {
        match self.phase {
            // The peer has ended, and a reader that has paused was waited for: not any more.
            Phase::Flushing if self.eof => AtClose::Flush,
            Phase::Unwrapped | Phase::Flushing | Phase::Shutdown => AtClose::Nothing,
            Phase::Handshake => AtClose::Abort,
            Phase::Wrapped => {
                self.phase = Phase::Flushing;
                AtClose::Flush
            }
        }
    }

    /// What was to be read and written is: `close_notify` may go. False if the connection has ended meanwhile.
    pub fn shut_down(&mut self) -> bool {
        self.advance(Phase::Flushing, Phase::Shutdown)
    }

    /// An error, or an abort: nothing is read or written any more.
    pub fn end(&mut self) {
        self.phase = Phase::Unwrapped;
    }

    /// The stream below is gone. True if the program's `connection_lost` is due.
    pub fn lose(&mut self) -> bool {
        let due = self.phase != Phase::Handshake && matches!(self.told, Told::Made | Told::Eof);
        if due {
            self.told = Told::Lost;
        }
        self.phase = Phase::Unwrapped;
        due
    }

    fn advance(&mut self, from: Phase, to: Phase) -> bool {
        let is_there = self.phase == from;
        if is_there {
            self.phase = to;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_common_life() {
        let mut m = Machine::new(true);
        assert_eq!(m.on_input(), AtInput::Ignore);
        assert!(m.start() && !m.start());
        assert_eq!(m.on_input(), AtInput::Handshake);
        assert!(m.wrap() && m.tell_made() && !m.tell_made());
        assert_eq!((m.on_input(), m.is_over()), (AtInput::Read, false));
        assert_eq!(m.on_close(), AtClose::Flush);
        assert_eq!((m.on_close(), m.on_input(), m.is_over()), (AtClose::Nothing, AtInput::Flush, true));
        assert!(m.shut_down() && !m.shut_down());
        assert_eq!(m.on_input(), AtInput::ShutDown);
        assert!(m.tell_eof() && !m.tell_eof());
        assert!(m.lose() && !m.lose());
        assert_eq!(m.phase(), Phase::Unwrapped);
    }

    #[test]
    fn a_handshake_that_fails_tells_nobody() {
        let mut m = Machine::new(true);
        assert!(m.start());
        assert_eq!(m.on_eof(false), AtEof::FailHandshake);
        m.end();
        assert!(!m.lose() && !m.tell_eof());
        // One that lost its stream while an upgraded protocol waits for it, as well.
        let mut m = Machine::new(false);
        assert!(m.start() && !m.lose());
    }

    #[test]
    fn the_end_of_the_stream_waits_for_a_paused_reader() {
        let mut m = Machine::new(false);
        assert!(m.start() && m.wrap());
        assert_eq!(m.on_eof(true), AtEof::Wait);
        assert!(m.reads() && m.has_eof());
        assert_eq!(m.on_close(), AtClose::Flush);
        assert_eq!(m.on_eof(true), AtEof::WriteAndShutDown);
    }

    #[derive(Clone, Copy, Debug)]
    enum Verb {
        Start,
        Wrap,
        TellMade,
        TellEof,
        Eof(bool),
        Close,
        ShutDown,
        End,
        Lose,
    }

    fn verbs() -> impl Strategy<Value = Vec<Verb>> {
        let verb = prop_oneof![
            Just(Verb::Start),
            Just(Verb::Wrap),
            Just(Verb::TellMade),
            Just(Verb::TellEof),
            any::<bool>().prop_map(Verb::Eof),
            Just(Verb::Close),
            Just(Verb::ShutDown),
            Just(Verb::End),
            Just(Verb::Lose),
        ];
        proptest::collection::vec(verb, 0..40)
    }

    fn rank(phase: Phase) -> u8 {
        match phase {
            Phase::Unwrapped => 9,
            Phase::Handshake => 1,
            Phase::Wrapped => 2,
            Phase::Flushing => 3,
            Phase::Shutdown => 4,
        }
    }

    proptest! {
        /// Whatever happens in whatever order: phases go forward, and each notice comes once and in order.
        #[test]
        fn any_order_of_events(tells_made: bool, verbs in verbs()) {
            let mut m = Machine::new(tells_made);
            let (mut made, mut eofs, mut losses) = (usize::from(!tells_made), 0, 0);
            for verb in verbs {
                let before = m.phase();
                let began = matches!(verb, Verb::Start);
                match verb {
                    Verb::Start => drop(m.start()),
                    Verb::Wrap => drop(m.wrap()),
                    Verb::TellMade => made += usize::from(m.tell_made()),
                    Verb::TellEof => {
                        if m.tell_eof() {
                            prop_assert!(made == 1 && losses == 0);
                            eofs += 1;
                        }
                    }
                    Verb::Eof(paused) => drop(m.on_eof(paused)),
                    Verb::Close => drop(m.on_close()),
                    Verb::ShutDown => drop(m.shut_down()),
                    Verb::End => m.end(),
                    Verb::Lose => {
                        if m.lose() {
                            prop_assert_eq!(made, 1);
                            losses += 1;
                        }
                        prop_assert_eq!(m.phase(), Phase::Unwrapped);
                    }
                }
                let forward = began && before == Phase::Unwrapped || rank(m.phase()) >= rank(before);
                prop_assert!(forward, "{before:?} -> {:?}", m.phase());
                prop_assert!(made <= 1 && eofs <= 1 && losses <= 1);
            }
        }
    }
}
