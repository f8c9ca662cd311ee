//! Layer 4: descriptors and threads. The driver (one loop's reactor), transports, listeners, and calls in an executor.
//!
//! CPython counterpart: `asyncio.selector_events`, less the loop object, and `concurrent.futures.thread`. Uses `ffi`, `objects` and the core; never `surface`.
//!
//! A byte's way: epoll says that a descriptor is readable, [`driver`] puts the transport itself into the ready queue, the
//! loop calls [`run`], the transport receives and calls the protocol. No Handle, no Python frame but the protocol's own.

mod address;
mod base;
pub mod connect;
pub mod datagram;
mod descriptors;
pub mod driver;
pub mod executor;
mod flow;
mod fork;
mod gather;
pub mod held;
pub mod listener;
mod literal;
mod pieces;
pub mod pipe;
mod poll;
pub mod process;
mod protocol;
mod receive;
pub mod sendfile;
pub mod signals;
pub mod sock;
mod socket_object;
pub mod tls;
pub mod transport;
pub mod wakeup_fd;
mod watch;

pub use literal::{literal_address, literal_answer};

use crate::ffi::{Inst, Obj, Raised, Ref, Res, none, probe_socket_layout, str_of};
use crate::name;
use crate::objects::future::Fut;
use crate::objects::report;
use datagram::DatagramTransport;
use driver::Driver;
use executor::Call;
use listener::Listener;
use pipe::{ReadPipeTransport, WritePipeTransport};
use process::SubprocessTransport;
use transport::SocketTransport;

/// Build the classes of this layer.
pub fn build() -> Res<()> {
    probe_socket_layout()?;
    fork::watch_for_forks()?;
    transport::build()?;
    pipe::build()?;
    tls::build()?;
    datagram::build()?;
    listener::build()?;
    executor::build()?;
    process::build()?;
    Ok(())
}

/// Run the continuation `what` of a transport or listener, deliver a call's outcome, or wake a coroutine: the body of
/// `Entry::Native`.
///
/// # Errors
/// Only SystemExit and KeyboardInterrupt come out; everything else goes to the exception handler.
#[inline]
pub fn run(work: &Obj, what: u32) -> Res<()> {
    if let Some(transport) = work.downcast_exact::<SocketTransport>() {
        return transport.run(what);
    }
    if let Some(transport) = work.downcast_exact::<DatagramTransport>() {
        return transport.run(what);
    }
    // What a `sock_*` coroutine waits for.
    if let Some(future) = Fut::of_exact(work) {
        return if future.core.is_pending() { future.set_result(none().to_ref()) } else { Ok(()) };
    }
    if let Some(pipe) = work.downcast_exact::<ReadPipeTransport>() {
        return pipe.run(what);
    }
    if let Some(pipe) = work.downcast_exact::<WritePipeTransport>() {
        return pipe.run(what);
    }
    if let Some(call) = work.downcast_exact::<Call>() {
        return Call::deliver(call);
    }
    if let Some(listener) = work.downcast_exact::<Listener>() {
        return listener.run();
    }
    if let Some(child) = work.downcast_exact::<SubprocessTransport>() {
        return child.run();
    }
    // The loop itself: for its signals.
    Driver::of(work).map_or(Ok(()), |driver| driver.read_signals(work))
}

/// What slow work is called in debug mode, after `<Handle _SelectorSocketTransport._read_ready()>`; and whose it is, which
/// asyncio does not tell.
#[cold]
pub fn describe(work: &Obj, what: u32) -> Res<String> {
    let listener = work.downcast_exact::<Listener>();
    let callback = if listener.is_some() {
        "_accept_connection"
    } else if work.downcast_exact::<SubprocessTransport>().is_some() {
        "_reap"
    } else if work.downcast_exact::<Call>().is_some() || Fut::of_exact(work).is_some() {
        return str_of(&*work.repr()?);
    } else {
        transport::callback_name(what)
    };
    let class = str_of(&*work.class().getattr(name!("__name__"))?)?;
    let server = listener.and_then(Inst::server);
    let whose = server.as_deref().unwrap_or(work).repr()?;
    Ok(format!("<Handle {class}.{callback}() of {}>", str_of(&whose)?))
}

/// The source traceback of the Handle that asyncio would have for such work, None (the object) if that has none; None if
/// nobody has noted it.
#[cold]
pub fn source_traceback(work: &Obj, what: u32) -> Option<Ref> {
    let watch = if let Some(transport) = work.downcast_exact::<DatagramTransport>() {
        transport.watch_of(what)
    } else if let Some(pipe) = work.downcast_exact::<ReadPipeTransport>() {
        pipe.watch()
    } else {
        work.downcast_exact::<WritePipeTransport>()?.watch_of(what)
    };
    Some(watch.source_traceback())
}

/// Do `then` whatever came of `first`, whose error counts. Nothing may be called while an error is set, so it is set aside.
pub fn finally(first: Res<()>, then: impl FnOnce() -> Res<()>) -> Res<()> {
    let Err(raised) = first else {
        return then();
    };
    let exception = raised.take();
    if let Err(second) = then() {
        if second.is_exit() {
            // What ends the program must not be lost; as in try/finally, the first error is its context.
            let exit = second.take();
            exit.set_context(exception);
            return Err(Raised::raise(exit));
        }
        second.forget();
    }
    Err(Raised::raise(exception))
}

/// What a callback of ours left uncaught, reported as `Handle._run` does.
#[cold]
fn report_stray(raised: Raised, event_loop: Option<Ref>, me: &Obj, callback: &str) -> Res<()> {
    let Some(event_loop) = event_loop else {
        if raised.is_exit() {
            return Err(raised);
        }
        raised.unraisable(me);
        return Ok(());
    };
    let message = || Ok(format!("Exception in callback {callback}"));
    match report::callback_failed(raised, &event_loop, message, Ok) {
        Err(raised) if !raised.is_exit() => {
            raised.unraisable(me);
            Ok(())
        }
        outcome => outcome,
    }
}
