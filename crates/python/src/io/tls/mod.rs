//! `TlsTransport`: TLS on top of any stream transport, with all that the user's `ssl.SSLContext` says.
//!
//! CPython counterpart: `asyncio.sslproto`: `SSLProtocol`, which the transport below has for its protocol, and
//! `_SSLProtocolTransport`, which the program has for its transport. Here both are one object. Between it and a
//! `SocketTransport` bytes go without passing through Python; with any other transport, another `TlsTransport` among them, it
//! speaks as protocols and transports do.
//!
//! | file          | one idea                                                       |
//! |---------------|----------------------------------------------------------------|
//! | [`session`]   | the cryptography, by the direct engine or by the fallback        |
//! | [`handshake`] | from `connection_made` below to `connection_made` above          |
//! | [`inbound`]   | records in, plain text to the protocol                         |
//! | [`outbound`]  | plain text in, records out; flow control both ways             |
//! | [`close`]     | the ways to end                                                |
//! | [`face`]      | the Python class                                               |
//!
//! What happens when is `core::tls::Machine`'s to say.
//!
//! Invariants:
//! * No user code runs inside of an exchange with OpenSSL but the callbacks of its context (server name, keys, messages). What
//!   they ask of this connection meanwhile is kept for afterwards.
//! * Whatever OpenSSL has written is sent, or kept until it can be, before anything else is encrypted: records go in order.
//! * Received bytes that the program does not take yet (paused, a full buffer) are kept encrypted, and what is below is
//!   paused when they are too many.

mod close;
mod face;
mod handshake;
mod inbound;
mod outbound;
pub mod session;

use aioxide_core::buffer::{Gathering, Outbound};
use aioxide_core::tls::Machine;

pub use face::build;

use super::base::Base;
use super::driver::Driver;
use super::pieces::Piece;
use super::transport::SocketTransport;
use crate::ffi::cell::{Cell, RefCell};
use crate::ffi::{Class, Inst, Native, Obj, Owned, Ref, Res, Slot, Visit, dict};
use crate::name;
use session::Session;

/// `constants.FLOW_CONTROL_HIGH_WATER_SSL_READ`: bytes kept for a program that does not read, at which what is below is paused.
const READ_HIGH: i64 = 256 * 1024;
/// `constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE`
const WRITE_HIGH: i64 = 512 * 1024;

pub struct TlsTransport {
    /// Loop and protocol of the program.
    base: Base,
    /// The transport below.
    lower: Slot,
    session: Session,
    inside: Cell<inbound::Inside>,
    /// The protocol is being given what was received.
    is_delivering: Cell<bool>,
    /// It has closed in the middle: the rest comes first.
    flush_is_due: Cell<bool>,
    machine: Cell<Machine>,
    /// Who waits for the handshake.
    waiter: Slot,
    /// Nobody does: a server has accepted it. In debug mode it is told what went wrong.
    is_accepted: Cell<bool>,
    /// What is asked for with `get_extra_info`, as far as it has been.
    extra: Slot,
    handshake: Timeout,
    shutdown: Timeout,
    /// Closed twice: nothing is asked of it any more, so it keeps nothing alive once it has ended.
    is_let_go: Cell<bool>,
    /// When the handshake began, in debug mode.
    began_s: Cell<f64>,
    /// By the program.
    reading_is_paused: Cell<bool>,
    /// Of the transport below, by us.
    lower_reading_is_paused: Cell<bool>,
    /// By the transport below.
    lower_writing_is_paused: Cell<bool>,
    writing_is_paused: Cell<bool>,
    read_limits: Cell<Limits>,
    write_limits: Cell<Limits>,
    /// Plain text that is not encrypted yet: written before the handshake's end, or while the peer has to speak first.
    backlog: RefCell<Outbound<Piece>>,
    gathering: RefCell<Gathering>,
    /// The context in which what is held was written.
    held_context: Slot,
}

/// Bytes at which the other side is paused, and resumed.
#[derive(Clone, Copy)]
struct Limits {
    low: i64,
    high: i64,
}

impl Limits {
    const fn new(high: i64) -> Limits {
        Limits { low: high / 4, high }
    }
}

/// A step that must not take longer than this.
struct Timeout {
    /// In seconds, as the program gave it.
    after: Slot,
    handle: Slot,
}

impl Timeout {
    fn new(after: &Obj) -> Timeout {
        Timeout { after: Slot::of(after.to_ref()), handle: Slot::empty() }
    }

    /// `loop.call_later(after, callback)`
    fn start(&self, event_loop: &Obj, callback: &Obj) -> Res<()> {
        self.cancel()?;
        let handle = event_loop.call_method(name!("call_later"), [&*self.after.get_or_none(), callback])?;
        self.handle.put(handle);
        Ok(())
    }

    fn cancel(&self) -> Res<()> {
        self.handle.take().map_or(Ok(()), |handle| handle.call_method(name!("cancel"), []).map(drop))
    }
}

static CLASS: Class = Class::new();

impl Native for TlsTransport {
    fn class() -> &'static Class {
        &CLASS
    }

    fn traverse(&self, visit: &Visit) {
        self.base.traverse(visit);
        self.session.traverse(visit);
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
    }

    fn clear(&self) {
        self.base.clear_all();
        self.session.clear();
        self.slots().into_iter().for_each(Slot::clear);
    }
}

/// The Python class.
pub fn class() -> Ref {
    CLASS.type_object().to_ref()
}

/// What is asked of a connection that is to be.
pub struct Wanted<'a> {
    pub protocol: &'a Obj,
    pub context: &'a Obj,
    /// A future; None: nobody waits.
    pub waiter: Option<&'a Obj>,
    pub server_side: &'a Obj,
    pub server_hostname: &'a Obj,
    /// The protocol gets `connection_made` after the handshake.
    pub tells_made: bool,
    /// In seconds.
    pub handshake_timeout: &'a Obj,
    pub shutdown_timeout: &'a Obj,
}

/// Same as `SSLProtocol(loop, ...)`: the protocol for a transport below, and the transport for the program's protocol.
///
/// # Errors
/// What `wrap_bio` raises for the host name or the context.
pub fn make(event_loop: &Obj, wanted: &Wanted<'_>) -> Res<Owned<TlsTransport>> {
    let session = Session::new(wanted.context, wanted.server_side, wanted.server_hostname)?;
    let extra = dict()?;
    extra.set_item(name!("sslcontext"), wanted.context)?;
    let me = Owned::new(TlsTransport {
        base: Base::new(event_loop, None),
        lower: Slot::empty(),
        session,
        inside: Cell::new(inbound::Inside::Nothing),
        is_delivering: Cell::new(false),
        flush_is_due: Cell::new(false),
        machine: Cell::new(Machine::new(wanted.tells_made)),
        waiter: wanted.waiter.map_or_else(Slot::empty, |w| Slot::of(w.to_ref())),
        is_accepted: Cell::new(false),
        extra: Slot::of(extra),
        handshake: Timeout::new(wanted.handshake_timeout),
        shutdown: Timeout::new(wanted.shutdown_timeout),
        is_let_go: Cell::new(false),
        began_s: Cell::new(0.0),
        reading_is_paused: Cell::new(false),
        lower_reading_is_paused: Cell::new(false),
        lower_writing_is_paused: Cell::new(false),
        writing_is_paused: Cell::new(false),
        read_limits: Cell::new(Limits::new(READ_HIGH)),
        write_limits: Cell::new(Limits::new(WRITE_HIGH)),
        backlog: RefCell::new(Outbound::new()),
        gathering: RefCell::new(Gathering::new()),
        held_context: Slot::empty(),
    })?;
    me.base.protocol.set(wanted.protocol)?;
    Ok(me)
}

impl TlsTransport {
    fn slots(&self) -> [&Slot; 8] {
        let Self { lower, waiter, extra, handshake, shutdown, held_context, .. } = self;
        [lower, waiter, extra, held_context, &handshake.after, &handshake.handle, &shutdown.after, &shutdown.handle]
    }

    /// Nobody waits for the handshake: a server has accepted the connection.
    pub fn set_accepted(&self) {
        self.is_accepted.set(true);
    }

    fn step<R>(&self, verb: impl FnOnce(&mut Machine) -> R) -> R {
        let mut machine = self.machine.get();
        let answer = verb(&mut machine);
        self.machine.set(machine);
        answer
    }
}

impl Inst<TlsTransport> {
    /// Run `f` with a buffer for records to be sent, empty, which is the loop's. Whoever is called from inside gets another one.
    fn with_output<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let event_loop = self.base.event_loop.get();
        let Some(driver) = event_loop.as_deref().and_then(Driver::of) else {
            return f(&mut Vec::new());
        };
        driver.records.with_output(f)
    }

    /// The transport below as a socket's, if it is one.
    fn with_socket<R>(&self, f: impl FnOnce(&Inst<SocketTransport>) -> R) -> Option<R> {
        let lower = self.lower.get()?;
        lower.downcast_exact::<SocketTransport>().map(f)
    }
}
