//! What `add_signal_handler` and `remove_signal_handler` (`python/aioxide/_signals.py`) need of the native loop.

use super::EventLoop;
use crate::ffi::{Inst, Obj, Res, index_value, none};

pub fn handlers(this: &Inst<EventLoop>) -> Res {
    this.driver.signals.handlers()
}

pub fn claim(this: &Inst<EventLoop>) -> Res {
    this.driver.claim_signals()?;
    Ok(none().to_ref())
}

pub fn release(this: &Inst<EventLoop>) -> Res {
    this.driver.release_signals()?;
    Ok(none().to_ref())
}

pub fn handle(this: &Inst<EventLoop>, signal: &Obj) -> Res {
    this.driver.handle_signal(this.obj(), index_value(signal)?)?;
    Ok(none().to_ref())
}
