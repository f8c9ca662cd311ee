//! Notices a fork, so that a child never tells its parent's epoll set anything, and sends no byte that its parent sends too.
//!
//! CPython counterpart: none; a forked asyncio loop changes the set of its parent. Counting in an `os.register_at_fork` hook
//! costs one load where a driver looks; comparing `getpid()` would be a system call for each.

use std::sync::atomic::{AtomicU32, Ordering};

use super::driver::Driver;
use super::{signals, wakeup_fd};
use crate::ffi::{Obj, Res, import_attr, none, trampoline::Definition};
use crate::objects::names::imports;
use crate::{definition_noargs, kwnames};

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

static FORKED: Definition = definition_noargs!(c"aioxide_after_fork", forked);

fn forked(_: &Obj) -> Res {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    signals::forget_marks();
    wakeup_fd::after_fork()?;
    Ok(none().to_ref())
}

static FORKING: Definition = definition_noargs!(c"aioxide_before_fork", forking);

/// Parent and child both end the callback that forks: what it holds is sent before there are two. What loops of other threads
/// hold is left to the parent (`held`).
fn forking(_: &Obj) -> Res {
    let event_loop = imports().get_running_loop.call0()?;
    if let Some(driver) = Driver::of(&event_loop) {
        driver.held.flush()?;
    }
    Ok(none().to_ref())
}

pub fn watch_for_forks() -> Res<()> {
    let (before, after) = (FORKING.bind(none())?, FORKED.bind(none())?);
    let register = import_attr("os", "register_at_fork")?;
    register.call_kw(&[&*before, &*after], kwnames!("before", "after_in_child")).map(drop)
}

/// Equal to what it was: this is still the same process.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}
