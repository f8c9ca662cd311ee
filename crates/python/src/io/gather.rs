//! Write gathering: what a callback writes is held by the loop, and sent at the callback's end in one piece.
//!
//! CPython counterpart: none. `core::buffer::Gathering` decides whether a transport has earned it; here is what forbids it
//! all the same. What happens when the held bytes go is the transport's matter: a socket's sends them, one with TLS makes a
//! record of them first.
//!
//! Held bytes are not "buffered" for flow control: a write that would take them above the high limit sends everything
//! first and compares the remainder, so `pause_writing` comes inside the same `write()` as in asyncio.

use aioxide_core::buffer::{Advice, Gathering};
use aioxide_core::sys::clock;

use super::base::Base;
use super::held::Held;
use crate::ffi::cell::RefCell;
use crate::ffi::{Obj, Ref, Res, thread_ident};
use crate::objects::scheduler::Scheduler;

/// A write of this size is not copied to save a system call, but goes out at once, with what is held.
const LARGE_BYTES: usize = 16 * 1024;

/// No more than this is held, whatever the high limit.
const MOST_BYTES: usize = 64 * 1024;

/// A transport whose writes may be held.
pub trait Gathers {
    fn base(&self) -> &Base;
    fn gathering(&self) -> &RefCell<Gathering>;
    /// Is there something that must go before a write, or that keeps it from being sent?
    fn is_held_up(&self) -> bool;
    /// The high limit of flow control, in bytes.
    fn high(&self) -> i64;
    /// If there is no room at the end, the writer is added as if it were now, in this context.
    fn keep_context(&self, context: Ref);

    /// A write of `me` while nothing holds it up: is it held? If not, it is to be sent, after what is held, which then is this
    /// transport's.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    fn holds_back(&self, me: &Obj, held: &Held, bytes: &[u8]) -> Res<bool> {
        let advice = self.gathering().borrow_mut().on_write(held.callback(), clock::monotonic_s);
        if advice == Advice::Send && !held.is_anothers(me) {
            return Ok(false);
        }
        self.follow(advice, me, held, bytes)
    }

    /// Two steps can run code that writes elsewhere or here, or closes us: sending what another transport holds, and up to
    /// 3.11 copying the context, which lets the collector run. After each everything is looked at again.
    #[inline(never)]
    fn follow(&self, advice: Advice, me: &Obj, held: &Held, bytes: &[u8]) -> Res<bool> {
        let mut context = None;
        loop {
            // The order of bytes across connections is asyncio's.
            while held.is_anothers(me) {
                self.base().flush_held()?;
            }
            let is_direct = advice == Advice::Send || self.base().conn_lost.get() != 0 || self.is_held_up();
            if is_direct || !self.may_hold(held) {
                break;
            }
            if advice == Advice::SendAndWatch {
                held.watch(me);
                return Ok(false);
            }
            if !self.fits(held, bytes) {
                break;
            }
            if held.is_empty() && context.is_none() {
                match self.base().capture_context() {
                    Ok(copied) => context = Some(copied),
                    Err(raised) => {
                        raised.forget();
                        break;
                    }
                }
                continue;
            }
            let is_first = held.is_empty();
            held.append(me, bytes);
            if let (Some(context), true) = (context, is_first) {
                self.keep_context(context);
            }
            return Ok(true);
        }
        self.gathering().borrow_mut().on_sent();
        Ok(false)
    }

    /// Only inside of a callback, on the loop's own thread; and who debugs sees the order of asyncio.
    fn may_hold(&self, held: &Held) -> bool {
        let event_loop = self.base().event_loop.get();
        let is_ours = |s: &Scheduler| s.owner() == thread_ident() && !s.debug.get();
        held.is_enabled()
            && !self.base().closing.get()
            && event_loop.as_deref().and_then(Scheduler::of).is_some_and(is_ours)
    }

    fn fits(&self, held: &Held, bytes: &[u8]) -> bool {
        let count = held.len() + bytes.len();
        let is_above = i64::try_from(count).is_ok_and(|count| count > self.high());
        bytes.len() < LARGE_BYTES && count <= MOST_BYTES && !is_above
    }
}
