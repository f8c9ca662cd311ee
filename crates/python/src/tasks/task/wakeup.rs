//! What a task waited for is done: resume it with the outcome.
//!
//! CPython counterpart: `task_wakeup`. A plain result needs nothing: the coroutine is resumed with None, and the awaiting
//! iterator asks the future itself. A failure is thrown in, so that a future which was yielded by hand works as well.

use super::{Inst, Task, registry, step, step_in_current_context};
use crate::ffi::{Obj, Raised, Ref, Res, none};
use crate::name;
use crate::objects::future::{Fut, State};
use crate::objects::scheduler::Scheduler;

/// The exception to throw for a future that is done; None for a result.
#[inline]
fn failure(future: &Obj) -> Res<Option<Ref>> {
    // A subclass may have overridden `result`.
    if let Some(f) = Fut::of_exact(future) {
        if f.core.state.get() == State::Finished && !f.core.exception.is_some() {
            return Ok(None);
        }
        return f.failure();
    }
    match future.call_method(name!("result"), []) {
        Ok(_) => Ok(None),
        Err(raised) => raise_exits(raised),
    }
}

/// `future.result()` may raise anything; all of it belongs into the task.
fn raise_exits(raised: Raised) -> Res<Option<Ref>> {
    Ok(Some(raised.take()))
}

/// From the ready queue of our own loop. The reference to the future is dropped first: the frame holds what it needs.
#[inline]
pub fn wakeup(scheduler: &Scheduler, event_loop: &Obj, task: &Inst<Task>, future: Ref) -> Res<()> {
    let throw = failure(&future)?;
    registry::forget_awaiting(&future, task.obj())?;
    drop(future);
    step(scheduler, event_loop, task, throw)
}

/// As a done-callback of a future or a loop that is not ours.
pub fn wakeup_by_call(task: &Obj, future: &Obj) -> Res {
    if let Some(task) = super::task_of(task) {
        let throw = failure(future)?;
        registry::forget_awaiting(future, task.obj())?;
        step_in_current_context(task, throw)?;
    }
    Ok(none().to_ref())
}
