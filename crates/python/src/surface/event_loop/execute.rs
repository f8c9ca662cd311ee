//! `run_in_executor`.

use super::EventLoop;
use super::schedule::check_callback;
use crate::ffi::{Args, Inst, Obj, Raised, Res, Vector};
use crate::io::executor;
use crate::objects::names::imports;
use crate::{kwnames, name};

pub fn run_in_executor(this: &Inst<EventLoop>, args: Args) -> Res {
    let ([executor, function], args, _) = args.leading("run_in_executor", ["executor", "func"], false)?;
    this.scheduler.check_closed()?;
    this.driver.held.flush()?;
    check_callback(this, function, "run_in_executor")?;
    let default;
    let executor = if executor.is_none() {
        default = default_executor(this.obj())?;
        &*default
    } else {
        executor
    };
    if this.makes_futures.get() && this.takes_from_threads.get() {
        if let Some(queue) = executor::queue_of(executor)? {
            return executor::submit(this.obj(), executor, &queue, function, args);
        }
    }
    let call: Vec<&Obj> = std::iter::once(function).chain(args.iter().copied()).collect();
    let future = executor.getattr(name!("submit"))?.call_vector(&Vector::new(&call))?;
    imports().wrap_future.call_kw(&[&*future, this.obj()], kwnames!("loop"))
}

/// The executor for None, made when it is first needed.
///
/// # Errors
/// RuntimeError after `shutdown_default_executor()`.
fn default_executor(event_loop: &Obj) -> Res {
    let executor = event_loop.getattr(name!("_default_executor"))?;
    if event_loop.getattr(name!("_executor_shutdown_called"))?.is_true()? {
        return Err(Raised::runtime("Executor shutdown has been called"));
    }
    if executor.is_none() { event_loop.call_method(name!("_make_default_executor"), []) } else { Ok(executor) }
}
