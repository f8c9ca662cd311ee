//! `DatagramTransport`: the transport of a datagram socket (UDP, Unix datagrams, and whatever else keeps messages apart).
//!
//! CPython counterpart: `asyncio.selector_events._SelectorDatagramTransport`.
//!
//! | file         | one idea                                                      |
//! |--------------|---------------------------------------------------------------|
//! | [`inbound`]  | readable: receive one, call the protocol                      |
//! | [`outbound`] | send now, or queue what the kernel has no room for            |
//! | [`close`]    | the ways to end, and `connection_lost` exactly once           |
//! | [`face`]     | the Python class                                              |
//!
//! Invariants:
//! * The Python socket object owns the descriptor; the transport closes the object, once, after the watches are gone.
//! * The reader is watched from START on, while not paused and not closing; the writer from the first datagram that found
//!   no room until a writable socket finds none queued.
//! * An OSError of one datagram ends nothing: the protocol is told by `error_received`. What the protocol raises there or
//!   in `datagram_received` goes to the exception handler, and the transport lives on.
//! * Any call of a protocol method may close, pause or abort, any call of a socket's own method too: every step looks at
//!   the state again after it.

mod close;
mod face;
mod inbound;
mod outbound;

use crate::ffi::cell::{Cell, RefCell};
use std::os::fd::RawFd;

use aioxide_core::net::Address;
use aioxide_core::reactor::Direction;

pub use face::build;
use inbound::Lookahead;
use outbound::Queue;

use super::base::{Base, wake};
use super::driver::Driver;
use super::flow::Flow;
use super::transport::Extra;
use super::watch::Watch;
use super::{address, finally, socket_object};
use crate::ffi::{Class, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, index_value, none, socket_fd};
use crate::name;
use crate::objects::scheduler::{Entry, Scheduler};

/// Continuations of a transport in the ready queue.
const READ: u32 = Direction::Read as u32;
const WRITE: u32 = Direction::Write as u32;
const START: u32 = 2;
/// There may be more than the one that was reported, see [`inbound`].
const READ_MORE: u32 = 3;

pub struct DatagramTransport {
    base: Base,
    sock: Slot,
    fd: Cell<RawFd>,
    extra: Extra,
    /// Who waits for `connection_made` to have been called.
    waiter: Slot,
    /// The only destination (`remote_addr`), if there is one.
    address: Slot,
    /// The socket has a peer: `send` needs no address.
    is_connected: bool,
    /// The system is called directly; else the socket's own methods are: of a subclass, of a mock, of a family of which the
    /// core knows nothing.
    is_plain: bool,
    family: i64,
    /// The last sender, as the protocol got it: who answers passes the same tuple.
    sender: Slot,
    sender_address: RefCell<Option<Address>>,
    paused: Cell<bool>,
    /// `connection_made` has been called, and what follows it.
    started: Cell<bool>,
    reader: Watch,
    lookahead: Lookahead,
    queue: RefCell<Queue>,
    flow: Flow,
    writer: Watch,
}

static CLASS: Class = Class::new();

impl Native for DatagramTransport {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.base.traverse(visit);
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
        self.reader.traverse(visit);
        self.writer.traverse(visit);
        // A borrow in progress means that the collector runs inside a change: nothing can be garbage right now.
        if let Ok(queue) = self.queue.try_borrow() {
            queue.traverse(visit);
        }
    }

    fn clear(&self) {
        self.base.clear_all();
        self.slots().into_iter().for_each(Slot::clear);
        self.reader.clear();
        self.writer.clear();
        self.discard();
    }
}

/// The Python class.
pub fn class() -> Ref {
    CLASS.type_object().to_ref()
}

/// Same as `_SelectorDatagramTransport(loop, sock, protocol, address, waiter, extra)`: `connection_made` is called in the next
/// turn, then reading starts, then `waiter` gets its result.
///
/// # Errors
/// RuntimeError if the socket already has a transport (3.12+), or the loop is closed; what the socket raises. Then the
/// socket is still the caller's.
pub fn make(
    event_loop: &Obj,
    sock: &Obj,
    protocol: &Obj,
    address: Option<&Obj>,
    waiter: Option<&Obj>,
    extra: Option<&Obj>,
) -> Res<Owned<DatagramTransport>> {
    let (Some(driver), Some(scheduler)) = (Driver::of(event_loop), Scheduler::of(event_loop)) else {
        return Err(Raised::type_error("the loop is not an aioxide loop"));
    };
    let is_plain = socket_object::is_plain(sock);
    let fd = match is_plain {
        true => socket_fd(sock, -1),
        false => index_value(&*sock.call_method(name!("fileno"), [])?)? as RawFd,
    };
    if cfg!(Py_3_12) {
        driver.transports.ensure_free(fd, sock)?;
    }
    let extra = Extra::of_socket(event_loop, sock, fd, extra)?;
    let is_connected = extra.get(Some(event_loop), name!("peername"), none())?.is_true()?;
    let family = if is_plain { socket_object::family(sock)? } else { 0 };
    let address = match address {
        Some(address) if address.is_true()? => Slot::of(address.to_ref()),
        _ => Slot::empty(),
    };
    let me = Owned::new(DatagramTransport {
        base: Base::new(event_loop, None),
        sock: Slot::of(sock.to_ref()),
        fd: Cell::new(fd),
        extra,
        waiter: waiter.map_or_else(Slot::empty, |w| Slot::of(w.to_ref())),
        address,
        is_connected,
        is_plain: is_plain && address::is_known_family(family),
        family,
        sender: Slot::empty(),
        sender_address: RefCell::new(None),
        paused: Cell::new(false),
        started: Cell::new(false),
        reader: Watch::new(Direction::Read),
        lookahead: Lookahead::default(),
        queue: RefCell::new(Queue::default()),
        flow: Flow::new(),
        writer: Watch::new(Direction::Write),
    })?;
    match me.set_up(scheduler, driver, protocol) {
        Ok(()) => Ok(me),
        Err(raised) => finally(Err(raised), || me.disown(driver)).map(|()| me),
    }
}

impl DatagramTransport {
    fn slots(&self) -> [&Slot; 6] {
        let [dict, extra_sock] = self.extra.slots();
        let Self { sock, waiter, address, sender, .. } = self;
        [dict, extra_sock, sock, waiter, address, sender]
    }

    /// Is it not closed?
    pub fn is_open(&self) -> bool {
        self.sock.is_some()
    }

    pub fn is_closing(&self) -> bool {
        self.base.closing.get()
    }

    /// The socket's descriptor as it is now: -1 if somebody has closed the socket object.
    #[inline]
    fn descriptor(&self) -> RawFd {
        self.sock.get().map_or(-1, |sock| socket_fd(&sock, self.fd.get()))
    }
}

impl Inst<DatagramTransport> {
    /// Run one continuation.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    #[inline]
    pub fn run(&self, what: u32) -> Res<()> {
        match what {
            READ => self.on_readable(),
            READ_MORE => self.on_turn(),
            WRITE => self.writer.run(&self.base, self.obj(), name!("_sendto_ready"), || self.send_queued()),
            START => self.on_start(),
            _ => Ok(()),
        }
    }

    /// The watch on whose behalf a continuation runs.
    pub fn watch_of(&self, what: u32) -> &Watch {
        if what == WRITE { &self.writer } else { &self.reader }
    }

    fn set_up(&self, scheduler: &Scheduler, driver: &Driver, protocol: &Obj) -> Res<()> {
        self.base.protocol.set_object(protocol);
        driver.transports.insert(self.fd.get(), self.obj())?;
        // `connection_made`, then reading, then the waiter: adjacent in the queue, so nothing comes between.
        self.base.schedule_made(scheduler, self.obj())?;
        self.reader.prepare(&self.base)?;
        scheduler.push(Entry::Native(self.obj().to_ref(), START));
        Ok(())
    }

    fn on_start(&self) -> Res<()> {
        let waiter = self.waiter.take();
        self.started.set(true);
        let watched = self.reader.start_deferred(&self.base, self.fd.get(), self.obj(), || self.is_reading());
        finally(watched, || waiter.map_or(Ok(()), |w| wake(&w)))
    }
}
