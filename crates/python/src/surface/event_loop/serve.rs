//! Transports for connected sockets, and accepting on listening ones.

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Res, index_value, list, none};
use crate::io::{listener, transport};

pub fn make_socket_transport(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let [sock, protocol, waiter, extra, server, context] =
        args.bind("_make_socket_transport", ["sock", "protocol", "waiter", "extra", "server", "context"], 3, 2)?;
    let given = |o: Option<&'_ Obj>| o.filter(|o| !o.is_none()).map(Obj::to_ref);
    transport::make(
        this.obj(),
        sock.unwrap_or(none()),
        protocol.unwrap_or(none()),
        given(waiter).as_deref(),
        transport::Known::Dict(given(extra).as_deref()),
        given(server).as_deref(),
        context.filter(|c| !c.is_none()),
    )
    .map(crate::ffi::Owned::into_ref)
}

pub fn set_write_gathering(this: &Inst<EventLoop>, args: Args) -> Res {
    let [enabled] = args.exactly("set_write_gathering", ["enabled"])?;
    let enabled = enabled.is_true()?;
    this.driver.held.flush()?;
    this.driver.held.set_enabled(enabled);
    Ok(none().to_ref())
}

/// For what has an effect outside of the process and is written in Python.
pub fn flush_held(this: &Inst<EventLoop>) -> Res {
    this.driver.held.flush()?;
    Ok(none().to_ref())
}

pub fn start_serving(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let [factory, sock, sslcontext, server, backlog, handshake, shutdown, context] = args.bind(
        "_start_serving",
        [
            "protocol_factory",
            "sock",
            "sslcontext",
            "server",
            "backlog",
            "ssl_handshake_timeout",
            "ssl_shutdown_timeout",
            "context",
        ],
        7,
        2,
    )?;
    let backlog = match backlog {
        Some(b) => index_value(b)?.max(1) as usize,
        None => 100,
    };
    let server = server.filter(|s| !s.is_none());
    let (factory, sock) = (factory.unwrap_or(none()), sock.unwrap_or(none()));
    let tls = match sslcontext {
        Some(wanted) if wanted.is_true()? => {
            Some(listener::Tls::new(wanted, handshake.unwrap_or(none()), shutdown.unwrap_or(none())))
        }
        _ => None,
    };
    listener::start_serving(this.obj(), factory, sock, server, backlog, tls, context.filter(|c| !c.is_none()))?;
    Ok(none().to_ref())
}

pub fn transports_of(this: &Inst<EventLoop>, server: &Obj) -> Res {
    let transports = list()?;
    for transport in this.driver.transports.open(Some(server).filter(|s| !s.is_none()))? {
        transports.list_append(&transport)?;
    }
    Ok(transports)
}

pub fn stop_listening(this: &Inst<EventLoop>, sock: &Obj) -> Res {
    this.driver.held.flush()?;
    listener::stop_listening(this.obj(), sock)?;
    Ok(none().to_ref())
}
