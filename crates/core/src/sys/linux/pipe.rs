//! The self-pipe that ends a blocking wait.
//!
//! CPython counterpart: the socket pair of `BaseSelectorEventLoop._make_self_pipe`, whose writing
//! end is also given to `signal.set_wakeup_fd`.
//!
//! Invariants: both ends are non-blocking and close-on-exec; a wake-up writes a zero byte, the
//! interpreter's signal handler writes the (never zero) number of the signal; a full pipe is as
//! good as a written one, somebody has yet to drain it.
//!
//! Why a pipe and no eventfd: `set_wakeup_fd` writes single bytes, an eventfd takes eight and would
//! add the signal numbers up. Why no socket pair: a pipe is the cheaper file, and Windows, which
//! needs the socket, has its own seat in `sys`.
//!
//! After a fork the child shares the pipe with its parent and would steal wake-ups: it makes a new one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};

/// Both ends of a self-pipe; closed on drop. Waking is allowed from every thread.
#[derive(Debug)]
pub struct WakePipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl WakePipe {
    /// `pipe2(O_NONBLOCK | O_CLOEXEC)`
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        Ok(Self { reader, writer })
    }

    /// Makes the reading end readable. Never blocks; a full pipe is success.
    pub fn wake(&self) -> io::Result<()> {
        loop {
            match write(&self.writer, &[0]) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Empties the pipe and returns the signal numbers found, in order. The zero bytes of
    /// [`wake`](Self::wake) are left out, so the usual drain allocates nothing.
    pub fn drain(&self) -> io::Result<Vec<u8>> {
        let mut signals = Vec::new();
        let mut buffer = [0_u8; 512];
        loop {
            match read(&self.reader, &mut buffer) {
                Ok(count) => {
                    signals.extend(buffer[..count].iter().copied().filter(|&byte| byte != 0));
                    // A short read has emptied the pipe: the next would only say EAGAIN.
                    if count < buffer.len() {
                        return Ok(signals);
                    }
                }
                Err(Errno::AGAIN) => return Ok(signals),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The end to watch.
    pub fn reader_fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// The end for `signal.set_wakeup_fd`.
    pub fn writer_fd(&self) -> RawFd {
        self.writer.as_raw_fd()
    }
}
