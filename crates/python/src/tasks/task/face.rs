//! The Python face of a task: construction, and what `_asyncio.Task` adds to a future.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Task, registry, step, task_of};
use crate::ffi::asyncio_layout::TASK;
use crate::ffi::{
    Args, ClassBuilder, Context, Inst, Native, Obj, Owned, Raised, Ref, Res, exc, import_attr, int, int_u64, none,
    str_of, string,
};
use crate::objects::future::callbacks::{TASK_HOOKS, TaskHooks};
use crate::objects::future::{default_loop, register_task_class};
use crate::objects::names::imports;
use crate::objects::report::Report;
use crate::objects::scheduler::Scheduler;
use crate::{
    constructor, finalizer, future_methods, getter, initializer, keywords, kwnames, name, noargs, onearg, setter,
};

/// The last number of a default name, for all threads. With a GIL attached threads only change it, so an addition need not
/// be atomic.
static NUMBER: AtomicU64 = AtomicU64::new(0);

#[inline]
fn next_number() -> u64 {
    if cfg!(Py_GIL_DISABLED) {
        return NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    }
    let n = NUMBER.load(Ordering::Relaxed) + 1;
    NUMBER.store(n, Ordering::Relaxed);
    n
}

/// How a task is to be made.
#[derive(Default, Clone, Copy)]
pub struct Options<'a> {
    pub name: Option<&'a Obj>,
    pub context: Option<&'a Obj>,
    pub eager_start: bool,
}

/// `Task(coro, loop=loop, ...)` for our own loop, without going through Python.
#[inline]
pub fn create(event_loop: &Obj, coro: &Obj, options: Options<'_>) -> Res<Owned<Task>> {
    let task = Owned::new(Task::default())?;
    initialise(&task, event_loop, coro, options)?;
    Ok(task)
}

fn initialise(task: &Inst<Task>, event_loop: &Obj, coro: &Obj, options: Options<'_>) -> Res<()> {
    if !is_coroutine(coro)? {
        task.log_destroy_pending.set(false);
        return Err(Raised::type_error(&format!("a coroutine was expected, got {}", str_of(&*coro.repr()?)?)));
    }
    let context = match options.context.filter(|c| !c.is_none()) {
        // gh-157301: before 3.15 such a task fails at its first step.
        Some(c) if cfg!(Py_3_15) && !Context::is_context(c) => {
            let class = str_of(&*c.class().getattr(name!("__name__"))?)?;
            return Err(Raised::type_error(&format!("a contextvars.Context was expected, got {class}")));
        }
        Some(c) => c.to_ref(),
        None => Context::copy_current()?,
    };
    task.as_future().init(Some(event_loop))?;
    task.set_context(Some(context));
    task.waiter.clear();
    task.must_cancel.set(false);
    task.log_destroy_pending.set(true);
    task.cancels_requested.set(0);
    task.set_coro(Some(coro.to_ref()));
    match options.name.filter(|n| !n.is_none()) {
        Some(n) => task.set_name(text_of(n)?),
        // The interpreter's own form of a default name (3.12+): its number, made a text when somebody asks. C code and
        // inspectors that read the base's slot know it.
        None if cfg!(Py_3_12) => task.set_name(int_u64(next_number())?),
        None => task.number.set(next_number()),
    }
    registry::register(task)?;
    if options.eager_start && is_running(event_loop)? {
        return start_eagerly(task, event_loop);
    }
    step::again(task, None)
}

fn is_running(event_loop: &Obj) -> Res<bool> {
    match Scheduler::of(event_loop) {
        Some(s) => Ok(s.is_running()),
        None => event_loop.call_method(name!("is_running"), [])?.is_true(),
    }
}

/// Run the first step here and now, inside whatever runs (3.12+).
fn start_eagerly(task: &Inst<Task>, event_loop: &Obj) -> Res<()> {
    let context = task.context_or_none();
    let stepped =
        registry::with_current(event_loop, task.obj(), || Context::run(&context, || step::advance(task, None)));
    // SystemExit and KeyboardInterrupt come out of the step; dropping the coroutine may run code, so not with one set.
    let exit = stepped.err().map(Raised::take);
    if !task.future.is_pending() {
        // The coroutine is done; only its outcome is of interest. None, because 3.12's get_coro takes the field for filled.
        task.set_coro(Some(none().to_ref()));
    }
    exit.map_or(Ok(()), |e| Err(Raised::raise(e)))
}

fn is_coroutine(coro: &Obj) -> Res<bool> {
    if coro.is_exact_coroutine() {
        return Ok(true);
    }
    imports().is_coroutine.call1(coro)?.is_true()
}

/// A name is made a `str`.
fn text_of(name: &Obj) -> Res {
    if name.is_str() { Ok(name.to_ref()) } else { string(&str_of(name)?) }
}

fn new(class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    let task = Owned::<Task>::of_class(class, Task::default())?;
    // `_asyncio.Task.get_context(task)` takes its own field for filled, also before `__init__`, and would crash.
    task.set_coro(Some(none().to_ref()));
    task.set_context(Some(none().to_ref()));
    Ok(task.into_ref())
}

fn init(this: &Inst<Task>, args: Args) -> Res<()> {
    #[cfg(Py_3_12)]
    let [coro, event_loop, name, context, eager] =
        args.bind("Task", ["coro", "loop", "name", "context", "eager_start"], 1, 1)?;
    #[cfg(all(Py_3_11, not(Py_3_12)))]
    let ([coro, event_loop, name, context], eager) =
        (args.bind("Task", ["coro", "loop", "name", "context"], 1, 1)?, None::<&Obj>);
    #[cfg(not(Py_3_11))]
    let ([coro, event_loop, name], eager, context) =
        (args.bind("Task", ["coro", "loop", "name"], 1, 1)?, None::<&Obj>, None::<&Obj>);
    let coro = coro.unwrap_or(none());
    let event_loop = match event_loop.filter(|l| !l.is_none()) {
        Some(l) => l.to_ref(),
        None => default_loop()?,
    };
    let eager_start = match eager {
        Some(e) => e.is_true()?,
        None => false,
    };
    this.as_future().refuse_second_init()?;
    registry::unregister(this)?;
    initialise(this, &event_loop, coro, Options { name, context, eager_start })
}

fn cancel(this: &Inst<Task>, args: Args) -> Res {
    let [message] = args.bind("cancel", ["msg"], 1, 0)?;
    Ok(this.cancel(message)?.into())
}

#[cfg(Py_3_11)]
fn uncancel(this: &Inst<Task>) -> Res {
    int(i64::from(this.uncancel()))
}

#[cfg(Py_3_11)]
fn cancelling(this: &Inst<Task>) -> Res {
    int(i64::from(this.cancels_requested.get()))
}

fn get_coro(this: &Inst<Task>) -> Res {
    Ok(this.coro().unwrap_or_else(|| none().to_ref()))
}

fn get_context(this: &Inst<Task>) -> Res {
    Ok(this.context_or_none())
}

fn get_name(this: &Inst<Task>) -> Res {
    this.name()
}

fn set_name(this: &Inst<Task>, name: &Obj) -> Res {
    this.set_name(text_of(name)?);
    Ok(none().to_ref())
}

fn set_result(_: &Inst<Task>, _: &Obj) -> Res {
    Err(Raised::runtime("Task does not support set_result operation"))
}

fn set_exception(_: &Inst<Task>, _: &Obj) -> Res {
    Err(Raised::runtime("Task does not support set_exception operation"))
}

fn get_stack(this: &Inst<Task>, args: Args) -> Res {
    let [limit] = args.bind("get_stack", ["limit"], 0, 0)?;
    imports().task_get_stack.call([this.obj(), limit.unwrap_or(none())])
}

fn print_stack(this: &Inst<Task>, args: Args) -> Res {
    let [limit, file] = args.bind("print_stack", ["limit", "file"], 0, 0)?;
    imports().task_print_stack.call([this.obj(), limit.unwrap_or(none()), file.unwrap_or(none())])
}

fn waiter(this: &Inst<Task>) -> Res {
    Ok(this.waiter.get_or_none())
}

fn must_cancel(this: &Inst<Task>) -> Res {
    Ok(this.must_cancel.get().into())
}

fn log_destroy_pending(this: &Inst<Task>) -> Res {
    Ok(this.log_destroy_pending.get().into())
}

fn set_log_destroy_pending(this: &Inst<Task>, value: Option<&Obj>) -> Res<()> {
    let Some(value) = value else {
        return Err(Raised::new(exc::attribute_error(), "cannot delete attribute"));
    };
    this.log_destroy_pending.set(value.is_true()?);
    Ok(())
}

/// A pending task that nothing can ever wake is destroyed: say so, then what every future says.
fn finalize(this: &Inst<Task>) {
    let report = || -> Res<()> {
        registry::unregister(this)?;
        if this.future.is_pending() && this.log_destroy_pending.get() {
            if let Some(event_loop) = this.future.event_loop.get() {
                Report::new("Task was destroyed but it is pending!")?
                    .with(name!("task"), this.obj())?
                    .with_opt(name!("source_traceback"), this.future.source_traceback.get())?
                    .send(&event_loop)?;
            }
        }
        this.as_future().report_unretrieved()
    };
    if let Err(raised) = report() {
        raised.unraisable(this.obj());
    }
}

/// Find the slots of the base by looking at a task of its own class, made on a loop that drops what it is given.
fn probe_layout() -> Res<()> {
    let namespace = import_attr("types", "SimpleNamespace")?;
    let (no, forget) = (import_attr("builtins", "bool")?, import_attr("functools", "partial")?);
    let stub_loop = namespace.call_kw(&[&*no, &*forget], kwnames!("get_debug", "call_soon"))?;
    let coro = import_attr("asyncio", "sleep")?.call([&*int(0)?])?;
    let context = Context::copy_current()?;
    let label = string("aioxide: layout probe")?;
    #[cfg(Py_3_11)]
    let task = {
        let names = kwnames!("loop", "name", "context");
        imports().c_task.call_kw(&[&*coro, &*stub_loop, &*label, &*context], names)?
    };
    #[cfg(not(Py_3_11))]
    let task = imports().c_task.call_kw(&[&*coro, &*stub_loop, &*label], kwnames!("loop", "name"))?;
    task.setattr(name!("_log_destroy_pending"), crate::ffi::false_())?;
    coro.call_method(name!("close"), [])?;
    TASK.probe(&task, &coro, &context, &label)
}

pub fn build(offset: usize) -> Res<Ref> {
    registry::load()?;
    probe_layout()?;
    let base = &imports().c_task;
    let b = ClassBuilder::<Task>::new(
        c"aioxide._native.Task",
        if cfg!(Py_3_12) {
            c"Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\nA coroutine driven by the loop. Same as asyncio.Task, and derived from it."
        } else if cfg!(Py_3_11) {
            c"Task(coro, *, loop=None, name=None, context=None)\n--\n\nA coroutine driven by the loop. Same as asyncio.Task, and derived from it."
        } else {
            c"Task(coro, *, loop=None, name=None)\n--\n\nA coroutine driven by the loop. Same as asyncio.Task, and derived from it."
        },
    )
    .base(base)
    .at_least(offset)
    .pooled(256)
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_init, initializer!(Task, init))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(Task, finalize))
    .method(c"cancel", keywords!(Task, cancel), c"cancel($self, /, msg=None)\n--\n\nAsk the task to cancel itself: CancelledError is thrown into it. False if it is done.")
    .method(c"get_coro", noargs!(Task, get_coro), c"The coroutine.")
    .method(c"get_name", noargs!(Task, get_name), c"The name.")
    .method(c"set_name", onearg!(Task, set_name), c"Set the name, made a str.")
    .method(c"set_result", onearg!(Task, set_result), c"Not supported: RuntimeError.")
    .method(c"set_exception", onearg!(Task, set_exception), c"Not supported: RuntimeError.")
    .method(c"get_stack", keywords!(Task, get_stack), c"get_stack($self, /, *, limit=None)\n--\n\nThe frames of the suspended coroutine, or of its traceback.")
    .method(c"print_stack", keywords!(Task, print_stack), c"print_stack($self, /, *, limit=None, file=None)\n--\n\nPrint them.")
    .getset(c"_coro", getter!(Task, get_coro), None, c"The coroutine.")
    .getset(c"_fut_waiter", getter!(Task, waiter), None, c"What the task waits for.")
    .getset(c"_must_cancel", getter!(Task, must_cancel), None, c"CancelledError comes at the next step.")
    .getset(c"_log_destroy_pending", getter!(Task, log_destroy_pending), setter!(Task, set_log_destroy_pending), c"Report its destruction while it is pending.");
    #[cfg(Py_3_11)]
    let b = b
        .method(c"cancelling", noargs!(Task, cancelling), c"How many cancellations were asked for and not taken back.")
        .method(c"uncancel", noargs!(Task, uncancel), c"Take one cancellation back; how many remain.")
        .getset(c"_num_cancels_requested", getter!(Task, cancelling), None, c"Same as cancelling().");
    // 3.12 made it public; harmless before.
    let b = b.method(c"get_context", noargs!(Task, get_context), c"The context the coroutine runs in.");
    let class = future_methods!(Task, b).build()?;
    register_task_class(
        |o| task_of(o).map(|t| &t.future),
        |o| if Task::class().is_exact(o) { task_of(o).map(|t| &t.future) } else { None },
    );
    TASK_HOOKS.set(TaskHooks {
        wakeup: super::wakeup::wakeup_by_call,
        context: |o| Ok(task_of(o).map_or_else(|| none().to_ref(), |t| t.context_or_none())),
    });
    Ok(class)
}
