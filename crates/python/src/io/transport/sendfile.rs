//! What `loop.sendfile` asks of a transport: nothing queued when it begins, and no write while it goes on.
//!
//! CPython counterpart: `_make_empty_waiter` and `_reset_empty_waiter`, and what `_write_ready` does for them.
//!
//! The waiter is a future; as long as the transport has one, finished or not, a file is being sent.

use aioxide_core::reactor::Direction;

use super::SocketTransport;
use crate::ffi::{Inst, Raised, Ref, Res, none};
use crate::io::driver::Driver;
use crate::name;
use crate::objects::future::Fut;

impl Inst<SocketTransport> {
    /// A future that is done when nothing is queued any more.
    ///
    /// # Errors
    /// RuntimeError if a file is being sent already.
    pub(super) fn make_empty_waiter(&self) -> Res {
        self.base.flush_held()?;
        if self.empty_waiter.is_some() {
            return Err(Raised::runtime("Empty waiter is already set"));
        }
        let waiter = self.base.event_loop()?.call_method(name!("create_future"), [])?;
        self.empty_waiter.put(waiter.clone());
        if self.unsent_bytes() == 0 {
            self.settle_empty_waiter(None)?;
        }
        Ok(waiter)
    }

    /// The file is sent, or not: writing is allowed again.
    pub(super) fn reset_empty_waiter(&self) {
        self.empty_waiter.clear();
    }

    /// # Errors
    /// RuntimeError while a file is being sent.
    #[inline]
    pub(super) fn check_no_sendfile(&self, method: &str) -> Res<()> {
        if self.empty_waiter.is_some() {
            return Err(Raised::runtime(&format!("unable to {method}; sendfile is in progress")));
        }
        Ok(())
    }

    /// Everything queued is sent, or never will be, because of `exception`. Nobody is told twice, nor one who has given up.
    pub(super) fn settle_empty_waiter(&self, exception: Option<Ref>) -> Res<()> {
        let Some(waiter) = self.empty_waiter.get() else {
            return Ok(());
        };
        match (Fut::of(&waiter), exception) {
            (Some(future), _) if !future.core.is_pending() => Ok(()),
            (Some(future), None) => future.set_result(none().to_ref()),
            (Some(_), Some(exception)) => waiter.call_method(name!("set_exception"), [&*exception]).map(drop),
            // A loop whose `create_future` is the program's own.
            (None, _) if waiter.call_method(name!("done"), [])?.is_true()? => Ok(()),
            (None, None) => waiter.call_method(name!("set_result"), [none()]).map(drop),
            (None, Some(exception)) => waiter.call_method(name!("set_exception"), [&*exception]).map(drop),
        }
    }

    /// The socket is about to be closed: whoever waits for room in it would wait for ever.
    pub(super) fn wake_sendfile(&self) -> Res<()> {
        if !self.empty_waiter.is_some() {
            return Ok(());
        }
        let event_loop = self.base.event_loop.get();
        event_loop.as_deref().and_then(Driver::of).map_or(Ok(()), |d| d.end_wait(self.fd.get(), Direction::Write))
    }
}
