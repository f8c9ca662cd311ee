//! The types of `cell` for an interpreter without a GIL: the same methods, from any thread.
//!
//! CPython counterpart: `PyMutex`, critical sections and `FT_ATOMIC_LOAD_PTR` & co. Critical sections would have to be
//! entered by whoever touches an object; here the field guards itself, so no caller can forget to.
//!
//! * [`Cell`]: one atomic word; anything larger is copied under one of a few locks.
//! * [`RefCell`]: a lock that knows its thread. The thread that has it is told of a conflict as by the standard library's
//!   type, another one waits. The rule that no borrow lasts across Python keeps that short, and free of deadlocks.
//! * [`Pointer`]: the lowest bit of the address is a lock, for the moment between reading it and taking a reference.
//!
//! Invariant: nothing that can run Python, stop for the collector or wait happens while one of these is locked, so the
//! collector, which stops all threads, never finds a lock of theirs taken.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, align_of, needs_drop, size_of, transmute_copy};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pyo3_ffi as c;

pub use std::sync::Arc as Rc;

/// May be part of a native object.
pub trait Shareable: Send + Sync {}
impl<T: Send + Sync + ?Sized> Shareable for T {}

/// May be a local variable of a native coroutine.
pub trait Movable: Send {}
impl<T: Send + ?Sized> Movable for T {}

// --- waiting ----------------------------------------------------------------------------------------------------

/// Waits for another thread that is inside a few instructions, but may have lost its processor there.
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < 32 { std::hint::spin_loop() } else { thread::yield_now() }
    }
}

// --- Cell -------------------------------------------------------------------------------------------------------

/// `std::cell::Cell` for several threads.
#[repr(transparent)]
#[derive(Default)]
pub struct Cell<T>(UnsafeCell<T>);

// SAFETY: each access is atomic, by the processor or under a lock; a value is only ever moved or copied.
unsafe impl<T: Send> Sync for Cell<T> {}

/// For values that are no machine word: which of these locks depends on the address.
static LOCKS: [AtomicBool; 64] = [const { AtomicBool::new(false) }; 64];

/// An operation of one of the atomic types, chosen by size.
macro_rules! atomically {
    ($t:ty, $place:expr, |$a:ident: $word:ident| $operation:expr) => {{
        match size_of::<$t>() {
            1 => atomically!(@ $place, $a, AtomicU8, $word, u8, $operation),
            2 => atomically!(@ $place, $a, AtomicU16, $word, u16, $operation),
            4 => atomically!(@ $place, $a, AtomicU32, $word, u32, $operation),
            _ => atomically!(@ $place, $a, AtomicU64, $word, u64, $operation),
        }
    }};
    (@ $place:expr, $a:ident, $atomic:ident, $word:ident, $w:ty, $operation:expr) => {{
        type $word = $w;
        let $a = &*$place.cast::<$atomic>();
        $operation
    }};
}

impl<T> Cell<T> {
    /// A machine word without padding: something as large as it is aligned.
    const IS_WORD: bool = matches!(size_of::<T>(), 1 | 2 | 4 | 8) && size_of::<T>() == align_of::<T>();

    pub const fn new(value: T) -> Cell<T> {
        Cell(UnsafeCell::new(value))
    }

    fn locked<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        let lock = &LOCKS[(self.0.get() as usize / 16) % LOCKS.len()];
        let mut patience = Patience(0);
        while lock.swap(true, Ordering::Acquire) {
            patience.wait();
        }
        let r = f(self.0.get());
        lock.store(false, Ordering::Release);
        r
    }

    #[inline]
    pub fn get(&self) -> T
    where
        T: Copy,
    {
        if !Self::IS_WORD {
            // SAFETY: under the lock nobody writes.
            return self.locked(|place| unsafe { *place });
        }
        // SAFETY: a word without padding, aligned to its size, and only touched by atomic operations of that size.
        unsafe { atomically!(T, self.0.get(), |a: Word| transmute_copy::<Word, T>(&a.load(Ordering::Acquire))) }
    }

    #[inline]
    pub fn set(&self, value: T) {
        if !Self::IS_WORD || needs_drop::<T>() {
            drop(self.replace(value));
            return;
        }
        // SAFETY: as for `get`; the old value needs no drop.
        unsafe { atomically!(T, self.0.get(), |a: Word| a.store(transmute_copy::<T, Word>(&value), Ordering::Release)) }
    }

    #[inline]
    pub fn replace(&self, value: T) -> T {
        if !Self::IS_WORD {
            // SAFETY: under the lock nobody else is here; the old value is moved out, the new one in.
            return self.locked(|place| unsafe { ptr::replace(place, value) });
        }
        let value = ManuallyDrop::new(value);
        // SAFETY: as for `get`; the word that comes out is the old value, which is the caller's now.
        unsafe {
            atomically!(T, self.0.get(), |a: Word| {
                let old = a.swap(transmute_copy::<ManuallyDrop<T>, Word>(&value), Ordering::AcqRel);
                transmute_copy::<Word, T>(&old)
            })
        }
    }

    #[inline]
    pub fn take(&self) -> T
    where
        T: Default,
    {
        self.replace(T::default())
    }
}

// --- RefCell ----------------------------------------------------------------------------------------------------

/// `std::cell::RefCell` for several threads: borrows of another thread are waited for.
#[derive(Default)]
pub struct RefCell<T> {
    /// `this_thread()` of who has it borrowed; 0 if nobody has.
    holder: AtomicUsize,
    /// The holder's borrows: their number, or -1 for an exclusive one. The holder's own.
    borrows: UnsafeCell<isize>,
    value: UnsafeCell<T>,
}

// SAFETY: the value and the count are only touched by the thread that is the holder.
unsafe impl<T: Send> Sync for RefCell<T> {}

/// A shared borrow. It stays in its thread.
pub struct Borrow<'a, T>(&'a RefCell<T>, PhantomData<*mut ()>);

/// An exclusive borrow. It stays in its thread.
pub struct RefMut<'a, T>(&'a RefCell<T>, PhantomData<*mut ()>);

/// The value is borrowed in a way that excludes this one.
#[derive(Debug)]
pub struct Conflict;

/// A number that no other living thread has; not 0.
#[inline]
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| ptr::from_ref(here) as usize)
}

impl<T> RefCell<T> {
    pub const fn new(value: T) -> RefCell<T> {
        RefCell { holder: AtomicUsize::new(0), borrows: UnsafeCell::new(0), value: UnsafeCell::new(value) }
    }

    /// Become the holder, without waiting; None if another thread is.
    #[inline]
    fn enter(&self, exclusive: bool) -> Option<Result<(), Conflict>> {
        let me = this_thread();
        match self.holder.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            // SAFETY: this thread is the holder.
            Ok(_) => unsafe { *self.borrows.get() = if exclusive { -1 } else { 1 } },
            Err(holder) if holder != me => return None,
            // SAFETY: this thread is the holder.
            Err(_) => unsafe {
                let borrows = self.borrows.get();
                if exclusive || *borrows < 0 {
                    return Some(Err(Conflict));
                }
                *borrows += 1;
            },
        }
        Some(Ok(()))
    }

    #[inline]
    fn enter_or_wait(&self, exclusive: bool) {
        let entered = self.enter(exclusive).unwrap_or_else(|| self.wait_for_others(exclusive));
        if let Err(Conflict) = entered {
            panic!("already borrowed");
        }
    }

    #[cold]
    fn wait_for_others(&self, exclusive: bool) -> Result<(), Conflict> {
        let mut patience = Patience(0);
        loop {
            patience.wait();
            if let Some(entered) = self.enter(exclusive) {
                return entered;
            }
            if patience.0 > 256 {
                // Whoever stops the world waits for this thread as well.
                super::gil::detached(|| thread::sleep(Duration::from_micros(50)));
            }
        }
    }

    #[inline]
    fn leave(&self) {
        // SAFETY: called by the holder, once for each borrow.
        unsafe {
            let borrows = self.borrows.get();
            *borrows = if *borrows < 0 { 0 } else { *borrows - 1 };
            if *borrows == 0 {
                self.holder.store(0, Ordering::Release);
            }
        }
    }

    #[inline]
    pub fn borrow(&self) -> Borrow<'_, T> {
        self.enter_or_wait(false);
        Borrow(self, PhantomData)
    }

    #[inline]
    pub fn borrow_mut(&self) -> RefMut<'_, T> {
        self.enter_or_wait(true);
        RefMut(self, PhantomData)
    }

    /// Waits for nobody: for the collector, which has stopped all other threads.
    pub fn try_borrow(&self) -> Result<Borrow<'_, T>, Conflict> {
        self.enter(false).unwrap_or(Err(Conflict))?;
        Ok(Borrow(self, PhantomData))
    }

    #[inline]
    pub fn replace(&self, value: T) -> T {
        std::mem::replace(&mut *self.borrow_mut(), value)
    }

    #[inline]
    pub fn take(&self) -> T
    where
        T: Default,
    {
        self.replace(T::default())
    }
}

impl<T> Deref for Borrow<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread is the holder, and has no exclusive borrow.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for Borrow<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl<T> Deref for RefMut<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread is the holder, by this borrow alone.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for RefMut<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread is the holder, by this borrow alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for RefMut<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

// --- Pointer ----------------------------------------------------------------------------------------------------

/// An object's address, or none; the lowest bit is set while somebody makes a reference of his own to it.
#[repr(transparent)]
#[derive(Default)]
pub struct Pointer(AtomicPtr<c::PyObject>);

fn is_locked(p: *mut c::PyObject) -> bool {
    p.addr() & 1 != 0
}

fn raw(p: Option<NonNull<c::PyObject>>) -> *mut c::PyObject {
    p.map_or(ptr::null_mut(), NonNull::as_ptr)
}

impl Pointer {
    pub const fn new(p: Option<NonNull<c::PyObject>>) -> Pointer {
        Pointer(AtomicPtr::new(match p {
            Some(p) => p.as_ptr(),
            None => ptr::null_mut(),
        }))
    }

    /// The address as it is at this moment: to compare it, or in the collector.
    #[inline]
    pub fn get(&self) -> Option<NonNull<c::PyObject>> {
        NonNull::new(self.0.load(Ordering::Acquire).map_addr(|a| a & !1))
    }

    #[inline]
    pub fn replace(&self, p: Option<NonNull<c::PyObject>>) -> Option<NonNull<c::PyObject>> {
        let mut patience = Patience(0);
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            if is_locked(old) {
                patience.wait();
                old = self.0.load(Ordering::Relaxed);
                continue;
            }
            match self.0.compare_exchange_weak(old, raw(p), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(old) => return NonNull::new(old),
                Err(now) => old = now,
            }
        }
    }

    /// Run `f` with the address; nobody exchanges it meanwhile. `f` takes a reference and does nothing else.
    #[inline]
    pub fn held<R>(&self, f: impl FnOnce(NonNull<c::PyObject>) -> R) -> Option<R> {
        let mut patience = Patience(0);
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if is_locked(now) {
                patience.wait();
                now = self.0.load(Ordering::Relaxed);
                continue;
            }
            let p = NonNull::new(now)?;
            let marked = now.map_addr(|a| a | 1);
            match self.0.compare_exchange_weak(now, marked, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    let r = f(p);
                    self.0.store(now, Ordering::Release);
                    return Some(r);
                }
                Err(other) => now = other,
            }
        }
    }
}
