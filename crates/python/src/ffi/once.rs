//! A value that is set once, while the module is imported, and read for the rest of the process.

use std::cell::UnsafeCell;

pub struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: written by the one thread that imports the module (the import lock), read by attached threads afterwards.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    pub const fn new() -> Once<T> {
        Once(UnsafeCell::new(None))
    }

    /// Set it, unless it is set: a second import of the module keeps the first value.
    pub fn set(&self, value: T) {
        // SAFETY: see `Sync`; nobody can hold a reference to a value that is not there yet.
        unsafe {
            let place = &mut *self.0.get();
            if place.is_none() {
                *place = Some(value);
            }
        }
    }

    #[inline]
    pub fn is_set(&self) -> bool {
        // SAFETY: see `Sync`.
        unsafe { (*self.0.get()).is_some() }
    }

    #[inline]
    pub fn get(&self) -> &T {
        // SAFETY: see `Sync`.
        match unsafe { &*self.0.get() } {
            Some(v) => v,
            None => not_imported(),
        }
    }
}

#[cold]
fn not_imported() -> ! {
    panic!("aioxide._native is used before it is initialised")
}

/// An interned name, made when it is first used.
pub struct Name(&'static str, Once<super::Ref>);

impl Name {
    pub const fn new(text: &'static str) -> Name {
        Name(text, Once::new())
    }

    #[inline]
    pub fn get(&self) -> &super::Obj {
        if !self.1.is_set() {
            self.make();
        }
        self.1.get()
    }

    #[cold]
    fn make(&self) {
        match super::intern(self.0) {
            Ok(name) => self.1.set(name),
            // Out of memory for a dozen bytes: nothing sensible can follow. The trampoline turns this into SystemError.
            Err(_raised) => panic!("no memory for a name"),
        }
    }
}
