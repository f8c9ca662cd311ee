//! The Python class: `aioxide._native.SocketTransport`, derived from `asyncio.Transport`.
//!
//! CPython counterpart: the public methods of `_SelectorSocketTransport`, and those attributes of it that libraries and
//! asyncio itself look at (`sslproto` calls `_force_close`, `start_tls` asks for `_start_tls_compatible`).

use aioxide_core::reactor::Direction;

use super::{CLASS, SocketTransport, close};
use crate::ffi::{
    Args, ClassBuilder, Inst, Obj, Raised, Ref, Res, import_attr, int, none, str_of, string, true_, utf8,
};
use crate::objects::names::imports;
use crate::{constructor, finalizer, getter, keywords, name, noargs, onearg, unary};

type This = Inst<SocketTransport>;

fn done(outcome: Res<()>) -> Res {
    outcome.map(|()| none().to_ref())
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a SocketTransport is made by its loop: create_connection(), create_server()"))
}

fn write(this: &This, args: Args) -> Res {
    let [data] = args.exactly("write", ["data"])?;
    done(this.write(data))
}

fn writelines(this: &This, args: Args) -> Res {
    let [lines] = args.exactly("writelines", ["list_of_data"])?;
    done(this.write_lines(lines))
}

fn write_eof(this: &This) -> Res {
    done(this.write_eof())
}

fn can_write_eof(_: &This) -> Res {
    Ok(true_().to_ref())
}

fn pause_reading(this: &This) -> Res {
    this.base.flush_held()?;
    done(this.pause_reading())
}

fn resume_reading(this: &This) -> Res {
    this.base.flush_held()?;
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
    this.base.flush_held()?;
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
    if !this.sock.is_some() {
        return Ok(none().to_ref());
    }
    done(this.lose_connection(exception))
}

fn is_closing(this: &This) -> Res {
    Ok(this.is_closing().into())
}

fn set_protocol(this: &This, args: Args) -> Res {
    let [protocol] = args.exactly("set_protocol", ["protocol"])?;
    this.base.flush_held()?;
    done(this.base.protocol.set(protocol))
}

fn get_protocol(this: &This) -> Res {
    Ok(this.base.protocol.object())
}

fn get_extra_info(this: &This, args: Args) -> Res {
    let [key, default] = args.bind("get_extra_info", ["name", "default"], 2, 1)?;
    let default = default.unwrap_or(none());
    this.base.flush_held()?;
    this.extra.get(this.base.event_loop.get().as_deref(), key.unwrap_or(none()), default)
}

/// Same as `_SelectorTransport.__repr__`.
pub(super) fn repr(this: &This) -> Res {
    let mut info = vec![str_of(&*this.obj().class().getattr(name!("__name__"))?)?];
    if !this.sock.is_some() {
        info.push("closed".to_owned());
    } else if this.base.closing.get() {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", this.fd.get()));
    let word = |polls| if polls { "polling" } else { "idle" };
    if let (Some(reads), Some(writes)) = (this.watches(Direction::Read), this.watches(Direction::Write)) {
        info.push(format!("read={}", word(reads)));
        info.push(format!("write=<{}, bufsize={}>", word(writes), this.unsent_bytes()));
    }
    string(&format!("<{}>", info.join(" ")))
}

fn sock(this: &This) -> Res {
    this.base.flush_held()?;
    Ok(this.sock.get_or_none())
}

fn sock_fd(this: &This) -> Res {
    int(this.fd.get().into())
}

fn event_loop(this: &This) -> Res {
    Ok(this.base.event_loop.get_or_none())
}

fn server(this: &This) -> Res {
    Ok(this.server.get_or_none())
}

fn extra(this: &This) -> Res {
    this.extra.dict(this.base.event_loop.get().as_deref())
}

fn conn_lost(this: &This) -> Res {
    int(this.base.conn_lost.get() as i64)
}

fn eof(this: &This) -> Res {
    Ok(this.eof_written.get().into())
}

fn paused(this: &This) -> Res {
    Ok(this.inbound.paused.get().into())
}

fn protocol_paused(this: &This) -> Res {
    Ok(this.flow.is_paused().into())
}

fn empty_waiter(this: &This) -> Res {
    Ok(this.empty_waiter.get_or_none())
}

fn make_empty_waiter(this: &This) -> Res {
    this.make_empty_waiter()
}

fn reset_empty_waiter(this: &This) -> Res {
    this.reset_empty_waiter();
    Ok(none().to_ref())
}

pub fn build() -> Res<Ref> {
    let b = ClassBuilder::<SocketTransport>::new(
        c"aioxide._native.SocketTransport",
        c"The transport of a connected stream socket. Same as asyncio's.",
    )
    .python_base(&imports().transport_class)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_repr, unary!(SocketTransport, repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(SocketTransport, close::finalize));
    let class = attributes(methods(b)).build()?;
    class.setattr(name!("_start_tls_compatible"), true_())?;
    let modes = import_attr("asyncio.constants", "_SendfileMode")?;
    class.setattr(name!("_sendfile_compatible"), &*modes.getattr(name!("TRY_NATIVE"))?)?;
    debug_assert!(CLASS.type_object().is(&class));
    Ok(class)
}

fn methods(b: ClassBuilder<SocketTransport>) -> ClassBuilder<SocketTransport> {
    b.method(c"write", keywords!(SocketTransport, write), c"write($self, data)\n--\n\nSend data, or queue what the kernel has no room for. Never blocks.")
        .method(c"writelines", keywords!(SocketTransport, writelines), c"writelines($self, list_of_data)\n--\n\nSend an iterable of bytes-like objects.")
        .method(c"write_eof", noargs!(SocketTransport, write_eof), c"write_eof($self, /)\n--\n\nShut down the sending half once everything queued is sent.")
        .method(c"can_write_eof", noargs!(SocketTransport, can_write_eof), c"can_write_eof($self, /)\n--\n\nTrue.")
        .method(c"pause_reading", noargs!(SocketTransport, pause_reading), c"pause_reading($self, /)\n--\n\nNo data_received() until resume_reading(). Idempotent.")
        .method(c"resume_reading", noargs!(SocketTransport, resume_reading), c"resume_reading($self, /)\n--\n\nGo on reading. Idempotent.")
        .method(c"is_reading", noargs!(SocketTransport, is_reading), c"is_reading($self, /)\n--\n\nWhether data may arrive: neither paused nor closing.")
        .method(c"set_write_buffer_limits", keywords!(SocketTransport, set_write_buffer_limits), c"set_write_buffer_limits($self, high=None, low=None)\n--\n\nBytes queued at which the protocol is told to pause and to resume. ValueError unless high >= low >= 0.")
        .method(c"get_write_buffer_limits", noargs!(SocketTransport, get_write_buffer_limits), c"get_write_buffer_limits($self, /)\n--\n\n(low, high) in bytes.")
        .method(c"get_write_buffer_size", noargs!(SocketTransport, get_write_buffer_size), c"get_write_buffer_size($self, /)\n--\n\nBytes queued.")
        .method(c"close", noargs!(SocketTransport, close), c"close($self, /)\n--\n\nSend what is queued, then close; the protocol gets connection_lost(None).")
        .method(c"abort", noargs!(SocketTransport, abort), c"abort($self, /)\n--\n\nClose at once; what is queued is lost.")
        .method(c"is_closing", noargs!(SocketTransport, is_closing), c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed.")
        .method(c"set_protocol", keywords!(SocketTransport, set_protocol), c"set_protocol($self, protocol)\n--\n\nExchange the protocol.")
        .method(c"get_protocol", noargs!(SocketTransport, get_protocol), c"get_protocol($self, /)\n--\n\nThe protocol; None once the connection is lost.")
        .method(c"get_extra_info", keywords!(SocketTransport, get_extra_info), c"get_extra_info($self, name, default=None)\n--\n\nsocket, sockname, peername, and what the loop added.")
        .method(c"_force_close", onearg!(SocketTransport, force_close), c"Close at once; connection_lost gets the exception.")
        .method(c"_fatal_error", keywords!(SocketTransport, fatal_error), c"Report an exception and close at once.")
        .method(c"_make_empty_waiter", noargs!(SocketTransport, make_empty_waiter), c"A file is to be sent: a future that is done when nothing is queued. No write until _reset_empty_waiter().")
        .method(c"_reset_empty_waiter", noargs!(SocketTransport, reset_empty_waiter), c"The file is sent.")
        .method(c"_call_connection_lost", onearg!(SocketTransport, call_connection_lost), c"The end: connection_lost, then the socket is closed.")
}

fn attributes(b: ClassBuilder<SocketTransport>) -> ClassBuilder<SocketTransport> {
    b.getset(c"_empty_waiter", getter!(SocketTransport, empty_waiter), None, c"Of a sendfile in progress, or None.")
        .getset(c"_sock", getter!(SocketTransport, sock), None, c"The socket; None once closed.")
        .getset(c"_sock_fd", getter!(SocketTransport, sock_fd), None, c"Its descriptor when the transport was made.")
        .getset(c"_loop", getter!(SocketTransport, event_loop), None, c"The loop; None once closed.")
        .getset(c"_protocol", getter!(SocketTransport, get_protocol), None, c"The protocol; None once closed.")
        .getset(c"_server", getter!(SocketTransport, server), None, c"The server that accepted the connection.")
        .getset(c"_extra", getter!(SocketTransport, extra), None, c"The dict behind get_extra_info().")
        .getset(c"_closing", getter!(SocketTransport, is_closing), None, c"Whether close() was called.")
        .getset(c"_conn_lost", getter!(SocketTransport, conn_lost), None, c"0 while connected.")
        .getset(c"_eof", getter!(SocketTransport, eof), None, c"Whether write_eof() was called.")
        .getset(c"_paused", getter!(SocketTransport, paused), None, c"Whether reading is paused.")
        .getset(c"_protocol_paused", getter!(SocketTransport, protocol_paused), None, c"Whether writing is paused.")
}
