//! One step of a task: run its coroutine to the next await, and park the task on what it awaits.
//!
//! CPython counterpart: `task_step_impl`, `task_step_handle_result_impl`.

use super::{Inst, Task, registry};
use crate::ffi::send::Step;
use crate::ffi::trampoline::Definition;
use crate::ffi::{Context, Obj, Raised, Ref, Res, exc, none, str_of, string};
use crate::objects::future::Fut;
use crate::objects::names::imports;
use crate::objects::scheduler::{Entry, Scheduler};
use crate::{definition_noargs, kwnames, name};

/// `task.__step`, for loops that are not ours.
static STEP: Definition = definition_noargs!(c"TaskStepMethWrapper", step_by_call);

fn step_by_call(task: &Obj) -> Res {
    if let Some(task) = super::task_of(task) {
        step_in_current_context(task, None)?;
    }
    Ok(none().to_ref())
}

/// Step from the ready queue of our own loop: enter the task's context, publish it as the current task.
///
/// # Errors
/// Only SystemExit and KeyboardInterrupt come out; all else becomes the task's outcome.
#[inline]
pub fn step(scheduler: &Scheduler, event_loop: &Obj, task: &Inst<Task>, throw: Option<Ref>) -> Res<()> {
    let Some(context) = task.context() else {
        return Ok(());
    };
    registry::publish(scheduler, event_loop, task.obj())?;
    Context::run(&context, || advance(task, throw))
}

/// Step from inside a foreign wake-up: `Handle._run` has entered the task's context already.
pub fn step_in_current_context(task: &Inst<Task>, throw: Option<Ref>) -> Res<()> {
    let event_loop = task.as_future().event_loop()?;
    match Scheduler::of(&event_loop) {
        Some(scheduler) => {
            registry::publish(scheduler, &event_loop, task.obj())?;
            let r = advance(task, throw);
            registry::withdraw(scheduler, &event_loop);
            r
        }
        None => registry::with_entered(&event_loop, task.obj(), || advance(task, throw)),
    }
}

/// Resume the coroutine and deal with what it comes to.
#[inline]
pub(super) fn advance(task: &Inst<Task>, throw: Option<Ref>) -> Res<()> {
    if !task.future.is_pending() {
        return Err(already_done(task, throw));
    }
    let mut throw = throw;
    if task.must_cancel.get() {
        if throw.as_ref().is_none_or(|e| !e.is_exception_of(&imports().cancelled_error)) {
            throw = Some(task.as_future().make_cancelled_error()?);
        }
        task.must_cancel.set(false);
    }
    task.waiter.clear();
    let outcome = {
        let coro = task.live_coro()?;
        match throw {
            None => coro.send(none()),
            Some(e) => coro.throw(name!("throw"), &e),
        }
    };
    match outcome {
        Step::Yielded(y) => park(task, y),
        Step::Returned(value) => finish(task, value),
        Step::Raised(raised) => fail(task, raised),
    }
}

#[cold]
fn already_done(task: &Inst<Task>, throw: Option<Ref>) -> Raised {
    let text = || -> Res<String> {
        let e = throw.unwrap_or_else(|| none().to_ref());
        Ok(format!("__step(): already done: {} {}", str_of(&*task.obj().repr()?)?, str_of(&*e.repr()?)?))
    };
    match text() {
        Ok(t) => Raised::new(&imports().invalid_state_error, &t),
        Err(e) => e,
    }
}

#[inline]
fn finish(task: &Inst<Task>, value: Ref) -> Res<()> {
    registry::unregister(task)?;
    if task.must_cancel.replace(false) {
        // Cancelled just before it returned: the cancellation wins.
        let message = task.future.cancel_message.get();
        task.as_future().cancel(message.as_deref()).map(drop)
    } else {
        task.as_future().set_result(value)
    }
}

fn fail(task: &Inst<Task>, raised: Raised) -> Res<()> {
    let (is_cancel, exits) = (raised.matches(&imports().cancelled_error), raised.is_exit());
    let e = raised.take();
    registry::unregister(task)?;
    if is_cancel {
        task.future.cancelled_exc.put(e);
        return task.as_future().cancel(None).map(drop);
    }
    task.as_future().finish_with(e.clone())?;
    if exits { Err(Raised::raise(e)) } else { Ok(()) }
}

/// Park the task on what its coroutine yielded.
#[inline]
fn park(task: &Inst<Task>, y: Ref) -> Res<()> {
    if y.is_none() {
        // A bare yield (asyncio.sleep(0)): again at the next turn.
        return again(task, None);
    }
    if let Some(f) = Fut::of_exact(&y) {
        return park_on_future(task, f);
    }
    park_on_foreign(task, &y)
}

#[inline]
fn park_on_future(task: &Inst<Task>, f: Fut<'_>) -> Res<()> {
    if f.obj.is(task.obj()) {
        return refuse(task, format!("Task cannot await on itself: {}", str_of(&*task.obj().repr()?)?));
    }
    if f.core.event_loop.as_ptr() != task.future.event_loop.as_ptr() {
        return refuse_other_loop(task, f.obj);
    }
    if !f.core.blocking.replace(false) {
        return refuse_yield(task, f.obj);
    }
    registry::note_awaiting(f.obj, task.obj())?;
    f.add_task(task.obj())?;
    task.waiter.put(f.obj.to_ref());
    if task.must_cancel.get() {
        cancel_new_waiter(task, f.obj)?;
    }
    Ok(())
}

/// `cancel()` came while the task was running: pass it on to what it waits for now.
fn cancel_new_waiter(task: &Inst<Task>, waiter: &Obj) -> Res<()> {
    let message = task.future.cancel_message.get_or_none();
    let done = waiter.call_method_kw(name!("cancel"), [&*message], kwnames!("msg"))?;
    if done.is_true()? {
        task.must_cancel.set(false);
    }
    Ok(())
}

/// Anything else that may be a future: by `_asyncio_future_blocking`, asyncio's protocol for them.
fn park_on_foreign(task: &Inst<Task>, y: &Obj) -> Res<()> {
    let blocking = match y.getattr_opt(name!("_asyncio_future_blocking"))? {
        Some(b) if !b.is_none() => b.is_true()?,
        _ => {
            if imports().is_generator.call1(y)?.is_true()? {
                let text = format!(
                    "yield was used instead of yield from in task {} with {}",
                    str_of(&*task.obj().repr()?)?,
                    str_of(&*y.repr()?)?
                );
                return refuse(task, text);
            }
            return refuse(task, format!("Task got bad yield: {}", str_of(&*y.repr()?)?));
        }
    };
    if y.is(task.obj()) {
        return refuse(task, format!("Task cannot await on itself: {}", str_of(&*task.obj().repr()?)?));
    }
    if !future_loop(y)?.is(&*task.as_future().event_loop()?) {
        return refuse_other_loop(task, y);
    }
    if !blocking {
        return refuse_yield(task, y);
    }
    y.setattr(name!("_asyncio_future_blocking"), crate::ffi::false_())?;
    let wakeup = crate::objects::future::callbacks::WAKEUP.bind(task.obj())?;
    let context = task.context_or_none();
    y.call_method_kw(name!("add_done_callback"), [&*wakeup, &*context], kwnames!("context"))?;
    registry::note_awaiting(y, task.obj())?;
    task.waiter.put(y.to_ref());
    if task.must_cancel.get() {
        cancel_new_waiter(task, y)?;
    }
    Ok(())
}

/// `asyncio.futures._get_loop(future)`.
fn future_loop(y: &Obj) -> Res {
    match y.getattr_opt(name!("get_loop"))? {
        Some(get_loop) => get_loop.call0(),
        None => y.getattr(name!("_loop")),
    }
}

fn refuse_other_loop(task: &Inst<Task>, y: &Obj) -> Res<()> {
    let text = format!(
        "Task {} got Future {} attached to a different loop",
        str_of(&*task.obj().repr()?)?,
        str_of(&*y.repr()?)?
    );
    refuse(task, text)
}

fn refuse_yield(task: &Inst<Task>, y: &Obj) -> Res<()> {
    let text = format!(
        "yield was used instead of yield from in task {} with {}",
        str_of(&*task.obj().repr()?)?,
        str_of(&*y.repr()?)?
    );
    refuse(task, text)
}

/// The coroutine yielded something wrong: it gets a RuntimeError at its next step.
#[cold]
fn refuse(task: &Inst<Task>, text: String) -> Res<()> {
    let e = exc::runtime_error().call1(&*string(&text)?)?;
    again(task, Some(e))
}

/// Queue the next step, with an exception to throw or without.
#[inline]
pub(super) fn again(task: &Inst<Task>, throw: Option<Ref>) -> Res<()> {
    let event_loop = task.as_future().event_loop()?;
    if let Some(scheduler) = Scheduler::direct(&event_loop) {
        return scheduler.submit(match throw {
            None => Entry::Step(task.obj().to_ref()),
            Some(e) => Entry::Throw(task.obj().to_ref(), e),
        });
    }
    let context = task.context_or_none();
    match throw {
        None => {
            let f = STEP.bind(task.obj())?;
            event_loop.call_method_kw(name!("call_soon"), [&*f, &*context], kwnames!("context"))?;
        }
        Some(e) => {
            let f = THROW.bind(task.obj())?;
            event_loop.call_method_kw(name!("call_soon"), [&*f, &*e, &*context], kwnames!("context"))?;
        }
    }
    Ok(())
}

static THROW: Definition = crate::definition_onearg!(c"TaskStepMethWrapper", throw_by_call);

fn throw_by_call(task: &Obj, e: &Obj) -> Res {
    if let Some(task) = super::task_of(task) {
        step_in_current_context(task, Some(e.to_ref()))?;
    }
    Ok(none().to_ref())
}
