//! `call_soon` and its like.

use aioxide_core::sys::clock;

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Raised, Res, float, float_value, list, none, string, thread_ident};
use crate::name;
use crate::objects::future::callbacks::WAKEUP;
use crate::objects::future::face::is_own_set_result;
use crate::objects::handle::{self, Handle};
use crate::objects::scheduler::Entry;

#[inline]
pub fn call_soon(this: &Inst<EventLoop>, args: Args) -> Res {
    let ([callback], args, context) = args.leading("call_soon", ["callback"], true)?;
    let scheduler = &this.scheduler;
    if scheduler.closed.get() || scheduler.debug.get() {
        scheduler.check_submit()?;
        check_callback(this, callback, "call_soon")?;
    } else if let (Some(task), [future]) = (WAKEUP.bound_to(callback), args) {
        // A stock future (of C code) wakes a task of ours: no handle is needed, and nobody looks at the one returned.
        scheduler.push(Entry::Wake(task.to_ref(), future.to_ref()));
        return Ok(none().to_ref());
    }
    let handle = Handle::new(callback, args, this.obj(), context)?;
    if is_own_set_result(callback) {
        handle.mark_quiet();
    }
    handle::queue(scheduler, &handle)?;
    Ok(handle.into_ref())
}

pub fn call_soon_threadsafe(this: &Inst<EventLoop>, args: Args) -> Res {
    let ([callback], args, context) = args.leading("call_soon_threadsafe", ["callback"], true)?;
    this.scheduler.check_closed()?;
    if this.scheduler.owner() == thread_ident() {
        this.driver.held.flush()?;
    }
    let handle = Handle::new(callback, args, this.obj(), context)?;
    handle.guard_by_lock()?;
    if this.scheduler.debug.get() {
        check_callback(this, callback, "call_soon_threadsafe")?;
        handle.set_source_traceback(handle::current_stack()?);
    }
    this.scheduler.submit_threadsafe(Entry::Handle(handle.clone()))?;
    Ok(handle.into_ref())
}

/// In debug mode: a coroutine, or something that cannot be called, is refused at once.
pub fn check_callback(this: &Inst<EventLoop>, callback: &Obj, method: &str) -> Res<()> {
    if this.scheduler.debug.get() {
        this.obj().call_method(name!("_check_callback"), [callback, &*string(method)?])?;
    }
    Ok(())
}

pub fn time(_: &Inst<EventLoop>) -> Res {
    float(clock::monotonic_s())
}

fn now(this: &Inst<EventLoop>) -> Res<f64> {
    if this.time_overridden.get() {
        return float_value(&*this.obj().call_method(name!("time"), [])?);
    }
    Ok(clock::monotonic_s())
}

pub fn call_later(this: &Inst<EventLoop>, args: Args) -> Res {
    let ([delay, callback], args, context) = args.leading("call_later", ["delay", "callback"], true)?;
    if delay.is_none() {
        return Err(Raised::type_error("delay must not be None"));
    }
    let when = now(this)? + float_value(delay)?;
    schedule(this, when, callback, args, context)
}

pub fn call_at(this: &Inst<EventLoop>, args: Args) -> Res {
    let ([when, callback], args, context) = args.leading("call_at", ["when", "callback"], true)?;
    if when.is_none() {
        return Err(Raised::type_error("when cannot be None"));
    }
    schedule(this, float_value(when)?, callback, args, context)
}

fn schedule(this: &Inst<EventLoop>, when: f64, callback: &Obj, args: &[&Obj], context: Option<&Obj>) -> Res {
    let scheduler = &this.scheduler;
    if scheduler.closed.get() || scheduler.debug.get() {
        scheduler.check_submit()?;
        check_callback(this, callback, "call_at")?;
    }
    let timer = Handle::new_timer(when, callback, args, this.obj(), context)?;
    if scheduler.debug.get() {
        timer.set_source_traceback(handle::current_stack()?);
    }
    timer.mark_scheduled();
    scheduler.add_timer(when, timer.clone());
    Ok(timer.into_ref())
}

/// `loop._ready`: libraries ask for its length.
pub fn ready(this: &Inst<EventLoop>) -> Res {
    let l = list()?;
    let mut handles = 0;
    let mut failed = Ok(());
    this.scheduler.for_each_ready_handle(|h| {
        handles += 1;
        if failed.is_ok() {
            failed = l.list_append(h.obj());
        }
    });
    failed?;
    // Tasks in the queue have no handle; each counts all the same.
    for _ in handles..this.scheduler.ready_len() {
        l.list_append(none())?;
    }
    Ok(l)
}

pub fn scheduled(this: &Inst<EventLoop>) -> Res {
    let l = list()?;
    let mut failed = Ok(());
    this.scheduler.for_each_timer(|h| {
        if failed.is_ok() {
            failed = l.list_append(h.obj());
        }
    });
    failed.map(|()| l)
}
