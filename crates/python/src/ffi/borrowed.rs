//! A set of objects that are not kept alive by being in it: each takes itself out before it dies.
//!
//! CPython counterpart: the intrusive list of tasks of `_asyncio` (3.14). A `weakref.WeakSet` costs 100 to 330 ns for
//! each member's life, this 3. On a free-threaded build a member may die while another thread looks at it, and only a weak
//! reference can tell: there the set holds those.

use super::cell::RefCell;
use super::error::Res;
use super::object::{Obj, Ref};

struct Inner {
    members: Vec<Option<Member>>,
    free: Vec<u32>,
}

pub struct BorrowedSet(RefCell<Inner>);

impl BorrowedSet {
    pub const fn new() -> BorrowedSet {
        BorrowedSet(RefCell::new(Inner { members: Vec::new(), free: Vec::new() }))
    }

    /// Put `o` in; the place must be given back by `remove` before the object's memory is freed.
    ///
    /// # Errors
    /// MemoryError, on free-threaded builds.
    #[inline]
    pub fn insert(&self, o: &Obj) -> Res<u32> {
        let member = Member::new(o)?;
        let mut s = self.0.borrow_mut();
        Ok(match s.free.pop() {
            Some(i) => {
                s.members[i as usize] = Some(member);
                i
            }
            None => {
                s.members.push(Some(member));
                (s.members.len() - 1) as u32
            }
        })
    }

    #[inline]
    pub fn remove(&self, place: u32) {
        // What it holds, if anything, dies outside the borrow.
        let _member = {
            let mut s = self.0.borrow_mut();
            s.free.push(place);
            s.members[place as usize].take()
        };
    }

    /// Owned references to all members. A member in the middle of its deallocation is left out.
    pub fn snapshot(&self) -> Vec<Ref> {
        let members: Vec<Member> = self.0.borrow().members.iter().flatten().map(Member::copy).collect();
        members.iter().filter_map(Member::get).collect()
    }
}

#[cfg(not(Py_GIL_DISABLED))]
mod member {
    use std::ptr::NonNull;

    use pyo3_ffi as c;

    use crate::ffi::{Obj, Ref, Res};

    pub struct Member(NonNull<c::PyObject>);

    // SAFETY: touched by attached threads only, one at a time on builds with a GIL.
    unsafe impl Sync for super::BorrowedSet {}

    impl Member {
        #[inline]
        pub fn new(o: &Obj) -> Res<Member> {
            // SAFETY: no object has the address 0.
            Ok(Member(unsafe { NonNull::new_unchecked(o.as_ptr()) }))
        }

        pub fn copy(&self) -> Member {
            Member(self.0)
        }

        pub fn get(&self) -> Option<Ref> {
            let p = self.0.as_ptr();
            // SAFETY: members take themselves out before they die; a count of zero means that it is dying right now.
            unsafe { (c::Py_REFCNT(p) > 0).then(|| Obj::from_raw(p).to_ref()) }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod member {
    use std::ptr;

    use pyo3_ffi as c;

    use crate::ffi::{Obj, Ref, Res};

    pub struct Member(Ref);

    impl Member {
        pub fn new(o: &Obj) -> Res<Member> {
            // SAFETY: a live object; without a callback the interpreter gives the same weak reference each time.
            unsafe { Ref::from_owned(c::PyWeakref_NewRef(o.as_ptr(), ptr::null_mut())).map(Member) }
        }

        pub fn copy(&self) -> Member {
            Member(self.0.clone())
        }

        pub fn get(&self) -> Option<Ref> {
            let mut p = ptr::null_mut();
            // SAFETY: a weak reference; what it gives is a reference of ours, or NULL.
            unsafe {
                c::PyWeakref_GetRef(self.0.as_ptr(), &raw mut p);
                Ref::from_owned_opt(p)
            }
        }
    }
}

use member::Member;
