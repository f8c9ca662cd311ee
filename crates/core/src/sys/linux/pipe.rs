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
//! After a fork the child shares the pipe with its parent and would steal wake-ups: it makes a new one under the
//! same numbers, which the epoll set and the interpreter know.
//!
//! The mutex is for a wake-up that races with the close: a number closed may be another file's. It is taken once per
//! sleep, beside a system call. A thread that wants to wake without it (a fork may come while it is in `write`, and
//! the child would find the mutex locked) takes a [`Waker`] first, which keeps both ends open: a write to a pipe that
//! nobody can read is a SIGPIPE.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::{DupFlags, Errno, dup3, read, write};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

/// Both ends of a self-pipe; closed by [`close`](Self::close) or on drop. Waking is allowed from every thread.
#[derive(Debug)]
pub struct WakePipe(Mutex<Option<Arc<Ends>>>);

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// The right to wake once, without a lock.
#[derive(Debug)]
pub struct Waker(Arc<Ends>);

impl Waker {
    /// As [`WakePipe::wake`].
    pub fn wake(self) -> io::Result<()> {
        wake(&self.0.writer)
    }
}

fn wake(writer: &OwnedFd) -> io::Result<()> {
    loop {
        match write(writer, &[0]) {
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        Ok(Self { reader, writer })
    }
}

impl WakePipe {
    /// `pipe2(O_NONBLOCK | O_CLOEXEC)`
    pub fn new() -> io::Result<Self> {
        Ends::new().map(|ends| Self(Mutex::new(Some(Arc::new(ends)))))
    }

    /// Makes the reading end readable. Never blocks; a full pipe is success, and so is a closed one: nobody sleeps.
    pub fn wake(&self) -> io::Result<()> {
        self.ends().as_ref().map_or(Ok(()), |ends| wake(&ends.writer))
    }

    /// For a wake-up in a moment; None once closed.
    pub fn waker(&self) -> Option<Waker> {
        self.ends().as_ref().map(|ends| Waker(Arc::clone(ends)))
    }

    /// Empties the pipe and returns the signal numbers found, in order. The zero bytes of
    /// [`wake`](Self::wake) are left out, so the usual drain allocates nothing.
    pub fn drain(&self) -> io::Result<Vec<u8>> {
        let mut signals = Vec::new();
        let ends = self.ends();
        let Some(ends) = ends.as_ref() else {
            return Ok(signals);
        };
        let mut buffer = [0_u8; 512];
        loop {
            match read(&ends.reader, &mut buffer) {
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

    /// Whether so many bytes drained at once leave a doubt that more were written: the pipe was full, or nearly so, as the
    /// kernel gives room back by pages.
    pub fn may_have_lost(&self, drained: usize) -> bool {
        const PAGE: usize = 4096;
        // No pipe is smaller than one page.
        if drained == 0 {
            return false;
        }
        let size = self.ends().as_ref().and_then(|ends| fcntl_getpipe_size(&ends.writer).ok());
        size.is_some_and(|size| drained + PAGE > size)
    }

    /// Closes both ends; wake-ups do nothing from then on.
    pub fn close(&self) {
        drop(self.ends().take());
    }

    /// For the child of a fork: a pipe of its own in the place of the parent's, under the same numbers.
    pub fn renew(&self) -> io::Result<()> {
        let ends = self.ends();
        let Some(ends) = ends.as_ref() else {
            return Ok(());
        };
        let fresh = Ends::new()?;
        for (new, old) in [(&fresh.reader, &ends.reader), (&fresh.writer, &ends.writer)] {
            // A waker of a thread that the fork has not brought along may refer to the ends for ever: they are not ours
            // alone, but the numbers are replaced all the same.
            // SAFETY: open as long as `ends` is; `ManuallyDrop` closes nothing.
            let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(old.as_raw_fd()) });
            dup3(new, &mut number, DupFlags::CLOEXEC)?;
        }
        Ok(())
    }

    /// The end to watch; -1 once closed.
    pub fn reader_fd(&self) -> RawFd {
        self.ends().as_ref().map_or(-1, |ends| ends.reader.as_raw_fd())
    }

    /// The end for `signal.set_wakeup_fd`; -1 once closed.
    pub fn writer_fd(&self) -> RawFd {
        self.ends().as_ref().map_or(-1, |ends| ends.writer.as_raw_fd())
    }

    /// A poisoned mutex is as good as new: the ends are never half done.
    fn ends(&self) -> MutexGuard<'_, Option<Arc<Ends>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
