//! Write gathering: what a callback writes is held by the loop, and sent at the callback's end in one piece.
//!
//! CPython counterpart: none. `core::buffer::Gathering` decides whether a transport has earned it; here is what forbids it
//! all the same, and what happens when the held bytes go.
//!
//! Held bytes are not "buffered" for flow control: a write that would take them above the high limit sends everything
//! first and compares the remainder, so `pause_writing` comes inside the same `write()` as in asyncio.

use aioxide_core::buffer::Advice;
use aioxide_core::sys::clock;

use super::SocketTransport;
use super::outbound::SEND_FAILED;
use crate::ffi::{Context, Inst, Raised, Res, bytes_from, thread_ident};
use crate::io::held::{Held, Sent};
use crate::io::pieces::Piece;
use crate::objects::scheduler::Scheduler;

/// A write of this size is not copied to save a system call, but goes out at once, with what is held.
const LARGE_BYTES: usize = 16 * 1024;

/// No more than this is held, whatever the high limit.
const MOST_BYTES: usize = 64 * 1024;

impl Inst<SocketTransport> {
    /// A write while nothing is queued: is it held? If not, it is to be sent, after what is held, which then is this
    /// transport's.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub(super) fn holds_back(&self, held: &Held, bytes: &[u8]) -> Res<bool> {
        let advice = self.gathering.borrow_mut().on_write(held.callback(), clock::monotonic_s);
        if advice == Advice::Send && !held.is_anothers(self.obj()) {
            return Ok(false);
        }
        self.follow(advice, held, bytes)
    }

    /// Two steps can run code that writes elsewhere or here, or closes us: sending what another transport holds, and up to
    /// 3.11 copying the context, which lets the collector run. After each everything is looked at again.
    #[inline(never)]
    fn follow(&self, advice: Advice, held: &Held, bytes: &[u8]) -> Res<bool> {
        let mut context = None;
        loop {
            // The order of bytes across connections is asyncio's.
            while held.is_anothers(self.obj()) {
                self.base.flush_held()?;
            }
            let is_direct = advice == Advice::Send || self.base.conn_lost.get() != 0 || !self.queue.borrow().is_empty();
            if is_direct || !self.may_hold(held) {
                break;
            }
            if advice == Advice::SendAndWatch {
                held.watch(self.obj());
                return Ok(false);
            }
            if !self.fits(held, bytes) {
                break;
            }
            if held.is_empty() && context.is_none() {
                // If there is no room at the end, the writer is added as if it were now.
                match self.base.capture_context() {
                    Ok(copied) => context = Some(copied),
                    Err(raised) => {
                        raised.forget();
                        break;
                    }
                }
                continue;
            }
            let is_first = held.is_empty();
            held.append(self.obj(), bytes);
            if let (Some(context), true) = (context, is_first) {
                self.write_context.put(context);
            }
            return Ok(true);
        }
        self.gathering.borrow_mut().on_sent();
        Ok(false)
    }

    /// Only inside of a callback, on the loop's own thread; and who debugs sees the order of asyncio.
    fn may_hold(&self, held: &Held) -> bool {
        let event_loop = self.base.event_loop.get();
        let is_ours = |s: &Scheduler| s.owner() == thread_ident() && !s.debug.get();
        held.is_enabled()
            && !self.base.closing.get()
            && event_loop.as_deref().and_then(Scheduler::of).is_some_and(is_ours)
    }

    fn fits(&self, held: &Held, bytes: &[u8]) -> bool {
        let count = held.len() + bytes.len();
        let is_above = i64::try_from(count).is_ok_and(|count| count > self.flow.high());
        bytes.len() < LARGE_BYTES && count <= MOST_BYTES && !is_above
    }

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
