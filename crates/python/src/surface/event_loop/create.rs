//! Futures and tasks of a loop, and task factories as each version calls them.

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Owned, Raised, Ref, Res, dict, none, tuple};
use crate::objects::future::{Fut, Future};
use crate::objects::names::{hexversion, imports};
use crate::tasks::task::{self, Options};
use crate::{kwnames, name};

/// The class that a program has put in the place of asyncio's own, if it has.
fn replaced(namespace: &Obj, name: &Obj, original: &Obj) -> Option<Ref> {
    namespace.dict_get_other(name, original)
}

fn own_task_class() -> Option<Ref> {
    replaced(&imports().tasks_namespace, name!("Task"), &imports().c_task)
}

fn own_future_class() -> Option<Ref> {
    replaced(&imports().futures_namespace, name!("Future"), &imports().c_future)
}

/// Look whether there are such classes. asyncio's loops do at each call; a loop of ours when it starts to run and at each
/// poll, or the look-ups would be a tenth of the time that a task takes to be made.
pub fn look_for_own_classes(this: &Inst<EventLoop>) {
    this.own_classes.set(own_task_class().is_some() || own_future_class().is_some());
}

/// May there be one? A loop that does not run looks now.
#[inline]
fn may_have_own_classes(this: &Inst<EventLoop>) -> bool {
    this.own_classes.get() || !this.scheduler.is_running()
}

pub fn create_future(this: &Inst<EventLoop>) -> Res {
    if let Some(class) = may_have_own_classes(this).then(own_future_class).flatten() {
        return class.call_kw(&[this.obj()], kwnames!("loop"));
    }
    let f = Owned::new(Future::default())?;
    Fut::from_inst(&*f).init(Some(this.obj()))?;
    Ok(f.into_ref())
}

pub fn create_task(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let class = may_have_own_classes(this).then(own_task_class).flatten();
    if let (Some(class), false) = (class, this.scheduler.task_factory.is_some()) {
        return by_class(this.obj(), &class, &parse(args)?);
    }
    if let ([coro], false) = (args.positional(), args.has_keywords()) {
        if !this.scheduler.task_factory.is_some() {
            return Ok(task::create(this.obj(), coro, Options::default())?.into_ref());
        }
    }
    let Parsed { coro, name, context, rest } = parse(args)?;
    match this.scheduler.task_factory.get() {
        None => {
            let mut eager_start = false;
            for (key, value) in &rest {
                if crate::ffi::utf8(key)? != "eager_start" {
                    return Err(unexpected(key)?);
                }
                eager_start = value.is_true()?;
            }
            Ok(task::create(this.obj(), coro, Options { name, context, eager_start })?.into_ref())
        }
        Some(factory) if cfg!(Py_3_14) => by_factory_as_given(this.obj(), &factory, coro, args),
        Some(factory) => by_factory(this.obj(), &factory, &Parsed { coro, name, context, rest }),
    }
}

struct Parsed<'a> {
    coro: &'a Obj,
    name: Option<&'a Obj>,
    context: Option<&'a Obj>,
    rest: Vec<(&'a Obj, &'a Obj)>,
}

fn parse(args: Args<'_>) -> Res<Parsed<'_>> {
    let mut p = match args.positional() {
        [coro] => Parsed { coro, name: None, context: None, rest: Vec::new() },
        [] => Parsed { coro: none(), name: None, context: None, rest: Vec::new() },
        given => {
            return Err(Raised::type_error(&format!(
                "create_task() takes 2 positional arguments but {} were given",
                given.len() + 1
            )));
        }
    };
    let mut has_coro = !args.positional().is_empty();
    for (key, value) in args.keywords() {
        // asyncio.create_task passes an interned `name` always.
        if key.is(name!("name")) {
            p.name = Some(value).filter(|v| !v.is_none());
            continue;
        }
        match crate::ffi::utf8(key)? {
            "name" => p.name = Some(value).filter(|v| !v.is_none()),
            "context" if cfg!(Py_3_11) => p.context = Some(value).filter(|v| !v.is_none()),
            "coro" if !has_coro => {
                p.coro = value;
                has_coro = true;
            }
            // Other keywords go to the factory or to Task from 3.13.3 on.
            _ if cfg!(Py_3_13) => p.rest.push((key, value)),
            _ => return Err(unexpected(key)?),
        }
    }
    if !has_coro {
        return Err(Raised::type_error("create_task() missing 1 required positional argument: 'coro'"));
    }
    Ok(p)
}

fn unexpected(key: &Obj) -> Res<Raised> {
    Ok(Raised::type_error(&format!("create_task() got an unexpected keyword argument '{}'", crate::ffi::utf8(key)?)))
}

fn by_class(event_loop: &Obj, class: &Obj, p: &Parsed<'_>) -> Res {
    let kwargs = dict()?;
    kwargs.set_item(name!("loop"), event_loop)?;
    kwargs.set_item(name!("name"), p.name.unwrap_or(none()))?;
    if let Some(context) = p.context {
        kwargs.set_item(name!("context"), context)?;
    }
    for (key, value) in &p.rest {
        kwargs.set_item(key, value)?;
    }
    class.call_dict(&*tuple([p.coro])?, Some(&kwargs))
}

/// From 3.14 on the factory gets the keywords that were given, no more and no less.
fn by_factory_as_given(event_loop: &Obj, factory: &Obj, coro: &Obj, args: Args) -> Res {
    let kwargs = dict()?;
    for (key, value) in args.keywords() {
        if crate::ffi::utf8(key)? != "coro" {
            kwargs.set_item(key, value)?;
        }
    }
    factory.call_dict(&*tuple([event_loop, coro])?, Some(&kwargs))
}

/// Before, the name is set afterwards and the context passed only if there is one; but for 3.13.3, which passes both always.
fn by_factory(event_loop: &Obj, factory: &Obj, p: &Parsed<'_>) -> Res {
    let passes_all = hexversion() >> 8 == 0x0003_0d03;
    let kwargs = dict()?;
    for (key, value) in &p.rest {
        kwargs.set_item(key, value)?;
    }
    if passes_all {
        kwargs.set_item(name!("name"), p.name.unwrap_or(none()))?;
        kwargs.set_item(name!("context"), p.context.unwrap_or(none()))?;
    } else if let Some(context) = p.context {
        kwargs.set_item(name!("context"), context)?;
    }
    let task = factory.call_dict(&*tuple([event_loop, p.coro])?, Some(&kwargs))?;
    if !passes_all {
        // Up to 3.12 a factory's object without set_name is taken as it is.
        if let (Some(name), Some(set_name)) = (p.name, task.getattr_opt(name!("set_name"))?) {
            set_name.call1(name)?;
        }
    }
    Ok(task)
}

pub fn set_task_factory(this: &Inst<EventLoop>, args: Args) -> Res {
    let [factory] = args.exactly("set_task_factory", ["factory"])?;
    if factory.is_none() {
        this.scheduler.task_factory.clear();
    } else if factory.is_callable() {
        this.scheduler.task_factory.put(factory.to_ref());
    } else {
        return Err(Raised::type_error("task factory must be a callable or None"));
    }
    Ok(none().to_ref())
}

pub fn get_task_factory(this: &Inst<EventLoop>) -> Res {
    Ok(this.scheduler.task_factory.get_or_none())
}
