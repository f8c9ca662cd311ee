//! A queue of calls, and its workers: who runs, who waits, when one more is wanted.
//!
//! CPython counterpart: `ThreadPoolExecutor._work_queue` and `_idle_semaphore`. The rule is the same: a thread is
//! started only if no other is idle, and as long as there are fewer than the limit.
//!
//! ## A worker's life
//! [`take_first`](WorkQueue::take_first) once, then [`take`](WorkQueue::take) until it says `End`; after `Nothing` it calls
//! [`wait`](WorkQueue::wait) and [`take_woken`](WorkQueue::take_woken). Looking for an item and being listed as idle is one critical section of `take`, so a
//! binding may let go of its interpreter between `take` and `wait`: whoever pushes meanwhile finds an idle worker.
//!
//! ## Why no wake-up is lost
//! An idle worker is in `idle`. A push takes one out of `idle`, adds one to `called` and signals; `wait` returns when
//! it has taken one out of `called`. So each call lets one worker through, whether it waits already or not yet.
//! Which worker it is does not matter: they are alike. A worker that is let through may find that a busy one
//! was faster, and is idle again.
//!
//! Nobody is signalled who does not wait: a push to workers that are all busy or called is no system call.
//!
//! Invariants: FIFO; no item is dropped and no user code runs under the mutex; nobody holds it while waiting for
//! anything. It does not outlive a fork: another thread may hold the mutex then, so a child makes a new queue and never
//! touches this one.

use std::collections::VecDeque;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// What a worker is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Take<T> {
    /// Run this.
    Item(T),
    /// Nothing to do; the worker is listed as idle and must call [`WorkQueue::wait`].
    Nothing,
    /// The queue is closed and empty: leave.
    End,
}

/// Calls for the threads of one pool.
#[derive(Debug)]
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    called: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// Workers that have found nothing and that nobody has called since.
    idle: usize,
    /// Calls to idle workers that none has heard yet.
    called: usize,
    /// Workers that have heard a call and not looked for an item yet.
    heard: usize,
    /// Workers that are being started.
    starting: usize,
    /// Workers in all, those being started included.
    threads: usize,
    closed: bool,
}

impl<T> State<T> {
    /// Is there a worker on its way, or an idle one, for each of so many items?
    fn covers(&self, items: usize) -> bool {
        items <= self.idle + self.called + self.heard + self.starting
    }
}

impl<T: Send> WorkQueue<T> {
    /// An empty queue without workers.
    pub fn new() -> Self {
        let state =
            State { items: VecDeque::new(), idle: 0, called: 0, heard: 0, starting: 0, threads: 0, closed: false };
        Self { state: Mutex::new(state), called: Condvar::new() }
    }

    // --- those who have work ------------------------------------------------------------------------------------

    /// Appends an item, and wakes a worker if one is idle.
    ///
    /// # Errors
    /// Gives the item back when the queue is closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push_back(item);
        let has_idle = state.idle > 0;
        if has_idle {
            state.idle -= 1;
            state.called += 1;
        }
        drop(state);
        if has_idle {
            self.called.notify_one();
        }
        Ok(())
    }

    /// Would `more` items more have to wait for a busy worker?
    pub fn is_short(&self, more: usize) -> bool {
        let state = self.lock();
        !state.closed && !state.covers(state.items.len() + more)
    }

    /// Announces a worker, if `more` items more need one and there are fewer than `limit`. `true`: the caller starts it,
    /// or takes it back by [`not_started`](Self::not_started).
    pub fn announce(&self, more: usize, limit: usize) -> bool {
        let mut state = self.lock();
        let is_wanted = !state.closed && state.threads < limit && !state.covers(state.items.len() + more);
        if is_wanted {
            state.threads += 1;
            state.starting += 1;
        }
        is_wanted
    }

    /// The worker that was announced could not be started.
    pub fn not_started(&self) {
        let mut state = self.lock();
        state.threads = state.threads.saturating_sub(1);
        state.starting = state.starting.saturating_sub(1);
    }

    /// Takes no more items; workers leave when those in the queue are done. Closing again does nothing.
    pub fn close(&self) {
        self.lock().closed = true;
        self.called.notify_all();
    }

    /// The oldest item, for somebody who is no worker.
    pub fn pop(&self) -> Option<T> {
        self.lock().items.pop_front()
    }

    /// Items that nobody has taken yet.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // --- workers ------------------------------------------------------------------------------------------------

    /// What a worker that was announced is to do first. Never blocks. In one critical section it is on its way no more, and
    /// has an item or is listed as idle: in between it would count for nothing, and one worker too many be started.
    pub fn take_first(&self) -> Take<T> {
        let mut state = self.lock();
        state.starting = state.starting.saturating_sub(1);
        Self::take_of(&mut state)
    }

    /// What to do after [`wait`](Self::wait). Never blocks. Until then the worker counts as on its way.
    pub fn take_woken(&self) -> Take<T> {
        let mut state = self.lock();
        state.heard = state.heard.saturating_sub(1);
        Self::take_of(&mut state)
    }

    /// What to do after an item. Never blocks.
    pub fn take(&self) -> Take<T> {
        Self::take_of(&mut self.lock())
    }

    fn take_of(state: &mut State<T>) -> Take<T> {
        match state.items.pop_front() {
            Some(item) => Take::Item(item),
            None if state.closed => Take::End,
            None => {
                state.idle += 1;
                Take::Nothing
            }
        }
    }

    /// After [`Take::Nothing`]: blocks until there may be something.
    pub fn wait(&self) {
        let mut state = self.lock();
        while state.called == 0 && !state.closed {
            state = self.called.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.called = state.called.saturating_sub(1);
        state.heard += 1;
    }

    /// A poisoned mutex is as good as new: no critical section leaves the state half done.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<T: Send> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}
