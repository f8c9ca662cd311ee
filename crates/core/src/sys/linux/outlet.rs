//! A descriptor whose number never changes hands: what is written to it goes into a pipe, or nowhere.
//!
//! CPython counterpart: none. `signal.set_wakeup_fd` hands out the number that was installed before, and programs keep it to
//! put it back much later. A number of a pipe that was closed meanwhile would be another file's by then, and signals would be
//! written into that.
//!
//! Invariant: between two uses the outlet leads to `/dev/null`; by that it is known again, should somebody have closed it.

#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor, open};
use rustix::io::{DupFlags, dup3};

use super::fd::borrow;

/// Never closed.
#[derive(Debug)]
pub struct Outlet {
    number: RawFd,
    nowhere: RawFd,
}

impl Outlet {
    /// Leads nowhere yet.
    pub fn new() -> io::Result<Outlet> {
        let open_null = || open("/dev/null", OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let (number, nowhere) = (open_null()?, open_null()?);
        let outlet = Outlet { number: number.as_raw_fd(), nowhere: nowhere.as_raw_fd() };
        std::mem::forget((number, nowhere));
        Ok(outlet)
    }

    /// What `signal.set_wakeup_fd` gets.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// Do the numbers still mean what they meant? A daemon may have closed all descriptors.
    pub fn is_intact(&self) -> bool {
        [self.number, self.nowhere].into_iter().all(|fd| {
            let Some(stat) = borrow(fd).ok().and_then(|fd| fstat(fd).ok()) else {
                return false;
            };
            let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
            is_device && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
        })
    }

    /// Lead into the file behind `fd`, which should not block.
    pub fn lead_to(&self, fd: RawFd) -> io::Result<()> {
        // SAFETY: the number is this outlet's, which never closes it; `ManuallyDrop` does not either.
        let mut number = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.number) });
        Ok(dup3(borrow(fd)?, &mut number, DupFlags::CLOEXEC)?)
    }

    /// Lead nowhere again.
    pub fn lead_nowhere(&self) -> io::Result<()> {
        self.lead_to(self.nowhere)
    }
}
