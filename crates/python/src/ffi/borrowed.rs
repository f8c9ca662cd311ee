//! A set of objects that are not kept alive by being in it: each takes itself out before it dies.
//!
//! CPython counterpart: the intrusive list of tasks of `_asyncio` (3.14). A `weakref.WeakSet` costs 100 to 330 ns for
//! each member's life, this 3.

use std::cell::RefCell;

use pyo3_ffi as c;

use super::object::{Obj, Ref};

struct Inner {
    members: Vec<*mut c::PyObject>,
    free: Vec<u32>,
}

pub struct BorrowedSet(RefCell<Inner>);

// SAFETY: touched by attached threads only, on builds with a GIL; no borrow lasts across a call into Python.
unsafe impl Sync for BorrowedSet {}

impl BorrowedSet {
    pub const fn new() -> BorrowedSet {
        BorrowedSet(RefCell::new(Inner { members: Vec::new(), free: Vec::new() }))
    }

    /// Put `o` in; the place must be given back by `remove` before the object's memory is freed.
    #[inline]
    pub fn insert(&self, o: &Obj) -> u32 {
        let mut s = self.0.borrow_mut();
        match s.free.pop() {
            Some(i) => {
                s.members[i as usize] = o.as_ptr();
                i
            }
            None => {
                s.members.push(o.as_ptr());
                (s.members.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub fn remove(&self, place: u32) {
        let mut s = self.0.borrow_mut();
        s.members[place as usize] = std::ptr::null_mut();
        s.free.push(place);
    }

    /// Owned references to all members. A member in the middle of its deallocation is left out.
    pub fn snapshot(&self) -> Vec<Ref> {
        let s = self.0.borrow();
        // SAFETY: members take themselves out before they die; a count of zero means that it is dying right now.
        s.members
            .iter()
            .filter(|p| !p.is_null())
            .filter_map(|&p| unsafe { (c::Py_REFCNT(p) > 0).then(|| Obj::from_raw(p).to_ref()) })
            .collect()
    }
}
