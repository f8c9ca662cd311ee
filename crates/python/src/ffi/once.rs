//! A value that is set once, while the module is imported or at its first use, and read for the rest of the process.

#[cfg(not(Py_GIL_DISABLED))]
mod place {
    use std::cell::UnsafeCell;

    pub struct Place<T>(UnsafeCell<Option<T>>);

    // SAFETY: touched by attached threads only, one at a time on builds with a GIL.
    unsafe impl<T> Sync for Place<T> {}

    impl<T> Place<T> {
        pub const fn new() -> Place<T> {
            Place(UnsafeCell::new(None))
        }

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
        pub fn get(&self) -> Option<&T> {
            // SAFETY: see `Sync`; a value that is there stays.
            unsafe { (*self.0.get()).as_ref() }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod place {
    use std::sync::OnceLock;

    pub struct Place<T>(OnceLock<T>);

    impl<T> Place<T> {
        pub const fn new() -> Place<T> {
            Place(OnceLock::new())
        }

        pub fn set(&self, value: T) {
            let _late = self.0.set(value);
        }

        #[inline]
        pub fn get(&self) -> Option<&T> {
            self.0.get()
        }
    }
}

pub struct Once<T>(place::Place<T>);

impl<T> Once<T> {
    pub const fn new() -> Once<T> {
        Once(place::Place::new())
    }

    /// Set it, unless it is set: a second import of the module keeps the first value.
    pub fn set(&self, value: T) {
        self.0.set(value);
    }

    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    #[inline]
    pub fn get(&self) -> &T {
        match self.0.get() {
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
