//! Child processes: a descriptor that tells of a child's end, and its status.
//!
//! CPython counterpart: `os.pidfd_open`, `os.waitpid`. Starting one is `subprocess.Popen`'s work, never this crate's.
//!
//! A number of a process is free for another one once its status has been taken. So whoever takes it says so to everybody
//! who may still send signals, in the same step.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

/// `pidfd_open(2)`: readable when the child has ended. Close-on-exec from birth.
///
/// # Errors
/// `ESRCH` if there is no such process: it has ended, and its status is taken. `ENOSYS`, `EPERM` and their like where the
/// kernel or a sandbox has no pidfd; `EMFILE`.
pub fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(known(pid)?, PidfdFlags::empty())?)
}

/// `waitpid(pid, WNOHANG)`: the status of a child that has ended, taken; None while it runs. As `Popen.returncode`: the exit
/// code, or the negative number of the signal that ended it.
///
/// # Errors
/// `ECHILD` if it is no child, or its status has been taken by somebody else.
pub fn take_status(pid: i32) -> io::Result<Option<i32>> {
    let Some((_, status)) = waitpid(Some(known(pid)?), WaitOptions::NOHANG)? else {
        return Ok(None);
    };
    Ok(status.exit_status().or_else(|| status.terminating_signal().map(|signal| -signal)))
}

/// Zero and negative numbers mean groups to `waitpid(2)`: never somebody's child.
fn known(pid: i32) -> io::Result<Pid> {
    if pid <= 0 {
        return Err(Errno::CHILD.into());
    }
    Pid::from_raw(pid).ok_or_else(|| Errno::CHILD.into())
}

/// Whether this is the thread that the process began with; in the child of a fork the one that has forked.
pub fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

/// Has the child's status been taken, or is it no child at all?
pub fn is_unknown(error: &io::Error) -> bool {
    [Errno::CHILD, Errno::SRCH].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}
