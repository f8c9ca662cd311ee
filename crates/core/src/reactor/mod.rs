//! The reactor: who waits for which descriptor, told by one epoll set.
//!
//! CPython counterpart: `selectors.EpollSelector` and `BaseSelectorEventLoop._add_reader` & co.
//!
//! ## Some facts about epoll
//! 1. A registration hangs on (open file, number). A number closed while a dup of the file lives
//!    keeps reporting, and `EPOLL_CTL_DEL` cannot name it any more.
//! 2. A number is re-used at once. The registry then believes in a registration the kernel has dropped
//!    (`MOD` says `ENOENT`), or the other way round (`ADD` says `EEXIST`).
//! 3. HUP and ERR are reported whatever the interest: an interest of none must be a `DEL`.
//! 4. After a fork both processes share the set; what the child changes is changed for the parent.
//!
//! ## What follows
//! * The kernel's token is (generation, descriptor). Each `ADD` takes a new generation, so an event
//!   of a registration that is no longer ours is recognised, whatever the number means today.
//! * [`Reactor::set`] always tells the kernel, even if the interest is the same as before: only that
//!   finds out a re-used number. (asyncio skips the call and loses the descriptor.) Who owns the
//!   descriptor and so knows that it was not re-used swaps the watcher by [`Reactor::get_mut`].
//! * Only a failed `DEL` or `MOD` can leave a registration behind. Until one has failed, a stale event
//!   is just one of a batch fetched before the change; after it, a stale event means that the set must
//!   be rebuilt, or epoll would report it on every wait. And after it a `MOD` takes a new generation
//!   too: it may have hit a registration left behind under a number that came back to its file.
//! * A new set takes the *descriptor number* of the old one (`dup3`), so a [`Poller`] stays good.
//! * A watch that comes and goes with each message ([`Reactor::linger`]) leaves its registration behind, so that
//!   the next one costs one call instead of two. An event that finds nobody ends it: no event comes twice in vain.
//!
//! ## Edges
//! A reader that can tell whether it has read everything may be set by [`Reactor::set_edge`]. For TCP it can: a receive that
//! fills less than its buffer has emptied the queue (epoll(7)), and what arrives later is a new edge; but for the end of the
//! stream, errors and urgent data, of which the event tells ([`Event::hints_at_more`]; what happens after the event is a
//! new edge again). A reader that has not read everything says [`Reactor::report_again`], and the next look reports it
//! like the kernel does without edges. Whatever tells the kernel of the descriptor (`ADD`, `MOD`, a new set) makes it look at
//! the file anew, so an unread byte is reported then, whatever was reported before.
//!
//! ## Invariants
//! `slot.armed` is what the kernel has under `slot.generation`, or none; `armed` is never more than
//! what the watchers want or wanted last, but where the descriptor is gone. No watcher is dropped in here: it is
//! returned (its drop may run user code), but for the `w` of a failed [`Reactor::set`], whose caller
//! keeps a clone if that matters.

mod poller;
mod recover;
mod registry;
mod token;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use rustix::io::Errno;

pub use crate::sys::epoll::{Epoll, Event, Interest};
pub use poller::Poller;
pub use recover::AfterFork;
use registry::Registry;
use token::{Generations, Token};

/// Which readiness a watcher waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Data, a connection to accept, or the end.
    Read,
    /// Room to write, or a connect that has ended.
    Write,
}

impl Direction {
    /// The interest of this direction alone.
    #[inline]
    pub const fn interest(self) -> Interest {
        match self {
            Self::Read => Interest::READ,
            Self::Write => Interest::WRITE,
        }
    }
}

/// The watchers of one loop. Thread-confined; only a [`Poller`] may wait meanwhile.
#[derive(Debug)]
pub struct Reactor<W> {
    epoll: Epoll,
    registry: Registry<W>,
    generations: Generations,
    /// A `DEL` or `MOD` has failed since the set was made: the kernel may hold what we do not know.
    may_leak: bool,
    /// The kernel has reported a registration that is not ours.
    stale: bool,
    /// Whose slots say `again`; and some that do not any more.
    again: Vec<RawFd>,
}

impl<W> Reactor<W> {
    /// A reactor over a new epoll set.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::create()?,
            registry: Registry::new(),
            generations: Generations::new(),
            may_leak: false,
            stale: false,
            again: Vec::new(),
        })
    }

    /// A handle that can wait without a borrow of the reactor. Good for as long as the reactor lives.
    #[inline]
    pub fn poller(&self) -> Poller {
        Poller::new(self.epoll.as_raw_fd())
    }

    /// Watches `fd` in direction `d`; returns the watcher that had this place. On an error of epoll
    /// (`EBADF`, `EPERM` for a regular file, ...) nothing is changed.
    pub fn set(&mut self, fd: RawFd, d: Direction, w: W) -> io::Result<Option<W>> {
        let keeps_edge = d == Direction::Write && self.registry.get(fd).is_some_and(|slot| slot.edge);
        self.put(fd, d, w, keeps_edge)
    }

    /// Watches `fd` for reading and reports what arrives once, as long as nobody waits for room to write. The reader owes
    /// [`report_again`](Self::report_again).
    pub fn set_edge(&mut self, fd: RawFd, w: W) -> io::Result<Option<W>> {
        self.put(fd, Direction::Read, w, true)
    }

    fn put(&mut self, fd: RawFd, d: Direction, w: W, edge: bool) -> io::Result<Option<W>> {
        let slot = self.registry.get(fd);
        let watched = slot.map_or(Interest::NONE, |slot| slot.wanted()) | d.interest();
        let interest = registry::triggered(edge, watched);
        let armed = slot.filter(|slot| !slot.armed.is_none()).map(|slot| slot.generation);
        let generation = self.arm(fd, armed, interest)?;
        let slot = self.registry.entry(fd);
        (slot.generation, slot.armed, slot.edge, slot.again) = (generation, interest, edge, false);
        Ok(self.registry.put(fd, d, w))
    }

    /// The reader of `fd` has not read everything: the next look reports it again. Nothing is to be done where the
    /// kernel itself does.
    #[inline]
    pub fn report_again(&mut self, fd: RawFd) {
        match self.registry.get_mut(fd) {
            Some(slot) if slot.armed.has(Interest::EDGE) && !slot.again => {
                slot.again = true;
                self.again.push(fd);
            }
            _ => {}
        }
    }

    /// Whether somebody is to be reported again: a look must not wait.
    #[inline]
    pub fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// The readers to be reported again, but for those that an event has woken since.
    pub fn take_again(&mut self) -> Vec<W>
    where
        W: Clone,
    {
        let mut readers = Vec::new();
        for fd in std::mem::take(&mut self.again) {
            if let Some(slot) = self.registry.get_mut(fd).filter(|slot| slot.again) {
                slot.again = false;
                readers.extend(slot.watcher(Direction::Read).clone());
            }
        }
        readers
    }

    /// Ends the watch of `fd` in direction `d`; returns its watcher, `None` if there was none. That the
    /// descriptor is closed or re-used is no error: the watcher was asked to go and is gone.
    pub fn clear(&mut self, fd: RawFd, d: Direction) -> io::Result<Option<W>> {
        let Some(slot) = self.registry.get(fd).filter(|slot| slot.watcher(d).is_some()) else {
            return Ok(None);
        };
        if !slot.armed.is_none() {
            let rest = slot.triggered(slot.wanted().without(d.interest()));
            self.disarm(fd, rest)?;
        }
        Ok(self.registry.take(fd, d))
    }

    /// Ends the watch of `fd` in direction `d` as [`clear`](Self::clear) does, but tells the kernel nothing: for a watch
    /// that will soon be set again. Until then the first event ends the registration.
    pub fn linger(&mut self, fd: RawFd, d: Direction) -> Option<W> {
        self.registry.take(fd, d)
    }

    /// The watcher of `fd` in direction `d`.
    #[inline]
    pub fn get(&self, fd: RawFd, d: Direction) -> Option<&W> {
        self.registry.get(fd)?.watcher(d).as_ref()
    }

    /// The same, to be swapped in place without a system call: for who owns the descriptor and knows
    /// that the number still means the same file.
    #[inline]
    pub fn get_mut(&mut self, fd: RawFd, d: Direction) -> Option<&mut W> {
        self.registry.get_mut(fd)?.watcher_mut(d).as_mut()
    }

    /// Ends every watch and returns the watchers.
    pub fn clear_all(&mut self) -> Vec<W> {
        for (fd, _) in self.registry.iter_armed() {
            if self.epoll.delete(fd).is_err() {
                self.may_leak = true;
            }
        }
        self.registry.take_all()
    }

    /// Turns an event into the watchers it wakes, reader and writer. HUP and ERR wake both, as
    /// `selectors` has it. An event of a registration that is not ours wakes nobody; if the kernel may
    /// repeat it for ever, [`rebuild_if_stale`](Self::rebuild_if_stale) will have work.
    #[inline]
    pub fn resolve(&mut self, e: Event) -> (Option<W>, Option<W>)
    where
        W: Clone,
    {
        let token = Token::from(e.token());
        match self.registry.get_mut(token.fd()) {
            Some(slot) if slot.generation == token.generation() && !slot.armed.is_none() => {
                let reader = if e.wakes_reader() { slot.watcher(Direction::Read).clone() } else { None };
                slot.again &= reader.is_none();
                let writer = if e.wakes_writer() { slot.watcher(Direction::Write).clone() } else { None };
                let wanted = slot.wanted();
                if slot.armed != wanted {
                    self.end_lingering(token.fd(), wanted);
                }
                (reader, writer)
            }
            _ => {
                self.stale |= self.may_leak;
                (None, None)
            }
        }
    }

    /// The descriptor that an event is about.
    #[inline]
    pub fn descriptor_of(e: Event) -> RawFd {
        Token::from(e.token()).fd()
    }

    /// Whether the reader of this event has asked for edges, and a receive that comes back short may not be all.
    #[inline]
    pub fn hints_at_more(&self, e: Event) -> bool {
        e.hints_at_more() && self.registry.get(Token::from(e.token()).fd()).is_some_and(|slot| slot.edge)
    }

    /// Every watcher, in no particular order.
    pub fn iter_watchers(&self) -> impl Iterator<Item = &W> {
        self.iter().map(|(_, _, watcher)| watcher)
    }

    /// Every watch, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (RawFd, Direction, &W)> {
        self.registry.iter().flat_map(|(fd, slot)| slot.watchers().map(move |(d, watcher)| (fd, d, watcher)))
    }

    /// Number of descriptors watched (not of watchers), as `len(selector.get_map())`.
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Whether no descriptor is watched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An event has come for a registration of which a part only lingers: that part ends.
    #[cold]
    fn end_lingering(&mut self, fd: RawFd, wanted: Interest) {
        let is_gone = !matches!(self.disarm(fd, wanted), Ok(true));
        // It reports and cannot be named: the number is closed or another file's, and a dup of the old one lives.
        self.stale |= is_gone;
        self.registry.forget_if_empty(fd);
    }

    /// Leaves `rest` of what the kernel has for `fd`; whether it still knew the registration.
    fn disarm(&mut self, fd: RawFd, rest: Interest) -> io::Result<bool> {
        let Some(slot) = self.registry.get_mut(fd) else {
            return Ok(true);
        };
        let generation = if self.may_leak { self.generations.next() } else { slot.generation };
        let result = if rest.is_none() {
            self.epoll.delete(fd)
        } else {
            self.epoll.modify(fd, Token::new(fd, generation).into(), rest)
        };
        match result {
            Ok(()) => {
                (slot.armed, slot.generation) = (rest, generation);
                Ok(true)
            }
            Err(error) if means_gone(&error) => {
                slot.armed = Interest::NONE;
                self.may_leak = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel have `interest` for `fd`, and returns the generation it has it under. `armed` is
    /// the generation of the registration we believe in.
    fn arm(&mut self, fd: RawFd, armed: Option<u32>, interest: Interest) -> io::Result<u32> {
        if let Some(current) = armed {
            let generation = if self.may_leak { self.generations.next() } else { current };
            match self.epoll.modify(fd, Token::new(fd, generation).into(), interest) {
                Ok(()) => return Ok(generation),
                // The number means another file by now. The old one may live on as a dup.
                Err(error) if is(&error, Errno::NOENT) => self.may_leak = true,
                Err(error) => return Err(error),
            }
        }
        let generation = self.generations.next();
        let token = Token::new(fd, generation).into();
        match self.epoll.add(fd, token, interest) {
            // A registration that could not be deleted has come back under its own number.
            Err(error) if is(&error, Errno::EXIST) => self.epoll.modify(fd, token, interest)?,
            other => other?,
        }
        Ok(generation)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The number is closed, or means a file that is not in the set, or one that cannot be (a regular
/// file: the kernel checks that before it looks).
fn means_gone(error: &io::Error) -> bool {
    [Errno::BADF, Errno::NOENT, Errno::PERM].iter().any(|&errno| is(error, errno))
}
