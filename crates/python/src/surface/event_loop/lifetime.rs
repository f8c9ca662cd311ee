//! Closed, running, debug: the conditions of a loop.

use super::EventLoop;
use crate::ffi::{Args, BoolExt, Inst, Obj, Raised, Res, int_u64, none};
use crate::objects::names::imports;

pub fn is_closed(this: &Inst<EventLoop>) -> Res {
    Ok(this.scheduler.closed.get().into())
}

/// Release everything native. A second close does nothing.
pub fn close(this: &Inst<EventLoop>) -> Res {
    if this.scheduler.is_running() {
        return Err(Raised::runtime("Cannot close a running event loop"));
    }
    if !this.scheduler.closed.replace(true) {
        this.scheduler.clear_work();
        this.driver.close();
    }
    Ok(none().to_ref())
}

/// The descriptors go with the memory; what is queued may refer to anything, so it goes while the object is whole.
pub fn finalize(this: &Inst<EventLoop>) {
    this.scheduler.clear_work();
}

pub fn check_closed(this: &Inst<EventLoop>) -> Res {
    this.scheduler.check_closed()?;
    Ok(none().to_ref())
}

pub fn check_thread(this: &Inst<EventLoop>) -> Res {
    this.scheduler.check_thread()?;
    Ok(none().to_ref())
}

pub fn check_running(this: &Inst<EventLoop>) -> Res {
    if this.scheduler.is_running() {
        return Err(Raised::runtime("This event loop is already running"));
    }
    if !imports().get_running_loop.call0()?.is_none() {
        return Err(Raised::runtime("Cannot run the event loop while another loop is running"));
    }
    Ok(none().to_ref())
}

pub fn timer_handle_cancelled(_: &Inst<EventLoop>, _handle: &Obj) -> Res {
    Ok(none().to_ref())
}

pub fn get_debug(this: &Inst<EventLoop>) -> Res {
    Ok(this.scheduler.debug.get().into())
}

pub fn set_debug(this: &Inst<EventLoop>, args: Args) -> Res {
    let [enabled] = args.exactly("set_debug", ["enabled"])?;
    this.scheduler.set_debug(enabled.is_true()?);
    if this.scheduler.is_running() {
        // Coroutine origins are a setting of the thread that runs the loop, which may be another one.
        let track = this.obj().getattr(crate::name!("_set_coroutine_origin_tracking"))?;
        this.obj()
            .call_method(crate::name!("call_soon_threadsafe"), [&*track, this.scheduler.debug.get().into_obj()])?;
    }
    Ok(none().to_ref())
}

pub fn set_debug_attribute(this: &Inst<EventLoop>, value: Option<&Obj>) -> Res<()> {
    this.scheduler.set_debug(value.unwrap_or(none()).is_true()?);
    Ok(())
}

pub fn thread_id(this: &Inst<EventLoop>) -> Res {
    match this.scheduler.owner() {
        0 => Ok(none().to_ref()),
        ident => int_u64(ident),
    }
}

pub fn current_handle(this: &Inst<EventLoop>) -> Res {
    Ok(this.current_handle.get_or_none())
}
