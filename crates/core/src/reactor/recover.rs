//! A new epoll set in the place of one that cannot be trusted any more.
//!
//! CPython counterpart: none. asyncio spins on a closed descriptor whose dup lives, and a forked child
//! that touches its parent's loop changes the parent's set.
//!
//! Invariants: the descriptor number of the set stays the same; until the new set is complete nothing is
//! changed, so an error (`EMFILE`, `ENOSPC`) leaves the old one at work and the next turn tries again; the
//! old set is never told anything (after a fork it is the parent's).
//!
//! O(n) in the descriptors watched, and rare: a file closed behind the loop's back while a dup lives.

use std::io;
use std::os::fd::RawFd;

use super::{Reactor, is, means_gone, token::Token};
use crate::sys::epoll::{Epoll, Interest};
use rustix::io::Errno;

/// What becomes of the watchers in a forked child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFork {
    /// The child starts empty and gets the watchers back to drop them.
    Forget,
    /// The child watches what the parent watches.
    Reregister,
}

impl<W> Reactor<W> {
    /// Whether the kernel has reported a registration that is not ours.
    #[inline]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Replaces the set if it is stale. A descriptor that is closed by now keeps its watchers, as it
    /// does in asyncio, but is not registered: it stays silent until it is set again.
    pub fn rebuild_if_stale(&mut self) -> io::Result<()> {
        if self.stale { self.rebuild() } else { Ok(()) }
    }

    /// To be called in the child, before anything else: the set is shared with the parent. Returns the
    /// watchers that were forgotten.
    pub fn after_fork_child(&mut self, watchers: AfterFork) -> io::Result<Vec<W>> {
        match watchers {
            AfterFork::Reregister => self.rebuild().map(|()| Vec::new()),
            AfterFork::Forget => {
                self.epoll.replace_with(Epoll::create()?)?;
                self.trust();
                Ok(self.registry.take_all())
            }
        }
    }

    fn rebuild(&mut self) -> io::Result<()> {
        let fresh = Epoll::create()?;
        let lost = self.register_with(&fresh)?;
        self.epoll.replace_with(fresh)?;
        for fd in lost {
            if let Some(slot) = self.registry.get_mut(fd) {
                slot.armed = Interest::NONE;
            }
        }
        self.registry.forget_lingering();
        self.trust();
        Ok(())
    }

    /// Registers in `fresh` what is armed, under the same tokens: an event fetched before still finds its
    /// watcher. Returns the descriptors that are gone.
    fn register_with(&self, fresh: &Epoll) -> io::Result<Vec<RawFd>> {
        let mut lost = Vec::new();
        for (fd, slot) in self.registry.iter().filter(|(_, slot)| !slot.armed.is_none()) {
            match fresh.add(fd, Token::new(fd, slot.generation).into(), slot.wanted()) {
                // EINVAL and ELOOP: the number means an epoll set by now, perhaps this one.
                Err(error) if means_gone(&error) || is(&error, Errno::INVAL) || is(&error, Errno::LOOP) => {
                    lost.push(fd)
                }
                other => other?,
            }
        }
        Ok(lost)
    }

    fn trust(&mut self) {
        self.may_leak = false;
        self.stale = false;
    }
}
