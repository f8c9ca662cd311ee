//! `SocketTransport`: the transport of a connected stream socket.
//!
//! CPython counterpart: `asyncio.selector_events._SelectorSocketTransport`.
//!
//! | file         | one idea                                                        |
//! |--------------|-----------------------------------------------------------------|
//! | [`inbound`]  | readable: receive, call the protocol                            |
//! | [`outbound`] | write: send now, queue the rest, send it when writable          |
//! | [`gather`]   | hold what one callback writes, to send it at its end            |
//! | [`close`]    | the ways to end, and `connection_lost` exactly once             |
//! | [`sendfile`] | what `loop.sendfile` asks: no bytes queued, none written         |
//! | [`face`]     | the Python class                                                |
//!
//! What it has in common with other transports is in `io/base`, flow control in `io/flow`.
//!
//! Invariants:
//! * The Python socket object owns the descriptor; the transport closes the object, once, after the watches are gone.
//! * The reader is watched only from START on, while not paused and not closing; the writer exactly while bytes are queued.
//!   So a reset peer is watched for nothing when reading is paused, and cannot make the loop spin.
//! * What the loop holds for a transport is in no queue and not counted. Whatever could tell that it is not sent yet flushes
//!   it first (`flush_held`); nothing is held while bytes are queued, so it always comes before them.
//! * Any call of a protocol method may close, pause or abort: every step looks at the state again after it.

mod close;
mod extra;
mod face;
mod gather;
mod inbound;
mod outbound;
mod sendfile;

use std::os::fd::RawFd;

use aioxide_core::buffer::{Gathering, Outbound};
use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

pub(super) use extra::Extra;
pub use face::build;
use inbound::Inbound;

use super::address::Endpoint;
use super::base::{Base, wake};
use super::driver::Driver;
use super::flow::Flow;
use super::pieces::Piece;
use super::poll::READ_ALL;
use super::{finally, socket_object};
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{Class, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, index_value, socket_fd};
use crate::name;
use crate::objects::scheduler::{Entry, Scheduler};

/// Continuations of a transport in the ready queue, beside `poll::READ_ALL`.
const READ: u32 = Direction::Read as u32;
const WRITE: u32 = Direction::Write as u32;
const START: u32 = 2;

const IPPROTO_TCP: i64 = 6;

pub struct SocketTransport {
    base: Base,
    sock: Slot,
    fd: Cell<RawFd>,
    server: Slot,
    extra: Extra,
    /// Who waits for `connection_made` to have been called.
    waiter: Slot,
    eof_written: Cell<bool>,
    inbound: Inbound,
    queue: RefCell<Outbound<Piece>>,
    flow: Flow,
    gathering: RefCell<Gathering>,
    /// The context in which the writer was added, or what is held was written.
    write_context: Slot,
    writing: Cell<bool>,
    /// While `loop.sendfile` sends a file: the future that is done when the queue is empty.
    empty_waiter: Slot,
}

static CLASS: Class = Class::new();

impl Native for SocketTransport {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
        self.base.traverse(visit);
        self.inbound.traverse(visit);
    }

    fn clear(&self) {
        self.slots().into_iter().for_each(Slot::clear);
        self.base.clear_all();
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
        base: Base::new(event_loop, context),
        sock: Slot::of(sock.to_ref()),
        fd: Cell::new(fd),
        server: Slot::empty(),
        extra,
        waiter: waiter.map_or_else(Slot::empty, |w| Slot::of(w.to_ref())),
        eof_written: Cell::new(false),
        inbound: Inbound::default(),
        queue: RefCell::new(Outbound::new()),
        flow: Flow::new(),
        gathering: RefCell::new(Gathering::new()),
        write_context: Slot::empty(),
        writing: Cell::new(false),
        empty_waiter: Slot::empty(),
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
    fn slots(&self) -> [&Slot; 7] {
        let [dict, sock] = self.extra.slots();
        [&self.sock, &self.server, dict, sock, &self.waiter, &self.write_context, &self.empty_waiter]
    }

    /// Is it not closed, and accepted by this server, if one is given?
    pub fn is_open(&self, server: Option<&Obj>) -> bool {
        self.sock.is_some() && server.is_none_or(|server| self.server.holds(server))
    }

    pub fn is_closing(&self) -> bool {
        self.base.closing.get()
    }

    /// The descriptor that it had when the transport was made.
    pub fn number(&self) -> RawFd {
        self.fd.get()
    }

    /// The socket's descriptor as it is now: -1 if somebody has closed the socket object.
    #[inline]
    fn descriptor(&self) -> RawFd {
        match self.sock.get() {
            Some(sock) => socket_fd(&sock, self.fd.get()),
            None => -1,
        }
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
                super::report_stray(raised, self.base.event_loop.get(), self.obj(), &callback)
            }
        }
    }

    fn set_up(&self, scheduler: &Scheduler, driver: &Driver, protocol: &Obj, server: Option<&Obj>) -> Res<()> {
        self.base.protocol.set(protocol)?;
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
        self.base.schedule_made(scheduler, self.obj())?;
        self.inbound.context.put(self.base.capture_context()?);
        scheduler.push(Entry::Native(self.obj().to_ref(), START));
        Ok(())
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
            super::report_stray(raised, self.base.event_loop.get(), self.obj(), "SocketTransport._add_reader()")?;
        }
        waiter.map_or(Ok(()), |w| wake(&w))
    }
}
