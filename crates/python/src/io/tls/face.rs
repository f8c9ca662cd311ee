//! The Python class: `aioxide._native.SSLTransport`, derived from `asyncio.Transport` for the program and from `asyncio.Protocol` for
//! the transport below.
//!
//! CPython counterpart: the methods of `_SSLProtocolTransport` and `SSLProtocol`, and those attributes that libraries look at.

use super::{CLASS, Limits, READ_HIGH, TlsTransport, WRITE_HIGH, close};
use crate::ffi::{
    Args, ClassBuilder, Inst, Obj, Raised, Ref, Res, bytes_of, dict, exc, false_, float_value, import_attr, int, none,
    saturated_value, str_of, string, true_, tuple,
};
use crate::io::pieces::Piece;
use crate::objects::names::imports;
use crate::{constructor, finalizer, getter, keywords, name, noargs, onearg, unary};

type This = Inst<TlsTransport>;

fn done(outcome: Res<()>) -> Res {
    outcome.map(|()| none().to_ref())
}

fn new(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("an SSLTransport is made by its loop: create_connection(ssl=...), start_tls()"))
}

// --- the program's transport ----------------------------------------------------------------------------------------

fn write(this: &This, args: Args) -> Res {
    let [data] = args.exactly("write", ["data"])?;
    done(this.write(data))
}

fn writelines(this: &This, args: Args) -> Res {
    let [lines] = args.exactly("writelines", ["list_of_data"])?;
    done(this.write_lines(lines))
}

fn write_eof(_: &This) -> Res {
    Err(Raised::bare(exc::not_implemented_error()))
}

fn can_write_eof(_: &This) -> Res {
    Ok(false_().to_ref())
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
    if cfg!(Py_3_11) {
        return Ok((!this.reading_is_paused.get()).into());
    }
    match this.lower.get() {
        Some(lower) => lower.call_method(name!("is_reading"), []),
        None => Err(Raised::runtime("SSL transport has not been initialized yet")),
    }
}

fn close_(this: &This) -> Res {
    done(this.close())
}

fn abort(this: &This) -> Res {
    done(this.force_close(none()))
}

fn force_close(this: &This, exception: &Obj) -> Res {
    done(this.force_close(exception))
}

/// Since some 3.13 one whose transport below closes is closing too.
fn is_closing(this: &This) -> Res {
    let looks_below = crate::objects::names::hexversion() >= 0x030d_0400;
    if this.base.closing.get() || !looks_below {
        return Ok(this.base.closing.get().into());
    }
    match this.lower.get() {
        Some(lower) => lower.call_method(name!("is_closing"), []),
        None => Ok(false_().to_ref()),
    }
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
    let (key, default) = (key.unwrap_or(none()), default.unwrap_or(none()));
    this.base.flush_held()?;
    let Some(extra) = this.extra.get() else {
        return Ok(default.to_ref());
    };
    if extra.contains(key)? {
        return extra.get_item(key);
    }
    match this.lower.get() {
        Some(lower) => lower.call_method(name!("get_extra_info"), [key, default]),
        None => Ok(default.to_ref()),
    }
}

fn set_write_buffer_limits(this: &This, args: Args) -> Res {
    let [high, low] = args.bind("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    this.base.flush_held()?;
    if !cfg!(Py_3_11) {
        let (high, low) = (high.unwrap_or(none()), low.unwrap_or(none()));
        return this.lower.get_or_none().call_method(name!("set_write_buffer_limits"), [high, low]);
    }
    this.write_limits.set(limits(high, low, WRITE_HIGH)?);
    done(this.control_writing())
}

fn get_write_buffer_limits(this: &This) -> Res {
    if !cfg!(Py_3_11) {
        return this.lower.get_or_none().call_method(name!("get_write_buffer_limits"), []);
    }
    let Limits { low, high } = this.write_limits.get();
    tuple([&*int(low)?, &*int(high)?])
}

fn get_write_buffer_size(this: &This) -> Res {
    this.base.flush_held()?;
    if !cfg!(Py_3_11) {
        return this.lower.get_or_none().call_method(name!("get_write_buffer_size"), []);
    }
    int(this.unsent_bytes() as i64)
}

fn set_read_buffer_limits(this: &This, args: Args) -> Res {
    let [high, low] = args.bind("set_read_buffer_limits", ["high", "low"], 2, 0)?;
    this.read_limits.set(limits(high, low, READ_HIGH)?);
    done(this.control_lower_reading())
}

fn get_read_buffer_limits(this: &This) -> Res {
    let Limits { low, high } = this.read_limits.get();
    tuple([&*int(low)?, &*int(high)?])
}

fn get_read_buffer_size(this: &This) -> Res {
    int(this.session.unread() as i64)
}

/// Same as `add_flowcontrol_defaults`. The arithmetic is Python's: of whatever numbers it is given.
fn limits(high: Option<&Obj>, low: Option<&Obj>, default: i64) -> Res<Limits> {
    let (high, low, default) = (high.unwrap_or(none()), low.unwrap_or(none()), int(default)?);
    let [high, low] = import_attr("aioxide._tls", "flow_limits")?.call([high, low, &*default])?.unpack::<2>()?;
    let number = |o: &Obj| if o.is_long() { saturated_value(o) } else { Ok(float_value(o)? as i64) };
    Ok(Limits { low: number(&low)?, high: number(&high)? })
}

fn repr(this: &This) -> Res {
    let name = str_of(&*this.obj().class().getattr(name!("__name__"))?)?;
    let state = match (this.lower.get(), this.base.closing.get()) {
        (None, true) => " closed".to_owned(),
        (None, false) => String::new(),
        (Some(lower), closing) => {
            format!("{} over {}", if closing { " closing" } else { "" }, str_of(&*lower.repr()?)?)
        }
    };
    string(&format!("<{name}{state}>"))
}

// --- the protocol of the transport below ----------------------------------------------------------------------------

fn connection_made(this: &This, args: Args) -> Res {
    let [lower] = args.exactly("connection_made", ["transport"])?;
    done(this.on_lower_made(lower))
}

fn connection_lost(this: &This, args: Args) -> Res {
    let [exception] = args.exactly("connection_lost", ["exc"])?;
    done(this.on_lower_lost(exception))
}

fn data_received(this: &This, args: Args) -> Res {
    let [data] = args.exactly("data_received", ["data"])?;
    if let Some(bytes) = bytes_of(data) {
        return done(this.on_bytes(bytes));
    }
    let view = crate::ffi::ReadBuffer::new(data)?;
    let bytes = view.as_slice().to_vec();
    drop(view);
    done(this.on_bytes(&bytes))
}

fn eof_received(this: &This) -> Res {
    this.eof_answer()
}

fn pause_writing(this: &This) -> Res {
    done(this.on_lower_paused())
}

fn resume_writing(this: &This) -> Res {
    done(this.on_lower_resumed())
}

// --- what the loop calls --------------------------------------------------------------------------------------------

fn do_read(this: &This) -> Res {
    done(this.read(&[]))
}

fn resume(this: &This) -> Res {
    done(this.on_resumed())
}

fn check_handshake_timeout(this: &This) -> Res {
    done(this.on_handshake_timeout())
}

fn check_shutdown_timeout(this: &This) -> Res {
    done(this.on_shutdown_timeout())
}

/// Bytes that a stream has received before it was upgraded (3.15).
fn keep(this: &This, data: &Obj) -> Res {
    let view = crate::ffi::ReadBuffer::new(data)?;
    let bytes = view.as_slice().to_vec();
    drop(view);
    done(this.session.keep(&bytes))
}

/// CPython's own tests put plain text into the queue by this name.
fn append_write_backlog(this: &This, data: &Obj) -> Res {
    if bytes_of(data).is_some() {
        this.backlog.borrow_mut().push(Piece(data.to_ref()));
    }
    Ok(none().to_ref())
}

// --- attributes -----------------------------------------------------------------------------------------------------

fn itself(this: &This) -> Res {
    Ok(this.obj().to_ref())
}

fn lower(this: &This) -> Res {
    Ok(this.lower.get_or_none())
}

fn ssl_object(this: &This) -> Res {
    Ok(this.session.object())
}

fn event_loop(this: &This) -> Res {
    Ok(this.base.event_loop.get_or_none())
}

fn protocol_paused(this: &This) -> Res {
    if cfg!(Py_3_11) {
        return Ok(this.writing_is_paused.get().into());
    }
    this.lower.get_or_none().getattr(name!("_protocol_paused"))
}

fn reading_paused(this: &This) -> Res {
    Ok(this.reading_is_paused.get().into())
}

fn is_closed(this: &This) -> Res {
    Ok(this.base.closing.get().into())
}

fn conn_lost(this: &This) -> Res {
    int(this.base.conn_lost.get() as i64)
}

fn engine(this: &This) -> Res {
    string(if this.session.is_direct() { "direct" } else { "fallback" })
}

pub fn build() -> Res<Ref> {
    let both = tuple([&*imports().transport_class, &*imports().protocol_class])?;
    let namespace = dict()?;
    namespace.set_item(name!("__slots__"), &*Obj::tuple_of(&[])?)?;
    let base = import_attr("builtins", "type")?.call([&*string("TransportAndProtocol")?, &*both, &*namespace])?;
    let b = ClassBuilder::<TlsTransport>::new(
        c"aioxide._native.SSLTransport",
        c"TLS over another transport, by the user's ssl.SSLContext. Same as asyncio's.",
    )
    .python_base(&base)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new))
    .slot(pyo3_ffi::Py_tp_repr, unary!(TlsTransport, repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(TlsTransport, close::finalize));
    let class = attributes(lower_side(upper_side(b))).build()?;
    class.setattr(name!("_start_tls_compatible"), true_())?;
    let modes = import_attr("asyncio.constants", "_SendfileMode")?;
    class.setattr(name!("_sendfile_compatible"), &*modes.getattr(name!("FALLBACK"))?)?;
    debug_assert!(CLASS.type_object().is(&class));
    Ok(class)
}

fn upper_side(b: ClassBuilder<TlsTransport>) -> ClassBuilder<TlsTransport> {
    b.method(c"write", keywords!(TlsTransport, write), c"write($self, data)\n--\n\nEncrypt and send data, or queue it. Never blocks.")
        .method(c"writelines", keywords!(TlsTransport, writelines), c"writelines($self, list_of_data)\n--\n\nEncrypt and send an iterable of bytes-like objects, in as few records as they fit into.")
        .method(c"write_eof", noargs!(TlsTransport, write_eof), c"write_eof($self, /)\n--\n\nNotImplementedError: TLS has no half-closed connections here.")
        .method(c"can_write_eof", noargs!(TlsTransport, can_write_eof), c"can_write_eof($self, /)\n--\n\nFalse.")
        .method(c"pause_reading", noargs!(TlsTransport, pause_reading), c"pause_reading($self, /)\n--\n\nNo data_received() until resume_reading(). Idempotent.")
        .method(c"resume_reading", noargs!(TlsTransport, resume_reading), c"resume_reading($self, /)\n--\n\nGo on reading. Idempotent.")
        .method(c"is_reading", noargs!(TlsTransport, is_reading), c"is_reading($self, /)\n--\n\nWhether reading is not paused.")
        .method(c"close", noargs!(TlsTransport, close_), c"close($self, /)\n--\n\nSend what is queued and close_notify, wait for the peer's, then close; the protocol gets connection_lost(None).")
        .method(c"abort", noargs!(TlsTransport, abort), c"abort($self, /)\n--\n\nClose at once; what is queued is lost.")
        .method(c"is_closing", noargs!(TlsTransport, is_closing), c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed.")
        .method(c"set_protocol", keywords!(TlsTransport, set_protocol), c"set_protocol($self, protocol)\n--\n\nExchange the protocol.")
        .method(c"get_protocol", noargs!(TlsTransport, get_protocol), c"get_protocol($self, /)\n--\n\nThe protocol; None once the connection is lost.")
        .method(c"get_extra_info", keywords!(TlsTransport, get_extra_info), c"get_extra_info($self, name, default=None)\n--\n\nssl_object, peercert, cipher, compression, sslcontext, and what the transport below knows.")
        .method(c"set_write_buffer_limits", keywords!(TlsTransport, set_write_buffer_limits), c"set_write_buffer_limits($self, high=None, low=None)\n--\n\nBytes queued at which the protocol is told to pause and to resume. ValueError unless high >= low >= 0.")
        .method(c"get_write_buffer_limits", noargs!(TlsTransport, get_write_buffer_limits), c"get_write_buffer_limits($self, /)\n--\n\n(low, high) in bytes.")
        .method(c"get_write_buffer_size", noargs!(TlsTransport, get_write_buffer_size), c"get_write_buffer_size($self, /)\n--\n\nBytes queued.")
        .method(c"set_read_buffer_limits", keywords!(TlsTransport, set_read_buffer_limits), c"set_read_buffer_limits($self, high=None, low=None)\n--\n\nEncrypted bytes kept at which the transport below is paused and resumed. ValueError unless high >= low >= 0.")
        .method(c"get_read_buffer_limits", noargs!(TlsTransport, get_read_buffer_limits), c"get_read_buffer_limits($self, /)\n--\n\n(low, high) in bytes.")
        .method(c"get_read_buffer_size", noargs!(TlsTransport, get_read_buffer_size), c"get_read_buffer_size($self, /)\n--\n\nEncrypted bytes kept.")
        .method(c"_force_close", onearg!(TlsTransport, force_close), c"Close at once; connection_lost gets the exception.")
        .method(c"_keep", onearg!(TlsTransport, keep), c"Bytes received before the upgrade.")
        .method(c"_test__append_write_backlog", onearg!(TlsTransport, append_write_backlog), c"For CPython's tests.")
}

fn lower_side(b: ClassBuilder<TlsTransport>) -> ClassBuilder<TlsTransport> {
    b.method(
        c"connection_made",
        keywords!(TlsTransport, connection_made),
        c"connection_made($self, transport)\n--\n\nThe transport below is there: begin the handshake.",
    )
    .method(
        c"connection_lost",
        keywords!(TlsTransport, connection_lost),
        c"connection_lost($self, exc)\n--\n\nThe transport below is gone.",
    )
    .method(
        c"data_received",
        keywords!(TlsTransport, data_received),
        c"data_received($self, data)\n--\n\nRecords have come.",
    )
    .method(
        c"eof_received",
        noargs!(TlsTransport, eof_received),
        c"eof_received($self, /)\n--\n\nThe stream below has ended.",
    )
    .method(
        c"pause_writing",
        noargs!(TlsTransport, pause_writing),
        c"pause_writing($self, /)\n--\n\nThe transport below has too much to send.",
    )
    .method(
        c"resume_writing",
        noargs!(TlsTransport, resume_writing),
        c"resume_writing($self, /)\n--\n\nIt has not any more.",
    )
    .method(c"_do_read", noargs!(TlsTransport, do_read), c"Decrypt what is left.")
    .method(c"_resume", noargs!(TlsTransport, resume), c"Go on after a pause.")
    .method(
        c"_check_handshake_timeout",
        noargs!(TlsTransport, check_handshake_timeout),
        c"The handshake should be over.",
    )
    .method(
        c"_check_shutdown_timeout",
        noargs!(TlsTransport, check_shutdown_timeout),
        c"The shutdown should be over.",
    )
}

fn attributes(b: ClassBuilder<TlsTransport>) -> ClassBuilder<TlsTransport> {
    b.getset(
        c"_ssl_protocol",
        getter!(TlsTransport, itself),
        None,
        c"The transport itself, which is the protocol below too.",
    )
    .getset(c"_app_transport", getter!(TlsTransport, itself), None, c"The transport itself.")
    .getset(c"_app_protocol", getter!(TlsTransport, get_protocol), None, c"The program's protocol.")
    .getset(c"_protocol", getter!(TlsTransport, get_protocol), None, c"The program's protocol.")
    .getset(
        c"_transport",
        getter!(TlsTransport, lower),
        None,
        c"The transport below; None once the connection is lost.",
    )
    .getset(c"_sslobj", getter!(TlsTransport, ssl_object), None, c"The ssl.SSLObject.")
    .getset(c"_loop", getter!(TlsTransport, event_loop), None, c"The loop; None once the connection is lost.")
    .getset(c"_app_reading_paused", getter!(TlsTransport, reading_paused), None, c"Whether reading is paused.")
    .getset(c"_closed", getter!(TlsTransport, is_closed), None, c"Whether close() was called.")
    .getset(c"_conn_lost", getter!(TlsTransport, conn_lost), None, c"0 while connected.")
    .getset(c"_protocol_paused", getter!(TlsTransport, protocol_paused), None, c"Whether writing is paused.")
    .getset(c"_engine", getter!(TlsTransport, engine), None, c"'direct' or 'fallback'.")
}
