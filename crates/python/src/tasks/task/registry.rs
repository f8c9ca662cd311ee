//! Who is running and who exists: `asyncio.current_task()` and `asyncio.all_tasks()`, right without a patched function.
//!
//! CPython counterpart: `_asyncio._current_tasks`, `_enter_task`, `_register_task`.
//!
//! *Current task.* Published at each step, withdrawn lazily: before a callback that is no task, before a blocking wait, and
//! when the queue runs empty (else the dict would keep the last task alive). Nothing but native code runs in between.
//!
//! *All tasks.* From 3.14 on the interpreter's own intrusive list (`_register_task`) takes our tasks, because they derive
//! from `_asyncio.Task`. Before, the interpreter has a WeakSet; ours are in a native set, which the thin Python layer shows
//! through the WeakSet's `__class__` (`aioxide._tasks`).

use super::{Inst, Task};
use crate::ffi::cell::Cell;
use crate::ffi::{BorrowedSet, Obj, Once, Ref, Res, import_attr, none};
use crate::objects::names::imports;
use crate::objects::scheduler::Scheduler;

/// Where a task is registered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    /// In our own set (up to 3.13).
    Ours(u32),
    /// In the interpreter's list (3.14+).
    Interpreters,
}

static PENDING: BorrowedSet = BorrowedSet::new();

/// What this version's registry is made of.
struct Registry {
    /// Up to 3.13 the dict loop -> task; from 3.14 on `_swap_current_task`.
    current: Ref,
    #[cfg(Py_3_14)]
    register: Ref,
    #[cfg(Py_3_14)]
    unregister: Ref,
    /// The call graph (3.14+): who awaits whom.
    #[cfg(Py_3_14)]
    add_awaited_by: Ref,
    #[cfg(Py_3_14)]
    discard_awaited_by: Ref,
}

static REGISTRY: Once<Registry> = Once::new();

pub fn load() -> Res<()> {
    #[cfg(Py_3_14)]
    let registry = Registry {
        current: import_attr("_asyncio", "_swap_current_task")?,
        register: import_attr("_asyncio", "_register_task")?,
        unregister: import_attr("_asyncio", "_unregister_task")?,
        add_awaited_by: import_attr("_asyncio", "future_add_to_awaited_by")?,
        discard_awaited_by: import_attr("_asyncio", "future_discard_from_awaited_by")?,
    };
    #[cfg(not(Py_3_14))]
    let registry = Registry { current: import_attr("asyncio.tasks", "_current_tasks")? };
    REGISTRY.set(registry);
    Ok(())
}

/// Publish `task` as the current one of its loop.
#[inline]
pub fn publish(scheduler: &Scheduler, event_loop: &Obj, task: &Obj) -> Res<()> {
    // The registry holds a reference, so a published address is not used for another task.
    if scheduler.published.get() == task.address() {
        return Ok(());
    }
    // Only what the registry has taken is published.
    scheduler.published.set(0);
    #[cfg(Py_3_14)]
    REGISTRY.get().current.call([event_loop, task])?;
    #[cfg(not(Py_3_14))]
    {
        use crate::ffi::current_task::set_known_hash;
        set_known_hash(&REGISTRY.get().current, event_loop, task, scheduler.loop_hash.get())?;
    }
    scheduler.published.set(task.address());
    Ok(())
}

/// Withdraw the published task, if there is one.
#[inline]
pub fn withdraw(scheduler: &Scheduler, event_loop: &Obj) {
    if scheduler.published.replace(0) != 0 {
        withdraw_published(scheduler, event_loop);
    }
}

fn withdraw_published(scheduler: &Scheduler, event_loop: &Obj) {
    let _ = scheduler;
    #[cfg(Py_3_14)]
    if let Err(e) = REGISTRY.get().current.call([event_loop, none()]) {
        e.forget();
    }
    #[cfg(not(Py_3_14))]
    {
        let _ = none;
        crate::ffi::current_task::dict_discard_known_hash(
            &REGISTRY.get().current,
            event_loop,
            scheduler.loop_hash.get(),
        );
    }
}

/// Run `f` with `task` as the current one of `event_loop`, then restore whoever was: for eager starts, which happen in the
/// middle of another task's step, and for tasks of ours on other loops.
pub fn with_current<T>(event_loop: &Obj, task: &Obj, f: impl FnOnce() -> Res<T>) -> Res<T> {
    #[cfg(Py_3_14)]
    {
        let swap = &REGISTRY.get().current;
        let before = swap.call([event_loop, task])?;
        let r = f();
        restore(r, || swap.call([event_loop, &*before]).map(drop))
    }
    #[cfg(not(Py_3_14))]
    {
        use crate::ffi::current_task::dict_discard;
        let dict = &REGISTRY.get().current;
        let before = dict.dict_get(event_loop);
        dict.set_item(event_loop, task)?;
        let r = f();
        restore(r, || match &before {
            Some(t) => dict.set_item(event_loop, t),
            None => {
                dict_discard(dict, event_loop);
                Ok(())
            }
        })
    }
}

/// Clean up also when an error is pending.
fn restore<T>(r: Res<T>, clean: impl FnOnce() -> Res<()>) -> Res<T> {
    match r {
        Ok(v) => clean().map(|()| v),
        Err(raised) => {
            let e = raised.take();
            if let Err(second) = clean() {
                second.forget();
            }
            Err(crate::ffi::Raised::raise(e))
        }
    }
}

/// A task of ours steps on a loop that is not: its current task is entered and left as the stock Task does it.
pub fn with_entered<T>(event_loop: &Obj, task: &Obj, f: impl FnOnce() -> Res<T>) -> Res<T> {
    imports().enter_task.call([event_loop, task])?;
    let r = f();
    restore(r, || imports().leave_task.call([event_loop, task]).map(drop))
}

/// Make `all_tasks()` see the task.
#[inline]
pub fn register(task: &Inst<Task>) -> Res<()> {
    #[cfg(Py_3_14)]
    {
        REGISTRY.get().register.call1(task.obj())?;
        task.place.set(Place::Interpreters);
    }
    #[cfg(not(Py_3_14))]
    task.place.set(Place::Ours(PENDING.insert(task.obj())?));
    Ok(())
}

/// A task that is done, or about to be destroyed, leaves.
#[inline]
pub fn unregister(task: &Inst<Task>) -> Res<()> {
    match task.place.replace(Place::Nowhere) {
        Place::Nowhere => Ok(()),
        Place::Ours(i) => {
            PENDING.remove(i);
            Ok(())
        }
        Place::Interpreters => {
            #[cfg(Py_3_14)]
            REGISTRY.get().unregister.call1(task.obj())?;
            Ok(())
        }
    }
}

/// The last guard, when the memory of a task goes: our set must not keep its address.
pub fn leave_borrowed(place: &Cell<Place>) {
    if let Place::Ours(i) = place.replace(Place::Nowhere) {
        PENDING.remove(i);
    }
}

/// All pending native tasks, of all loops (up to 3.13).
pub fn snapshot() -> Vec<Ref> {
    PENDING.snapshot()
}

/// Note in the call graph that `task` waits for `future` (3.14+; before, there is none).
#[inline]
pub fn note_awaiting(future: &Obj, task: &Obj) -> Res<()> {
    #[cfg(Py_3_14)]
    REGISTRY.get().add_awaited_by.call([future, task])?;
    let _ = (future, task);
    Ok(())
}

/// `task` no longer waits for `future`.
#[inline]
pub fn forget_awaiting(future: &Obj, task: &Obj) -> Res<()> {
    #[cfg(Py_3_14)]
    REGISTRY.get().discard_awaited_by.call([future, task])?;
    let _ = (future, task);
    Ok(())
}
