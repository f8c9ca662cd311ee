//! Work that other threads hand to the loop.
//!
//! CPython counterpart: `call_soon_threadsafe`: append to `_ready` under the GIL, then write to the
//! self-pipe, each time. Here the pipe is written only when the owner sleeps, and once per sleep.
//!
//! ## State, and who touches it
//! * `shared.items`: every thread, under the mutex.
//! * `shared.asleep`: set by the owner ([`Inbox::prepare_sleep`]), cleared by the first pusher after it or by the
//!   owner ([`Inbox::finish_sleep`]); under the mutex.
//! * `has_items`: a copy of "items is not empty", written under the mutex, read by anybody without. It may
//!   be late; it only saves the owner a lock per turn.
//!
//! ## Why no wake-up is lost
//! Announcing sleep and looking for items is one critical section, pushing and looking for the sleeper
//! another. If the push comes first the owner sees the item and does not sleep; if the announcement
//! comes first the pusher sees it, clears it and returns `true`, and must wake. The wake-up itself is a
//! byte in a pipe, so it does not matter whether it comes before the owner is inside `epoll_wait`.
//! A wake-up that arrives after the owner woke for another reason ends one wait too early: harmless.
//!
//! ## Why no atomics-only design
//! Two critical sections of some ten nanoseconds per *blocking* wait are nothing beside the wait;
//! the proof above fits in three lines, and loom agrees (`tests/core/loom_inbox.rs`).
//!
//! Invariants: FIFO per producer; no item is dropped and no user code runs under the mutex. After a fork the
//! child may use it: with the GIL nobody can hold the mutex during the fork; without, a child that goes
//! on with the parent's loop makes a new inbox.

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// A queue from many threads to one owner who may sleep.
#[derive(Debug)]
pub struct Inbox<T> {
    shared: Mutex<Shared<T>>,
    has_items: AtomicBool,
}

#[derive(Debug)]
struct Shared<T> {
    items: Vec<T>,
    asleep: bool,
}

impl<T: Send> Inbox<T> {
    /// An empty inbox whose owner is awake.
    pub fn new() -> Self {
        Self { shared: Mutex::new(Shared { items: Vec::new(), asleep: false }), has_items: AtomicBool::new(false) }
    }

    /// Appends an item, from any thread. `true`: the owner sleeps, and this caller has to wake it;
    /// exactly one push per sleep is told so.
    pub fn push(&self, t: T) -> bool {
        let mut shared = self.lock();
        shared.items.push(t);
        self.has_items.store(true, Ordering::Release);
        std::mem::take(&mut shared.asleep)
    }

    /// Owner: moves everything to the end of `out`, the oldest first. One load when there is nothing; one
    /// swap of vectors when `out` is empty.
    #[inline]
    pub fn drain_into(&self, out: &mut Vec<T>) {
        if self.has_items.load(Ordering::Acquire) {
            self.take_items(out);
        }
    }

    /// Owner: announces that it is going to sleep. `false`: there is work already, do not block (and
    /// nothing was announced).
    pub fn prepare_sleep(&self) -> bool {
        let mut shared = self.lock();
        shared.asleep = shared.items.is_empty();
        shared.asleep
    }

    /// Owner: is awake, for whatever reason. Pushes need not wake it any more.
    pub fn finish_sleep(&self) {
        self.lock().asleep = false;
    }

    /// Whether there is nothing to drain; may be late, unless the caller is ordered after the push.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.has_items.load(Ordering::Acquire)
    }

    /// Looks at what has not been drained, for a garbage collector. `f` must not use the inbox.
    pub fn for_each(&self, f: impl FnMut(&T)) {
        self.lock().items.iter().for_each(f);
    }

    #[cold]
    fn take_items(&self, out: &mut Vec<T>) {
        let mut shared = self.lock();
        if out.is_empty() {
            std::mem::swap(&mut shared.items, out);
        } else {
            out.append(&mut shared.items);
        }
        self.has_items.store(false, Ordering::Release);
    }

    /// A poisoned mutex is as good as new: no critical section leaves the state half done.
    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T: Send> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}
