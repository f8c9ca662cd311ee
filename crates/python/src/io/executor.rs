//! Calls in threads: what the loop hands to the threads of the default executor, and what these do.
//!
//! CPython counterpart: `_WorkItem` and `_worker` of `concurrent.futures.thread`, and `asyncio.futures._chain_future`.
//!
//! Which thread is started and when, names and limits are Python's business (`python/aioxide/_executor.py`): once per
//! thread. A call itself has no `concurrent.futures.Future` and no Python frame but the user's own: a [`Call`] goes into
//! the pool's [`WorkQueue`], a thread runs it, and its outcome goes through the loop's inbox to the future.
//!
//! `WorkQueue` stands where `ThreadPoolExecutor` has its `SimpleQueue`, with the same methods. So the stock `submit` and
//! `shutdown` work on it as they are, also where a program has wrapped them; their items are asked to `run()`.
//!
//! Invariants:
//! * A call is taken out of the queue by a thread that holds the interpreter, so calls begin in the order they came in.
//! * No mutex is held while the interpreter is waited for, nor while Python runs.
//! * After a fork the child has none of the threads: it goes on with a new queue and never touches the old one.

use std::sync::Arc;
use std::thread;

use aioxide_core::pool::{Take, WorkQueue as Shared};
use aioxide_core::sys::clock;
use aioxide_core::sys::pipe::Waker;

use super::{fork, report_stray};
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{
    Args, Class, ClassBuilder, CrossThread, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Vector, Visit, detached,
    exc, index_value, int, none, string,
};
use crate::objects::future::{Fut, Future, State};
use crate::objects::names::imports;
use crate::objects::scheduler::{Entry, Scheduler};
use crate::{constructor, getter, keywords, name, noargs, onearg, unary};

/// A worker that finds one call after the other lets others have the interpreter after this time (`sys.getswitchinterval`
/// by default): C functions never ask whether somebody waits for it.
const TURN_S: f64 = 0.005;

// --- a call -----------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    None,
    Result,
    Exception,
    /// `executor.shutdown(cancel_futures=True)`
    Cancelled,
}

/// A call of `run_in_executor` and the future it is for.
pub struct Call {
    future: Slot,
    function: Slot,
    arguments: RefCell<Option<Vector>>,
    outcome: Cell<Outcome>,
    value: Slot,
}

static CALL: Class = Class::new();

impl Native for Call {
    fn class() -> &'static Class {
        &CALL
    }

    fn traverse(&self, visit: &Visit) {
        visit.slot(&self.future);
        visit.slot(&self.function);
        visit.slot(&self.value);
        if let Ok(arguments) = self.arguments.try_borrow() {
            arguments.iter().flat_map(Vector::iter).for_each(|a| visit.obj(a));
        }
    }

    fn clear(&self) {
        self.future.clear();
        self.function.clear();
        self.value.clear();
        drop(self.arguments.take());
    }
}

impl Call {
    /// In a worker: call, and hand the outcome to the loop; what wakes it, if it sleeps.
    fn run(this: &Inst<Call>) -> Option<Waker> {
        let (function, arguments) = (this.function.take()?, this.arguments.take()?);
        let is_cancelled = match this.future.get() {
            Some(future) => Fut::of(&future).is_none_or(|f| f.core.state.get() == State::Cancelled),
            None => true,
        };
        if is_cancelled {
            return None;
        }
        match function.call_vector(&arguments) {
            Ok(result) => {
                this.value.put(result);
                this.outcome.set(Outcome::Result);
            }
            Err(raised) => {
                this.value.put(raised.take());
                this.outcome.set(Outcome::Exception);
            }
        }
        // What the arguments do when they die, they do before the awaiting side goes on.
        drop((function, arguments));
        Call::hand_over(this)
    }

    /// Send the outcome to the loop. A loop that was closed meanwhile wants to hear nothing.
    fn hand_over(this: &Inst<Call>) -> Option<Waker> {
        let event_loop = this.event_loop()?;
        let scheduler = Scheduler::of(&event_loop).filter(|s| !s.closed.get())?;
        scheduler.send(Entry::Native(this.obj().to_ref(), 0))
    }

    fn event_loop(&self) -> Option<Ref> {
        let future = self.future.get()?;
        Fut::of(&future)?.core.event_loop.get()
    }

    /// In the loop: same as `_copy_future_state`.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt come out; everything else goes to the exception handler.
    pub fn deliver(this: &Inst<Call>) -> Res<()> {
        let event_loop = this.event_loop();
        this.complete().or_else(|raised| report_stray(raised, event_loop, this.obj(), "run_in_executor()"))
    }

    fn complete(&self) -> Res<()> {
        let (Some(future), value) = (self.future.take(), self.value.take()) else { return Ok(()) };
        let Some(future) = Fut::of(&future) else { return Ok(()) };
        match (future.core.state.get(), self.outcome.get(), value) {
            (State::Cancelled, ..) => Ok(()),
            // `assert not dest.done()`: somebody has set a result that is not his.
            (State::Finished, ..) => Err(Raised::bare(exc::assertion_error())),
            (State::Pending, Outcome::Result, Some(result)) => future.set_result(result),
            (State::Pending, Outcome::Exception, Some(exception)) => future.set_exception(&*convert(exception)?),
            (State::Pending, ..) => future.cancel(None).map(drop),
        }
    }
}

/// Same as `_convert_future_exc`, which is asked only where it would change something.
fn convert(exception: Ref) -> Res {
    let class = exception.class();
    let of_futures = [&imports().futures_cancelled_error, &imports().futures_invalid_state_error];
    let is_timeout = cfg!(not(Py_3_11)) && class.is(&imports().futures_timeout_error);
    if is_timeout || of_futures.iter().any(|c| class.is(c)) {
        return imports().convert_future_exception.call1(&exception);
    }
    Ok(exception)
}

/// `item.future`, for `ThreadPoolExecutor.shutdown(cancel_futures=True)`, which calls `item.future.cancel()`.
fn call_future(this: &Inst<Call>) -> Res {
    Ok(this.obj().to_ref())
}

fn call_cancel(this: &Inst<Call>) -> Res {
    drop((this.function.take(), this.arguments.take()));
    this.outcome.set(Outcome::Cancelled);
    wake(Call::hand_over(this));
    Ok(true.into())
}

fn call_repr(this: &Inst<Call>) -> Res {
    let future = this.future.get_or_none().repr()?;
    string(&format!("<call in the executor for {}>", crate::ffi::str_of(&future)?))
}

// --- the queue --------------------------------------------------------------------------------------------------

/// What the threads of one pool wait for.
pub struct WorkQueue {
    shared: RefCell<Arc<Shared<CrossThread<Ref>>>>,
    fork_generation: Cell<u32>,
    /// What `run` of a stock work item is called with (3.14+).
    context: Slot,
}

static WORK_QUEUE: Class = Class::new();

impl Native for WorkQueue {
    fn class() -> &'static Class {
        &WORK_QUEUE
    }

    fn traverse(&self, visit: &Visit) {
        visit.slot(&self.context);
    }

    fn clear(&self) {
        self.context.clear();
    }
}

impl WorkQueue {
    /// The queue of this process.
    fn shared(&self) -> Arc<Shared<CrossThread<Ref>>> {
        if self.fork_generation.replace(fork::generation()) != fork::generation() {
            let parents = self.shared.replace(Arc::new(Shared::new()));
            // One of the threads that are gone may have held its mutex.
            std::mem::forget(parents);
        }
        self.shared.borrow().clone()
    }

    fn run(&self, item: Ref) -> Option<Waker> {
        if let Some(call) = item.downcast::<Call>() {
            return Call::run(call);
        }
        let ran = match self.context.get() {
            Some(context) => item.call_method(name!("run"), [&*context]),
            None => item.call_method(name!("run"), []),
        };
        if let Err(raised) = ran {
            raised.unraisable(&item);
        }
        None
    }
}

/// Wake a loop that sleeps. An error can only mean that its pipe is gone, and then nobody sleeps.
fn wake(sleeper: Option<Waker>) {
    let _outcome = sleeper.map(Waker::wake);
}

/// The queue of an executor of ours whose `submit` nobody has replaced; None for any other executor.
pub fn queue_of(executor: &Obj) -> Res<Option<Owned<WorkQueue>>> {
    let Some(queue) = executor.getattr_opt(name!("_work_queue"))?.and_then(Ref::downcast_into::<WorkQueue>) else {
        return Ok(None);
    };
    // Tracers wrap `ThreadPoolExecutor.submit`: every call has to go through it then.
    let submit = executor.getattr(name!("submit"))?;
    let Some(function) = submit.getattr_opt(name!("__func__"))? else { return Ok(None) };
    let Some(globals) = function.getattr_opt(name!("__globals__"))? else { return Ok(None) };
    Ok(globals.is(&imports().pool_globals).then_some(queue))
}

/// Queue `function(*args)`, with a new future of the loop.
///
/// # Errors
/// RuntimeError if the executor was shut down, or if a thread that is needed cannot be started.
pub fn submit(event_loop: &Obj, executor: &Obj, queue: &Inst<WorkQueue>, function: &Obj, args: &[&Obj]) -> Res {
    let future = Owned::new(Future::default())?;
    Fut::from_inst(&*future).init(Some(event_loop))?;
    let call = Owned::new(Call {
        future: Slot::of(future.obj().to_ref()),
        function: Slot::of(function.to_ref()),
        arguments: RefCell::new(Some(Vector::new(args))),
        outcome: Cell::new(Outcome::None),
        value: Slot::empty(),
    })?;
    let shared = queue.shared();
    if shared.is_short(1) {
        let limit = index_value(&*executor.getattr(name!("_max_workers"))?)?;
        // Starting one lets other threads run, and they may have given it a call of their own: look again.
        while shared.announce(1, limit.max(1) as usize) {
            if let Err(raised) = executor.call_method(name!("_add_thread"), []) {
                shared.not_started();
                return Err(raised);
            }
        }
    }
    match shared.push(CrossThread(call.into_ref())) {
        Ok(()) => Ok(future.into_ref()),
        Err(refused) => {
            drop(refused);
            let is_shut_down = executor.getattr(name!("_shutdown"))?.is_true()?;
            let after = if is_shut_down { "shutdown" } else { "interpreter shutdown" };
            Err(Raised::runtime(&format!("cannot schedule new futures after {after}")))
        }
    }
}

/// What a thread of the pool does for all its life.
fn work(this: &Inst<WorkQueue>) -> Res {
    let shared = this.shared();
    let generation = fork::generation();
    let mut since = clock::monotonic_coarse_s();
    let mut sleeper = None;
    let mut next = shared.take_first();
    loop {
        match next {
            Take::Item(CrossThread(item)) => {
                // There is another call: it may take long, and the loop should be waiting for the interpreter by then.
                wake(sleeper.take());
                sleeper = this.run(item);
                if fork::generation() != generation {
                    wake(sleeper);
                    // The call has forked and come back in the child: there this is no worker any more.
                    return Ok(none().to_ref());
                }
                let now = clock::monotonic_coarse_s();
                if now - since > TURN_S {
                    let sleeper = sleeper.take();
                    detached(|| wake(sleeper));
                    since = now;
                }
            }
            Take::Nothing => {
                let sleeper = sleeper.take();
                detached(|| {
                    wake(sleeper);
                    shared.wait();
                    // Who has pushed holds the interpreter for a moment yet, often on this very processor. To ask for it
                    // now costs both sides several futex calls and two more switches of threads.
                    thread::yield_now();
                });
                since = clock::monotonic_coarse_s();
                next = shared.take_woken();
                continue;
            }
            Take::End => {
                wake(sleeper);
                return Ok(none().to_ref());
            }
        }
        next = shared.take();
    }
}

// --- Python's view ----------------------------------------------------------------------------------------------

fn new_queue(_class: &Obj, args: &Obj, _kwargs: Option<&Obj>) -> Res {
    let context = args.tuple_items().first().filter(|c| !c.is_none()).map(|c| c.to_ref());
    let queue = Owned::new(WorkQueue {
        shared: RefCell::new(Arc::new(Shared::new())),
        fork_generation: Cell::new(fork::generation()),
        context: context.map_or_else(Slot::empty, Slot::of),
    })?;
    Ok(queue.into_ref())
}

/// None closes the queue, as it wakes the threads of a stock pool to look whether they should end.
fn put(this: &Inst<WorkQueue>, item: &Obj) -> Res {
    let shared = this.shared();
    if item.is_none() {
        shared.close();
    } else if let Err(refused) = shared.push(CrossThread(item.to_ref())) {
        drop(refused);
        return Err(Raised::runtime("cannot schedule new futures after shutdown"));
    }
    Ok(none().to_ref())
}

fn get_nowait(this: &Inst<WorkQueue>) -> Res {
    match this.shared().pop() {
        Some(CrossThread(item)) => Ok(item),
        None => Err(Raised::bare(&imports().queue_empty)),
    }
}

fn qsize(this: &Inst<WorkQueue>) -> Res {
    int(this.shared().len() as i64)
}

fn empty(this: &Inst<WorkQueue>) -> Res {
    Ok(this.shared().is_empty().into())
}

fn announce(this: &Inst<WorkQueue>, args: Args) -> Res {
    let [limit] = args.exactly("announce", ["limit"])?;
    let limit = index_value(limit)?.max(1) as usize;
    Ok(this.shared().announce(0, limit).into())
}

fn not_started(this: &Inst<WorkQueue>) -> Res {
    this.shared().not_started();
    Ok(none().to_ref())
}

fn new_call(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a call is made by its loop: run_in_executor()"))
}

pub fn build() -> Res<()> {
    ClassBuilder::<Call>::new(c"aioxide._native.ExecutorCall", c"A call of run_in_executor.")
        .pooled(64)
        .slot(pyo3_ffi::Py_tp_new, constructor!(new_call))
        .slot(pyo3_ffi::Py_tp_repr, unary!(Call, call_repr))
        .getset(c"future", getter!(Call, call_future), None, c"Itself, for item.future.cancel().")
        .method(
            c"cancel",
            noargs!(Call, call_cancel),
            c"cancel($self, /)\n--\n\nCancel the future of a call that was taken out of the queue.",
        )
        .build()?;
    ClassBuilder::<WorkQueue>::new(
        c"aioxide._native.WorkQueue",
        c"WorkQueue(context=None, /)\n--\n\nThe calls that wait for a pool's threads; stands where ThreadPoolExecutor has its SimpleQueue.",
    )
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new_queue))
    .method(c"put", onearg!(WorkQueue, put), c"put($self, item, /)\n--\n\nAppend an item, whose run() is called; None closes the queue.")
    .method(c"get_nowait", noargs!(WorkQueue, get_nowait), c"get_nowait($self, /)\n--\n\nTake the oldest item out; queue.Empty if there is none.")
    .method(c"qsize", noargs!(WorkQueue, qsize), c"qsize($self, /)\n--\n\nItems that no thread has taken yet.")
    .method(c"empty", noargs!(WorkQueue, empty), c"empty($self, /)\n--\n\nWhether there is none.")
    .method(c"work", noargs!(WorkQueue, work), c"work($self, /)\n--\n\nThe body of a pool's thread; returns when the queue is closed and empty.")
    .method(c"announce", keywords!(WorkQueue, announce), c"announce($self, limit)\n--\n\nWhether a thread is to be started; it counts from now on.")
    .method(c"not_started", noargs!(WorkQueue, not_started), c"not_started($self, /)\n--\n\nThe thread that was announced could not be started.")
    .build()
    .map(drop)
}

pub fn class() -> Ref {
    WORK_QUEUE.type_object().to_ref()
}
