//! The turn of the loop: wait, collect what is due, run what is ready.
//!
//! CPython counterpart: `BaseEventLoop.run_forever` and `_run_once`. A turn runs what was ready at its start. The kernel is
//! asked when nothing is ready, at the first turn, when a stop is pending, and otherwise after 61 entries (`PollRule`, D7):
//! a poll costs more than a task's whole step.

use aioxide_core::kernel::poll_timeout;
use aioxide_core::sys::clock;

use super::{EventLoop, create, debug};
use crate::ffi::{BoolExt, Context, Inst, Obj, Raised, Ref, Res, check_signals, float, float_value, import, none};
use crate::io::{self, wakeup_fd};
use crate::objects::names::imports;
use crate::objects::scheduler::Entry;
use crate::objects::{handle, report};
use crate::tasks::task::{self, registry, task_of};
use crate::{kwnames, name};

pub fn run_forever(this: &Inst<EventLoop>) -> Res {
    this.scheduler.check_closed()?;
    super::lifetime::check_running(this)?;
    let running = Running::start(this)?;
    let r = run_until_stopped(this);
    running.end(r)?;
    Ok(none().to_ref())
}

fn run_until_stopped(this: &Inst<EventLoop>) -> Res<()> {
    this.driver.check_fork()?;
    this.rule.borrow_mut().start();
    loop {
        turn(this)?;
        if this.stopping.get() {
            return Ok(());
        }
    }
}

/// One turn.
fn turn(this: &Inst<EventLoop>) -> Res<()> {
    let scheduler = &this.scheduler;
    scheduler.sweep_timers();

    // Wait for events. First what may run code: dropping the last reference to a task (the registry must not keep it while
    // we wait), and a clock of the program's own. What they queue is seen by the decisions after them.
    if scheduler.ready_len() == 0 {
        registry::withdraw(scheduler, this.obj());
    }
    let now = if scheduler.ready_len() == 0 && scheduler.next_deadline().is_some() { time(this)? } else { 0.0 };
    let idle = scheduler.ready_len() == 0;
    let stopping = this.stopping.get();
    if this.rule.borrow().must_poll(idle, stopping) || this.driver.signals.are_noted() {
        create::look_for_own_classes(this);
        this.driver.poll(this.obj(), scheduler, poll_timeout(idle, stopping, scheduler.next_deadline(), now))?;
        this.rule.borrow_mut().polled();
    }
    scheduler.take_inbox();

    // Collect the timers that are due.
    if let Some(deadline) = scheduler.next_deadline() {
        collect_due(this, deadline)?;
    }

    // Run what is ready now; what these add is for the next turn.
    let n = scheduler.ready_len();
    for _ in 0..n {
        let Some(entry) = scheduler.pop() else { break };
        if scheduler.debug.get() {
            debug::execute(this, entry)?;
        } else {
            execute(this, entry)?;
        }
    }
    let mut rule = this.rule.borrow_mut();
    rule.ran(n);
    if rule.wants_time() {
        rule.elapsed(clock::monotonic_coarse_s());
    }
    Ok(())
}

fn collect_due(this: &Inst<EventLoop>, deadline: f64) -> Res<()> {
    // The coarse clock (5 ns) tells most turns that nothing can be due yet; it lags by a tick at most.
    let resolution = this.clock_resolution.get();
    if !this.time_overridden.get() && deadline > clock::monotonic_coarse_s() + clock::COARSE_LAG_S + resolution {
        return Ok(());
    }
    let end = time(this)? + resolution;
    while let Some(timer) = this.scheduler.pop_due(end) {
        timer.mark_unscheduled();
        if timer.is_cancelled() {
            this.scheduler.on_cancelled_popped();
        } else {
            this.scheduler.push(Entry::Handle(timer));
        }
    }
    Ok(())
}

#[inline]
pub(super) fn time(this: &Inst<EventLoop>) -> Res<f64> {
    if this.time_overridden.get() {
        return float_value(&*this.obj().call_method(name!("time"), [])?);
    }
    Ok(clock::monotonic_s())
}

/// Run one entry. Only SystemExit and KeyboardInterrupt come out.
#[inline(always)]
pub(super) fn execute(this: &Inst<EventLoop>, entry: Entry) -> Res<()> {
    let scheduler = &this.scheduler;
    let outcome = match entry {
        Entry::Step(task) => match task_of(&task) {
            Some(t) => task::step(scheduler, this.obj(), t, None),
            None => Ok(()),
        },
        Entry::Wake(task, future) => match task_of(&task) {
            Some(t) => task::wakeup(scheduler, this.obj(), t, future),
            None => Ok(()),
        },
        Entry::Throw(task, e) => match task_of(&task) {
            Some(t) => task::step(scheduler, this.obj(), t, Some(e)),
            None => Ok(()),
        },
        Entry::Handle(h) => {
            if !h.is_quiet() {
                registry::withdraw(scheduler, this.obj());
            }
            h.run()
        }
        Entry::Call(f, argument, context) => {
            registry::withdraw(scheduler, this.obj());
            match Context::run(&context, || f.call1(&argument).map(drop)) {
                Ok(()) => Ok(()),
                Err(raised) => handle::report_call(raised, this.obj(), &f, &[&argument], Some(&context)),
            }
        }
        Entry::Native(work, what) => {
            registry::withdraw(scheduler, this.obj());
            io::run(&work, what)
        }
    };
    ended(this, outcome)
}

/// After each entry: what it has written is sent.
#[inline]
pub(super) fn ended(this: &Inst<EventLoop>, outcome: Res<()>) -> Res<()> {
    this.driver.held.end_of_callback(outcome).or_else(|raised| stray(this, raised))
}

/// An error that should not come out of an entry: a task step failed outside its coroutine (a context entered already, for
/// one). It is reported, not lost, and does not end the loop.
#[cold]
fn stray(this: &Inst<EventLoop>, raised: Raised) -> Res<()> {
    report::callback_failed(raised, this.obj(), || Ok("Exception in the event loop".to_owned()), Ok)
}

pub fn stop(this: &Inst<EventLoop>) -> Res {
    this.stopping.set(true);
    Ok(none().to_ref())
}

pub fn stopping(this: &Inst<EventLoop>) -> Res {
    Ok(this.stopping.get().into())
}

pub fn set_stopping(this: &Inst<EventLoop>, value: Option<&Obj>) -> Res<()> {
    this.stopping.set(value.unwrap_or(none()).is_true()?);
    Ok(())
}

pub fn clock_resolution(this: &Inst<EventLoop>) -> Res {
    float(this.clock_resolution.get())
}

pub fn set_clock_resolution(this: &Inst<EventLoop>, value: Option<&Obj>) -> Res<()> {
    this.clock_resolution.set(float_value(value.unwrap_or(none()))?);
    Ok(())
}

pub fn is_running(this: &Inst<EventLoop>) -> Res {
    Ok(this.scheduler.is_running().into())
}

/// What holds while the loop runs: the thread's running loop, hooks for asynchronous generators, signals that wake it.
struct Running<'a> {
    this: &'a Inst<EventLoop>,
    old_hooks: Option<Ref>,
    is_woken_by_signals: bool,
}

impl<'a> Running<'a> {
    fn start(this: &'a Inst<EventLoop>) -> Res<Running<'a>> {
        let mut running = Running { this, old_hooks: None, is_woken_by_signals: false };
        match running.enter() {
            Ok(()) => Ok(running),
            Err(raised) => Err(running.end(Err(raised)).err().unwrap_or_else(|| Raised::runtime("cannot start"))),
        }
    }

    fn enter(&mut self) -> Res<()> {
        let me = self.this.obj();
        self.this.scheduler.loop_hash.set(me.hash()?);
        create::look_for_own_classes(self.this);
        me.call_method(name!("_set_coroutine_origin_tracking"), [self.this.scheduler.debug.get().into_obj()])?;
        let sys = import("sys")?;
        let first = me.getattr(name!("_asyncgen_firstiter_hook"))?;
        let last = me.getattr(name!("_asyncgen_finalizer_hook"))?;
        self.old_hooks = Some(sys.call_method(name!("get_asyncgen_hooks"), [])?);
        sys.call_method_kw(name!("set_asyncgen_hooks"), [&*first, &*last], kwnames!("firstiter", "finalizer"))?;
        self.is_woken_by_signals = wakeup_fd::begin_run(self.this.scheduler.pipe())?;
        if self.is_woken_by_signals {
            // One that came before has left nothing in the pipe, and would interrupt no wait.
            check_signals()?;
        }
        self.this.scheduler.claim()?;
        imports().set_running_loop.call1(me)?;
        Ok(())
    }

    /// Undo every step that was made, also when an error is on its way out. The first error stays, but for one that ends
    /// the program.
    fn end(self, r: Res<()>) -> Res<()> {
        let mut first = r.err().map(Raised::take);
        // Unless another thread was quicker to run the loop.
        if !self.this.scheduler.is_anothers() {
            // Dropping the last task may run code that calls stop(): of this run, not of the next one.
            registry::withdraw(&self.this.scheduler, self.this.obj());
            self.this.stopping.set(false);
            self.this.scheduler.disclaim();
        }
        self.this.run_from.clear();
        for step in [
            Running::flush,
            Running::leave_thread,
            Running::give_up_wakeup_fd,
            Running::stop_tracking,
            Running::restore_hooks,
        ] {
            if let Err(raised) = step(&self) {
                let exits = raised.is_exit();
                let second = raised.take();
                match first.take() {
                    Some(e) if !exits => first = Some(e),
                    Some(e) => {
                        second.set_context(e);
                        first = Some(second);
                    }
                    None => first = Some(second),
                }
            }
        }
        first.map_or(Ok(()), |e| Err(Raised::raise(e)))
    }

    /// What was written between two callbacks, or by that last task. Nothing is held once the loop has no owner.
    fn flush(&self) -> Res<()> {
        self.this.driver.held.end_of_callback(Ok(()))
    }

    fn leave_thread(&self) -> Res<()> {
        imports().set_running_loop.call1(none()).map(drop)
    }

    fn give_up_wakeup_fd(&self) -> Res<()> {
        if self.is_woken_by_signals { wakeup_fd::end_run(self.this.scheduler.pipe()) } else { Ok(()) }
    }

    fn stop_tracking(&self) -> Res<()> {
        self.this.obj().call_method(name!("_set_coroutine_origin_tracking"), [crate::ffi::false_()]).map(drop)
    }

    fn restore_hooks(&self) -> Res<()> {
        if let Some([first, last]) = self.old_hooks.as_deref().map(Obj::tuple_items) {
            import("sys")?.call_method_kw(
                name!("set_asyncgen_hooks"),
                [*first, *last],
                kwnames!("firstiter", "finalizer"),
            )?;
        }
        Ok(())
    }
}
