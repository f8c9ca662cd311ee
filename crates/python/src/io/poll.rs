//! Waiting for events, and turning them into work in the loop's ready queue.
//!
//! CPython counterpart: `EpollSelector.select` and `BaseSelectorEventLoop._process_events`.
//!
//! Why events become entries and are not run at once: asyncio runs what was ready before first, and a callback that removes
//! another's watch in the same turn must be heeded, so each entry looks again whether it is still wanted.

use std::io::{self, ErrorKind};
use std::time::Duration;

use aioxide_core::reactor::{Direction, Event, Poller, Reactor};

use super::driver::{Driver, Watcher};
use crate::ffi::{Obj, Owned, Raised, Res, check_signals, detached};
use crate::objects::handle::Handle;
use crate::objects::scheduler::{Entry, Scheduler};

/// A transport's continuation, beside those of [`Direction`]: readable, and one short receive may not be all.
pub const READ_ALL: u32 = 3;

/// The vector of events grows as long as waits fill it, up to this.
const MOST_EVENTS: usize = 1024;

impl Driver {
    /// Wait for events, `timeout` at most (None: for ever), and queue what they wake. `me` is the loop.
    ///
    /// # Errors
    /// What a signal handler raises; OSError if the set itself fails.
    pub fn poll(&self, me: &Obj, scheduler: &Scheduler, timeout: Option<Duration>) -> Res<()> {
        self.check_fork()?;
        // Written between two callbacks, by a signal handler or a finalizer: nothing is held across a wait.
        self.held.flush()?;
        let Some((poller, has_again)) = self.reactor.borrow().as_ref().map(|r| (r.poller(), r.has_again())) else {
            return scheduler.check_closed();
        };
        let timeout = if has_again || self.signals.are_noted() { Some(Duration::ZERO) } else { timeout };
        let mut events = self.events.take();
        let outcome = match wait(scheduler, poller, &mut events, timeout) {
            Ok(()) => Ok(self.dispatch(me, scheduler, &events)),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok((true, false)),
            Err(e) => Err(e),
        };
        if events.len() == events.capacity() && events.capacity() < MOST_EVENTS {
            let room = events.capacity() * 2;
            events = Vec::with_capacity(room);
        }
        self.events.set(events);
        let (woken, will_read_signals) = outcome.map_err(|e| Raised::os(&e))?;
        // A byte of the C signal handler lies in a pipe, or it has ended the wait: the Python handlers are due.
        let checked = if woken { check_signals() } else { Ok(()) };
        if self.signals.are_noted() && !will_read_signals {
            // No byte tells of it.
            scheduler.push(Entry::Native(me.to_ref(), Direction::Read as u32));
        }
        checked
    }

    /// Same as `_process_events`: reader first, then writer. Whether somebody has woken the loop itself, and whether that was
    /// a signal for it.
    fn dispatch(&self, me: &Obj, scheduler: &Scheduler, events: &[Event]) -> (bool, bool) {
        let (mut woken, mut signalled) = (false, false);
        let mut cancelled = Vec::new();
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            for &event in events {
                let (reader, writer) = reactor.resolve(event);
                let read = if reactor.hints_at_more(event) { READ_ALL } else { Direction::Read as u32 };
                for (watcher, d, what) in
                    [(reader, Direction::Read, read), (writer, Direction::Write, Direction::Write as u32)]
                {
                    match watcher {
                        None => {}
                        Some(Watcher::Native(work)) => scheduler.push(Entry::Native(work, what)),
                        Some(Watcher::Future(future)) => {
                            // No reference of the reactor's is the last one: the entry has another.
                            drop(reactor.linger(Reactor::<Watcher>::descriptor_of(event), d));
                            scheduler.push(Entry::Native(future, d as u32));
                        }
                        Some(Watcher::Callback(handle, _)) if handle.is_cancelled() => cancelled.push((handle, d)),
                        Some(Watcher::Callback(handle, _)) => scheduler.push(Entry::Handle(handle)),
                        Some(Watcher::Wake) => woken = true,
                        Some(Watcher::Signals) => {
                            signalled = true;
                            scheduler.push(Entry::Native(me.to_ref(), d as u32));
                        }
                    }
                }
            }
            if reactor.has_again() {
                for watcher in reactor.take_again() {
                    if let Watcher::Native(work) = watcher {
                        scheduler.push(Entry::Native(work, Direction::Read as u32));
                    }
                }
            }
            // Where no descriptor is left for a new set, the next wait tries again.
            let _not_now = reactor.rebuild_if_stale();
        }
        if woken {
            // An error can only mean that the pipe is gone; the next wait will say so.
            let _nobodys = self.pipe.drain();
        }
        cancelled.into_iter().for_each(|(handle, d)| self.forget(&handle, d));
        (woken || signalled, signalled)
    }

    /// A handle that was cancelled without being removed: it would be reported for ever.
    #[cold]
    fn forget(&self, handle: &Owned<Handle>, d: Direction) {
        let place = self.reactor.borrow().as_ref().and_then(|reactor| {
            let is_it = |w: &Watcher| matches!(w, Watcher::Callback(h, _) if h.obj().is(handle.obj()));
            reactor.iter().find(|(_, its, w)| *its == d && is_it(w)).map(|(fd, _, _)| fd)
        });
        if let Some(Err(raised)) = place.map(|fd| self.take(fd, d)) {
            raised.forget();
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
    // Work that is ready must never wait for an event, whatever was decided before.
    if scheduler.ready_len() != 0 || !inbox.prepare_sleep() {
        return poller.wait(events, Some(Duration::ZERO));
    }
    let outcome = detached(|| poller.wait(events, timeout));
    inbox.finish_sleep();
    outcome
}
