//! The Python classes: `aioxide._native.ReadPipeTransport` and `WritePipeTransport`, derived from `asyncio.ReadTransport` and
//! `asyncio.Transport` (asyncio's own inherits its flow control from a class that is both ways).
//!
//! CPython counterpart: the methods of `_UnixReadPipeTransport` and `_UnixWritePipeTransport`, and those of their attributes that
//! programs look at.

use super::{OfPipe, READ_CLASS, ReadPipeTransport, WRITE_CLASS, WritePipeTransport, finalize};
use crate::ffi::{Args, ClassBuilder, Inst, Native, Obj, Raised, Ref, Res, int, none, str_of, string, true_, utf8};
use crate::objects::names::imports;
use crate::{constructor, finalizer, getter, keywords, name, noargs, onearg, unary};

type Reader = Inst<ReadPipeTransport>;
type Writer = Inst<WritePipeTransport>;

fn done(outcome: Res<()>) -> Res {
    outcome.map(|()| none().to_ref())
}

// --- both -------------------------------------------------------------------------------------------------------------

fn is_closing<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    Ok(this.pipe().base.closing.get().into())
}

fn set_protocol<T: OfPipe + Native>(this: &Inst<T>, args: Args) -> Res {
    let [protocol] = args.exactly("set_protocol", ["protocol"])?;
    this.pipe().base.flush_held()?;
    done(this.pipe().base.protocol.set_plain(protocol))
}

fn get_protocol<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    Ok(this.pipe().base.protocol.object())
}

fn get_extra_info<T: OfPipe + Native>(this: &Inst<T>, args: Args) -> Res {
    let [key, default] = args.bind("get_extra_info", ["name", "default"], 2, 1)?;
    this.pipe().base.flush_held()?;
    let extra = this.pipe().extra.get_or_none();
    extra.call_method(name!("get"), [key.unwrap_or(none()), default.unwrap_or(none())])
}

fn object<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    this.pipe().base.flush_held()?;
    Ok(this.pipe().object.get_or_none())
}

fn fileno<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    int(this.pipe().fd.get().into())
}

fn event_loop<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    Ok(this.pipe().base.event_loop.get_or_none())
}

fn extra<T: OfPipe + Native>(this: &Inst<T>) -> Res {
    Ok(this.pipe().extra.get_or_none())
}

/// Same as both `__repr__`; `watched` and what it adds is the direction's.
fn repr<T: OfPipe + Native>(this: &Inst<T>, watched: Option<bool>, bufsize: Option<usize>) -> Res {
    let pipe = this.pipe();
    let mut info = vec![str_of(&*this.obj().class().getattr(name!("__name__"))?)?];
    if !pipe.object.is_some() {
        info.push("closed".to_owned());
    } else if pipe.base.closing.get() {
        info.push("closing".to_owned());
    }
    info.push(format!("fd={}", pipe.fd.get()));
    match watched {
        _ if !pipe.object.is_some() => info.push("closed".to_owned()),
        None => info.push("open".to_owned()),
        Some(polls) => {
            info.push(if polls { "polling" } else { "idle" }.to_owned());
            info.extend(bufsize.map(|size| format!("bufsize={size}")));
        }
    }
    string(&format!("<{}>", info.join(" ")))
}

/// The arguments of `_fatal_error`.
fn bind_error<'a>(args: &'a Args) -> Res<(&'a Obj, &'a str)> {
    let [exception, message] = args.bind("_fatal_error", ["exc", "message"], 2, 1)?;
    Ok((exception.unwrap_or(none()), message.map_or(Ok("Fatal error on pipe transport"), utf8)?))
}

// --- reading ----------------------------------------------------------------------------------------------------------

fn new_reader(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a ReadPipeTransport is made by its loop: connect_read_pipe()"))
}

fn reader_repr(this: &Reader) -> Res {
    repr(this, this.reader.is_watched(&this.pipe.base, this.pipe.fd.get(), this.obj()), None)
}

fn reader_finalize(this: &Reader) {
    finalize(&**this, this.obj());
}

fn pause_reading(this: &Reader) -> Res {
    this.pipe.base.flush_held()?;
    done(this.pause_reading())
}

fn resume_reading(this: &Reader) -> Res {
    this.pipe.base.flush_held()?;
    done(this.resume_reading())
}

fn is_reading(this: &Reader) -> Res {
    Ok(this.is_reading().into())
}

fn paused(this: &Reader) -> Res {
    Ok(this.paused.get().into())
}

fn close_reader(this: &Reader) -> Res {
    done(this.close())
}

fn read_ready(this: &Reader) -> Res {
    done(this.read())
}

fn reader_error(this: &Reader, args: Args) -> Res {
    let (exception, message) = bind_error(&args)?;
    done(this.fail(exception, message))
}

fn end_reader(this: &Reader, exception: &Obj) -> Res {
    done(this.lose_connection(exception))
}

// --- writing ----------------------------------------------------------------------------------------------------------

fn new_writer(_class: &Obj, _args: &Obj, _kwargs: Option<&Obj>) -> Res {
    Err(Raised::type_error("a WritePipeTransport is made by its loop: connect_write_pipe()"))
}

fn writer_repr(this: &Writer) -> Res {
    repr(this, this.writer.is_watched(&this.pipe.base, this.pipe.fd.get(), this.obj()), Some(this.unsent_bytes()))
}

fn writer_finalize(this: &Writer) {
    finalize(&**this, this.obj());
}

fn write(this: &Writer, args: Args) -> Res {
    let [data] = args.exactly("write", ["data"])?;
    done(this.write(data))
}

/// Same as `WriteTransport.writelines`.
fn writelines(this: &Writer, args: Args) -> Res {
    let [lines] = args.exactly("writelines", ["list_of_data"])?;
    let all = crate::ffi::bytes_from(b"")?.call_method(name!("join"), [lines])?;
    done(this.write(&all))
}

fn write_eof(this: &Writer) -> Res {
    done(this.write_eof())
}

fn can_write_eof(_: &Writer) -> Res {
    Ok(true_().to_ref())
}

fn abort(this: &Writer) -> Res {
    done(this.force_close(none()))
}

fn set_write_buffer_limits(this: &Writer, args: Args) -> Res {
    let [high, low] = args.bind("set_write_buffer_limits", ["high", "low"], 2, 0)?;
    done(this.flow.set(&this.pipe.base, this.obj(), [high, low], || this.unsent_bytes()))
}

fn get_write_buffer_limits(this: &Writer) -> Res {
    this.flow.limits()
}

fn get_write_buffer_size(this: &Writer) -> Res {
    this.pipe.base.flush_held()?;
    int(this.unsent_bytes() as i64)
}

fn conn_lost(this: &Writer) -> Res {
    int(this.pipe.base.conn_lost.get() as i64)
}

fn protocol_paused(this: &Writer) -> Res {
    Ok(this.flow.is_paused().into())
}

fn write_ready(this: &Writer) -> Res {
    done(this.on_writable())
}

fn hang_up(this: &Writer) -> Res {
    done(this.on_hang_up())
}

fn writer_error(this: &Writer, args: Args) -> Res {
    let (exception, message) = bind_error(&args)?;
    done(this.fail(exception, message))
}

fn end_writer(this: &Writer, exception: &Obj) -> Res {
    done(this.lose_connection(exception))
}

// --- the classes ------------------------------------------------------------------------------------------------------

macro_rules! shared {
    ($b:expr, $t:ty) => {
        $b.method(
            c"is_closing",
            noargs!($t, is_closing),
            c"is_closing($self, /)\n--\n\nWhether the transport is closing or closed.",
        )
        .method(
            c"set_protocol",
            keywords!($t, set_protocol),
            c"set_protocol($self, protocol)\n--\n\nExchange the protocol.",
        )
        .method(
            c"get_protocol",
            noargs!($t, get_protocol),
            c"get_protocol($self, /)\n--\n\nThe protocol; None once the connection is lost.",
        )
        .method(
            c"get_extra_info",
            keywords!($t, get_extra_info),
            c"get_extra_info($self, name, default=None)\n--\n\npipe: the file object.",
        )
        .getset(c"_pipe", getter!($t, object), None, c"The file object; None once closed.")
        .getset(c"_fileno", getter!($t, fileno), None, c"Its descriptor when the transport was made.")
        .getset(c"_loop", getter!($t, event_loop), None, c"The loop; None once closed.")
        .getset(c"_protocol", getter!($t, get_protocol), None, c"The protocol; None once closed.")
        .getset(c"_extra", getter!($t, extra), None, c"The dict behind get_extra_info().")
        .getset(c"_closing", getter!($t, is_closing), None, c"Whether close() was called.")
    };
}

pub fn build() -> Res<()> {
    let reader = build_reader()?;
    let writer = build_writer()?;
    debug_assert!(READ_CLASS.type_object().is(&reader) && WRITE_CLASS.type_object().is(&writer));
    Ok(())
}

fn build_reader() -> Res<Ref> {
    let b = ClassBuilder::<ReadPipeTransport>::new(
        c"aioxide._native.ReadPipeTransport",
        c"The transport of a pipe, or the like, that is read. Same as asyncio's.",
    )
    .python_base(&imports().read_transport_class)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new_reader))
    .slot(pyo3_ffi::Py_tp_repr, unary!(ReadPipeTransport, reader_repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(ReadPipeTransport, reader_finalize))
    .method(
        c"pause_reading",
        noargs!(ReadPipeTransport, pause_reading),
        c"pause_reading($self, /)\n--\n\nNo data_received() until resume_reading(). Idempotent.",
    )
    .method(
        c"resume_reading",
        noargs!(ReadPipeTransport, resume_reading),
        c"resume_reading($self, /)\n--\n\nGo on reading. Idempotent.",
    )
    .method(
        c"is_reading",
        noargs!(ReadPipeTransport, is_reading),
        c"is_reading($self, /)\n--\n\nWhether data may arrive: neither paused nor closing.",
    )
    .method(
        c"close",
        noargs!(ReadPipeTransport, close_reader),
        c"close($self, /)\n--\n\nClose the pipe; the protocol gets connection_lost(None).",
    )
    .method(c"_read_ready", noargs!(ReadPipeTransport, read_ready), c"Read once.")
    .method(c"_fatal_error", keywords!(ReadPipeTransport, reader_error), c"Report an exception and close.")
    .method(
        c"_call_connection_lost",
        onearg!(ReadPipeTransport, end_reader),
        c"The end: connection_lost, then the pipe is closed.",
    )
    .getset(c"_paused", getter!(ReadPipeTransport, paused), None, c"Whether reading is paused.");
    shared!(b, ReadPipeTransport).build()
}

fn build_writer() -> Res<Ref> {
    let b = ClassBuilder::<WritePipeTransport>::new(
        c"aioxide._native.WritePipeTransport",
        c"The transport of a pipe, or the like, that is written to. Same as asyncio's.",
    )
    .python_base(&imports().transport_class)
    .with_dict()
    .with_weaklist()
    .slot(pyo3_ffi::Py_tp_new, constructor!(new_writer))
    .slot(pyo3_ffi::Py_tp_repr, unary!(WritePipeTransport, writer_repr))
    .slot(pyo3_ffi::Py_tp_finalize, finalizer!(WritePipeTransport, writer_finalize))
    .method(c"write", keywords!(WritePipeTransport, write), c"write($self, data)\n--\n\nWrite data, or queue what there is no room for. Never blocks.")
    .method(c"writelines", keywords!(WritePipeTransport, writelines), c"writelines($self, list_of_data)\n--\n\nWrite an iterable of bytes-like objects.")
    .method(c"write_eof", noargs!(WritePipeTransport, write_eof), c"write_eof($self, /)\n--\n\nClose the pipe once everything queued is written.")
    .method(c"can_write_eof", noargs!(WritePipeTransport, can_write_eof), c"can_write_eof($self, /)\n--\n\nTrue.")
    .method(c"close", noargs!(WritePipeTransport, write_eof), c"close($self, /)\n--\n\nWrite what is queued, then close; the protocol gets connection_lost(None).")
    .method(c"abort", noargs!(WritePipeTransport, abort), c"abort($self, /)\n--\n\nClose at once; what is queued is lost.")
    .method(c"set_write_buffer_limits", keywords!(WritePipeTransport, set_write_buffer_limits), c"set_write_buffer_limits($self, high=None, low=None)\n--\n\nBytes queued at which the protocol is told to pause and to resume. ValueError unless high >= low >= 0.")
    .method(c"get_write_buffer_limits", noargs!(WritePipeTransport, get_write_buffer_limits), c"get_write_buffer_limits($self, /)\n--\n\n(low, high) in bytes.")
    .method(c"get_write_buffer_size", noargs!(WritePipeTransport, get_write_buffer_size), c"get_write_buffer_size($self, /)\n--\n\nBytes queued.")
    .method(c"_read_ready", noargs!(WritePipeTransport, hang_up), c"The reader has hung up.")
    .method(c"_write_ready", noargs!(WritePipeTransport, write_ready), c"Write what is queued.")
    .method(c"_fatal_error", keywords!(WritePipeTransport, writer_error), c"Report an exception and close at once.")
    .method(c"_call_connection_lost", onearg!(WritePipeTransport, end_writer), c"The end: connection_lost, then the pipe is closed.")
    .getset(c"_conn_lost", getter!(WritePipeTransport, conn_lost), None, c"Writes after the end.")
    .getset(c"_protocol_paused", getter!(WritePipeTransport, protocol_paused), None, c"Whether writing is paused.");
    shared!(b, WritePipeTransport).build()
}
