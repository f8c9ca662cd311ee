//! One loop's reactor, and what it does with an event: work in the loop's ready queue.
//!
//! CPython counterpart: `BaseSelectorEventLoop._add_reader` & co, `_process_events`, and the `selectors` module below them.
//!
//! Invariants:
//! * No borrow of the reactor lasts across anything that can run Python. What the reactor hands back is dropped after it.
//! * While a wait is detached from the interpreter, other threads may change the watchers (asyncio allows `call_soon` from
//!   no other thread, but nobody stops a program): epoll permits that, and [`Poller`](aioxide_core::reactor::Poller) holds
//!   no borrow.
//! * A child of `fork` gets a set of its own before it touches anything ([`Driver::check_fork`]).

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use aioxide_core::reactor::{AfterFork, Direction, Event, Poller, Reactor};
use aioxide_core::sys::pipe::WakePipe;

use super::descriptors::Transports;
pub use super::descriptors::descriptor;
use super::fork;
use crate::ffi::{Obj, Once, Owned, Raised, Ref, Res, Visit, check_signals, detached};
use crate::objects::handle::Handle;
use crate::objects::scheduler::{Entry, Scheduler};

/// Who is told when a descriptor is ready.
#[derive(Clone)]
pub enum Watcher {
    /// The loop itself: another thread, or a signal, wants it awake.
    Wake,
    /// A callback of `add_reader` or `add_writer`.
    Callback(Owned<Handle>),
    /// A transport or listener.
    Native(Ref),
}

/// Events taken by one wait at first; the vector grows as long as waits fill it.
const EVENTS: usize = 64;
const MOST_EVENTS: usize = 1024;

/// asyncio's `max_size`: more is never received at once. Untouched pages of it cost nothing.
const RECEIVE_BYTES: usize = 256 * 1024;

pub struct Driver {
    /// None once the loop is closed.
    reactor: RefCell<Option<Reactor<Watcher>>>,
    events: Cell<Vec<Event>>,
    pipe: Arc<WakePipe>,
    fork_generation: Cell<u32>,
    pub transports: Transports,
    /// Where small messages are received, for all transports: a `bytes` of the right size is then one copy of few bytes.
    pub receive_buffer: RefCell<Box<[u8]>>,
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

    /// Same as `_add_reader` / `_add_writer`: `handle` is run at each readiness; the handle it replaces is cancelled.
    ///
    /// # Errors
    /// OSError as epoll has it; RuntimeError if the loop is closed.
    pub fn set_callback(&self, fd: RawFd, d: Direction, handle: Owned<Handle>) -> Res<()> {
        handle.mark_persistent();
        let replaced = self.put(fd, d, Watcher::Callback(handle))?;
        cancel(replaced).map(drop)
    }

    /// Same as `_remove_reader` / `_remove_writer`: was there one?
    pub fn clear_callback(&self, fd: RawFd, d: Direction) -> Res<bool> {
        let removed = self.take(fd, d)?;
        cancel(removed)
    }

    /// Watch for a transport or listener, in the place of whoever was there.
    pub fn watch(&self, fd: RawFd, d: Direction, me: &Obj) -> Res<()> {
        let replaced = self.put(fd, d, Watcher::Native(me.to_ref()))?;
        cancel(replaced).map(drop)
    }

    /// End `me`'s watch. Does nothing if the place is another's by now: the number may have been closed and used again.
    pub fn unwatch(&self, fd: RawFd, d: Direction, me: &Obj) -> Res<()> {
        if !self.is_watched_by(fd, d, me) {
            return Ok(());
        }
        self.take(fd, d).map(drop)
    }

    pub fn is_watched_by(&self, fd: RawFd, d: Direction, me: &Obj) -> bool {
        match self.reactor.borrow().as_ref().and_then(|r| r.get(fd, d)) {
            Some(Watcher::Native(watcher)) => watcher.is(me),
            _ => false,
        }
    }

    /// The descriptor of a file object, for `add_reader` and its like.
    ///
    /// # Errors
    /// RuntimeError "File descriptor ... is used by transport ..."; ValueError for an invalid file object.
    pub fn descriptor_without_transport(&self, file: &Obj) -> Res<RawFd> {
        self.transports.ensure_none(file)?;
        descriptor(file)
    }

    fn put(&self, fd: RawFd, d: Direction, watcher: Watcher) -> Res<Option<Watcher>> {
        self.check_fork()?;
        // A `set` that fails drops its watcher inside the borrow; this one keeps that from being the last.
        let _kept = watcher.clone();
        let outcome = self.reactor.borrow_mut().as_mut().map(|reactor| reactor.set(fd, d, watcher));
        match outcome {
            Some(replaced) => replaced.map_err(|e| Raised::os(&e)),
            None => Err(Raised::runtime("Event loop is closed")),
        }
    }

    fn take(&self, fd: RawFd, d: Direction) -> Res<Option<Watcher>> {
        self.check_fork()?;
        let outcome = self.reactor.borrow_mut().as_mut().map(|reactor| reactor.clear(fd, d));
        outcome.unwrap_or(Ok(None)).map_err(|e| Raised::os(&e))
    }

    // --- waiting ------------------------------------------------------------------------------------------------

    /// Wait for events, `timeout` at most (None: for ever), and queue what they wake.
    ///
    /// # Errors
    /// What a signal handler raises; OSError if the set itself fails.
    pub fn poll(&self, scheduler: &Scheduler, timeout: Option<Duration>) -> Res<()> {
        self.check_fork()?;
        let Some(poller) = self.reactor.borrow().as_ref().map(Reactor::poller) else {
            return scheduler.check_closed();
        };
        let mut events = self.events.take();
        let outcome = match wait(scheduler, poller, &mut events, timeout) {
            Ok(()) => Ok(self.dispatch(scheduler, &events)),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e),
        };
        if events.len() == events.capacity() && events.capacity() < MOST_EVENTS {
            let room = events.capacity() * 2;
            events = Vec::with_capacity(room);
        }
        self.events.set(events);
        match outcome {
            Ok(false) => Ok(()),
            // A byte of the C signal handler lies in the pipe, or it has ended the wait: the Python handlers are due.
            Ok(true) => check_signals(),
            Err(e) => Err(Raised::os(&e)),
        }
    }

    /// Same as `_process_events`: reader first, then writer. True if somebody has woken the loop itself.
    fn dispatch(&self, scheduler: &Scheduler, events: &[Event]) -> bool {
        let mut woken = false;
        let mut cancelled = Vec::new();
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            for &event in events {
                let (reader, writer) = reactor.resolve(event);
                for (watcher, d) in [(reader, Direction::Read), (writer, Direction::Write)] {
                    match watcher {
                        None => {}
                        Some(Watcher::Native(work)) => scheduler.push(Entry::Native(work, d as u32)),
                        Some(Watcher::Callback(handle)) if handle.is_cancelled() => cancelled.push((handle, d)),
                        Some(Watcher::Callback(handle)) => scheduler.push(Entry::Handle(handle)),
                        Some(Watcher::Wake) => woken = true,
                    }
                }
            }
            // Where no descriptor is left for a new set, the next wait tries again.
            let _not_now = reactor.rebuild_if_stale();
        }
        if woken {
            // An error can only mean that the pipe is gone; the next wait will say so.
            let _signals = self.pipe.drain();
        }
        cancelled.into_iter().for_each(|(handle, d)| self.forget(&handle, d));
        woken
    }

    /// A handle that was cancelled without being removed: it would be reported for ever.
    #[cold]
    fn forget(&self, handle: &Owned<Handle>, d: Direction) {
        let place = self.reactor.borrow().as_ref().and_then(|reactor| {
            let is_it = |w: &Watcher| matches!(w, Watcher::Callback(h) if h.obj().is(handle.obj()));
            reactor.iter().find(|(_, its, w)| *its == d && is_it(w)).map(|(fd, _, _)| fd)
        });
        if let Some(Err(raised)) = place.map(|fd| self.take(fd, d)) {
            raised.forget();
        }
    }

    // --- the ends -------------------------------------------------------------------------------------------------

    /// In a forked child: leave the parent's epoll set alone, and watch the same descriptors by one of our own.
    #[inline]
    pub fn check_fork(&self) -> Res<()> {
        if self.fork_generation.get() == fork::generation() { Ok(()) } else { self.after_fork() }
    }

    #[cold]
    fn after_fork(&self) -> Res<()> {
        let outcome = self.reactor.borrow_mut().as_mut().map(|r| r.after_fork_child(AfterFork::Reregister));
        match outcome {
            Some(Err(e)) => Err(Raised::os(&e)),
            _ => {
                self.fork_generation.set(fork::generation());
                Ok(())
            }
        }
    }

    /// Close the epoll set and drop the watchers: transports that nobody else holds end here, with their warning.
    pub fn close(&self) {
        let reactor = self.reactor.take();
        drop(reactor);
    }

    /// Drop the watchers (garbage collection).
    pub fn clear(&self) {
        self.close();
    }

    pub fn traverse(&self, visit: &Visit) {
        // A borrow in progress means that the collector runs inside a change: nothing can be garbage right now.
        let Ok(reactor) = self.reactor.try_borrow() else { return };
        for watcher in reactor.iter().flat_map(Reactor::iter_watchers) {
            match watcher {
                Watcher::Wake => {}
                Watcher::Callback(handle) => handle.traverse_as_sole_owner(visit),
                Watcher::Native(work) => visit.obj(work),
            }
        }
    }
}

/// A look at the kernel costs 100 ns, letting other threads in and out again costs more: only a wait that can block lets go
/// of the interpreter.
fn wait(scheduler: &Scheduler, poller: Poller, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
    if timeout == Some(Duration::ZERO) {
        return poller.wait(events, timeout);
    }
    let inbox = scheduler.inbox();
    if !inbox.prepare_sleep() {
        return poller.wait(events, Some(Duration::ZERO));
    }
    let outcome = detached(|| poller.wait(events, timeout));
    inbox.finish_sleep();
    outcome
}

/// Cancel a handle that is not watched any more, as asyncio does; it may still lie in the ready queue.
fn cancel(watcher: Option<Watcher>) -> Res<bool> {
    match watcher {
        Some(Watcher::Callback(handle)) => handle.cancel().map(|()| true),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}
