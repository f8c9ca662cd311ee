//! The scheduler of one loop: what is ready, what is due later, what other threads send, and who is running.
//!
//! CPython counterpart: `_ready` and `_scheduled` of `asyncio.base_events.BaseEventLoop`. It sits low on purpose: futures,
//! tasks and transports know the scheduler and nothing above it; the loop object (surface) contains one and runs it.
//!
//! Invariants:
//! * Everything but the inbox belongs to the thread that runs the loop (or to whoever holds the loop while it is not
//!   running); no `RefCell` borrow lasts across anything that can run Python, a DECREF included.
//! * An entry owns what it needs; dropping the queue drops the references, nothing else has to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aioxide_core::kernel::Inbox;
use aioxide_core::ready::Ready as ReadyQueue;
use aioxide_core::sys::pipe::{WakePipe, Waker};
use aioxide_core::time::TimerHeap;

use super::handle::Handle;
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{CrossThread, Obj, Once, Owned, Raised, Ref, Res, Slot, Visit, thread_ident};

/// A piece of work in the ready queue. Tasks lie in it themselves: no Handle, no bound method, no argument tuple.
///
/// The tag is a whole word: with a smaller one the compiler moves the rest by loads that straddle the stores before them,
/// which stalls the processor for as long as half a task's step.
#[repr(u64)]
pub enum Entry {
    /// Run a task's next step.
    Step(Ref),
    /// Run a task's next step with the outcome of the future it waited for.
    Wake(Ref, Ref),
    /// Throw an exception into a task.
    Throw(Ref, Ref),
    /// A callback that Python code holds a Handle of.
    Handle(Owned<Handle>),
    /// `callback(argument)` in a context: a future's done-callback.
    Call(Ref, Ref, Ref),
    /// A native object's own continuation: `NativeWork::run` is looked up by its class.
    Native(Ref, u32),
}

impl Entry {
    fn traverse(&self, visit: &Visit) {
        match self {
            Entry::Step(a) | Entry::Native(a, _) => visit.obj(a),
            Entry::Wake(a, b) | Entry::Throw(a, b) => {
                visit.obj(a);
                visit.obj(b);
            }
            Entry::Call(a, b, c) => {
                visit.obj(a);
                visit.obj(b);
                visit.obj(c);
            }
            Entry::Handle(h) => h.traverse_as_sole_owner(visit),
        }
    }
}

pub struct Scheduler {
    ready: RefCell<ReadyQueue<Entry>>,
    timers: RefCell<TimerHeap<Owned<Handle>>>,
    cancelled_timers: Cell<usize>,
    inbox: Arc<Inbox<CrossThread<Entry>>>,
    pipe: Arc<WakePipe>,
    /// `threading.get_ident()` of the thread inside run_forever, 0 if none is.
    owner: AtomicU64,
    /// Debug mode; changed by `set_debug`.
    pub debug: Cell<bool>,
    pub closed: Cell<bool>,
    /// `call_soon` is somebody's own method, which must be asked.
    overridden: Cell<bool>,
    /// Completions may go straight into the queue: nobody has overridden `call_soon`, and debug mode is off. With it on, all
    /// work is a handle, as asyncio's, which knows where it was made and can be named.
    pub direct: Cell<bool>,
    /// Address of the task that is published as the current one (D6); 0 if none is.
    pub published: Cell<usize>,
    /// `hash(loop)`, for the dict of current tasks.
    pub loop_hash: Cell<isize>,
    pub task_factory: Slot,
}

/// How the loop object's class is known down here, where the object itself is not.
static FIND: Once<fn(&Obj) -> Option<&Scheduler>> = Once::new();

impl Scheduler {
    pub fn new() -> std::io::Result<Scheduler> {
        Ok(Scheduler {
            ready: RefCell::new(ReadyQueue::new()),
            timers: RefCell::new(TimerHeap::new()),
            cancelled_timers: Cell::new(0),
            inbox: Arc::new(Inbox::new()),
            pipe: Arc::new(WakePipe::new()?),
            owner: AtomicU64::new(0),
            debug: Cell::new(false),
            closed: Cell::new(false),
            overridden: Cell::new(false),
            direct: Cell::new(true),
            published: Cell::new(0),
            loop_hash: Cell::new(0),
            task_factory: Slot::empty(),
        })
    }

    pub fn register_loop_class(find: fn(&Obj) -> Option<&Scheduler>) {
        FIND.set(find);
    }

    /// The scheduler inside a loop object; None if the loop is not ours.
    #[inline]
    pub fn of(event_loop: &Obj) -> Option<&Scheduler> {
        FIND.get()(event_loop)
    }

    /// The scheduler of a loop, if work may be queued without `call_soon`.
    #[inline]
    pub fn direct(event_loop: &Obj) -> Option<&Scheduler> {
        Scheduler::of(event_loop).filter(|s| s.direct.get())
    }

    pub fn set_debug(&self, enabled: bool) {
        self.debug.set(enabled);
        self.direct.set(!enabled && !self.overridden.get());
    }

    pub fn set_overridden(&self, overridden: bool) {
        self.overridden.set(overridden);
        self.direct.set(!overridden && !self.debug.get());
    }

    // --- ready work ---------------------------------------------------------------------------------------------

    /// Queue an entry, as `loop.call_soon` does.
    ///
    /// # Errors
    /// RuntimeError if the loop is closed, or in debug mode from a thread that is not the loop's.
    #[inline]
    pub fn submit(&self, entry: Entry) -> Res<()> {
        if self.closed.get() || self.debug.get() {
            self.check_submit()?;
        }
        self.push(entry);
        Ok(())
    }

    #[inline]
    pub fn push(&self, entry: Entry) {
        // What other threads sent before this came before it.
        self.take_inbox();
        self.ready.borrow_mut().push_back(entry);
    }

    #[inline]
    pub fn pop(&self) -> Option<Entry> {
        self.ready.borrow_mut().pop_front()
    }

    #[inline]
    pub fn ready_len(&self) -> usize {
        self.ready.borrow().len()
    }

    pub fn check_submit(&self) -> Res<()> {
        self.check_closed()?;
        if self.debug.get() {
            self.check_thread()?;
        }
        Ok(())
    }

    pub fn check_closed(&self) -> Res<()> {
        if self.closed.get() { Err(Raised::runtime("Event loop is closed")) } else { Ok(()) }
    }

    /// Same as `BaseEventLoop._check_thread`.
    pub fn check_thread(&self) -> Res<()> {
        let owner = self.owner();
        if owner == 0 || owner == thread_ident() {
            return Ok(());
        }
        Err(Raised::runtime("Non-thread-safe operation invoked on an event loop other than the current one"))
    }

    #[inline]
    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// This thread runs the loop from now on.
    ///
    /// # Errors
    /// RuntimeError if a thread does already: without a GIL two may have asked at the same time.
    pub fn claim(&self) -> Res<()> {
        match self.owner.compare_exchange(0, thread_ident(), Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(Raised::runtime("This event loop is already running")),
        }
    }

    pub fn disclaim(&self) {
        self.owner.store(0, Ordering::Release);
    }

    pub fn is_running(&self) -> bool {
        self.owner() != 0
    }

    pub fn is_anothers(&self) -> bool {
        self.is_running() && self.owner() != thread_ident()
    }

    // --- timers -------------------------------------------------------------------------------------------------

    pub fn add_timer(&self, when: f64, timer: Owned<Handle>) {
        self.timers.borrow_mut().push(when, timer);
    }

    #[inline]
    pub fn next_deadline(&self) -> Option<f64> {
        self.timers.borrow().peek_when()
    }

    #[inline]
    pub fn pop_due(&self, end: f64) -> Option<Owned<Handle>> {
        self.timers.borrow_mut().pop_due(end)
    }

    pub fn timer_count(&self) -> usize {
        self.timers.borrow().len()
    }

    pub fn on_timer_cancelled(&self) {
        self.cancelled_timers.set(self.cancelled_timers.get() + 1);
    }

    /// A cancelled timer left the heap because its time had come.
    pub fn on_cancelled_popped(&self) {
        self.cancelled_timers.set(self.cancelled_timers.get().saturating_sub(1));
    }

    /// Take cancelled timers out: those at the head always, all of them once they are the majority (asyncio's own
    /// thresholds: more than 100 timers, more than half of them cancelled).
    pub fn sweep_timers(&self) {
        let cancelled = self.cancelled_timers.get();
        if cancelled == 0 {
            return;
        }
        let mut dead = Vec::new();
        {
            let mut timers = self.timers.borrow_mut();
            if timers.len() > 100 && cancelled * 2 > timers.len() {
                dead = timers.drain_where(|t| t.is_cancelled());
                self.cancelled_timers.set(0);
            } else {
                while timers.peek().is_some_and(|t| t.is_cancelled()) {
                    dead.extend(timers.pop().map(|(_, t)| t));
                    self.cancelled_timers.set(self.cancelled_timers.get().saturating_sub(1));
                }
            }
        }
        for timer in dead {
            timer.mark_unscheduled();
        }
    }

    // --- other threads ------------------------------------------------------------------------------------------

    /// Queue an entry from any thread and wake the loop if it sleeps.
    ///
    /// # Errors
    /// RuntimeError if the loop is closed.
    pub fn submit_threadsafe(&self, entry: Entry) -> Res<()> {
        self.check_closed()?;
        if self.owner() == thread_ident() {
            // From the loop's own thread the order among call_soon calls must hold, and nobody sleeps.
            self.push(entry);
            return Ok(());
        }
        if self.inbox.push(CrossThread(entry)) {
            self.pipe.wake().map_err(|e| Raised::os(&e))?;
        }
        Ok(())
    }

    /// Queue an entry from a worker thread. If the loop sleeps, the caller wakes it, once it has let go of the interpreter:
    /// the loop wants that as soon as it is awake.
    pub fn send(&self, entry: Entry) -> Option<Waker> {
        if self.inbox.push(CrossThread(entry)) { self.pipe.waker() } else { None }
    }

    pub fn inbox(&self) -> &Arc<Inbox<CrossThread<Entry>>> {
        &self.inbox
    }

    pub fn pipe(&self) -> &Arc<WakePipe> {
        &self.pipe
    }

    /// Move what other threads sent into the ready queue.
    #[inline]
    pub fn take_inbox(&self) {
        if !self.inbox.is_empty() {
            self.move_inbox();
        }
    }

    #[cold]
    fn move_inbox(&self) {
        // Another thread that misuses `call_soon` must not take what wakes the sleeping owner.
        if self.is_anothers() {
            return;
        }
        let mut arrived = Vec::new();
        self.inbox.drain_into(&mut arrived);
        let mut ready = self.ready.borrow_mut();
        for CrossThread(entry) in arrived {
            ready.push_back(entry);
        }
    }

    // --- garbage collection and close -----------------------------------------------------------------------------

    /// Drop all work, outside any borrow.
    pub fn clear_work(&self) {
        let ready = std::mem::take(&mut *self.ready.borrow_mut());
        let timers = std::mem::replace(&mut *self.timers.borrow_mut(), TimerHeap::new());
        self.cancelled_timers.set(0);
        let mut arrived = Vec::new();
        self.inbox.drain_into(&mut arrived);
        // Nothing of this will run: handles that the program keeps must not keep what they would have called.
        for t in timers.iter() {
            t.mark_unscheduled();
            t.let_go();
        }
        for entry in ready.iter().chain(arrived.iter().map(|CrossThread(entry)| entry)) {
            if let Entry::Handle(h) = entry {
                h.let_go();
            }
        }
        drop((ready, timers, arrived));
    }

    pub fn traverse(&self, visit: &Visit) {
        visit.slot(&self.task_factory);
        // A borrow in progress means that the collector runs inside a push: nothing can be garbage right now.
        if let Ok(ready) = self.ready.try_borrow() {
            ready.iter().for_each(|entry| entry.traverse(visit));
        }
        // Whoever pushes holds the interpreter, so nobody is inside the mutex.
        self.inbox.for_each(|CrossThread(entry)| entry.traverse(visit));
        if let Ok(timers) = self.timers.try_borrow() {
            for timer in timers.iter() {
                timer.traverse_as_sole_owner(visit);
            }
        }
    }

    /// Which timers are pending, in no particular order.
    pub fn for_each_timer(&self, mut f: impl FnMut(&Owned<Handle>)) {
        let all: Vec<Owned<Handle>> = self.timers.borrow().iter().cloned().collect();
        all.iter().for_each(&mut f);
    }

    pub fn for_each_ready_handle(&self, mut f: impl FnMut(&Owned<Handle>)) {
        let all: Vec<Owned<Handle>> = self
            .ready
            .borrow()
            .iter()
            .filter_map(|e| if let Entry::Handle(h) = e { Some(h.clone()) } else { None })
            .collect();
        all.iter().for_each(&mut f);
    }
}
