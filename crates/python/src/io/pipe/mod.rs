//! Transports of pipes: `ReadPipeTransport` and `WritePipeTransport`.
//!
//! CPython counterpart: `asyncio.unix_events._UnixReadPipeTransport` and `_UnixWritePipeTransport`.
//!
//! | file         | one idea                                                        |
//! |--------------|-----------------------------------------------------------------|
//! | this         | what both are made of: the file object, its extra info, its end |
//! | [`read`]     | readable: receive, call the protocol; the end of the stream     |
//! | [`write`]    | write: now, or queue the rest; the reader who hangs up          |
//! | [`blocking`] | system calls on a descriptor that somebody has made blocking    |
//! | [`face`]     | the Python classes                                              |
//!
//! Invariants:
//! * The Python file object owns the descriptor; the transport closes the object, once, after the watches are gone. The
//!   number is taken once, as asyncio does: who closes the object behind the transport's back gets EBADF.
//! * `connection_lost` is asked for once (`ends`), whatever ways to the end are taken. (asyncio asks again, which then fails.)
//! * Any call of user code may close, pause or abort: every step looks at the state again after it.

mod blocking;
mod face;
mod read;
mod write;

use crate::ffi::cell::Cell;
use std::os::fd::RawFd;

use aioxide_core::sys::file::{self, Kind};

pub use face::build;
pub use read::{ReadPipeTransport, make as make_read};
pub use write::{WritePipeTransport, make as make_write};

use super::base::{Base, wake};
use super::finally;
use super::watch::Watch;
use crate::ffi::{Class, Obj, Raised, Ref, Res, Slot, Visit, dict, exc, index_value, str_of, warn};
use crate::name;
use crate::objects::scheduler::{Entry, Scheduler};

/// The continuation of a transport that starts it, beside those of `Direction` and `poll::READ_ALL`.
const START: u32 = 2;

static READ_CLASS: Class = Class::new();
static WRITE_CLASS: Class = Class::new();

/// The Python classes: for reading, for writing.
pub fn classes() -> [Ref; 2] {
    [READ_CLASS.type_object().to_ref(), WRITE_CLASS.type_object().to_ref()]
}

/// What a pipe transport is made of besides its direction.
struct Pipe {
    base: Base,
    /// The Python file object; empty once closed.
    object: Slot,
    fd: Cell<RawFd>,
    /// The dict of `get_extra_info`.
    extra: Slot,
    /// Who waits for `connection_made` to have been called.
    waiter: Slot,
    /// `connection_lost` is on its way, or has been called.
    ends: Cell<bool>,
}

/// A transport of a pipe.
trait OfPipe {
    fn pipe(&self) -> &Pipe;
    /// No watch any more.
    fn stop(&self, me: &Obj) -> Res<()>;
}

impl Pipe {
    /// `extra` is filled in, the caller's own dict as in asyncio.
    fn new(event_loop: &Obj, object: &Obj, waiter: Option<&Obj>, extra: Option<&Obj>) -> Res<Pipe> {
        let extra = extra.map_or_else(dict, |given| Ok(given.to_ref()))?;
        extra.set_item(name!("pipe"), object)?;
        let number = index_value(&*object.call_method(name!("fileno"), [])?)?;
        let fd = RawFd::try_from(number)
            .map_err(|_| Raised::new(exc::overflow_error(), "signed integer is greater than maximum"))?;
        Ok(Pipe {
            base: Base::new(event_loop, None),
            object: Slot::of(object.to_ref()),
            fd: Cell::new(fd),
            extra: Slot::of(extra),
            waiter: waiter.map_or_else(Slot::empty, |w| Slot::of(w.to_ref())),
            ends: Cell::new(false),
        })
    }

    fn traverse(&self, visit: &Visit) {
        [&self.object, &self.extra, &self.waiter].into_iter().for_each(|slot| visit.slot(slot));
        self.base.traverse(visit);
    }

    fn clear(&self) {
        [&self.object, &self.extra, &self.waiter].into_iter().for_each(Slot::clear);
        self.base.clear_all();
    }

    /// Look at what it is, and make it non-blocking.
    ///
    /// # Errors
    /// ValueError with `refusal` for what cannot be waited for; then the file stays open and the caller's. After an OSError it is
    /// the transport's, which closes it when it is dropped, with its ResourceWarning, as in asyncio.
    fn open(&self, refusal: &str) -> Res<Kind> {
        let kind = file::kind(self.fd.get()).map_err(|e| Raised::os(&e))?;
        if kind == Kind::Other {
            self.object.clear();
            return Err(Raised::value_error(refusal));
        }
        file::set_nonblocking(self.fd.get()).map_err(|e| Raised::os(&e))?;
        Ok(kind)
    }

    /// `connection_made`, then START, which watches and wakes the waiter: adjacent in the queue, so nothing comes between.
    fn schedule_start(&self, me: &Obj) -> Res<()> {
        let event_loop = self.base.event_loop()?;
        let Some(scheduler) = Scheduler::of(&event_loop) else {
            return Err(Raised::type_error("the loop is not an aioxide loop"));
        };
        self.base.schedule_made(scheduler, me)?;
        scheduler.push(Entry::Native(me.to_ref(), START));
        Ok(())
    }

    /// START: `reader` is watched if that is still wanted. The waiter is woken all the same, as asyncio's is.
    fn on_start(&self, me: &Obj, reader: &Watch, is_wanted: impl Fn() -> bool) -> Res<()> {
        let waiter = self.waiter.take();
        let watched = reader.start_deferred(&self.base, self.fd.get(), me, is_wanted);
        finally(watched, || waiter.map_or(Ok(()), |w| wake(&w)))
    }

    fn start(&self, watch: &Watch, me: &Obj) -> Res<()> {
        watch.start(&self.base, self.fd.get(), me)
    }

    fn stop(&self, watch: &Watch, me: &Obj) -> Res<()> {
        watch.stop(&self.base, self.fd.get(), me)
    }

    /// Have `connection_lost` called, if it is not on its way already.
    fn schedule_loss(&self, me: &Obj, exception: &Obj) -> Res<()> {
        if self.ends.replace(true) {
            return Ok(());
        }
        self.base.schedule_loss(me, exception)
    }
}

/// Same as `_call_connection_lost`: the protocol's last call, then everything is let go.
///
/// # Errors
/// What `connection_lost` or the file's `close` raised, after the rest is done all the same.
fn lose_connection(this: &impl OfPipe, me: &Obj, exception: &Obj) -> Res<()> {
    let pipe = this.pipe();
    if !pipe.object.is_some() {
        return Ok(());
    }
    pipe.ends.set(true);
    let told = pipe.base.protocol.connection_lost(exception);
    // What it wrote elsewhere goes out before the end of this connection does.
    finally(finally(told, || pipe.base.flush_held()), || release(this, me))
}

/// Close the file and let go of protocol and loop. The watches go first: epoll cannot be told of a descriptor that is closed.
fn release(this: &impl OfPipe, me: &Obj) -> Res<()> {
    let pipe = this.pipe();
    let object = pipe.object.take();
    if let Err(raised) = this.stop(me) {
        raised.forget();
    }
    pipe.base.clear();
    object.map_or(Ok(()), |object| object.call_method(name!("close"), []).map(drop))
}

/// `__del__`: nobody can close it any more.
fn finalize(this: &impl OfPipe, me: &Obj) {
    if !this.pipe().object.is_some() {
        return;
    }
    let warned = me
        .repr()
        .and_then(|text| str_of(&text))
        .and_then(|text| warn(exc::resource_warning(), &format!("unclosed transport {text}"), Some(me)));
    if let Err(raised) = warned {
        raised.unraisable(me);
    }
    if let Err(raised) = release(this, me) {
        raised.unraisable(me);
    }
}
