//! Where `_asyncio.Task` keeps `coro`, `context` and `name`: found by looking, on every version.
//!
//! Our Task fills these three fields of its base and no other (D4): unbound base methods (`asyncio.Task.get_coro(ours)`)
//! dereference them without a check, and inspectors that read a process from outside look there. CPython's own traverse
//! and clear of the base then own them. No header gives their offsets, and they differ between versions, so a probe
//! makes one task with known objects and finds each exactly once among its words.

use std::cell::Cell;

use pyo3_ffi as c;

use super::error::{Raised, Res, exc};
use super::object::{Obj, Ref};

/// Offsets of fields in a `_asyncio.Task`.
pub struct TaskLayout {
    pub coro: Cell<usize>,
    pub context: Cell<usize>,
    pub name: Cell<usize>,
}

// SAFETY: written once during import.
unsafe impl Sync for TaskLayout {}

pub static TASK: TaskLayout = TaskLayout { coro: Cell::new(0), context: Cell::new(0), name: Cell::new(0) };

impl TaskLayout {
    /// Fill in the offsets from a task that was made of these objects.
    ///
    /// # Errors
    /// ImportError, one line, if one of them does not occur exactly once.
    pub fn probe(&self, task: &Obj, coro: &Obj, context: &Obj, name: &Obj) -> Res<()> {
        // SAFETY: a type's basicsize counts the bytes of each of its instances; they are read as plain words.
        let words = unsafe {
            let n = (*task.type_ptr()).tp_basicsize as usize / size_of::<usize>();
            std::slice::from_raw_parts(task.as_ptr().cast::<usize>(), n)
        };
        let find = |what: &str, o: &Obj| {
            let mut hits = words.iter().enumerate().filter(|(_, w)| **w == o.as_ptr() as usize);
            match (hits.next(), hits.next()) {
                (Some((i, _)), None) => Ok(i * size_of::<usize>()),
                _ => Err(Raised::new(
                    exc::import_error(),
                    &format!("aioxide: this Python's _asyncio.Task has an unknown layout ({what} not found)"),
                )),
            }
        };
        self.coro.set(find("coro", coro)?);
        self.name.set(find("name", name)?);
        #[cfg(Py_3_11)]
        self.context.set(find("context", context)?);
        #[cfg(not(Py_3_11))]
        {
            // 3.10 takes no `context=`: the task made a copy of its own, which lies right behind the name. 3.10 gets no
            // more changes, so the place is known; that it holds a Context is checked all the same.
            let i = self.name.get() / size_of::<usize>() + 1;
            let candidate = words.get(i).copied().unwrap_or(0) as *mut c::PyObject;
            // SAFETY: in 3.10 this word is `task_context`, a live object in a task just made.
            let is_context = !candidate.is_null() && unsafe { c::Py_TYPE(candidate) } == context.type_ptr();
            if !is_context {
                return find("context", context).map(drop);
            }
            self.context.set(i * size_of::<usize>());
        }
        Ok(())
    }

    /// What the field holds.
    #[inline]
    pub fn get(&self, task: &Obj, offset: &Cell<usize>) -> Option<Ref> {
        // SAFETY: callers pass an instance of a subclass of `_asyncio.Task` and an offset found by the probe; the field
        // is NULL or a reference of the task's, and nobody exchanges it meanwhile.
        alone_with(task, || unsafe {
            let p = *task.as_ptr().cast::<u8>().add(offset.get()).cast::<*mut c::PyObject>();
            if p.is_null() { None } else { Some(Obj::from_raw(p).to_ref()) }
        })
    }

    /// Exchange the field's reference; the old one is dropped last.
    #[inline]
    pub fn put(&self, task: &Obj, offset: &Cell<usize>, value: Option<Ref>) {
        // SAFETY: as for `get`; the field owns what it holds.
        let old = alone_with(task, || unsafe {
            let field = task.as_ptr().cast::<u8>().add(offset.get()).cast::<*mut c::PyObject>();
            let old = *field;
            *field = value.map_or(std::ptr::null_mut(), Ref::into_raw);
            Ref::from_owned_opt(old)
        });
        drop(old);
    }
}

/// Keep other threads out of the base's fields: by the lock that the base's own methods take from 3.14 on.
#[inline]
fn alone_with<R>(task: &Obj, f: impl FnOnce() -> R) -> R {
    #[cfg(Py_GIL_DISABLED)]
    {
        let mut section = std::mem::MaybeUninit::<c::PyCriticalSection>::uninit();
        // SAFETY: a live object; the section stays where it is, and is ended by the thread that began it. `f` cannot unwind.
        unsafe {
            c::PyCriticalSection_Begin(section.as_mut_ptr(), task.as_ptr());
            let r = f();
            c::PyCriticalSection_End(section.as_mut_ptr());
            r
        }
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        let _ = task;
        f()
    }
}
