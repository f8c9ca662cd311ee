//! One epoll set, level-triggered but for registrations that ask for edges.
//!
//! CPython counterpart: `select.epoll` and `selectors.EpollSelector`.
//!
//! Kernel facts that force the shape:
//! * A registration belongs to the pair (open file, descriptor number). Closing the number removes
//!   it only when no other descriptor shares the file; else it lives on and cannot be named any
//!   more (`EPOLL_CTL_DEL` looks the number up first: `EBADF`). Hence the token: the caller packs a
//!   generation into it and recognises events nobody asked for.
//! * `EPOLLHUP` and `EPOLLERR` are reported whatever the interest, so "interest none" is a busy loop on
//!   a reset peer. [`Interest::NONE`] is therefore refused by `add` and `modify`: say `delete`.
//! * `epoll_wait` counts in milliseconds. Rounding down would return before the deadline and spin
//!   through the rest, so it rounds up, as `EpollSelector` does.
//!
//! Invariant: every element of an event vector is written by the kernel before it is readable.
//!
//! * A level-triggered event is put back into the kernel's list and looked at again by the next wait: 7 % of an
//!   echo. [`Interest::EDGE`] saves that, for readers who can tell that there is nothing left (`reactor`).
//!
//! Why not `epoll_pwait2`: container seccomp profiles do not know it.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::slice;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{DupFlags, Errno};
use rustix::time::Timespec;

use super::fd::borrow;

/// How long to wait: `None` for ever, zero for a look.
pub type Timeout = Option<Duration>;

/// Longest wait the millisecond argument can say; asyncio asks for a day at most.
const LONGEST_WAIT_S: u64 = i32::MAX as u64 / 1000;

/// Room made in an event vector that comes without any.
const DEFAULT_EVENTS: usize = 64;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest(u8);

impl Interest {
    /// Nothing: must not be registered.
    pub const NONE: Self = Self(0);
    /// `EPOLLIN`
    pub const READ: Self = Self(1);
    /// `EPOLLOUT`
    pub const WRITE: Self = Self(2);
    /// `EPOLLET`, beside [`READ`](Self::READ): report what arrives once. With it come `EPOLLRDHUP` and `EPOLLPRI`, so that an event
    /// tells if one receive may not find everything ([`Event::hints_at_more`]).
    pub const EDGE: Self = Self(4);

    /// Whether nothing is watched.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 & (Self::READ.0 | Self::WRITE.0) == 0
    }

    /// Whether every part of `other` is watched.
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// This interest less `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn flags(self) -> io::Result<EventFlags> {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.has(Self::READ));
        flags.set(EventFlags::OUT, self.has(Self::WRITE));
        if flags.is_empty() {
            return Err(Errno::INVAL.into());
        }
        flags.set(EventFlags::ET | EventFlags::RDHUP | EventFlags::PRI, self.has(Self::EDGE));
        Ok(flags)
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What the kernel reports: a token and a mask.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(epoll::Event);

// SAFETY: only ever made with a 64-bit number for its data; the pointer of the union is never used, so
// nothing in it belongs to a thread. The loop waits for events detached from the interpreter.
unsafe impl Send for Event {}

impl Event {
    /// The token given to [`Epoll::add`].
    #[inline]
    pub fn token(self) -> u64 {
        let data = self.0.data;
        data.u64()
    }

    /// Anything but `EPOLLOUT`, as `selectors` has it: an error or hang-up wakes the reader.
    #[inline]
    pub fn wakes_reader(self) -> bool {
        let flags = self.0.flags;
        !flags.difference(EventFlags::OUT).is_empty()
    }

    /// Anything but what is about reading, as `selectors` has it: an error or hang-up wakes the writer.
    #[inline]
    pub fn wakes_writer(self) -> bool {
        let flags = self.0.flags;
        !flags.difference(EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI).is_empty()
    }

    /// The stream has ended or broken, or there is urgent data in it: a receive that comes back short has then not emptied
    /// the socket for sure. Half of these come only with [`Interest::EDGE`].
    #[inline]
    pub fn hints_at_more(self) -> bool {
        let flags = self.0.flags;
        flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI)
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flags = self.0.flags;
        write!(f, "Event(token {:#x}, {flags:?})", self.token())
    }
}

/// An epoll set, closed on drop.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// `epoll_create1(EPOLL_CLOEXEC)`
    pub fn create() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// `EPOLL_CTL_ADD`; `EEXIST` if the pair (file, number) is there already, `EPERM` for a regular
    /// file, `EINVAL` for an empty interest.
    pub fn add(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.0, borrow(fd)?, EventData::new_u64(token), interest.flags()?)?)
    }

    /// `EPOLL_CTL_MOD`; `ENOENT` if the number means another file by now.
    pub fn modify(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.0, borrow(fd)?, EventData::new_u64(token), interest.flags()?)?)
    }

    /// `EPOLL_CTL_DEL`; `EBADF` or `ENOENT` if the number was closed or re-used.
    pub fn delete(&self, fd: RawFd) -> io::Result<()> {
        Ok(epoll::delete(&self.0, borrow(fd)?)?)
    }

    /// Waits for events; see [`wait`].
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Timeout) -> io::Result<usize> {
        wait(self.0.as_raw_fd(), events, timeout)
    }

    /// Puts `fresh` in the place of this set, under the same descriptor number, so that copies of the
    /// number stay good. The old set is closed (another process may still hold it).
    pub fn replace_with(&mut self, fresh: Self) -> io::Result<()> {
        Ok(rustix::io::dup3(fresh.0.as_fd(), &mut self.0, DupFlags::CLOEXEC)?)
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// `epoll_wait(2)` on the set with this number. Replaces the content of `events`; its capacity is the
/// most that is taken. A signal is an error of `ErrorKind::Interrupted`: the caller has handlers to run.
pub fn wait(epoll: RawFd, events: &mut Vec<Event>, timeout: Timeout) -> io::Result<usize> {
    events.clear();
    if events.capacity() == 0 {
        events.reserve(DEFAULT_EVENTS);
    }
    let timeout = timeout.map(whole_milliseconds);
    let room = events.spare_capacity_mut();
    let (start, len) = (room.as_mut_ptr(), room.len());
    // SAFETY: `Event` is a transparent wrapper of `epoll::Event`, and the slice is the same memory,
    // borrowed from `events` and not touched through it while `room` lives.
    let room: &mut [MaybeUninit<epoll::Event>] = unsafe { slice::from_raw_parts_mut(start.cast(), len) };
    let (written, _) = epoll::wait(borrow(epoll)?, room, timeout.as_ref())?;
    let count = written.len();
    // SAFETY: the kernel has written the first `count` elements, and `count` is within the capacity.
    unsafe { events.set_len(count) };
    Ok(count)
}

/// Rounds up, as `math.ceil(timeout * 1e3)` in `EpollSelector.select`.
fn whole_milliseconds(timeout: Duration) -> Timespec {
    let seconds = timeout.as_secs().min(LONGEST_WAIT_S - 1);
    let milliseconds = timeout.subsec_nanos().div_ceil(1_000_000);
    Timespec {
        tv_sec: (seconds + u64::from(milliseconds / 1000)) as i64,
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_to_whole_milliseconds() {
        let ms = |d: Duration| {
            let t = whole_milliseconds(d);
            t.tv_sec * 1000 + t.tv_nsec / 1_000_000
        };
        assert_eq!(ms(Duration::ZERO), 0);
        assert_eq!(ms(Duration::from_nanos(1)), 1);
        assert_eq!(ms(Duration::from_millis(1)), 1);
        assert_eq!(ms(Duration::from_micros(1001)), 2);
        assert_eq!(ms(Duration::from_nanos(999_999_999)), 1000);
        assert_eq!(ms(Duration::from_secs(86_400)), 86_400_000);
        assert!(ms(Duration::MAX) <= i64::from(i32::MAX));
    }

    #[test]
    fn an_empty_interest_is_refused() {
        let epoll = Epoll::create().unwrap();
        let error = epoll.add(0, 1, Interest::NONE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
    }

    #[test]
    fn a_negative_descriptor_is_ebadf_and_no_panic() {
        let epoll = Epoll::create().unwrap();
        let error = epoll.add(-1, 1, Interest::READ).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
