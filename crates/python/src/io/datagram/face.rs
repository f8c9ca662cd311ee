//! The Python class: `aioxide._native.DatagramTransport`, derived from `asyncio.DatagramTransport`.
//!
//! CPython counterpart: the public methods of `_SelectorDatagramTransport`, and those attributes of it that libraries look at.

use super::outbound::HEADER_BYTES;
use super::{CLASS, DatagramTransport, close};
use crate::ffi::{Args, ClassBuilder, Inst, Obj, Raised, Ref, Res, int, none, str_of, string, utf8};
use crate::io::driver::RECEIVE_BYTES;
use crate::io::watch::Watch;
use crate::objects::names::imports;
use crate::{constructor, finalizer, getter, keywords, name, noargs, onearg, unary};

type This = Inst<DatagramTransport>;

fn done(outcome: Res<()>) -> Res {
    outcome.map(|()| none().to_ref())
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a DatagramTransport is made by its loop: create_datagram_endpoint()"))
}

fn sendto(this: &This, args: Args) -> Res {
    if let ([data, to], false) = (args.positional(), args.has_keywords()) {
        return done(this.sendto(data, to));
    }
    let [data, to] = args.bind("sendto", ["data", "addr"], 2, 1)?;
    done(this.sendto(data.unwrap_or(none()), to.unwrap_or(none())))
}

fn pause_reading(this: &This) -> Res {
    done(this.pause_reading())
}

fn resume_reading(this: &This) -> Res {
    done(this.resume_reading())
}

fn is_reading(this: &This) -> Res {
    Ok(this.is_reading().into())
}

fn set_write_buffer_limits(this: &This, args: Args) -> Res {
    let [high, low] = args.bind("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    done(this.flow.set(&this.base, this.obj(), [high, low], || this.unsent_bytes()))
}

fn get_write_buffer_limits(this: &This) -> Res {
    this.flow.limits()
}

fn get_write_buffer_size(this: &This) -> Res {
    int(this.unsent_bytes() as i64)
}

fn close(this: &This) -> Res {
    done(this.close())
}

fn abort(this: &This) -> Res {
    done(this.force_close(none()))
}

fn force_close(this: &This, exception: &Obj) -> Res {
    done(this.force_close(exception))
}

fn fatal_error(this: &This, args: Args) -> Res {
    let [exception, message] = args.bind("_fatal_error", ["exc", "message"], 2, 1)?;
    let message = message.map_or(Ok("Fatal error on transport"), utf8)?;
    done(this.fail(exception.unwrap_or(none()), message))
}

fn call_connection_lost(this: &This, exception: &Obj) -> Res {
    if !this.is_open() {
        return Ok(none().to_ref());
    }
    done(this.lose_connection(exception))
}

fn read_ready(this: &This) -> Res {
    done(this.read().map(drop))
}

fn sendto_ready(this: &This) -> Res {
    done(this.send_queued())
}

fn is_closing(this: &This) -> Res {
    Ok(this.is_closing().into())
}

fn set_protocol(this: &This, args: Args) -> Res {
    let [protocol] = args.exactly("set_protocol", ["protocol"])?;
    this.base.protocol.set_object(protocol);
    Ok(none().to_ref())
}

fn get_protocol(this: &This) -> Res {
    Ok(this.base.protocol.object())
}

fn get_extra_info(this: &This, args: Args) -> Res {
    let [key, default] = args.bind("get_extra_info", ["name", "default"], 2, 1)?;
    let default = default.unwrap_or(none());
    this.extra.get(this.base.event_loop.get().as_deref(), key.unwrap_or(none()), default)
}

/// Same as `_SelectorTransport.__repr__`.
pub(super) fn repr(this: &This) -> Res {
    let mut info = vec![str_of(&*this.obj().class().getattr(name!("__name__"))?)?];
    if !this.is_open() {
        info.push("closed".to_owned());
    } else if this.is_closing() {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", this.fd.get()));
    let word = |polls| if polls { "polling" } else { "idle" };
    let is_watched = |watch: &Watch| watch.is_watched(&this.base, this.fd.get(), this.obj());
    if let (Some(reads), Some(writes)) = (is_watched(&this.reader), is_watched(&this.writer)) {
        info.push(format!("read={}", word(reads)));
        info.push(format!("write=<{}, bufsize={}>", word(writes), this.unsent_bytes()));
    }
    string(&format!("<{}>", info.join(" ")))
}

fn sock(this: &This) -> Res {
    Ok(this.sock.get_or_none())
}

fn sock_fd(this: &This) -> Res {
    int(this.fd.get().into())
}

fn event_loop(this: &This) -> Res {
    Ok(this.base.event_loop.get_or_none())
}

fn extra(this: &This) -> Res {
    this.extra.dict(this.base.event_loop.get().as_deref())
}

fn conn_lost(this: &This) -> Res {
    int(this.base.conn_lost.get() as i64)
}

fn address(this: &This) -> Res {
    Ok(this.address.get_or_none())
}

fn paused(this: &This) -> Res {
    Ok(this.paused.get().into())
}

fn protocol_paused(this: &This) -> Res {
    Ok(this.flow.is_paused().into())
}

pub fn build() -> Res<Ref> {
    let b = ClassBuilder::<DatagramTransport>::new(
        c"aioxide._native.DatagramTransport",
        c"The transport of a datagram socket. Same as asyncio's.",
    )
    // asyncio's is both.
    .python_base(&imports().transport_class)
    .python_base(&imports().datagram_transport_class)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_repr, unary!(DatagramTransport, repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(DatagramTransport, close::finalize));
    let class = attributes(methods(b)).build()?;
    class.setattr(name!("max_size"), &*int(RECEIVE_BYTES as i64)?)?;
    if cfg!(Py_3_14) {
        class.setattr(name!("_header_size"), &*int(HEADER_BYTES as i64)?)?;
    }
    debug_assert!(CLASS.type_object().is(&class));
    Ok(class)
}

fn methods(b: ClassBuilder<DatagramTransport>) -> ClassBuilder<DatagramTransport> {
    b.method(c"sendto", keywords!(DatagramTransport, sendto), c"sendto($self, data, addr=None)\n--\n\nSend a datagram, or queue it if the kernel has no room. Never blocks, but to resolve a name.")
        .method(c"pause_reading", noargs!(DatagramTransport, pause_reading), c"pause_reading($self, /)\n--\n\nNo datagram_received() until resume_reading(). Idempotent.")
        .method(c"resume_reading", noargs!(DatagramTransport, resume_reading), c"resume_reading($self, /)\n--\n\nGo on reading. Idempotent.")
        .method(c"is_reading", noargs!(DatagramTransport, is_reading), c"is_reading($self, /)\n--\n\nWhether datagrams may arrive: neither paused nor closing.")
        .method(c"set_write_buffer_limits", keywords!(DatagramTransport, set_write_buffer_limits), c"set_write_buffer_limits($self, high=None, low=None)\n--\n\nBytes queued at which the protocol is told to pause and to resume. ValueError unless high >= low >= 0.")
        .method(c"get_write_buffer_limits", noargs!(DatagramTransport, get_write_buffer_limits), c"get_write_buffer_limits($self, /)\n--\n\n(low, high) in bytes.")
        .method(c"get_write_buffer_size", noargs!(DatagramTransport, get_write_buffer_size), c"get_write_buffer_size($self, /)\n--\n\nBytes queued; from 3.13 on each datagram counts 8 more.")
        .method(c"close", noargs!(DatagramTransport, close), c"close($self, /)\n--\n\nSend what is queued, then close; the protocol gets connection_lost(None).")
        .method(c"abort", noargs!(DatagramTransport, abort), c"abort($self, /)\n--\n\nClose at once; what is queued is lost.")
        .method(c"is_closing", noargs!(DatagramTransport, is_closing), c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed.")
        .method(c"set_protocol", keywords!(DatagramTransport, set_protocol), c"set_protocol($self, protocol)\n--\n\nExchange the protocol.")
        .method(c"get_protocol", noargs!(DatagramTransport, get_protocol), c"get_protocol($self, /)\n--\n\nThe protocol; None once the transport is closed.")
        .method(c"get_extra_info", keywords!(DatagramTransport, get_extra_info), c"get_extra_info($self, name, default=None)\n--\n\nsocket, sockname, peername, and what the loop added.")
        .method(c"_force_close", onearg!(DatagramTransport, force_close), c"Close at once; connection_lost gets the exception.")
        .method(c"_fatal_error", keywords!(DatagramTransport, fatal_error), c"Report an exception and close at once.")
        .method(c"_call_connection_lost", onearg!(DatagramTransport, call_connection_lost), c"The end: connection_lost, then the socket is closed.")
        .method(c"_read_ready", noargs!(DatagramTransport, read_ready), c"Receive a datagram. The loop does it when there is one.")
        .method(c"_sendto_ready", noargs!(DatagramTransport, sendto_ready), c"Send what is queued. The loop does it when there is room.")
}

fn attributes(b: ClassBuilder<DatagramTransport>) -> ClassBuilder<DatagramTransport> {
    b.getset(c"_sock", getter!(DatagramTransport, sock), None, c"The socket; None once closed.")
        .getset(c"_sock_fd", getter!(DatagramTransport, sock_fd), None, c"Its descriptor when the transport was made.")
        .getset(c"_loop", getter!(DatagramTransport, event_loop), None, c"The loop; None once closed.")
        .getset(c"_protocol", getter!(DatagramTransport, get_protocol), None, c"The protocol; None once closed.")
        .getset(c"_extra", getter!(DatagramTransport, extra), None, c"The dict behind get_extra_info().")
        .getset(c"_address", getter!(DatagramTransport, address), None, c"The only destination, or None.")
        .getset(c"_closing", getter!(DatagramTransport, is_closing), None, c"Whether close() was called.")
        .getset(c"_conn_lost", getter!(DatagramTransport, conn_lost), None, c"0 until the end.")
        .getset(c"_buffer_size", getter!(DatagramTransport, get_write_buffer_size), None, c"Bytes queued.")
        .getset(c"_paused", getter!(DatagramTransport, paused), None, c"Whether reading is paused.")
        .getset(c"_protocol_paused", getter!(DatagramTransport, protocol_paused), None, c"Whether writing is paused.")
}
