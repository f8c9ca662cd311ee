//! Borrow a descriptor that somebody else owns, for one system call.
//!
//! CPython counterpart: an int passed to `os.read`. asyncio's descriptors belong to Python's socket
//! objects, so the core is handed bare numbers; they may be negative or closed by then.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;

/// `EBADF` for a negative number: `BorrowedFd` panics on -1.
#[inline]
pub(super) fn borrow<'call>(fd: RawFd) -> io::Result<BorrowedFd<'call>> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the number is not -1 (checked above). That it is open is up to the kernel, which
    // answers EBADF otherwise; the borrow lives for one call and no memory hangs on the descriptor.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
