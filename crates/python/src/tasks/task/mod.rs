//! `Task`: a coroutine driven by the loop.
//!
//! CPython counterpart: `_asyncio.Task`. The task itself lies in the ready queue: no Handle, no bound method, no context
//! switch object. Files by what happens to a task: `step` (run it to its next await), `wakeup` (what it waited for is done),
//! `cancel`, `registry` (who runs, who exists), `face` (Python's view).
//!
//! | field          | owner                                   | meaning                                                     |
//! |----------------|-----------------------------------------|-------------------------------------------------------------|
//! | future         | here                                    | outcome, callbacks, loop                                    |
//! | waiter         | here                                    | what it is parked on; None while running, queued or done    |
//! | must_cancel    | here                                    | throw CancelledError at the next step                       |
//! | coro, context, name | `_asyncio.Task`'s own slots (`ffi::asyncio_layout`) | readable by C code and by inspectors       |
//!
//! A task is in exactly one place: queued (an entry holds it), parked (its waiter's callback holds it), running (the stack
//! holds it), or done.

mod cancel;
mod face;
pub mod registry;
mod step;
mod wakeup;

pub use face::{Options, build, create};
pub use step::{step, step_in_current_context};
pub use wakeup::wakeup;

use crate::ffi::asyncio_layout::TASK;
use crate::ffi::cell::Cell;
use crate::ffi::{Class, Inst, Native, Obj, Raised, Ref, Res, Slot, Visit, none, str_of, string};
use crate::objects::future::{Fut, FutureCore, FutureLike};

#[repr(C)]
pub struct Task {
    pub future: FutureCore,
    pub waiter: Slot,
    pub must_cancel: Cell<bool>,
    pub log_destroy_pending: Cell<bool>,
    pub cancels_requested: Cell<i32>,
    /// Number for the default name `Task-N`, which is only made when somebody asks (up to 3.11; later it is in the slot).
    pub number: Cell<u64>,
    /// Where the registry keeps it.
    pub place: Cell<registry::Place>,
}

static TASK_CLASS: Class = Class::new();

impl Native for Task {
    fn class() -> &'static Class {
        &TASK_CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.future.traverse(visit);
        visit.slot(&self.waiter);
    }

    fn clear(&self) {
        self.future.clear();
        self.waiter.clear();
    }

    // The interpreter's list of tasks (3.14+) holds addresses: a task must have left it before its memory goes, also if a
    // subclass's `__del__` kept our finalizer from running.
    const HAS_FAREWELL: bool = cfg!(Py_3_14);
    fn farewell(this: &Inst<Self>) {
        if let Err(raised) = registry::unregister(this) {
            raised.forget();
        }
    }

    fn needs_finalizer(&self) -> bool {
        self.future.is_pending() || self.future.log_traceback.get() || self.place.get() != registry::Place::Nowhere
    }
}

impl FutureLike for Task {
    fn core(&self) -> &FutureCore {
        &self.future
    }
    const NAME: &'static str = "Task";
}

impl Default for Task {
    fn default() -> Task {
        Task {
            future: FutureCore::default(),
            waiter: Slot::empty(),
            must_cancel: Cell::new(false),
            log_destroy_pending: Cell::new(true),
            cancels_requested: Cell::new(0),
            number: Cell::new(0),
            place: Cell::new(registry::Place::Nowhere),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        registry::leave_borrowed(&self.place);
    }
}

/// A task, borrowed.
pub type TaskRef<'a> = &'a Inst<Task>;

impl Inst<Task> {
    #[inline]
    pub fn as_future(&self) -> Fut<'_> {
        Fut { obj: self.obj(), core: &self.future }
    }

    #[inline]
    pub fn coro(&self) -> Option<Ref> {
        TASK.get(self.obj(), &TASK.coro)
    }

    #[inline]
    pub fn context(&self) -> Option<Ref> {
        TASK.get(self.obj(), &TASK.context)
    }

    pub fn context_or_none(&self) -> Ref {
        self.context().unwrap_or_else(|| none().to_ref())
    }

    pub fn set_coro(&self, coro: Option<Ref>) {
        TASK.put(self.obj(), &TASK.coro, coro);
    }

    pub fn set_context(&self, context: Option<Ref>) {
        TASK.put(self.obj(), &TASK.context, context);
    }

    /// The name; `Task-N` is made on demand.
    pub fn name(&self) -> Res {
        let name = match TASK.get(self.obj(), &TASK.name) {
            Some(number) if number.is_long() => string(&format!("Task-{}", str_of(&number)?))?,
            Some(name) => return Ok(name),
            None => string(&format!("Task-{}", self.number.get()))?,
        };
        self.set_name(name.clone());
        Ok(name)
    }

    pub fn set_name(&self, name: Ref) {
        TASK.put(self.obj(), &TASK.name, Some(name));
    }

    /// The coroutine, or the error of a task that was never initialised.
    pub fn live_coro(&self) -> Res {
        self.coro().ok_or_else(|| Raised::runtime("Task object is not initialized."))
    }
}

/// The task in an object; None for other objects.
#[inline]
pub fn task_of(o: &Obj) -> Option<TaskRef<'_>> {
    o.downcast::<Task>()
}
