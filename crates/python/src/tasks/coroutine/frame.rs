//! What a coroutine's body and whoever resumes it tell each other, and the body's Python objects.
//!
//! CPython counterpart: the frame of a coroutine (`f_locals`, `gi_yieldfrom`) and the stack slot of `SEND`.
//!
//! Invariants: at most one await is in progress, the innermost one; it takes an exception that is thrown in. While it has to
//! wait, `yielded` holds what the driver gets.

use std::future::poll_fn;
use std::task::Poll;

use crate::ffi::send::Step;
use crate::ffi::trampoline::Awaiting;
use crate::ffi::{Obj, Raised, Ref, Res, Slot, Visit, none};
use crate::name;
use crate::objects::future::{Fut, waiting};

/// Objects that a body can keep across awaits.
const LOCALS: usize = 6;

pub struct Frame {
    locals: [Slot; LOCALS],
    /// The future or iterator that the innermost await waits for.
    awaiting: Slot,
    thrown: Slot,
    yielded: Slot,
    /// What cleaning up has raised: an awaited coroutine that was closed, a socket that was given up.
    close_error: Slot,
}

impl Frame {
    pub(super) fn new<const N: usize>(locals: [&Obj; N]) -> Frame {
        const { assert!(N <= LOCALS) };
        let slot = |i: usize| locals.get(i).map_or_else(Slot::empty, |o| Slot::of(o.to_ref()));
        Frame {
            locals: std::array::from_fn(slot),
            awaiting: Slot::empty(),
            thrown: Slot::empty(),
            yielded: Slot::empty(),
            close_error: Slot::empty(),
        }
    }

    /// An object that the coroutine was started with.
    #[inline]
    pub fn local(&self, i: usize) -> Ref {
        self.locals[i].get_or_none()
    }

    pub fn set_local(&self, i: usize, value: Ref) {
        self.locals[i].put(value);
    }

    /// Await a future of ours. It is kept here and nowhere else: the collector must see every reference to it.
    ///
    /// # Errors
    /// The future's exception, or what is thrown in.
    pub async fn wait(&self, future: Ref) -> Res {
        self.awaiting.put(future);
        let _end = End(self);
        poll_fn(|_| {
            if let Some(exception) = self.thrown.take() {
                return Poll::Ready(Err(Raised::raise(exception)));
            }
            let Some(future) = self.awaiting.get() else { return gone() };
            match Fut::of(&future).map(waiting::advance) {
                Some(Ok(Awaiting::Yield(pending))) => self.suspend(pending),
                Some(Ok(Awaiting::Done(value))) => Poll::Ready(Ok(value)),
                Some(Err(raised)) => Poll::Ready(Err(raised)),
                None => gone(),
            }
        })
        .await
    }

    /// Await any awaitable of Python's.
    ///
    /// # Errors
    /// TypeError if it is none; whatever it raises.
    pub async fn wait_for(&self, awaitable: Ref) -> Res {
        self.awaiting.put(awaitable.awaitable_iter()?);
        drop(awaitable);
        let end = CloseAtEnd(self);
        let outcome = poll_fn(|_| {
            let Some(iterator) = self.awaiting.get() else { return gone() };
            let step = match self.thrown.take() {
                None => iterator.send(none()),
                Some(exception) => match iterator.getattr_opt(name!("throw")) {
                    Ok(Some(_)) => iterator.throw(name!("throw"), &exception),
                    Ok(None) => Step::Raised(Raised::raise(exception)),
                    Err(raised) => Step::Raised(raised),
                },
            };
            match step {
                Step::Yielded(yielded) => self.suspend(yielded),
                Step::Returned(value) => Poll::Ready(Ok(value)),
                Step::Raised(raised) => Poll::Ready(Err(raised)),
            }
        })
        .await;
        self.awaiting.clear();
        drop(end);
        outcome
    }

    fn suspend(&self, yielded: Ref) -> Poll<Res> {
        self.yielded.put(yielded);
        Poll::Pending
    }

    pub(super) fn throw(&self, exception: Ref) {
        self.thrown.put(exception);
    }

    pub(super) fn take_yielded(&self) -> Res {
        self.yielded.take().ok_or_else(|| Raised::runtime("a native coroutine waits for nothing"))
    }

    /// What cleaning up has raised: it comes out of the coroutine.
    pub fn put_close_error(&self, exception: Ref) {
        self.close_error.put(exception);
    }

    pub(super) fn take_close_error(&self) -> Option<Ref> {
        self.close_error.take()
    }

    pub(super) fn traverse(&self, visit: &Visit) {
        self.locals.iter().for_each(|slot| visit.slot(slot));
        for slot in [&self.awaiting, &self.thrown, &self.yielded, &self.close_error] {
            visit.slot(slot);
        }
    }

    pub(super) fn clear(&self) {
        self.locals.iter().for_each(Slot::clear);
        for slot in [&self.awaiting, &self.thrown, &self.yielded] {
            slot.clear();
        }
    }
}

/// The collector has cleared the frame of a coroutine that is resumed all the same.
fn gone() -> Poll<Res> {
    Poll::Ready(Err(Raised::runtime("what this coroutine awaited is gone")))
}

/// The await is over, one way or the other.
struct End<'a>(&'a Frame);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.awaiting.clear();
    }
}

/// Closes an awaitable that is given up in the middle, as the end of an `async def` closes what it awaits.
struct CloseAtEnd<'a>(&'a Frame);

impl Drop for CloseAtEnd<'_> {
    fn drop(&mut self) {
        let Some(iterator) = self.0.awaiting.take() else {
            return;
        };
        Raised::aside(|| {
            let closed = match iterator.getattr_opt(name!("close")) {
                Ok(Some(close)) => close.call0().map(drop),
                Ok(None) => Ok(()),
                Err(raised) => Err(raised),
            };
            if let Err(raised) = closed {
                self.0.put_close_error(raised.take());
            }
        });
    }
}
