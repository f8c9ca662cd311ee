//! Notices a fork, so that a child never tells its parent's epoll set anything.
//!
//! CPython counterpart: none; a forked asyncio loop changes the set of its parent. Counting in an `os.register_at_fork` hook
//! costs one load where a driver looks; comparing `getpid()` would be a system call for each.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::ffi::{Obj, Res, import_attr, none, trampoline::Definition};
use crate::{definition_noargs, kwnames};

/// Forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

static FORKED: Definition = definition_noargs!(c"aioxide_after_fork", forked);

fn forked(_: &Obj) -> Res {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    Ok(none().to_ref())
}

pub fn watch_for_forks() -> Res<()> {
    let hook = FORKED.bind(none())?;
    import_attr("os", "register_at_fork")?.call_kw(&[&*hook], kwnames!("after_in_child")).map(drop)
}

/// Equal to what it was: this is still the same process.
#[inline]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}
