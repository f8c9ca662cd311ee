//! `Coroutine`: a Rust `async` block as a Python coroutine (DESIGN D13).
//!
//! CPython counterpart: the coroutine object of `async def` (`Objects/genobject.c`).
//!
//! There are no wakers: whoever awaits the coroutine resumes it, as with any coroutine, and it is polled from the top. What
//! it waits for it yields, exactly as Python code would (`frame`), so a task of ours, of asyncio's C code, or another
//! coroutine can drive it. Why Rust: a descriptor's watch, a view of a buffer, a socket not yet handed over have one owner,
//! and each way out (result, error, cancellation, `close()`, collection) is the same `Drop`.
//!
//! | stage     | body                | who holds it                                                     |
//! |-----------|---------------------|------------------------------------------------------------------|
//! | Created   | there, not polled   | the object                                                       |
//! | Running   | taken out           | the stack: `send` from inside is refused                         |
//! | Suspended | there               | the object                                                       |
//! | Closed    | dropped             | nobody                                                           |
//!
//! The collector cannot look into a suspended block. So the Python objects that live across an await lie in the
//! coroutine's [`Frame`], which it can see, and the block asks for them.

mod face;
mod frame;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pub use face::build;
pub use frame::Frame;

use crate::ffi::cell::{Cell, Movable, Rc};
use crate::ffi::trampoline::Awaiting;
use crate::ffi::{Class, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, exc, none, recursion_guarded};

trait Block: Future<Output = Res> + Movable {}
impl<F: Future<Output = Res> + Movable> Block for F {}

type Body = Pin<Box<dyn Block>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Created,
    Suspended,
    Running,
    Closed,
}

pub struct Coroutine {
    /// `__qualname__`
    name: &'static str,
    stage: Cell<Stage>,
    body: Cell<Option<Body>>,
    frame: Rc<Frame>,
    /// Where it was made: `sys.set_coroutine_origin_tracking_depth`, which debug mode sets.
    origin: Slot,
}

static COROUTINE: Class = Class::new();

impl Native for Coroutine {
    fn class() -> &'static Class {
        &COROUTINE
    }

    fn traverse(&self, visit: &Visit) {
        self.frame.traverse(visit);
        visit.slot(&self.origin);
    }

    fn clear(&self) {
        self.abandon_for_good();
        self.origin.clear();
    }

    fn needs_finalizer(&self) -> bool {
        self.stage.get() == Stage::Created
    }
}

impl Drop for Coroutine {
    fn drop(&mut self) {
        self.abandon_for_good();
    }
}

/// A coroutine that runs `body` when it is awaited. `locals` are what the body gets by [`Frame::local`].
pub fn start<const N: usize, F>(name: &'static str, locals: [&Obj; N], body: impl FnOnce(Rc<Frame>) -> F) -> Res
where
    F: Future<Output = Res> + Movable + 'static,
{
    let frame = Rc::new(Frame::new(locals));
    let body: Body = Box::pin(body(Rc::clone(&frame)));
    let me = Owned::new(Coroutine {
        name,
        stage: Cell::new(Stage::Created),
        body: Cell::new(Some(body)),
        frame,
        origin: face::origin()?.map_or_else(Slot::empty, Slot::of),
    })?;
    Ok(me.into_ref())
}

/// However the run ends, unless it is suspended: also when the body panics.
struct Running<'a>(&'a Cell<Stage>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.0.get() == Stage::Running {
            self.0.set(Stage::Closed);
        }
    }
}

impl Coroutine {
    /// Run to the next await that has to wait, or to the end.
    #[inline]
    fn resume(&self, thrown: Option<Ref>) -> Res<Awaiting> {
        let stage = self.stage.get();
        if stage == Stage::Running {
            return Err(Raised::value_error("coroutine already executing"));
        }
        let Some(mut body) = self.body.take() else {
            return Err(Raised::runtime("cannot reuse already awaited coroutine"));
        };
        self.stage.set(Stage::Running);
        let _running = Running(&self.stage);
        if let Some(exception) = thrown {
            if stage == Stage::Created {
                drop(body);
                return Err(Raised::raise(exception));
            }
            self.frame.throw(exception);
        }
        let polled =
            recursion_guarded(c" while awaiting", || Ok(body.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        match polled {
            Ok(Poll::Pending) => {
                let yielded = self.frame.take_yielded()?;
                self.body.set(Some(body));
                self.stage.set(Stage::Suspended);
                Ok(Awaiting::Yield(yielded))
            }
            Ok(Poll::Ready(outcome)) => {
                drop(body);
                // What it was started with may be large, and whoever keeps an ended coroutine does not want it.
                self.frame.clear();
                self.clean_up_error(outcome).map(Awaiting::Done).map_err(no_stop_iteration)
            }
            Err(too_deep) => {
                drop(body);
                self.clean_up_error(Err(too_deep))
            }
        }
    }

    /// As in try/finally: an error of the cleaning up comes out, and what was on its way is its context.
    fn clean_up_error<T>(&self, outcome: Res<T>) -> Res<T> {
        let Some(error) = self.frame.take_close_error() else {
            return outcome;
        };
        if let Err(raised) = outcome {
            error.set_context(raised.take());
        }
        Err(Raised::raise(error))
    }

    /// Same as `coroutine.close`: run the destructors of whatever it waits for.
    fn close(&self) -> Res<()> {
        if self.stage.get() == Stage::Running {
            return Err(Raised::value_error("coroutine already executing"));
        }
        self.abandon();
        self.clean_up_error(Ok(()))
    }

    /// Nobody is left to raise to.
    fn abandon_for_good(&self) {
        self.abandon();
        if let Some(error) = self.frame.take_close_error() {
            Raised::aside(|| Raised::raise(error).unraisable(none()));
        }
    }

    /// Drop the body, unless it runs: then its frame on the stack owns it.
    fn abandon(&self) {
        if self.stage.get() == Stage::Running {
            return;
        }
        self.stage.set(Stage::Running);
        drop(self.body.take());
        self.frame.clear();
        self.stage.set(Stage::Closed);
    }
}

/// PEP 479: a StopIteration that leaves the body would look like its end.
#[inline]
fn no_stop_iteration(raised: Raised) -> Raised {
    if !raised.matches(exc::stop_iteration()) {
        return raised;
    }
    let stop = raised.take();
    let error = Raised::runtime("coroutine raised StopIteration").take();
    error.set_cause(stop.clone());
    error.set_context(stop);
    Raised::raise(error)
}

fn next(this: &Inst<Coroutine>) -> Res<Awaiting> {
    this.resume(None)
}
