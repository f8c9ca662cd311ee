//! The waiting half of the reactor.
//!
//! CPython counterpart: `EpollSelector.select`, which waits with the GIL released.
//!
//! While the owner waits, other threads may take the GIL and change the reactor, so the wait must not
//! hold a borrow of it. epoll allows that: `epoll_ctl` from another thread during `epoll_wait` is defined.
//!
//! Invariant: the number is that of the reactor's set for all of the reactor's life (a rebuilt set takes
//! the number over). Afterwards it is a bare number: no memory hangs on it, a wait fails with `EBADF`.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::sys::epoll::{self, Event};

/// A copyable handle that waits on a reactor's epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poller(RawFd);

impl Poller {
    pub(super) const fn new(epoll: RawFd) -> Self {
        Self(epoll)
    }

    /// Replaces `events` by what is ready, at most as many as it has capacity for. `None` waits for
    /// ever; whole milliseconds, rounded up. A signal is an error of `ErrorKind::Interrupted`.
    #[inline]
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        epoll::wait(self.0, events, timeout).map(drop)
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
