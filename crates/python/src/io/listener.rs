//! A listening socket of a server: accepts, makes protocols and transports.
//!
//! CPython counterpart: `BaseSelectorEventLoop._start_serving`, `_accept_connection`, `_accept_connection2`.
//!
//! asyncio makes a task for each connection, because a TLS handshake may follow. Here nothing is waited for: the factory is
//! called and the transport made at once, in a context of its own as the task would have it; a handshake that fails is the
//! transport's matter.
//!
//! Invariants: a descriptor accepted is owned by an `OwnedFd` until a Python socket object has taken it, and by that until
//! a transport has; if either step fails it is closed.

use std::io::{self, ErrorKind};
use std::os::fd::{OwnedFd, RawFd};

use aioxide_core::net::Address;
use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

use super::address::Endpoint;
use super::driver::Driver;
use super::tls::TlsTransport;
use super::transport::Known;
use super::{address, socket_object, transport};
use crate::ffi::trampoline::Definition;
use crate::ffi::{
    Class, ClassBuilder, Context, Inst, Native, Obj, Owned, Raised, Ref, Res, Slot, Visit, index_value, none,
    socket_fd, string, true_,
};
use crate::objects::names::imports;
use crate::objects::report::Report;
use crate::objects::scheduler::Scheduler;
use crate::{definition_noargs, kwnames, name};

pub struct Listener {
    event_loop: Slot,
    protocol_factory: Slot,
    sock: Slot,
    fd: RawFd,
    server: Slot,
    backlog: usize,
    /// Copied where asyncio would make the reader's Handle.
    context: Slot,
    /// Connections begin with a handshake.
    tls: Option<Tls>,
    /// Each connection runs in a copy of it (3.15+).
    connection_context: Slot,
    /// What a socket accepted here is made of: family, type, protocol.
    kind: [i64; 3],
}

/// What `create_server` was told of TLS.
pub struct Tls {
    sslcontext: Slot,
    /// In seconds.
    handshake_timeout: Slot,
    shutdown_timeout: Slot,
}

impl Tls {
    pub fn new(sslcontext: &Obj, handshake_timeout: &Obj, shutdown_timeout: &Obj) -> Tls {
        let of = |o: &Obj| Slot::of(o.to_ref());
        Tls {
            sslcontext: of(sslcontext),
            handshake_timeout: of(handshake_timeout),
            shutdown_timeout: of(shutdown_timeout),
        }
    }

    fn slots(&self) -> [&Slot; 3] {
        [&self.sslcontext, &self.handshake_timeout, &self.shutdown_timeout]
    }

    /// A transport for an accepted socket; nobody waits for its handshake.
    fn make(&self, event_loop: &Obj, sock: &Obj, protocol: &Obj, server: &Obj, context: Option<&Obj>) -> Res<()> {
        let sslcontext = self.sslcontext.get_or_none();
        let [handshake, shutdown] = [&self.handshake_timeout, &self.shutdown_timeout].map(Slot::get_or_none);
        let make = event_loop.getattr(name!("_make_ssl_transport"))?;
        let arguments =
            [sock, protocol, &sslcontext, none(), true_(), server, &handshake, &shutdown, context.unwrap_or(none())];
        let names = kwnames!("server_side", "server", "ssl_handshake_timeout", "ssl_shutdown_timeout", "context");
        let transport = make.call_kw(&arguments, names)?;
        if let Some(tls) = transport.downcast_exact::<TlsTransport>() {
            tls.set_accepted();
        }
        Ok(())
    }
}

static LISTENER: Class = Class::new();

/// What the retry timer calls, bound to the listener.
static RESUME: Definition = definition_noargs!(c"_start_serving", resume);

impl Native for Listener {
    fn class() -> &'static Class {
        &LISTENER
    }

    fn traverse(&self, visit: &Visit) {
        self.slots().into_iter().for_each(|slot| visit.slot(slot));
        self.tls.iter().flat_map(Tls::slots).for_each(|slot| visit.slot(slot));
    }

    fn clear(&self) {
        self.slots().into_iter().for_each(Slot::clear);
        self.tls.iter().flat_map(Tls::slots).for_each(Slot::clear);
    }
}

/// Same as `_start_serving`: accept on `sock` from now on.
///
/// # Errors
/// OSError as epoll has it, ValueError for a closed socket, RuntimeError if the loop is closed.
pub fn start_serving(
    event_loop: &Obj,
    protocol_factory: &Obj,
    sock: &Obj,
    server: Option<&Obj>,
    backlog: usize,
    tls: Option<Tls>,
    context: Option<&Obj>,
) -> Res<()> {
    let listener = Owned::new(Listener {
        event_loop: Slot::of(event_loop.to_ref()),
        protocol_factory: Slot::of(protocol_factory.to_ref()),
        sock: Slot::of(sock.to_ref()),
        fd: super::driver::descriptor(sock)?,
        server: server.map_or_else(Slot::empty, |s| Slot::of(s.to_ref())),
        backlog,
        tls,
        context: Slot::of(Context::copy_current()?),
        connection_context: context.map_or_else(Slot::empty, |c| Slot::of(c.to_ref())),
        kind: socket_object::kind(sock)?,
    })?;
    listener.watch(event_loop)
}

/// Same as `BaseSelectorEventLoop._stop_serving`: stop accepting and close the socket.
pub fn stop_listening(event_loop: &Obj, sock: &Obj) -> Res<()> {
    let fd = index_value(&*sock.call_method(name!("fileno"), [])?)?;
    if let (Some(driver), Ok(fd)) = (Driver::of(event_loop), RawFd::try_from(fd)) {
        driver.clear_callback(fd, Direction::Read)?;
    }
    sock.call_method(name!("close"), []).map(drop)
}

fn resume(me: &Obj) -> Res {
    if let Some(listener) = me.downcast::<Listener>() {
        let open = listener.descriptor() == listener.fd;
        if let (true, Some(event_loop)) = (open, listener.event_loop.get()) {
            listener.watch(&event_loop)?;
        }
    }
    Ok(none().to_ref())
}

impl Listener {
    fn slots(&self) -> [&Slot; 6] {
        [&self.event_loop, &self.protocol_factory, &self.sock, &self.server, &self.context, &self.connection_context]
    }

    /// The socket's descriptor as it is now, -1 if it is closed.
    fn descriptor(&self) -> RawFd {
        self.sock.get().map_or(-1, |sock| socket_fd(&sock, self.fd))
    }
}

impl Inst<Listener> {
    /// The server, if `create_server` has started it.
    pub fn server(&self) -> Option<Ref> {
        self.server.get()
    }

    fn watch(&self, event_loop: &Obj) -> Res<()> {
        match Driver::of(event_loop) {
            Some(driver) => driver.watch(self.fd, Direction::Read, self.obj()),
            None => Err(Raised::type_error("the loop is not an aioxide loop")),
        }
    }

    /// There are connections to accept.
    ///
    /// # Errors
    /// Only SystemExit and KeyboardInterrupt.
    pub fn run(&self) -> Res<()> {
        let (Some(event_loop), Some(context)) = (self.event_loop.get(), self.context.get()) else {
            return Ok(());
        };
        // The entry may be stale: stopped by another entry of the same turn.
        let is_ours = Driver::of(&event_loop).is_some_and(|d| d.is_watched_by(self.fd, Direction::Read, self.obj()));
        if !is_ours {
            return Ok(());
        }
        match Context::run(&context, || self.accept_all(&event_loop)) {
            Ok(()) => Ok(()),
            Err(raised) => super::report_stray(raised, Some(event_loop), self.obj(), "Listener._accept_connection()"),
        }
    }

    /// As many as the backlog holds, and one more so that a backlog of 0 accepts at all (3.14).
    fn accept_all(&self, event_loop: &Obj) -> Res<()> {
        for _ in 0..=self.backlog {
            match socket::accept_from(self.descriptor()) {
                Ok((accepted, peer)) => self.connect(event_loop, accepted, peer)?,
                // Gone before it was accepted.
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return Ok(());
                }
                Err(e) if socket::is_exhausted(&e) => return self.retry_later(event_loop, &e),
                Err(e) => return Err(Raised::os(&e)),
            }
            // The factory may have closed the server.
            if Driver::of(event_loop).is_none_or(|d| !d.is_watched_by(self.fd, Direction::Read, self.obj())) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn connect(&self, event_loop: &Obj, accepted: OwnedFd, peer: Option<Address>) -> Res<()> {
        let is_debug = Scheduler::of(event_loop).is_some_and(|s| s.debug.get());
        let sock = socket_object::adopt(accepted, self.kind)?;
        let peer = peer.and_then(Endpoint::of);
        if is_debug {
            let format = string("%r got a new connection from %r: %r")?;
            let (server, peer) = (self.server.get_or_none(), address::of_peer(&sock, peer.as_ref())?);
            imports().logger.call_method(name!("debug"), [&*format, &*server, &*peer, &*sock])?;
        }
        let mut protocol = None;
        let given = self.connection_context.get();
        let context = given.as_deref().map_or_else(Context::copy_current, Context::copy)?;
        let made = Context::run(&context, || {
            protocol = Some(self.protocol_factory.get_or_none().call0()?);
            let protocol = protocol.as_deref().unwrap_or(none());
            let server = self.server.get();
            if let Some(tls) = &self.tls {
                let context = given.as_ref().map(|_| &*context);
                return tls.make(event_loop, &sock, protocol, server.as_deref().unwrap_or(none()), context);
            }
            transport::make(
                event_loop,
                &sock,
                protocol,
                None,
                peer.map_or(Known::Dict(None), Known::Peer),
                server.as_deref(),
                given.as_ref().map(|_| &*context),
            )
            .map(drop)
        });
        match made {
            Ok(()) => Ok(()),
            Err(raised) => self.creation_failed(event_loop, raised, &sock, protocol, is_debug),
        }
    }

    /// asyncio tells of it in debug mode only. The connection is closed.
    #[cold]
    fn creation_failed(
        &self,
        event_loop: &Obj,
        raised: Raised,
        sock: &Obj,
        protocol: Option<Ref>,
        is_debug: bool,
    ) -> Res<()> {
        let is_exit = raised.is_exit();
        let exception = raised.take();
        match socket_object::close(sock) {
            Err(second) if second.is_exit() => return Err(second),
            Err(second) => second.forget(),
            Ok(()) => {}
        }
        if is_exit {
            return Err(Raised::raise(exception));
        }
        if !is_debug {
            return Ok(());
        }
        Report::new("Error on transport creation for incoming connection")?
            .with(name!("exception"), &exception)?
            .with_opt(name!("protocol"), protocol)?
            .send(event_loop)
    }

    /// The kernel keeps reporting what cannot be accepted now: look away for a while (`constants.ACCEPT_RETRY_DELAY`).
    #[cold]
    fn retry_later(&self, event_loop: &Obj, error: &io::Error) -> Res<()> {
        let exception = Raised::os(error).take();
        let sock = imports().transport_socket_class.call1(&self.sock.get_or_none())?;
        Report::new("socket.accept() out of system resource")?
            .with(name!("exception"), &exception)?
            .with(name!("socket"), &sock)?
            .send(event_loop)?;
        if let Some(driver) = Driver::of(event_loop) {
            driver.unwatch(self.fd, Direction::Read, self.obj())?;
        }
        let delay = imports().constants.getattr(name!("ACCEPT_RETRY_DELAY"))?;
        let resume = RESUME.bind(self.obj())?;
        event_loop.call_method(name!("call_later"), [&*delay, &*resume]).map(drop)
    }
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a Listener is made by its loop: create_server()"))
}

pub fn build() -> Res<Ref> {
    ClassBuilder::<Listener>::new(c"aioxide._native.Listener", c"A listening socket of a server.")
        .slot(pyo3_ffi::Py_tp_new, crate::constructor!(new))
        .build()
}
