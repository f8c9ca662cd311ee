//! The turn of the loop: wait, collect what is due, run what is ready.
//!
//! CPython counterpart: `BaseEventLoop.run_forever` and `_run_once`. A turn runs what was ready at its start. The kernel is
//! asked when nothing is ready, at the first turn, when a stop is pending, and otherwise after 61 entries (`PollRule`, D7):
//! a poll costs more than a task's whole step.

use aioxide_core::kernel::poll_timeout;
use aioxide_core::sys::clock;

use super::{EventLoop, create};
use crate::ffi::{
    BoolExt, Context, Inst, Obj, Raised, Ref, Res, exc, float, float_value, import, int, none, str_of, string,
};
use crate::objects::names::imports;
use crate::objects::scheduler::Entry;
use crate::objects::{handle, report};
use crate::tasks::task::{self, registry, task_of};
use crate::{io, kwnames, name};

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
    if this.rule.borrow().must_poll(idle, stopping) {
        create::look_for_own_classes(this);
        this.driver.poll(scheduler, poll_timeout(idle, stopping, scheduler.next_deadline(), now))?;
        this.rule.borrow_mut().polled();
    }
    scheduler.take_inbox();

    // Collect the timers that are due.
    if let Some(deadline) = scheduler.next_deadline() {
        collect_due(this, deadline)?;
    }

    // Run what is ready now; what these add is for the next turn.
    let n = scheduler.ready_len();
    if scheduler.debug.get() {
        run_in_debug_mode(this, n)?;
    } else {
        for _ in 0..n {
            let Some(entry) = scheduler.pop() else { break };
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
fn time(this: &Inst<EventLoop>) -> Res<f64> {
    if this.time_overridden.get() {
        return float_value(&*this.obj().call_method(name!("time"), [])?);
    }
    Ok(clock::monotonic_s())
}

/// Run one entry. Only SystemExit and KeyboardInterrupt come out.
#[inline]
fn execute(this: &Inst<EventLoop>, entry: Entry) -> Res<()> {
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
                Err(raised) => handle::report_call(raised, this.obj(), &f, &argument, &context),
            }
        }
        Entry::Native(work, what) => {
            registry::withdraw(scheduler, this.obj());
            io::run(&work, what)
        }
    };
    this.driver.held.end_of_callback(outcome).or_else(|raised| stray(this, raised))
}

/// An error that should not come out of an entry: a task step failed outside its coroutine (a context entered already, for
/// one). It is reported, not lost, and does not end the loop.
#[cold]
fn stray(this: &Inst<EventLoop>, raised: Raised) -> Res<()> {
    report::callback_failed(raised, this.obj(), || Ok("Exception in the event loop".to_owned()), Ok)
}

/// Debug mode: time each entry and name the slow ones.
#[cold]
fn run_in_debug_mode(this: &Inst<EventLoop>, n: usize) -> Res<()> {
    for _ in 0..n {
        let Some(entry) = this.scheduler.pop() else { break };
        let subject: Option<Ref> = match &entry {
            Entry::Step(t) | Entry::Wake(t, _) | Entry::Throw(t, _) => Some(t.clone()),
            Entry::Handle(h) => {
                this.current_handle.put(h.obj().to_ref());
                Some(h.obj().to_ref())
            }
            Entry::Call(f, argument, context) => {
                let h = handle::Handle::new(f, &[&**argument], this.obj(), Some(context))?;
                Some(h.into_ref())
            }
            Entry::Native(work, _) => Some(work.clone()),
        };
        // Now, because a handle lets go of its callback when it has run. A repr that raises must not leave its error behind.
        let label = subject.as_deref().and_then(|s| describe(s).map_err(Raised::forget).ok());
        let started = clock::monotonic_s();
        let r = execute(this, entry);
        let took = clock::monotonic_s() - started;
        this.current_handle.clear();
        r?;
        warn_if_slow(this, label, took)?;
    }
    Ok(())
}

/// `asyncio.base_events._format_handle`: a task by its own repr, anything else as a handle.
fn describe(o: &Obj) -> Res<String> {
    str_of(&*o.repr()?)
}

fn warn_if_slow(this: &Inst<EventLoop>, label: Option<String>, took: f64) -> Res<()> {
    let limit = float_value(&*this.obj().getattr(name!("slow_callback_duration"))?)?;
    if took < limit {
        return Ok(());
    }
    let label = label.unwrap_or_default();
    imports().logger.call_method(
        name!("warning"),
        [&*string("Executing %s took %.3f seconds")?, &*string(&label)?, &*float(took)?],
    )?;
    Ok(())
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
    wakeup_fd: Option<i64>,
}

impl<'a> Running<'a> {
    fn start(this: &'a Inst<EventLoop>) -> Res<Running<'a>> {
        let mut running = Running { this, old_hooks: None, wakeup_fd: None };
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
        self.wakeup_fd = take_wakeup_fd(self.this)?;
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
        for step in [
            Running::flush,
            Running::leave_thread,
            Running::restore_wakeup_fd,
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

    fn restore_wakeup_fd(&self) -> Res<()> {
        self.wakeup_fd.map_or(Ok(()), give_back_wakeup_fd)
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

/// Let the C signal handler write into our pipe while we run, so that a signal which comes between the last check and the
/// wait wakes the loop. Only the main thread may ask for it, and a descriptor that the user has set stays.
fn take_wakeup_fd(this: &Inst<EventLoop>) -> Res<Option<i64>> {
    let ours = i64::from(this.scheduler.pipe().writer_fd());
    let signal = import("signal")?;
    let fd = int(ours)?;
    let old =
        signal.call_method_kw(name!("set_wakeup_fd"), [&*fd, crate::ffi::false_()], kwnames!("warn_on_full_buffer"));
    match old {
        Ok(old) if crate::ffi::index_value(&old)? == -1 => Ok(Some(ours)),
        Ok(old) => {
            restore_foreign_wakeup_fd(&signal, &old)?;
            Ok(None)
        }
        Err(raised) if raised.matches(exc::value_error()) => {
            raised.forget();
            Ok(None)
        }
        Err(raised) => Err(raised),
    }
}

fn give_back_wakeup_fd(ours: i64) -> Res<()> {
    let signal = import("signal")?;
    let now = signal.call_method(name!("set_wakeup_fd"), [&*int(-1)?])?;
    if crate::ffi::index_value(&now)? != ours {
        // The program has set its own meanwhile.
        restore_foreign_wakeup_fd(&signal, &now)?;
    }
    Ok(())
}

/// Put the program's own descriptor back. One that was closed meanwhile is of no use to anybody.
fn restore_foreign_wakeup_fd(signal: &Obj, fd: &Obj) -> Res<()> {
    let put =
        signal.call_method_kw(name!("set_wakeup_fd"), [fd, crate::ffi::false_()], kwnames!("warn_on_full_buffer"));
    match put {
        Ok(_) => Ok(()),
        Err(raised) if raised.is_exit() => Err(raised),
        Err(raised) => {
            raised.forget();
            signal.call_method(name!("set_wakeup_fd"), [&*int(-1)?]).map(drop)
        }
    }
}
