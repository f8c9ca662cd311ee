//! `tls::Machine` against a model of `asyncio.sslproto.SSLProtocol`: the same events, the same notices and deeds in the same order.
//!
//! What OpenSSL answers and what the program does inside of its callbacks is drawn for each event. Where asyncio's protocol would
//! raise RuntimeError for a change of state that cannot be (a program that aborts inside of a read), the machine does no more.

use aioxide_core::tls::{AtClose, AtEof, AtInput, Machine, Phase};
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

/// What is done to the stream below, and what the program is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Handshake,
    Unwrap,
    Made,
    Data,
    Eof,
    Lost,
    Ready,
    Failed,
    ForceClose,
    CloseSoon,
    KeepOpen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Again,
    Done,
    Fails,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrived {
    Nothing,
    Data,
    CloseNotify,
    Junk,
}

/// What the program does in the first callback that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Nothing,
    Close,
    Abort,
    Pause,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Start,
    Input,
    Eof,
    Close,
    Abort,
    Pause,
    Resume,
    HandshakeLate,
    ShutdownLate,
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    event: Event,
    handshake: Answer,
    unwrap: Answer,
    read: Arrived,
    reaction: Reaction,
}

/// What both sides have around their state.
struct Around {
    step: Step,
    log: Vec<Deed>,
    is_paused: bool,
    is_closing: bool,
    has_lower: bool,
    has_waiter: bool,
}

impl Around {
    fn new() -> Around {
        let step = Step {
            event: Event::Start,
            handshake: Answer::Again,
            unwrap: Answer::Again,
            read: Arrived::Nothing,
            reaction: Reaction::Nothing,
        };
        Around { step, log: Vec::new(), is_paused: false, is_closing: false, has_lower: false, has_waiter: true }
    }

    fn fail(&mut self) {
        if self.has_lower {
            self.log.push(Deed::ForceClose);
        }
    }

    fn wake(&mut self, deed: Deed) {
        if std::mem::take(&mut self.has_waiter) {
            self.log.push(deed);
        }
    }

    fn reaction(&mut self) -> Reaction {
        std::mem::replace(&mut self.step.reaction, Reaction::Nothing)
    }

    fn arrived(&mut self) -> Arrived {
        std::mem::replace(&mut self.step.read, Arrived::Nothing)
    }
}

/// RuntimeError: "cannot switch state".
struct Impossible;

type Turn = Result<(), Impossible>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum AppState {
    Init,
    Made,
    Eof,
    Lost,
}

/// asyncio's, method by method.
struct Theirs {
    around: Around,
    state: Phase,
    app: AppState,
    eof: bool,
}

impl Theirs {
    fn new(tells_made: bool) -> Theirs {
        let app = if tells_made { AppState::Init } else { AppState::Made };
        Theirs { around: Around::new(), state: Phase::Unwrapped, app, eof: false }
    }

    fn set_state(&mut self, next: Phase) -> Turn {
        let is_allowed = next == Phase::Unwrapped
            || matches!(
                (self.state, next),
                (Phase::Unwrapped, Phase::Handshake)
                    | (Phase::Handshake, Phase::Wrapped)
                    | (Phase::Wrapped, Phase::Flushing)
                    | (Phase::Flushing, Phase::Shutdown)
            );
        if !is_allowed {
            return Err(Impossible);
        }
        self.state = next;
        Ok(())
    }

    fn happen(&mut self) -> Turn {
        match self.around.step.event {
            Event::Start => {
                self.around.has_lower = true;
                self.set_state(Phase::Handshake)?;
                self.do_handshake()
            }
            Event::Input => match self.state {
                Phase::Handshake => self.do_handshake(),
                Phase::Wrapped => self.do_read(),
                Phase::Flushing => self.do_flush(),
                Phase::Shutdown => self.do_shutdown(),
                Phase::Unwrapped => Ok(()),
            },
            Event::Eof => self.eof_received(),
            Event::Close => self.close(),
            Event::Abort => self.abort(),
            Event::Pause => {
                self.around.is_paused = true;
                Ok(())
            }
            Event::Resume => {
                self.around.is_paused = false;
                match self.state {
                    Phase::Wrapped => self.do_read(),
                    Phase::Flushing => self.do_flush(),
                    Phase::Shutdown => self.do_shutdown(),
                    Phase::Handshake | Phase::Unwrapped => Ok(()),
                }
            }
            Event::HandshakeLate => {
                if self.state == Phase::Handshake {
                    self.around.fail();
                }
                Ok(())
            }
            Event::ShutdownLate => {
                if matches!(self.state, Phase::Flushing | Phase::Shutdown) {
                    self.around.fail();
                }
                Ok(())
            }
            Event::Lost => self.connection_lost(),
        }
    }

    fn react(&mut self) -> Turn {
        match self.around.reaction() {
            Reaction::Nothing => Ok(()),
            Reaction::Close => self.close(),
            Reaction::Abort => self.abort(),
            Reaction::Pause => {
                self.around.is_paused = true;
                Ok(())
            }
        }
    }

    fn do_handshake(&mut self) -> Turn {
        self.around.log.push(Deed::Handshake);
        match self.around.step.handshake {
            Answer::Again => Ok(()),
            Answer::Done => self.on_handshake_complete(true),
            Answer::Fails => self.on_handshake_complete(false),
        }
    }

    fn on_handshake_complete(&mut self, is_good: bool) -> Turn {
        if !is_good {
            self.set_state(Phase::Unwrapped)?;
            self.around.fail();
            self.around.wake(Deed::Failed);
            return Ok(());
        }
        self.set_state(Phase::Wrapped)?;
        if self.app == AppState::Init {
            self.app = AppState::Made;
            self.around.log.push(Deed::Made);
            self.react()?;
        }
        self.around.wake(Deed::Ready);
        self.do_read()
    }

    fn do_read(&mut self) -> Turn {
        if !matches!(self.state, Phase::Wrapped | Phase::Flushing) || self.around.is_paused {
            return Ok(());
        }
        match self.around.arrived() {
            Arrived::Nothing => Ok(()),
            Arrived::Data => {
                self.around.log.push(Deed::Data);
                self.react()
            }
            Arrived::CloseNotify => {
                self.call_eof_received()?;
                self.start_shutdown()
            }
            Arrived::Junk => {
                self.around.fail();
                Ok(())
            }
        }
    }

    fn call_eof_received(&mut self) -> Turn {
        if self.app == AppState::Made {
            self.app = AppState::Eof;
            self.around.log.push(Deed::Eof);
            return self.react();
        }
        Ok(())
    }

    fn close(&mut self) -> Turn {
        if std::mem::replace(&mut self.around.is_closing, true) { Ok(()) } else { self.start_shutdown() }
    }

    fn start_shutdown(&mut self) -> Turn {
        match self.state {
            // Not asyncio's: there a connection whose reader has paused, and whose peer has ended, cannot be closed.
            Phase::Flushing if self.eof => {
                self.around.is_closing = true;
                self.do_flush()
            }
            Phase::Flushing | Phase::Shutdown | Phase::Unwrapped => Ok(()),
            Phase::Handshake => self.abort(),
            Phase::Wrapped => {
                self.around.is_closing = true;
                self.set_state(Phase::Flushing)?;
                self.do_flush()
            }
        }
    }

    fn do_flush(&mut self) -> Turn {
        self.do_read()?;
        self.set_state(Phase::Shutdown)?;
        self.do_shutdown()
    }

    fn do_shutdown(&mut self) -> Turn {
        if !self.eof {
            self.around.log.push(Deed::Unwrap);
            match self.around.step.unwrap {
                Answer::Again => return Ok(()),
                Answer::Fails => {
                    self.around.fail();
                    return Ok(());
                }
                Answer::Done => {}
            }
        }
        self.call_eof_received()?;
        self.around.log.push(Deed::CloseSoon);
        Ok(())
    }

    fn abort(&mut self) -> Turn {
        self.around.is_closing = true;
        self.state = Phase::Unwrapped;
        self.around.fail();
        Ok(())
    }

    fn eof_received(&mut self) -> Turn {
        self.eof = true;
        match self.state {
            Phase::Handshake => self.on_handshake_complete(false),
            Phase::Wrapped => {
                self.set_state(Phase::Flushing)?;
                if self.around.is_paused {
                    self.around.log.push(Deed::KeepOpen);
                    Ok(())
                } else {
                    self.do_flush()
                }
            }
            Phase::Flushing => {
                self.set_state(Phase::Shutdown)?;
                self.do_shutdown()
            }
            Phase::Shutdown => self.do_shutdown(),
            Phase::Unwrapped => Ok(()),
        }
    }

    fn connection_lost(&mut self) -> Turn {
        self.around.is_closing = true;
        if self.state != Phase::Handshake && matches!(self.app, AppState::Made | AppState::Eof) {
            self.app = AppState::Lost;
            self.around.log.push(Deed::Lost);
        }
        self.state = Phase::Unwrapped;
        self.around.has_lower = false;
        self.around.wake(Deed::Failed);
        Ok(())
    }
}

/// The machine, with the deeds that its answers ask for.
struct Ours {
    around: Around,
    machine: Machine,
}

impl Ours {
    fn new(tells_made: bool) -> Ours {
        Ours { around: Around::new(), machine: Machine::new(tells_made) }
    }

    fn happen(&mut self) {
        match self.around.step.event {
            Event::Start => {
                self.around.has_lower = true;
                if self.machine.start() {
                    self.go_on();
                }
            }
            Event::Input => self.follow(self.machine.on_input()),
            Event::Eof => self.on_eof(),
            Event::Close => self.close(),
            Event::Abort => self.abort(),
            Event::Pause => self.around.is_paused = true,
            Event::Resume => {
                self.around.is_paused = false;
                match self.machine.on_input() {
                    AtInput::Handshake => {}
                    verdict => self.follow(verdict),
                }
            }
            Event::HandshakeLate => {
                if self.machine.on_input() == AtInput::Handshake {
                    self.around.fail();
                }
            }
            Event::ShutdownLate => {
                if matches!(self.machine.phase(), Phase::Flushing | Phase::Shutdown) {
                    self.around.fail();
                }
            }
            Event::Lost => {
                self.around.is_closing = true;
                if self.machine.lose() {
                    self.around.log.push(Deed::Lost);
                }
                self.around.has_lower = false;
                self.around.wake(Deed::Failed);
            }
        }
    }

    fn follow(&mut self, verdict: AtInput) {
        match verdict {
            AtInput::Handshake => self.go_on(),
            AtInput::Read => self.read(),
            AtInput::Flush => self.flush(),
            AtInput::ShutDown => self.shut_down(),
            AtInput::Ignore => {}
        }
    }

    fn react(&mut self) {
        match self.around.reaction() {
            Reaction::Nothing => {}
            Reaction::Close => self.close(),
            Reaction::Abort => self.abort(),
            Reaction::Pause => self.around.is_paused = true,
        }
    }

    fn go_on(&mut self) {
        self.around.log.push(Deed::Handshake);
        match self.around.step.handshake {
            Answer::Again => {}
            Answer::Fails => self.fail_handshake(),
            Answer::Done => {
                assert!(self.machine.wrap());
                if self.machine.tell_made() {
                    self.around.log.push(Deed::Made);
                    self.react();
                }
                self.around.wake(Deed::Ready);
                self.read();
            }
        }
    }

    fn fail_handshake(&mut self) {
        self.machine.end();
        self.around.fail();
        self.around.wake(Deed::Failed);
    }

    fn read(&mut self) {
        if !self.machine.reads() || self.around.is_paused {
            return;
        }
        match self.around.arrived() {
            Arrived::Nothing => {}
            Arrived::Data => {
                self.around.log.push(Deed::Data);
                self.react();
            }
            Arrived::CloseNotify => {
                self.tell_eof();
                self.start_shutdown();
            }
            Arrived::Junk => self.around.fail(),
        }
    }

    fn tell_eof(&mut self) {
        if self.machine.tell_eof() {
            self.around.log.push(Deed::Eof);
            self.react();
        }
    }

    fn close(&mut self) {
        if !std::mem::replace(&mut self.around.is_closing, true) {
            self.start_shutdown();
        }
    }

    fn start_shutdown(&mut self) {
        match self.machine.on_close() {
            AtClose::Nothing => {}
            AtClose::Abort => self.abort(),
            AtClose::Flush => {
                self.around.is_closing = true;
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.read();
        if self.machine.shut_down() {
            self.shut_down();
        }
    }

    fn shut_down(&mut self) {
        if !self.machine.has_eof() {
            self.around.log.push(Deed::Unwrap);
            match self.around.step.unwrap {
                Answer::Again => return,
                Answer::Fails => return self.around.fail(),
                Answer::Done => {}
            }
        }
        self.tell_eof();
        self.around.log.push(Deed::CloseSoon);
    }

    fn abort(&mut self) {
        self.around.is_closing = true;
        self.machine.end();
        self.around.fail();
    }

    fn on_eof(&mut self) {
        match self.machine.on_eof(self.around.is_paused) {
            AtEof::FailHandshake => self.fail_handshake(),
            AtEof::Flush => self.flush(),
            AtEof::Wait => self.around.log.push(Deed::KeepOpen),
            AtEof::WriteAndShutDown => {
                if self.machine.shut_down() {
                    self.shut_down();
                }
            }
            AtEof::ShutDown => self.shut_down(),
            AtEof::Ignore => {}
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = prop_oneof![
        8 => Just(Event::Input),
        1 => Just(Event::Eof),
        1 => Just(Event::Close),
        1 => Just(Event::Abort),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::HandshakeLate),
        1 => Just(Event::ShutdownLate),
        1 => Just(Event::Lost),
    ];
    let answer = || prop_oneof![2 => Just(Answer::Again), 3 => Just(Answer::Done), 1 => Just(Answer::Fails)];
    let read = prop_oneof![
        3 => Just(Arrived::Nothing),
        5 => Just(Arrived::Data),
        1 => Just(Arrived::CloseNotify),
        1 => Just(Arrived::Junk),
    ];
    let reaction = prop_oneof![
        9 => Just(Reaction::Nothing),
        1 => Just(Reaction::Close),
        1 => Just(Reaction::Abort),
        1 => Just(Reaction::Pause),
    ];
    let step = (event, answer(), answer(), read, reaction)
        .prop_map(|(event, handshake, unwrap, read, reaction)| Step { event, handshake, unwrap, read, reaction });
    proptest::collection::vec(step, 1..MAX_OPERATIONS)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn tls_model(tells_made: bool, steps in steps()) {
        let (mut theirs, mut ours) = (Theirs::new(tells_made), Ours::new(tells_made));
        let mut seen = 0;
        for (number, mut step) in steps.into_iter().enumerate() {
            if number == 0 {
                step.event = Event::Start;
            } else if !theirs.around.has_lower && matches!(step.event, Event::Input | Event::Eof | Event::Lost) {
                continue; // nobody is there to tell it
            }
            theirs.around.step = step;
            ours.around.step = step;
            let _impossible = theirs.happen().is_err();
            ours.happen();
            prop_assert_eq!(&ours.around.log[seen..], &theirs.around.log[seen..], "{:?}", step);
            seen = ours.around.log.len();
            prop_assert_eq!(ours.machine.phase(), theirs.state, "{:?}", step);
            prop_assert_eq!(ours.machine.has_eof(), theirs.eof);
            prop_assert_eq!(ours.around.is_closing, theirs.around.is_closing);
        }
    }
}
