//! What the loop holds for a socket, on its way to the kernel.
//!
//! CPython counterpart: none; see `io::gather`.

use aioxide_core::buffer::Gathering;
use aioxide_core::sys::clock;

use super::SocketTransport;
use super::outbound::SEND_FAILED;
use crate::ffi::cell::RefCell;
use crate::ffi::{Context, Inst, Raised, Ref, Res, bytes_from};
use crate::io::base::Base;
use crate::io::gather::Gathers;
use crate::io::held::{Held, Sent};
use crate::io::pieces::Piece;

impl Gathers for Inst<SocketTransport> {
    fn base(&self) -> &Base {
        &self.base
    }

    fn gathering(&self) -> &RefCell<Gathering> {
        &self.gathering
    }

    fn is_held_up(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    fn high(&self) -> i64 {
        self.flow.high()
    }

    fn keep_context(&self, context: Ref) {
        self.write_context.put(context);
    }
}

impl Inst<SocketTransport> {
    /// Send what is held and `bytes`; how many of these went. What is left over of the held ones is queued.
    #[inline(never)]
    pub(super) fn send_after_held(&self, held: &Held, bytes: &[u8]) -> Res<usize> {
        let sent = held.send(self.descriptor(), bytes).map_err(|e| Raised::os(&e))?;
        self.queue_rest(&sent)?;
        Ok(sent.others)
    }

    fn queue_rest(&self, sent: &Sent) -> Res<()> {
        if !sent.rest.is_empty() {
            let piece = Piece(bytes_from(&sent.rest)?);
            self.queue.borrow_mut().push(piece);
        }
        Ok(())
    }

    /// The callback that has written has ended, or something comes that must find it sent.
    pub fn on_callback_end(&self, held: &Held) -> Res<()> {
        self.gathering.borrow_mut().on_end(clock::monotonic_s());
        if held.is_empty() {
            return Ok(());
        }
        // What is queued goes first. (Nothing is held then; should it be, it must not overtake.)
        let outcome = match self.unsent_bytes() {
            0 => held.send(self.descriptor(), &[]),
            _ => Ok(held.take()),
        };
        if outcome.as_ref().is_ok_and(|sent| sent.rest.is_empty()) {
            if !self.writing.get() {
                self.write_context.clear();
            }
            return Ok(());
        }
        let settle = || {
            let queued = outcome.map_err(|e| Raised::os(&e)).and_then(|sent| self.queue_rest(&sent));
            match queued.and_then(|()| self.start_writing()) {
                Ok(()) => self.maybe_pause_protocol(),
                Err(raised) => self.fatal_error(raised, SEND_FAILED),
            }
        };
        match self.write_context.get() {
            Some(context) => Context::run(&context, settle),
            None => settle(),
        }
    }
}
