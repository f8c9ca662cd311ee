//! One loop's reactor: who watches which descriptor. Waiting is in `poll`.
//!
//! CPython counterpart: `BaseSelectorEventLoop._add_reader` & co, and the `selectors` module below them.
//!
//! Invariants:
//! * No borrow of the reactor lasts across anything that can run Python. What the reactor hands back is dropped after it.
//! * While a wait is detached from the interpreter, other threads may change the watchers (asyncio allows `call_soon` from
//!   no other thread, but nobody stops a program): epoll permits that, and [`Poller`](aioxide_core::reactor::Poller) holds
//!   no borrow.
//! * A child of `fork` gets a set of its own before it touches anything ([`Driver::check_fork`]).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use aioxide_core::reactor::{AfterFork, Direction, Event, Reactor};
use aioxide_core::sys::pipe::WakePipe;

pub use super::descriptors::descriptor;
use super::descriptors::{Transports, possible_descriptor};
use super::fork;
use super::held::Held;
use super::signals::Signals;
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{Obj, Once, Owned, Raised, Ref, Res, Visit, exc};
use crate::objects::handle::Handle;
use crate::objects::scheduler::Scheduler;

/// Who is told when a descriptor is ready.
#[derive(Clone)]
pub enum Watcher {
    /// The loop itself: another thread, or a signal, wants it awake.
    Wake,
    /// The loop itself: a signal that it has a handler for.
    Signals,
    /// A callback of `add_reader` or `add_writer`, and the file object it was given, if any: `selectors` keeps that alive.
    Callback(Owned<Handle>, Option<Ref>),
    /// A transport or listener.
    Native(Ref),
    /// What a `sock_*` coroutine waits for. The first event ends the watch, whether the coroutine ever runs again or not.
    Future(Ref),
}

/// Events taken by one wait at first.
const EVENTS: usize = 64;

/// asyncio's `max_size`: more is never received at once. Untouched pages of it cost nothing.
pub const RECEIVE_BYTES: usize = 256 * 1024;

pub struct Driver {
    /// None once the loop is closed.
    pub(super) reactor: RefCell<Option<Reactor<Watcher>>>,
    pub(super) events: Cell<Vec<Event>>,
    pub(super) pipe: Arc<WakePipe>,
    fork_generation: Cell<u32>,
    pub transports: Transports,
    /// Where small messages are received, for all transports: a `bytes` of the right size is then one copy of few bytes.
    pub receive_buffer: RefCell<Box<[u8]>>,
    /// Where TLS records are received, and where they are written, for all connections.
    pub records: Records,
    /// What a transport of this loop holds back until the callback that runs has ended.
    pub held: Held,
    pub signals: Signals,
}

/// Two buffers that are lent, one after the other, to whichever connection needs them. Who finds one lent makes one for itself:
/// callbacks of OpenSSL may run Python in the middle.
#[derive(Default)]
pub struct Records {
    incoming: Cell<Box<[u8]>>,
    outgoing: Cell<Vec<u8>>,
}

impl Records {
    /// Run `f` with room to receive into.
    #[inline]
    pub fn with_room<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut room = self.incoming.take();
        if room.is_empty() {
            room = vec![0; RECEIVE_BYTES].into_boxed_slice();
        }
        let answer = f(&mut room);
        self.incoming.set(room);
        answer
    }

    /// Run `f` with an empty vector.
    #[inline]
    pub fn with_output<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut output = self.outgoing.take();
        let answer = f(&mut output);
        output.clear();
        // What a large write has needed is not kept for ever.
        if output.capacity() <= RECEIVE_BYTES {
            self.outgoing.set(output);
        }
        answer
    }
}

static FIND: Once<fn(&Obj) -> Option<&Driver>> = Once::new();

impl Driver {
    /// A driver that already watches the wake-up pipe of `scheduler`.
    pub fn new(scheduler: &Scheduler) -> io::Result<Driver> {
        let mut reactor = Reactor::new()?;
        let pipe = Arc::clone(scheduler.pipe());
        reactor.set(pipe.reader_fd(), Direction::Read, Watcher::Wake)?;
        Ok(Driver {
            reactor: RefCell::new(Some(reactor)),
            events: Cell::new(Vec::with_capacity(EVENTS)),
            pipe,
            fork_generation: Cell::new(fork::generation()),
            transports: Transports::default(),
            receive_buffer: RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice()),
            records: Records::default(),
            held: Held::new(),
            signals: Signals::default(),
        })
    }

    pub fn register_loop_class(find: fn(&Obj) -> Option<&Driver>) {
        FIND.set(find);
    }

    /// The driver inside a loop object; None if the loop is not ours.
    #[inline]
    pub fn of(event_loop: &Obj) -> Option<&Driver> {
        FIND.get()(event_loop)
    }

    // --- watching -----------------------------------------------------------------------------------------------

    /// Same as `_add_reader` / `_add_writer`: `handle` is run at each readiness; the handle it replaces is cancelled. A file
    /// object lives at least as long as it is watched.
    ///
    /// # Errors
    /// OSError as epoll has it; RuntimeError if the loop is closed.
    pub fn set_callback(&self, fd: RawFd, d: Direction, handle: Owned<Handle>, file: &Obj) -> Res<()> {
        handle.mark_persistent();
        let file = (!file.is_long()).then(|| file.to_ref());
        let replaced = self.put(fd, d, Watcher::Callback(handle, file))?;
        cancel(replaced).map(drop)
    }

    /// The descriptor under which `file` is watched although it is closed by now, for `remove_reader`; else as
    /// [`possible_descriptor`] has it.
    pub fn watched_descriptor(&self, file: &Obj) -> Res<Option<RawFd>> {
        match possible_descriptor(file) {
            Err(raised) if raised.matches(exc::value_error()) => {
                let is_it = |w: &Watcher| matches!(w, Watcher::Callback(_, Some(f)) if f.is(file));
                let reactor = self.reactor.borrow();
                let found = reactor.iter().flat_map(Reactor::iter).find(|(_, _, w)| is_it(w));
                let found = found.map(|(fd, _, _)| fd);
                drop(reactor);
                match found {
                    Some(fd) => {
                        raised.forget();
                        Ok(Some(fd))
                    }
                    None => Err(raised),
                }
            }
            known => known,
        }
    }

    /// Same as `_remove_reader` / `_remove_writer`: was there one?
    pub fn clear_callback(&self, fd: RawFd, d: Direction) -> Res<bool> {
        let removed = self.take(fd, d)?;
        cancel(removed)
    }

    /// Have `future` finished, once, when the descriptor is ready.
    pub fn watch_once(&self, fd: RawFd, d: Direction, future: &Obj) -> Res<()> {
        let replaced = self.put(fd, d, Watcher::Future(future.to_ref()))?;
        cancel(replaced).map(drop)
    }

    /// Watch for a transport or listener, in the place of whoever was there.
    pub fn watch(&self, fd: RawFd, d: Direction, me: &Obj) -> Res<()> {
        let replaced = self.put(fd, d, Watcher::Native(me.to_ref()))?;
        cancel(replaced).map(drop)
    }

    /// Watch for a transport that reads and can tell when there is more: what arrives is reported once, see
    /// [`Driver::report_again`].
    pub fn watch_edge(&self, fd: RawFd, me: &Obj) -> Res<()> {
        let replaced = self.put_by(|reactor, watcher| reactor.set_edge(fd, watcher), Watcher::Native(me.to_ref()))?;
        cancel(replaced).map(drop)
    }

    /// `me` has not read everything: the next poll reports it again, in its turn.
    #[inline]
    pub fn report_again(&self, fd: RawFd, me: &Obj) {
        if self.is_watched_by(fd, Direction::Read, me) {
            if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
                reactor.report_again(fd);
            }
        }
    }

    /// End `me`'s watch. Does nothing if the place is another's by now: the number may have been closed and used again.
    pub fn unwatch(&self, fd: RawFd, d: Direction, me: &Obj) -> Res<()> {
        if !self.is_watched_by(fd, d, me) {
            return Ok(());
        }
        self.take(fd, d).map(drop)
    }

    /// End the watch for the future at address `me`, and leave the registration for the next one.
    pub fn linger(&self, fd: RawFd, d: Direction, me: usize) {
        let removed = match self.reactor.borrow_mut().as_mut() {
            Some(reactor) => match reactor.get(fd, d) {
                Some(Watcher::Future(watcher)) if watcher.address() == me => reactor.linger(fd, d),
                _ => None,
            },
            None => None,
        };
        drop(removed);
    }

    /// End the wait of a coroutine for this descriptor, as if it were ready: it is about to be closed.
    pub fn end_wait(&self, fd: RawFd, d: Direction) -> Res<()> {
        let waits = matches!(self.reactor.borrow().as_ref().and_then(|r| r.get(fd, d)), Some(Watcher::Future(_)));
        match if waits { self.take(fd, d)? } else { None } {
            Some(Watcher::Future(future)) => super::run(&future, d as u32),
            _ => Ok(()),
        }
    }

    pub fn is_watched_by(&self, fd: RawFd, d: Direction, me: &Obj) -> bool {
        match self.reactor.borrow().as_ref().and_then(|r| r.get(fd, d)) {
            Some(Watcher::Native(watcher)) => watcher.is(me),
            _ => false,
        }
    }

    /// Everything that is watched but for the wake-up pipe: descriptor, file object if one was given, reader and writer.
    pub fn watched(&self) -> Vec<(RawFd, Option<Ref>, [Option<Ref>; 2])> {
        let mut found: Vec<(RawFd, Option<Ref>, [Option<Ref>; 2])> = Vec::new();
        let reactor = self.reactor.borrow();
        for (fd, d, watcher) in reactor.iter().flat_map(Reactor::iter) {
            let (who, file) = match watcher {
                Watcher::Wake | Watcher::Signals => continue,
                Watcher::Callback(handle, file) => (handle.clone().into_ref(), file.clone()),
                Watcher::Native(work) | Watcher::Future(work) => (work.clone(), None),
            };
            let place = usize::from(d == Direction::Write);
            match found.last_mut().filter(|last| last.0 == fd) {
                Some(last) => {
                    last.2[place] = Some(who);
                    last.1 = last.1.take().or(file);
                }
                None => {
                    let mut both = [None, None];
                    both[place] = Some(who);
                    found.push((fd, file, both));
                }
            }
        }
        found
    }

    /// The descriptor of a file object, for `add_reader` and its like.
    ///
    /// # Errors
    /// RuntimeError "File descriptor ... is used by transport ..."; ValueError for an invalid file object.
    pub fn descriptor_without_transport(&self, file: &Obj) -> Res<RawFd> {
        self.transports.ensure_none(file)?;
        descriptor(file)
    }

    pub(super) fn put(&self, fd: RawFd, d: Direction, watcher: Watcher) -> Res<Option<Watcher>> {
        self.put_by(|reactor, watcher| reactor.set(fd, d, watcher), watcher)
    }

    fn put_by<F>(&self, set: F, watcher: Watcher) -> Res<Option<Watcher>>
    where
        F: FnOnce(&mut Reactor<Watcher>, Watcher) -> io::Result<Option<Watcher>>,
    {
        self.check_fork()?;
        // A `set` that fails drops its watcher inside the borrow; this one keeps that from being the last.
        let _kept = watcher.clone();
        let outcome = self.reactor.borrow_mut().as_mut().map(|reactor| set(reactor, watcher));
        match outcome {
            Some(replaced) => replaced.map_err(|e| Raised::os(&e)),
            None => Err(Raised::runtime("Event loop is closed")),
        }
    }

    pub(super) fn take(&self, fd: RawFd, d: Direction) -> Res<Option<Watcher>> {
        self.check_fork()?;
        let outcome = self.reactor.borrow_mut().as_mut().map(|reactor| reactor.clear(fd, d));
        outcome.unwrap_or(Ok(None)).map_err(|e| Raised::os(&e))
    }

    // --- the ends -------------------------------------------------------------------------------------------------

    /// In a forked child: leave the parent's epoll set alone, and watch the same descriptors by one of our own.
    #[inline]
    pub fn check_fork(&self) -> Res<()> {
        if self.fork_generation.get() == fork::generation() { Ok(()) } else { self.after_fork() }
    }

    #[cold]
    fn after_fork(&self) -> Res<()> {
        // The pipes first: the new set watches what their numbers mean then.
        self.pipe.renew().and_then(|()| self.signals.renew()).map_err(|e| Raised::os(&e))?;
        let outcome = self.reactor.borrow_mut().as_mut().map(|r| r.after_fork_child(AfterFork::Reregister));
        match outcome {
            Some(Err(e)) => Err(Raised::os(&e)),
            _ => {
                self.fork_generation.set(fork::generation());
                Ok(())
            }
        }
    }

    /// Close the epoll set and the pipes, and drop the watchers: transports that nobody else holds end here, with their warning.
    pub fn close(&self) {
        let reactor = self.reactor.take();
        self.pipe.close();
        self.signals.close();
        self.held.clear();
        drop(reactor);
    }

    /// Drop the watchers (garbage collection).
    pub fn clear(&self) {
        self.close();
        self.signals.clear();
    }

    pub fn traverse(&self, visit: &Visit) {
        self.held.traverse(visit);
        self.signals.traverse(visit);
        // A borrow in progress means that the collector runs inside a change: nothing can be garbage right now.
        let Ok(reactor) = self.reactor.try_borrow() else {
            return;
        };
        for watcher in reactor.iter().flat_map(Reactor::iter_watchers) {
            match watcher {
                Watcher::Wake | Watcher::Signals => {}
                Watcher::Callback(handle, file) => {
                    handle.traverse_as_sole_owner(visit);
                    file.iter().for_each(|f| visit.obj(f));
                }
                Watcher::Native(work) | Watcher::Future(work) => visit.obj(work),
            }
        }
    }
}

/// Cancel a handle that is not watched any more, as asyncio does; it may still lie in the ready queue.
fn cancel(watcher: Option<Watcher>) -> Res<bool> {
    match watcher {
        Some(Watcher::Callback(handle, _)) => handle.cancel().map(|()| true),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}
