//! Two steps of `create_connection`: a socket connected to one address, and a transport made of a socket.
//!
//! CPython counterpart: `BaseEventLoop._connect_sock` and `_create_connection_transport`.
//!
//! What comes before (arguments, names, the order of attempts, the race) is Python (`aioxide._connect`): it runs once per
//! connection, and programs and tests replace those steps. In these two a socket has exactly one owner at each moment, and
//! whatever ends them early, a cancellation included, closes it.

use super::sock::{self, ADDRESS, LOOP, SOCK};
use super::socket_object;
use crate::ffi::{Context, Obj, Owned, Raised, Res, exc, index_value, int, list, none, tuple};
use crate::objects::future::{Fut, Future};
use crate::objects::names::imports;
use crate::tasks::coroutine::{self, Frame};
use crate::{kwnames, name};

const INFO: usize = 3;
const LOCAL_INFOS: usize = 4;
const ERRORS: usize = 5;
const FACTORY: usize = 3;

/// Same as `_connect_sock(exceptions, addr_info, local_addr_infos)`: what fails is listed and raised.
///
/// `by_method`: the loop's `sock_connect` is the program's own, and is awaited.
pub fn connect_sock(event_loop: &Obj, errors: &Obj, info: &Obj, local_infos: &Obj, by_method: bool) -> Res {
    let locals = [event_loop, none(), none(), info, local_infos, errors];
    coroutine::start("EventLoop._connect_sock", locals, move |frame| async move {
        let mine = list()?;
        frame.local(ERRORS).list_append(&mine)?;
        frame.set_local(ERRORS, mine);
        match open_and_connect(&frame, by_method).await {
            Err(raised) if raised.matches(exc::os_error()) => {
                let error = raised.take();
                frame.local(ERRORS).list_append(&error)?;
                Err(Raised::raise(error))
            }
            outcome => outcome,
        }
    })
}

async fn open_and_connect(frame: &Frame, by_method: bool) -> Res {
    open(frame)?;
    let opened = Opened::socket(frame);
    socket_object::make_non_blocking(&frame.local(SOCK))?;
    if !frame.local(LOCAL_INFOS).is_none() {
        let (event_loop, sock) = (frame.local(LOOP), frame.local(SOCK));
        let (infos, errors) = (frame.local(LOCAL_INFOS), frame.local(ERRORS));
        let family = frame.local(INFO).get_item(&*int(0)?)?;
        event_loop.call_method(name!("_bind_to_one"), [&*sock, &*family, &*infos, &*errors])?;
    }
    if by_method {
        let (event_loop, sock, address) = (frame.local(LOOP), frame.local(SOCK), frame.local(ADDRESS));
        let connecting = event_loop.call_method(name!("sock_connect"), [&*sock, &*address])?;
        drop((event_loop, sock, address));
        frame.wait_for(connecting).await?;
    } else {
        sock::connect_to(frame).await?;
    }
    opened.keep();
    Ok(frame.local(SOCK))
}

/// A socket for `INFO`, as the frame's own.
fn open(frame: &Frame) -> Res<()> {
    let info = frame.local(INFO);
    let [family, type_, protocol, _, address] = info.unpack::<5>()?;
    frame.set_local(ADDRESS, address);
    let imports = imports();
    // A program may have put its own class in the place of the standard one.
    let class = imports.socket_namespace.dict_get_other(name!("socket"), &imports.socket_class);
    if let Some(class) = class {
        let sock = class.call_kw(&[&*family, &*type_, &*protocol], kwnames!("family", "type", "proto"))?;
        frame.set_local(SOCK, sock);
        return Ok(());
    }
    let kind = [index_value(&family)?, index_value(&type_)?, index_value(&protocol)?];
    frame.set_local(SOCK, socket_object::open(kind)?);
    Ok(())
}

/// The frame's socket, or the transport made of it, is closed unless somebody takes it over.
struct Opened<'a> {
    frame: &'a Frame,
    close: fn(&Obj) -> Res<()>,
}

impl Opened<'_> {
    fn socket(frame: &Frame) -> Opened<'_> {
        Opened { frame, close: socket_object::close }
    }

    fn transport(frame: &Frame) -> Opened<'_> {
        Opened { frame, close: |transport| transport.call_method(name!("close"), []).map(drop) }
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let opened = self.frame.local(SOCK);
        Raised::aside(|| match (self.close)(&opened) {
            // What ends the program must not be lost; of all else the first error counts.
            Err(raised) if raised.is_exit() => self.frame.put_close_error(raised.take()),
            Err(raised) => raised.forget(),
            Ok(()) => {}
        });
    }
}

/// Same as `_create_connection_transport`: the socket is the transport's from here on.
pub fn create_transport(event_loop: &Obj, sock: &Obj, protocol_factory: &Obj) -> Res {
    let locals = [event_loop, sock, none(), protocol_factory];
    coroutine::start("EventLoop._create_connection_transport", locals, |frame| async move {
        let opened = Opened::socket(&frame);
        let (event_loop, sock) = (frame.local(LOOP), frame.local(SOCK));
        socket_object::make_non_blocking(&sock)?;
        // All its callbacks run in one copy of the caller's context (3.15), which the factory cannot change any more.
        let context = if cfg!(Py_3_15) { Some(Context::copy_current()?) } else { None };
        let protocol = frame.local(FACTORY).call0()?;
        let waiter = Owned::new(Future::default())?;
        Fut::from_inst(&*waiter).init(Some(&event_loop))?;
        let make = event_loop.getattr(name!("_make_socket_transport"))?;
        let transport = match &context {
            Some(context) => make.call_kw(&[&*sock, &*protocol, waiter.obj(), context], kwnames!("context"))?,
            None => make.call([&*sock, &*protocol, waiter.obj()])?,
        };
        opened.keep();
        frame.set_local(SOCK, transport);
        frame.set_local(ADDRESS, protocol);
        drop((event_loop, sock, make, context));
        let made = Opened::transport(&frame);
        frame.wait(waiter.into_ref()).await?;
        made.keep();
        tuple([&*frame.local(SOCK), &*frame.local(ADDRESS)])
    })
}
