//! `SocketTransport`: the transport of a connected stream socket.
//!
//! CPython counterpart: `asyncio.selector_events._SelectorSocketTransport`.
//!
//! | file         | one idea                                                        |
//! |--------------|-----------------------------------------------------------------|
//! | [`inbound`]  | readable: receive, call the protocol                            |
//! | [`outbound`] | write: send now, queue the rest, send it when writable          |
//! | [`gather`]   | hold what one callback writes, to send it at its end            |
//! | [`flow`]     | when the protocol is told to pause writing                      |
//! | [`close`]    | the ways to end, and `connection_lost` exactly once             |
//! | [`face`]     | the Python class                                                |
//!
//! Invariants:
//! * The Python socket object owns the descriptor; the transport closes the object, once, after the watches are gone.
//! * The reader is watched only from START on, while not paused and not closing; the writer exactly while bytes are queued.
//!   So a reset peer is watched for nothing when reading is paused, and cannot make the loop spin.
//! * What the loop holds for a transport is in no queue and not counted. Whatever could tell that it is not sent yet flushes
//!   it first (`flush_held`); nothing is held while bytes are queued, so it always comes before them.
//! * Any call of a protocol method may close, pause or abort: every step looks at the state again after it.
//! * `conn_lost` counts: 0 while connected; then each write in vain adds one (asyncio warns from the fifth).

mod close;
mod extra;
mod face;
mod flow;
mod gather;
mod inbound;
mod outbound;

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;

use aioxide_core::buffer::{Gathering, Outbound, Watermarks};
use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

use extra::Extra;
pub use face::build;
use inbound::Inbound;
use outbound::Piece;
pub(super) use outbound::sent;

use super::address::Endpoint;
use super::driver::Driver;
use super::poll::READ_ALL;
use super::protocol::Protocol;
use super::{finally, socket_object};
use crate::ffi::{
    Class, Context, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, index_value, none, socket_fd,
};
use crate::objects::future::{Fut, State};
use crate::objects::handle::{self, Handle};
use crate::objects::scheduler::{Entry, Scheduler};
use crate::{kwnames, name};

/// Continuations of a transport in the ready queue, beside `poll::READ_ALL`.
const READ: u32 = Direction::Read as u32;
const WRITE: u32 = Direction::Write as u32;
const START: u32 = 2;

const IPPROTO_TCP: i64 = 6;

pub struct SocketTransport {
    event_loop: Slot,
    sock: Slot,
    fd: Cell<RawFd>,
    server: Slot,
    extra: Extra,
    /// What all its callbacks run in (3.15+); none: in a copy of the context in which each is asked for.
    context: Slot,
    protocol: Protocol,
    /// Who waits for `connection_made` to have been called.
    waiter: Slot,
    closing: Cell<bool>,
    conn_lost: Cell<usize>,
    eof_written: Cell<bool>,
    inbound: Inbound,
    queue: RefCell<Outbound<Piece>>,
    limits: RefCell<Watermarks>,
    gathering: RefCell<Gathering>,
    /// The context in which the writer was added, or what is held was written.
    write_context: Slot,
    writing: Cell<bool>,
}

static CLASS: Class = Class::new();

impl Native for SocketTransport {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
        self.protocol.traverse(visit);
        self.inbound.traverse(visit);
    }

    fn clear(&self) {
        self.slots().into_iter().for_each(Slot::clear);
        self.protocol.clear();
        self.inbound.clear();
    }
}

/// The Python class.
pub fn class() -> Ref {
    CLASS.type_object().to_ref()
}

/// What the maker of a transport knows of its socket.
pub enum Known<'a> {
    /// A dict for `get_extra_info`, or nothing.
    Dict(Option<&'a Obj>),
    /// The other end.
    Peer(Endpoint),
}

/// Same as `_SelectorSocketTransport(loop, sock, protocol, waiter, extra, server, context)`: `connection_made` is called in the next
/// turn, then reading starts, then `waiter` gets its result.
///
/// # Errors
/// RuntimeError if the socket already has a transport (3.12+), or the loop is closed; what the socket and the server raise.
/// Then the socket is still the caller's.
pub fn make(
    event_loop: &Obj,
    sock: &Obj,
    protocol: &Obj,
    waiter: Option<&Obj>,
    extra: Known<'_>,
    server: Option<&Obj>,
    context: Option<&Obj>,
) -> Res<Owned<SocketTransport>> {
    let (Some(driver), Some(scheduler)) = (Driver::of(event_loop), Scheduler::of(event_loop)) else {
        return Err(Raised::type_error("the loop is not an aioxide loop"));
    };
    let fd = match socket_object::is_plain(sock) {
        true => socket_fd(sock, -1),
        false => index_value(&*sock.call_method(name!("fileno"), [])?)? as RawFd,
    };
    if cfg!(Py_3_12) {
        driver.transports.ensure_free(fd, sock)?;
    }
    let extra = match extra {
        Known::Dict(given) => Extra::of_socket(event_loop, sock, fd, given)?,
        Known::Peer(peer) => Extra::of_accepted(event_loop, sock, fd, peer)?,
    };
    let me = Owned::new(SocketTransport {
        event_loop: Slot::of(event_loop.to_ref()),
        sock: Slot::of(sock.to_ref()),
        fd: Cell::new(fd),
        server: Slot::empty(),
        extra,
        context: context.map_or_else(Slot::empty, |c| Slot::of(c.to_ref())),
        protocol: Protocol::default(),
        waiter: waiter.map_or_else(Slot::empty, |w| Slot::of(w.to_ref())),
        closing: Cell::new(false),
        conn_lost: Cell::new(0),
        eof_written: Cell::new(false),
        inbound: Inbound::default(),
        queue: RefCell::new(Outbound::new()),
        limits: RefCell::new(Watermarks::new()),
        gathering: RefCell::new(Gathering::new()),
        write_context: Slot::empty(),
        writing: Cell::new(false),
    })?;
    match me.set_up(scheduler, driver, protocol, server) {
        Ok(()) => Ok(me),
        Err(raised) => finally(Err(raised), || me.disown(driver)).map(|()| me),
    }
}

/// What asyncio calls a continuation, for reports.
#[cold]
pub fn callback_name(what: u32) -> &'static str {
    match what {
        READ | READ_ALL => "_read_ready",
        WRITE => "_write_ready",
        _ => "_add_reader",
    }
}

/// Same as `base_events._set_nodelay`: only for a socket that says it is TCP.
fn set_nodelay(sock: &Obj, fd: RawFd) -> Res<()> {
    let protocol = sock.getattr(name!("proto"))?;
    if !protocol.is_long() || index_value(&protocol)? != IPPROTO_TCP {
        return Ok(());
    }
    socket::set_nodelay(fd).map_err(|e| Raised::os(&e))
}

impl SocketTransport {
    fn slots(&self) -> [&Slot; 8] {
        let [dict, sock] = self.extra.slots();
        [&self.event_loop, &self.sock, &self.server, dict, sock, &self.context, &self.waiter, &self.write_context]
    }

    /// The context of a callback that is asked for now.
    fn capture_context(&self) -> Res {
        self.context.get().map_or_else(Context::copy_current, Ok)
    }

    /// Is it not closed, and accepted by this server, if one is given?
    pub fn is_open(&self, server: Option<&Obj>) -> bool {
        self.sock.is_some() && server.is_none_or(|server| self.server.holds(server))
    }

    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// The socket's descriptor as it is now: -1 if somebody has closed the socket object.
    #[inline]
    fn descriptor(&self) -> RawFd {
        match self.sock.get() {
            Some(sock) => socket_fd(&sock, self.fd.get()),
            None => -1,
        }
    }

    /// The loop.
    ///
    /// # Errors
    /// RuntimeError after `connection_lost`, when the transport has let it go.
    fn event_loop(&self) -> Res {
        match self.event_loop.get() {
            Some(event_loop) => Ok(event_loop),
            None => Err(Raised::runtime("the transport is closed")),
        }
    }

    fn is_debug(&self) -> bool {
        self.event_loop.get().is_some_and(|l| Scheduler::of(&l).is_some_and(|s| s.debug.get()))
    }
}

impl Inst<SocketTransport> {
    /// Run one continuation.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub fn run(&self, what: u32) -> Res<()> {
        let outcome = match what {
            READ => self.on_readable(false),
            READ_ALL => self.on_readable(true),
            WRITE => self.on_writable(),
            START => self.on_start(),
            _ => return Ok(()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(raised) => {
                let callback = format!("SocketTransport.{}()", callback_name(what));
                super::report_stray(raised, self.event_loop.get(), self.obj(), &callback)
            }
        }
    }

    fn set_up(&self, scheduler: &Scheduler, driver: &Driver, protocol: &Obj, server: Option<&Obj>) -> Res<()> {
        self.protocol.set(protocol)?;
        if let Some(server) = server {
            server.call_method(name!("_attach"), [self.obj()])?;
            self.server.put(server.to_ref());
        }
        driver.transports.insert(self.fd.get(), self.obj())?;
        self.inbound.reports_once.set(socket::is_tcp(self.fd.get()).unwrap_or(false));
        if let Some(sock) = self.sock.get() {
            set_nodelay(&sock, self.fd.get())?;
        }
        self.schedule_start(scheduler)
    }

    /// `connection_made`, then reading, then the waiter: adjacent in the queue, so nothing comes between.
    fn schedule_start(&self, scheduler: &Scheduler) -> Res<()> {
        let connection_made = self.protocol.object().getattr(name!("connection_made"))?;
        self.call_soon(scheduler, &connection_made, self.obj())?;
        self.inbound.context.put(self.capture_context()?);
        scheduler.push(Entry::Native(self.obj().to_ref(), START));
        Ok(())
    }

    /// `loop.call_soon(callback, argument)`, by way of Python only if somebody has overridden it.
    fn call_soon(&self, scheduler: &Scheduler, callback: &Obj, argument: &Obj) -> Res<()> {
        let event_loop = self.event_loop()?;
        let context = self.context.get();
        if !scheduler.direct.get() {
            let call_soon = event_loop.getattr(name!("call_soon"))?;
            return match context {
                Some(context) => call_soon.call_kw(&[callback, argument, &*context], kwnames!("context")).map(drop),
                None => call_soon.call([callback, argument]).map(drop),
            };
        }
        scheduler.check_submit()?;
        handle::queue(scheduler, &Handle::new(callback, &[argument], &event_loop, context.as_deref())?)
    }

    fn on_start(&self) -> Res<()> {
        let waiter = self.waiter.take();
        self.inbound.started.set(true);
        let context = self.inbound.context.get();
        let started = match context {
            Some(context) => self.start_reading(context),
            None => Ok(()),
        };
        if let Err(raised) = started {
            super::report_stray(raised, self.event_loop.get(), self.obj(), "SocketTransport._add_reader()")?;
        }
        waiter.map_or(Ok(()), |w| wake(&w))
    }
}

/// Same as `futures._set_result_unless_cancelled(waiter, None)`.
fn wake(waiter: &Obj) -> Res<()> {
    match Fut::of(waiter) {
        Some(future) if future.core.state.get() == State::Cancelled => Ok(()),
        Some(future) => future.set_result(none().to_ref()),
        None if waiter.call_method(name!("cancelled"), [])?.is_true()? => Ok(()),
        None => waiter.call_method(name!("set_result"), [none()]).map(drop),
    }
}
