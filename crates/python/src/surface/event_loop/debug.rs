//! An entry of the queue in debug mode: it is timed, a slow one is named, and reports made meanwhile show where its handle
//! was made.
//!
//! CPython counterpart: the debug branch of `BaseEventLoop._run_once`, and `_format_handle`. With debug mode on nearly every
//! entry is a handle (`Scheduler::direct`): what the other kinds are for here is native work, which has none, and what was
//! queued before debug mode was on.

use super::EventLoop;
use super::run::{self, time};
use crate::ffi::{Inst, Obj, Owned, Raised, Ref, Res, float, float_value, str_of, string};
use crate::io;
use crate::name;
use crate::objects::handle::{self, Handle};
use crate::objects::names::imports;
use crate::objects::scheduler::Entry;
use crate::tasks::task::registry;

/// Run one entry, as `run::execute` does.
#[cold]
pub fn execute(this: &Inst<EventLoop>, entry: Entry) -> Res<()> {
    if matches!(&entry, Entry::Handle(h) if h.is_cancelled()) {
        return Ok(());
    }
    let (subject, started) = match prepare(this, &entry) {
        Ok(prepared) => prepared,
        // A representation, or the program's own clock, has raised: the entry is run all the same.
        Err(raised) => return io::finally(Err(raised), || run::execute(this, entry)),
    };
    let outcome = run_timed(this, entry, &subject, started);
    this.current_handle.clear();
    if let Subject::Handle(h) = &subject {
        h.ran();
    }
    outcome
}

/// What the entry is, shown as the current handle, and when it begins.
fn prepare(this: &Inst<EventLoop>, entry: &Entry) -> Res<(Subject, f64)> {
    let subject = match entry {
        Entry::Handle(h) => Subject::Handle(h.clone()),
        Entry::Step(task) | Entry::Wake(task, _) | Entry::Throw(task, _) => Subject::Task(task.clone()),
        Entry::Call(f, argument, context) => {
            Subject::Handle(Handle::new(f, &[&**argument], this.obj(), Some(context))?)
        }
        // Now: when it has run it may have let go of what names it.
        Entry::Native(work, what) => {
            let name = io::describe(work, *what).or_else(unnamed)?;
            Subject::Native { name, made_at: io::source_traceback(work, *what) }
        }
    };
    let shown = subject.shown(this)?;
    let started = time(this)?;
    this.current_handle.put(shown);
    Ok((subject, started))
}

fn run_timed(this: &Inst<EventLoop>, entry: Entry, subject: &Subject, started: f64) -> Res<()> {
    match entry {
        Entry::Handle(h) => {
            if !h.is_quiet() {
                registry::withdraw(&this.scheduler, this.obj());
            }
            let outcome = h.run_shown();
            run::ended(this, outcome)?;
        }
        other => run::execute(this, other)?,
    }
    let took = time(this)? - started;
    let limit = this.obj().getattr(name!("slow_callback_duration"))?;
    if took < float_value(&limit)? {
        return Ok(());
    }
    // A representation that raises must not end the loop.
    let name = subject.name().or_else(unnamed)?;
    imports()
        .logger
        .call_method(name!("warning"), [&*string("Executing %s took %.3f seconds")?, &*string(&name)?, &*float(took)?])
        .map(drop)
}

fn unnamed(raised: Raised) -> Res<String> {
    if raised.is_exit() {
        return Err(raised);
    }
    raised.forget();
    Ok("<a callback whose representation fails>".to_owned())
}

/// What an entry is to the user.
enum Subject {
    Handle(Owned<Handle>),
    Task(Ref),
    Native { name: String, made_at: Option<Ref> },
}

impl Subject {
    /// `loop._current_handle`: of native work a stand-in, made where the loop was started if nothing better is known.
    fn shown(&self, this: &Inst<EventLoop>) -> Res {
        let made_at = match self {
            Subject::Handle(h) => return Ok(h.obj().to_ref()),
            Subject::Task(task) => task.getattr(name!("_source_traceback"))?,
            Subject::Native { made_at: Some(made_at), .. } => made_at.clone(),
            Subject::Native { made_at: None, .. } => {
                if !this.run_from.is_some() {
                    this.run_from.put(handle::current_stack()?);
                }
                this.run_from.get_or_none()
            }
        };
        Ok(Handle::stand_in(made_at)?.into_ref())
    }

    /// Same as `_format_handle`: a task by its own representation, anything else as a handle. After it has run: no code of
    /// the program's runs for one that was not slow.
    fn name(&self) -> Res<String> {
        match self {
            Subject::Handle(h) => match h.task()? {
                Some(task) => representation(&task),
                None => representation(h.obj()),
            },
            Subject::Task(task) => representation(task),
            Subject::Native { name, .. } => Ok(name.clone()),
        }
    }
}

fn representation(o: &Obj) -> Res<String> {
    str_of(&*o.repr()?)
}
