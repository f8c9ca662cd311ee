//! Records in, plain text to the protocol.
//!
//! CPython counterpart: `SSLProtocol.buffer_updated`, `_do_read`, `_do_read__buffered`, `_do_read__copied`, `eof_received`,
//! `_control_ssl_reading`.
//!
//! All records of one receive become one `data_received`. asyncio reads on after that until nothing is left; here each round looks
//! again at whether the program has paused. Plain text that comes before a bad record is delivered, and then the error.

use aioxide_core::tls::{AtEof, AtInput, Phase, RECORD_BYTES};

use super::session::{Exchange, Progress, is_failure};
use super::{Limits, TlsTransport};
use crate::ffi::{BytesWriter, Inst, Obj, Raised, Ref, Res, WriteBuffer, exc, none, string, true_};
use crate::io::finally;
use crate::io::receive::not_writable;
use crate::name;
use crate::objects::names::imports;

/// asyncio's `max_size`: more is never delivered at once.
const MOST_BYTES: usize = 256 * 1024;

/// What asyncio says of an error while reading: since 3.11 the same of all.
const FAILED: &str = "Fatal error on SSL protocol";
const RECORD_FAILED: &str = if cfg!(Py_3_11) { FAILED } else { "SSL error in data received" };
const PROTOCOL_FAILED: &str = if cfg!(Py_3_11) { FAILED } else { "application protocol failed to receive SSL data" };

/// What OpenSSL has taken of what was received and not given yet.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Inside {
    #[default]
    Nothing,
    /// The beginning of a record.
    Partial,
    /// A record, or more than one.
    Left,
}

/// What one round of reading came to, beside the bytes.
#[derive(Default)]
struct Round {
    count: usize,
    closed: bool,
    /// A record has begun and is not whole yet.
    partial: bool,
    /// There is more than there was room for.
    left: bool,
    failure: Option<Ref>,
}

impl Round {
    /// Read until nothing more can be, or there is no more room.
    fn read(exchange: &Exchange<'_>, room: &mut [std::mem::MaybeUninit<u8>]) -> Res<Round> {
        let mut round = Round::default();
        while round.count < room.len() && exchange.has_more() {
            match exchange.read(&mut room[round.count..]) {
                Ok(Progress::Bytes(count)) => round.count += count,
                Ok(Progress::Later) => {
                    round.partial = true;
                    return Ok(round);
                }
                Ok(Progress::Closed) => {
                    round.closed = true;
                    return Ok(round);
                }
                Err(raised) if is_failure(&raised) => {
                    round.failure = Some(raised.take());
                    return Ok(round);
                }
                Err(raised) => return Err(raised),
            }
        }
        round.left = exchange.has_more();
        Ok(round)
    }
}

impl Inst<TlsTransport> {
    /// Same as `buffer_updated` (`data_received` in 3.10): `input` has come.
    #[inline]
    pub fn on_bytes(&self, input: &[u8]) -> Res<()> {
        match self.machine.get().on_input() {
            AtInput::Read => self.read(input),
            AtInput::Handshake => self.go_on(input),
            AtInput::Flush => self.flush(input),
            AtInput::ShutDown => self.shut_down(input),
            // A transport below that delivers before it has told of itself (`start_tls`).
            AtInput::Ignore if !self.lower.is_some() && self.base.event_loop.is_some() => self.session.keep(input),
            AtInput::Ignore => Ok(()),
        }
    }

    /// Same as `eof_received`; is the stream below to be kept open?
    pub(super) fn on_lower_eof(&self) -> Res<bool> {
        let outcome = self.follow_eof();
        match outcome {
            Err(raised) if is_failure(&raised) => {
                let closed = || self.lower.get_or_none().call_method(name!("close"), []).map(drop);
                finally(Err(raised), closed).map(|()| false)
            }
            outcome => outcome,
        }
    }

    fn follow_eof(&self) -> Res<bool> {
        if !cfg!(Py_3_11) && self.machine.get().phase() == Phase::Wrapped {
            // 3.10: while it may still write.
            self.tell_eof()?;
        }
        let step = self.step(|m| m.on_eof(self.reading_is_paused.get()));
        self.base.log_debug(self.obj(), "%r received EOF")?;
        match step {
            AtEof::FailHandshake => {
                let exception = exc::connection_reset().call0()?;
                self.on_handshake_done(Some(exception))?;
            }
            AtEof::Flush => self.flush(&[])?,
            AtEof::Wait => return Ok(true),
            AtEof::WriteAndShutDown => {
                self.write_backlog()?;
                if self.step(|m| m.shut_down()) {
                    self.shut_down(&[])?;
                }
            }
            AtEof::ShutDown => self.shut_down(&[])?,
            AtEof::Ignore => {}
        }
        Ok(false)
    }

    /// Same as `_do_read`, when `input` has come.
    pub(super) fn read(&self, input: &[u8]) -> Res<()> {
        if !self.machine.get().reads() {
            return self.session.keep(input);
        }
        let outcome = match self.reading_is_paused.get() {
            true => self.session.keep(input).and_then(|()| self.send_waiting()),
            false => self.read_for_protocol(input).and_then(|()| self.write_backlog()),
        };
        match outcome.and_then(|()| self.control_lower_reading()) {
            Err(raised) if is_failure(&raised) => self.fail(&raised.take(), FAILED),
            outcome => outcome,
        }
    }

    #[inline]
    fn read_for_protocol(&self, input: &[u8]) -> Res<()> {
        if self.base.protocol.is_buffered() {
            return self.read_into_protocol(input);
        }
        if self.is_delivering.replace(true) {
            // From inside of `data_received`: the round that is on goes on afterwards.
            return self.session.keep(input);
        }
        let outcome = self.read_all(input);
        self.is_delivering.set(false);
        if !self.flush_is_due.replace(false) {
            return outcome;
        }
        finally(outcome, || self.flush(&[]))
    }

    fn read_all(&self, input: &[u8]) -> Res<()> {
        self.read_bytes(input)?;
        while self.may_read_more() {
            self.read_bytes(&[])?;
        }
        Ok(())
    }

    pub(super) fn may_read_more(&self) -> bool {
        self.has_more() && self.machine.get().reads() && !self.reading_is_paused.get()
    }

    /// Is there something that one more read would give?
    pub(super) fn has_more(&self) -> bool {
        self.inside.get() == Inside::Left
    }

    /// One round for a protocol that takes bytes.
    #[inline]
    fn read_bytes(&self, input: &[u8]) -> Res<()> {
        let most = match self.session.unread() + input.len() {
            0 if self.inside.get() != Inside::Left => return Ok(()),
            come if self.inside.get() == Inside::Nothing => come,
            // OpenSSL has taken more already, of one record.
            come => come + RECORD_BYTES,
        };
        let mut writer = BytesWriter::with_capacity(most.min(MOST_BYTES))?;
        let round = self.exchange(input, |exchange| Round::read(exchange, writer.room()))?;
        self.note(&round);
        self.refuse_writes_after(&round);
        let delivered = match round.count {
            0 => Ok(()),
            count => writer.finish(count).and_then(|data| self.base.protocol.data_received(&data)),
        };
        self.after(delivered, round)
    }

    /// One round into the protocol's own buffer.
    fn read_into_protocol(&self, input: &[u8]) -> Res<()> {
        let hint = self.session.unread() + input.len();
        let buffer = match self.base.protocol.get_buffer_of(hint as i64) {
            Ok(buffer) => buffer,
            Err(raised) => return finally(Err(raised), || self.session.keep(input)),
        };
        let (round, is_full) = match WriteBuffer::new(&buffer) {
            Ok(mut view) if view.len() != 0 => {
                let size = view.len();
                let round = self.exchange(input, |exchange| Round::read(exchange, view.room()))?;
                self.note(&round);
                self.refuse_writes_after(&round);
                let is_full = round.count == size;
                (round, is_full)
            }
            Ok(_empty) => {
                self.session.keep(input)?;
                return Err(Raised::runtime("get_buffer() returned an empty buffer"));
            }
            Err(raised) => {
                let raised = not_writable(raised, &buffer);
                return finally(Err(raised), || self.session.keep(input));
            }
        };
        drop(buffer);
        if is_full {
            // There may be more, for the next buffer.
            self.call_soon(name!("_do_read"))?;
        }
        let delivered = match round.count {
            0 => Ok(()),
            count => self.base.protocol.buffer_updated(count),
        };
        self.after(delivered, round)
    }

    /// Run one exchange. What OpenSSL answers by itself (a key update, session tickets) goes with what the program answers, or right
    /// after it.
    fn exchange(&self, input: &[u8], f: impl FnOnce(&Exchange<'_>) -> Res<Round>) -> Res<Round> {
        self.session.exchange(input, None, f).map(Option::unwrap_or_default)
    }

    /// Remember what is inside of OpenSSL.
    fn note(&self, round: &Round) {
        self.inside.set(match (round.left, round.partial) {
            (true, _) => Inside::Left,
            (_, true) => Inside::Partial,
            _ => Inside::Nothing,
        });
    }

    /// OpenSSL takes nothing more after an error: what the program writes, when it gets what came before, is in vain.
    fn refuse_writes_after(&self, round: &Round) {
        if round.failure.is_some() {
            self.step(|m| m.end());
        }
    }

    /// The plain text is delivered: now the end, or the error, that came after it.
    fn after(&self, delivered: Res<()>, round: Round) -> Res<()> {
        match delivered {
            Err(raised) if is_failure(&raised) => return self.fail(&raised.take(), PROTOCOL_FAILED),
            delivered => delivered?,
        }
        if let Some(exception) = round.failure {
            // The alert that says what was wrong.
            self.send_waiting()?;
            return self.fail(&exception, RECORD_FAILED);
        }
        if round.closed {
            if cfg!(Py_3_11) {
                self.tell_eof()?;
            }
            self.start_shutdown()?;
        }
        Ok(())
    }

    /// Same as `_call_eof_received`.
    pub(super) fn tell_eof(&self) -> Res<()> {
        if !self.step(|m| m.tell_eof()) {
            return Ok(());
        }
        let keep_open = self.base.protocol.eof_received().and_then(|answer| answer.is_true());
        match keep_open {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text = string("returning true from eof_received() has no effect when using ssl")?;
                imports().logger.call_method(name!("warning"), [&*text]).map(drop)
            }
            Err(raised) if raised.is_exit() => Err(raised),
            Err(raised) => self.fail(&raised.take(), "Error calling eof_received()"),
        }
    }

    /// `loop.call_soon(self.method)`
    pub(super) fn call_soon(&self, method: &Obj) -> Res<()> {
        let callback = self.obj().getattr(method)?;
        self.base.schedule(&callback, &[])
    }

    /// Same as `pause_reading`: no `data_received` until it is resumed. What arrives is kept, up to the limit.
    pub(super) fn pause_reading(&self) -> Res<()> {
        if cfg!(Py_3_11) {
            self.reading_is_paused.set(true);
            return Ok(());
        }
        self.lower.get_or_none().call_method(name!("pause_reading"), []).map(drop)
    }

    /// Same as `resume_reading`: what was kept is delivered in a later turn.
    pub(super) fn resume_reading(&self) -> Res<()> {
        if !cfg!(Py_3_11) {
            return self.lower.get_or_none().call_method(name!("resume_reading"), []).map(drop);
        }
        let is_lost = !self.base.event_loop.is_some();
        if !self.reading_is_paused.replace(false) || is_lost { Ok(()) } else { self.call_soon(name!("_resume")) }
    }

    /// The turn after `resume_reading`.
    pub(super) fn on_resumed(&self) -> Res<()> {
        match self.machine.get().on_input() {
            AtInput::Read => self.read(&[]),
            AtInput::Flush => self.flush(&[]),
            AtInput::ShutDown => self.shut_down(&[]),
            AtInput::Handshake | AtInput::Ignore => Ok(()),
        }
    }

    /// Same as `_control_ssl_reading`.
    pub(super) fn control_lower_reading(&self) -> Res<()> {
        let size = self.session.unread() as i64;
        let Limits { low, high } = self.read_limits.get();
        if size >= high && !self.lower_reading_is_paused.get() {
            self.lower_reading_is_paused.set(true);
            self.lower.get_or_none().call_method(name!("pause_reading"), []).map(drop)
        } else if size <= low && self.lower_reading_is_paused.get() {
            self.lower_reading_is_paused.set(false);
            self.lower.get_or_none().call_method(name!("resume_reading"), []).map(drop)
        } else {
            Ok(())
        }
    }

    /// Same as the answer of `eof_received`.
    pub(super) fn eof_answer(&self) -> Res {
        self.on_lower_eof().map(|keep| if keep { true_().to_ref() } else { none().to_ref() })
    }
}
