//! Signals of one loop: from the interpreter's C handler, by way of a pipe, to the handles in the ready queue.
//!
//! CPython counterpart: `_read_from_self`, `_process_self_data` and `_handle_signal` of asyncio's unix loop.
//!
//! The C handler writes a byte per signal into a pipe that the loop has for nothing else: the wake-up pipe also has what comes
//! when no handler is installed, which is nobody's. Each byte is one call, as in asyncio. A byte may be missing: the pipe
//! was full, or the program has set a descriptor of its own. So the Python handler of these signals ([`note`]) leaves a mark,
//! and a mark that no byte explains is a call too. Many signals may then be one call, but none is lost.
//!
//! Why bytes and marks: marks alone would make one call of many real-time signals, bytes alone would be lost.
//!
//! Invariants:
//! * The byte of a signal is written before its Python handler runs: once that has run, a byte not found is missing.
//! * Signals are looked for in their turn among the ready entries, as asyncio's reader of its pipe is.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aioxide_core::reactor::Direction;
use aioxide_core::sys::pipe::WakePipe;

use super::driver::{Driver, Watcher};
use super::{finally, report_stray, wakeup_fd};
use crate::ffi::cell::Cell;
use crate::ffi::{Obj, Raised, Ref, Res, Slot, Visit, check_signals, dict, index_value, int};
use crate::name;
use crate::objects::handle::Handle;
use crate::objects::scheduler::{Entry, Scheduler};

/// Linux numbers its signals from 1 to 64: one bit each.
static NOTED: AtomicU64 = AtomicU64::new(0);

/// The signal's Python handler: the loop will see that it came.
pub fn note(signal: &Obj) -> Res<()> {
    if let Some(bit) = bit(index_value(signal)?) {
        NOTED.fetch_or(bit, Ordering::Relaxed);
    }
    Ok(())
}

/// In the child of a fork: those were the parent's.
pub fn forget_marks() {
    NOTED.store(0, Ordering::Relaxed);
}

fn bit(signal: i64) -> Option<u64> {
    matches!(signal, 1..=64).then(|| 1 << (signal - 1))
}

#[derive(Default)]
pub struct Signals {
    /// Made for the first handler.
    pipe: OnceLock<WakePipe>,
    /// Some handler is installed.
    installed: Cell<bool>,
    /// `loop._signal_handlers`: number to handle.
    handlers: Slot,
}

impl Signals {
    /// Whether a signal has come that nobody has looked at.
    #[inline]
    pub fn are_noted(&self) -> bool {
        self.installed.get() && NOTED.load(Ordering::Relaxed) != 0
    }

    pub fn handlers(&self) -> Res {
        if let Some(handlers) = self.handlers.get() {
            return Ok(handlers);
        }
        let handlers = dict()?;
        self.handlers.put(handlers.clone());
        Ok(handlers)
    }

    fn handler(&self, signal: i64) -> Res<Option<Ref>> {
        let (handlers, signal) = (self.handlers()?, int(signal)?);
        Ok(handlers.dict_get(&signal))
    }

    /// The end for `signal.set_wakeup_fd`; -1 if there is none.
    fn writer_fd(&self) -> RawFd {
        self.pipe.get().map_or(-1, WakePipe::writer_fd)
    }

    pub(super) fn renew(&self) -> std::io::Result<()> {
        self.pipe.get().map_or(Ok(()), WakePipe::renew)
    }

    pub(super) fn close(&self) {
        self.installed.set(false);
        if let Some(pipe) = self.pipe.get() {
            wakeup_fd::forget(pipe);
            pipe.close();
        }
    }

    pub(super) fn clear(&self) {
        self.handlers.clear();
    }

    /// The handles are not tracked by the collector (`objects::handle`); their only owner is the dict.
    pub(super) fn traverse(&self, visit: &Visit) {
        visit.slot(&self.handlers);
        self.handlers.get_or_none().dict_for_each_value(|handle| {
            if let Some(handle) = handle.downcast::<Handle>() {
                handle.traverse_as_sole_owner(visit);
            }
        });
    }
}

impl Driver {
    /// A signal handler is to be installed: signals come to this loop from now on.
    ///
    /// # Errors
    /// ValueError in another thread than the main one; OSError if there is no descriptor left.
    pub fn claim_signals(&self) -> Res<()> {
        self.check_fork()?;
        if self.signals.pipe.get().is_none() {
            let pipe = WakePipe::new().map_err(|e| Raised::os(&e))?;
            self.put(pipe.reader_fd(), Direction::Read, Watcher::Signals)?;
            drop(self.signals.pipe.set(pipe));
        }
        wakeup_fd::claim(self.signals.writer_fd())?;
        self.signals.installed.set(true);
        Ok(())
    }

    /// The last signal handler was removed.
    pub fn release_signals(&self) -> Res<()> {
        self.signals.installed.set(false);
        self.signals.pipe.get().map_or(Ok(()), wakeup_fd::release)
    }

    /// What the pipe says and the marks say goes into the ready queue: the body of the loop's own `Entry::Native`.
    pub fn read_signals(&self, me: &Obj) -> Res<()> {
        let Some(pipe) = self.signals.pipe.get() else {
            return Ok(());
        };
        // An error can only mean that the pipe is gone.
        let mut arrived = pipe.drain().unwrap_or_default();
        let is_doubtful = pipe.may_have_lost(arrived.len());
        let mut checked = Ok(());
        if is_doubtful {
            // Every signal so far has its mark after this, and its byte, if it has one, is found by a second look.
            checked = check_signals();
            arrived.extend(Raised::aside(|| pipe.drain().unwrap_or_default()));
        }
        finally(checked, || {
            let explained = arrived.iter().filter_map(|&signal| bit(signal.into())).fold(0, |all, bit| all | bit);
            let missing = NOTED.swap(0, Ordering::Relaxed) & !explained;
            if missing != 0 && (is_doubtful || !wakeup_fd::is_a_loops(pipe)?) {
                arrived.extend((1..=64).filter(|&signal| bit(signal.into()).is_some_and(|bit| missing & bit != 0)));
            }
            arrived.iter().try_for_each(|&signal| match self.handle_signal(me, signal.into()) {
                Ok(()) => Ok(()),
                Err(raised) => report_stray(raised, Some(me.to_ref()), me, "EventLoop._handle_signal()"),
            })
        })
    }

    /// Same as `_handle_signal`.
    pub fn handle_signal(&self, me: &Obj, signal: i64) -> Res<()> {
        let Some(handler) = self.signals.handler(signal)? else {
            return Ok(());
        };
        let (Some(handle), Some(scheduler)) = (handler.downcast::<Handle>(), Scheduler::of(me)) else {
            return Ok(());
        };
        if handle.is_cancelled() {
            return me.call_method(name!("remove_signal_handler"), [&*int(signal)?]).map(drop);
        }
        handle.mark_persistent();
        scheduler.push(Entry::Handle(handle.to_owned()));
        Ok(())
    }
}
