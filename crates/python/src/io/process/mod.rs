//! `SubprocessTransport`: a child process, its pipes and its end.
//!
//! CPython counterpart: `asyncio.base_subprocess.BaseSubprocessTransport` and the child watchers of `unix_events`. The child
//! is started by `subprocess.Popen` (`aioxide._processes`), once per child; from there on it is native.
//!
//! | file         | one idea                                                        |
//! |--------------|-----------------------------------------------------------------|
//! | [`pipe`]     | the protocol of one of its pipes                                |
//! | [`connect`]  | transports for the pipes, then `connection_made`                |
//! | [`exit`]     | the child's end: noticed, told, waited for                      |
//! | [`face`]     | the Python class                                                |
//!
//! Invariants:
//! * The status is taken and published in one step of the loop's thread: nobody signals a number that is free again.
//! * `connection_lost` comes once, after the status and the end of every pipe; what is told before `connection_made` waits.
//! * The driver holds the transport while the child runs, so a child is never forgotten by dropping its transport.

mod connect;
mod exit;
mod face;
mod pipe;

use crate::ffi::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;

pub use connect::adopt;
pub use exit::Notices;
pub use face::build;

use crate::ffi::{Class, Context, Inst, Native, Obj, Raised, Ref, Res, Slot, Vector, Visit, exc, string};
use crate::io::base::Base;
use crate::io::finally;
use crate::name;
use crate::objects::names::imports;
use crate::objects::scheduler::Scheduler;

/// stdin, stdout, stderr.
const PIPES: usize = 3;

/// A call of the protocol that waits for `connection_made`: the callback and its arguments.
type Call = (Ref, Vector);

pub struct SubprocessTransport {
    base: Base,
    /// The `subprocess.Popen`.
    process: Slot,
    pid: i32,
    extra: Slot,
    returncode: Cell<Option<i32>>,
    /// Readable when the child has ended; none where the kernel refuses it, and a thread waits.
    pidfd: RefCell<Option<OwnedFd>>,
    /// What the child's end is told in: the context of whoever started it, from 3.12 on. Before, asyncio waits in a thread.
    exit_context: Slot,
    /// Which pipes there are, and the protocol of each that is connected.
    has_pipe: [bool; PIPES],
    pipes: [Slot; PIPES],
    /// None once `connection_made` is on its way.
    pending: RefCell<Option<Vec<Call>>>,
    /// Futures of `_wait`.
    waiters: RefCell<Vec<Ref>>,
    notices: Cell<Notices>,
    finished: Cell<bool>,
}

static CLASS: Class = Class::new();

impl Native for SubprocessTransport {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.base.traverse(visit);
        self.slots().into_iter().chain(&self.pipes).for_each(|slot| visit.slot(slot));
        if let Ok(pending) = self.pending.try_borrow() {
            for (callback, arguments) in pending.iter().flatten() {
                visit.obj(callback);
                arguments.iter().for_each(|a| visit.obj(a));
            }
        }
        if let Ok(waiters) = self.waiters.try_borrow() {
            waiters.iter().for_each(|w| visit.obj(w));
        }
    }

    fn clear(&self) {
        self.base.clear_all();
        self.slots().into_iter().chain(&self.pipes).for_each(Slot::clear);
        let (pending, waiters) = (self.pending.take(), self.waiters.take());
        drop((pending, waiters));
    }

    fn needs_finalizer(&self) -> bool {
        !self.base.closing.get()
    }
}

/// The Python class.
pub fn class() -> Ref {
    CLASS.type_object().to_ref()
}

impl SubprocessTransport {
    fn slots(&self) -> [&Slot; 3] {
        [&self.process, &self.extra, &self.exit_context]
    }

    /// The Popen.
    ///
    /// # Errors
    /// ProcessLookupError after `connection_lost`.
    fn process(&self) -> Res {
        self.process.get().ok_or_else(|| Raised::bare(exc::process_lookup_error()))
    }

    /// `self._protocol.<method>(*arguments)` in the next turn, or after `connection_made`.
    fn tell(&self, method: &Obj, arguments: &[&Obj]) -> Res<()> {
        let callback = self.base.protocol.object().getattr(method)?;
        self.call(&callback, arguments)
    }

    /// Same as `_call`.
    fn call(&self, callback: &Obj, arguments: &[&Obj]) -> Res<()> {
        if let Some(pending) = self.pending.borrow_mut().as_mut() {
            pending.push((callback.to_ref(), Vector::new(arguments)));
            return Ok(());
        }
        self.call_soon(callback, arguments)
    }

    fn call_soon(&self, callback: &Obj, arguments: &[&Obj]) -> Res<()> {
        match self.base.event_loop.get().as_deref().and_then(Scheduler::of) {
            Some(scheduler) => self.base.call_soon(scheduler, callback, arguments),
            None => Ok(()),
        }
    }

    /// Same as `get_pipe_transport`: none if there is no such pipe, or it is not connected yet.
    fn pipe_transport(&self, fd: usize) -> Option<Ref> {
        self.pipes.get(fd)?.get()?.downcast::<pipe::PipeProtocol>()?.transport()
    }
}

impl Inst<SubprocessTransport> {
    /// The child's descriptor is readable.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    pub fn run(&self) -> Res<()> {
        let outcome = match self.exit_context.get() {
            Some(context) => Context::run(&context, || self.reap()),
            None => self.reap(),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(raised) => {
                crate::io::report_stray(raised, self.base.event_loop.get(), self.obj(), "SubprocessTransport._reap()")
            }
        }
    }

    /// Same as `_pipe_data_received`.
    fn on_pipe_data(&self, fd: &Obj, data: &Obj) -> Res<()> {
        self.tell(name!("pipe_data_received"), &[fd, data])
    }

    /// Same as `_pipe_connection_lost`.
    fn on_pipe_lost(&self, fd: &Obj, exception: &Obj) -> Res<()> {
        self.tell(name!("pipe_connection_lost"), &[fd, exception])?;
        self.try_finish()
    }

    /// Same as `close`: the pipes are closed, a child that still runs is killed.
    fn close(&self) -> Res<()> {
        if self.base.closing.replace(true) {
            return Ok(());
        }
        let flushed = self.base.flush_held();
        finally(flushed, || finally(self.close_pipes(), || self.kill_if_running()))
    }

    fn close_pipes(&self) -> Res<()> {
        // On a closed loop nobody could be told of their end.
        let is_open = |event_loop: &Ref| Scheduler::of(event_loop).is_some_and(|scheduler| !scheduler.closed.get());
        if !self.base.event_loop.get().as_ref().is_some_and(is_open) {
            return Ok(());
        }
        let mut outcome = Ok(());
        for pipe in (0..PIPES).filter_map(|fd| self.pipe_transport(fd)) {
            outcome = finally(outcome, || pipe.call_method(name!("close"), []).map(drop));
        }
        outcome
    }

    fn kill_if_running(&self) -> Res<()> {
        let Some(process) = self.process.get() else {
            return Ok(());
        };
        if self.returncode.get().is_some() || !process.call_method(name!("poll"), [])?.is_none() {
            return Ok(());
        }
        if self.base.is_debug() {
            let format = string("Close running child process: kill %r")?;
            imports().logger.call_method(name!("warning"), [&*format, self.obj()])?;
        }
        match process.call_method(name!("kill"), []) {
            // It has ended by itself, or is somebody else's by now (setuid).
            Err(raised) if raised.matches(exc::process_lookup_error()) || raised.matches(exc::permission_error()) => {
                raised.forget();
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Same as `send_signal`; a child whose status is taken gets none.
    fn send_signal(&self, signal: &Obj) -> Res<()> {
        let process = self.process()?;
        self.base.flush_held()?;
        if self.returncode.get().is_some() {
            return Ok(());
        }
        let kill = &imports().os_kill;
        match kill.call([&*process.getattr(name!("pid"))?, signal]) {
            Err(raised) if raised.matches(exc::process_lookup_error()) => {
                raised.forget();
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }
}
