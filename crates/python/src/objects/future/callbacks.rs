//! Done-callbacks: the waiting task itself, or a Python callable with its context.
//!
//! CPython counterpart: `fut_callback0` and `fut_callbacks`. Nearly every future has exactly one waiter, so the first
//! callback lies in place. A waiting task is stored as itself: no bound method, no context, no Handle; its wake-up goes
//! straight into the ready queue (D5).

use super::super::scheduler::{Entry, Scheduler};
use super::Fut;
use crate::ffi::trampoline::Definition;
use crate::ffi::{Obj, Once, Ref, Res, Visit, tuple};
use crate::{definition_onearg, kwnames, name};

pub enum Callback {
    /// A native task to wake.
    Task(Ref),
    /// `function(future)` in a context.
    Function(Ref, Ref),
}

/// What the tasks layer, above, does for a wake-up that comes as a call; and how it finds a task's context.
pub struct TaskHooks {
    pub wakeup: fn(&Obj, &Obj) -> Res,
    pub context: fn(&Obj) -> Res,
}

pub static TASK_HOOKS: Once<TaskHooks> = Once::new();

/// `task.__wakeup`, for loops and futures that are not ours.
pub static WAKEUP: Definition = definition_onearg!(c"task_wakeup", wakeup);

fn wakeup(task: &Obj, future: &Obj) -> Res {
    (TASK_HOOKS.get().wakeup)(task, future)
}

impl Callback {
    /// Schedule the call for a future that is done.
    #[inline]
    pub fn schedule(self, future: &Obj, event_loop: &Obj) -> Res<()> {
        if let Some(scheduler) = Scheduler::direct(event_loop) {
            return scheduler.submit(match self {
                Callback::Task(task) => Entry::Wake(task, future.to_ref()),
                Callback::Function(f, context) => Entry::Call(f, future.to_ref(), context),
            });
        }
        let (f, context) = self.to_function()?;
        event_loop.call_method_kw(name!("call_soon"), [&*f, future, &*context], kwnames!("context")).map(drop)
    }

    fn to_function(&self) -> Res<(Ref, Ref)> {
        match self {
            Callback::Task(task) => Ok((WAKEUP.bind(task)?, (TASK_HOOKS.get().context)(task)?)),
            Callback::Function(f, context) => Ok((f.clone(), context.clone())),
        }
    }

    pub fn to_pair(&self) -> Res {
        let (f, context) = self.to_function()?;
        tuple([&*f, &*context])
    }

    pub fn is(&self, f: &Obj) -> Res<bool> {
        match self {
            Callback::Task(task) => Ok(WAKEUP.bound_to(f).is_some_and(|t| t.is(task))),
            Callback::Function(g, _) => g.equals(f),
        }
    }

    fn same(&self, other: &Callback) -> bool {
        match (self, other) {
            (Callback::Task(a), Callback::Task(b)) => a.is(b),
            (Callback::Function(a, c), Callback::Function(b, d)) => a.is(b) && c.is(d),
            _ => false,
        }
    }

    fn copy(&self) -> Callback {
        match self {
            Callback::Task(t) => Callback::Task(t.clone()),
            Callback::Function(f, c) => Callback::Function(f.clone(), c.clone()),
        }
    }

    fn traverse(&self, visit: &Visit) {
        match self {
            Callback::Task(t) => visit.obj(t),
            Callback::Function(f, c) => {
                visit.obj(f);
                visit.obj(c);
            }
        }
    }
}

#[derive(Default)]
pub struct Callbacks {
    first: Option<Callback>,
    more: Vec<Callback>,
}

impl Callbacks {
    #[inline]
    pub fn push(&mut self, c: Callback) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(c);
        } else {
            self.more.push(c);
        }
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    pub fn copy(&self) -> Vec<Callback> {
        self.first.iter().chain(&self.more).map(Callback::copy).collect()
    }

    /// Remove one callback that is the same; the caller holds references of its own, so nothing is destroyed here.
    pub fn remove(&mut self, c: &Callback) -> bool {
        if self.first.as_ref().is_some_and(|f| f.same(c)) {
            self.first = None;
            return true;
        }
        match self.more.iter().position(|m| m.same(c)) {
            Some(i) => {
                self.more.remove(i);
                true
            }
            None => false,
        }
    }

    #[inline]
    pub fn into_each(self, mut f: impl FnMut(Callback) -> Res<()>) -> Res<()> {
        if let Some(c) = self.first {
            f(c)?;
        }
        for c in self.more {
            f(c)?;
        }
        Ok(())
    }

    pub fn traverse(&self, visit: &Visit) {
        self.first.iter().chain(&self.more).for_each(|c| c.traverse(visit));
    }
}

impl Fut<'_> {
    /// Make `task` wait for this future.
    #[inline]
    pub fn add_task(self, task: &Obj) -> Res<()> {
        self.add_callback(Callback::Task(task.to_ref()))
    }
}
