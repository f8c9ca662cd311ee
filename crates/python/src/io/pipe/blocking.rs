//! System calls on a descriptor that somebody else has made blocking.
//!
//! CPython counterpart: `os.read` and `os.write`, which let go of the interpreter around every call.
//!
//! `O_NONBLOCK` belongs to the open file, not to the descriptor: a child that shares it may turn it off, as may
//! `os.set_blocking` behind the transport. A call may then wait, for a thread of this very process perhaps, so it must not
//! keep the interpreter. Of a descriptor that does not block it does: to let go costs more than to ask, and a busy thread
//! would keep the loop out for milliseconds after each call. (Who turns it off between question and call is noticed by the
//! next one.)

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;

use aioxide_core::sys::file;

use crate::ffi::{BytesWriter, Ref, Res, check_signals, detached};
use crate::io::receive::arrived;

/// As asyncio's `max_size`.
const READ_BYTES: usize = 256 * 1024;

/// What the call itself has to say to a bad descriptor is better than what this had.
#[inline]
pub(super) fn is_blocking(fd: RawFd) -> bool {
    file::is_blocking(fd).unwrap_or(false)
}

/// `write(2)` for as long as it takes. No borrow may be held: other threads and signal handlers run meanwhile.
///
/// # Errors
/// OSError; what a signal handler raises.
#[cold]
pub(super) fn write(fd: RawFd, bytes: &[u8]) -> Res<usize> {
    Ok(arrived(until_done(|| file::write(fd, bytes))?)?.unwrap_or(0))
}

/// `read(2)` for as long as it takes, as [`write`]; None: nothing there.
#[cold]
pub(super) fn read(fd: RawFd) -> Res<Option<Ref>> {
    let mut writer = BytesWriter::with_capacity(READ_BYTES)?;
    let room = writer.room();
    let outcome = until_done(|| file::read(fd, room))?;
    arrived(outcome)?.map(|count| writer.finish(count)).transpose()
}

fn until_done(mut call: impl FnMut() -> io::Result<usize> + Send) -> Res<io::Result<usize>> {
    loop {
        match detached(&mut call) {
            Err(e) if e.kind() == ErrorKind::Interrupted => check_signals()?,
            outcome => return Ok(outcome),
        }
    }
}
