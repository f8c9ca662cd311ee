//! The `sock_*` methods: socket calls on the program's own non-blocking sockets.
//!
//! CPython counterpart: `BaseSelectorEventLoop.sock_recv` & co.
//!
//! Each tries the call first and waits only if the kernel says so; after the wait it tries again when it is its turn to
//! run, not in the watcher as asyncio does, so a cancellation that comes between loses no data. The descriptor's
//! registration stays when the wait ends (`Reactor::linger`).
//!
//! The common calls on a plain `socket.socket` go to the kernel directly. A subclass, a mock, an unusual argument: its own
//! method is called, and BlockingIOError means "not now".

use std::io;
use std::os::fd::RawFd;

use aioxide_core::reactor::Direction;
use aioxide_core::sys::socket;

use super::address::Endpoint;
use super::driver::{Driver, descriptor};
use super::receive::{arrived, not_writable};
use super::{address, socket_object};
use crate::ffi::cell::Rc;
use crate::ffi::{
    BytesWriter, Obj, Owned, Raised, ReadBuffer, Ref, Res, WriteBuffer, audit, bytes_from, exc, float_value,
    index_value, int, none, socket_fd, str_of, string, tuple,
};
use crate::objects::future::{Fut, Future};
use crate::objects::names::imports;
use crate::objects::scheduler::Scheduler;
use crate::tasks::coroutine::{self, Frame};
use crate::{kwnames, name};

/// Up to this size a message is received into the loop's buffer and copied: a large `bytes` that shrinks costs more.
const COPIED_BYTES: usize = 64 * 1024;

/// Where a coroutine of this file finds its arguments.
pub(super) const LOOP: usize = 0;
pub(super) const SOCK: usize = 1;
const FIRST: usize = 2;
const SECOND: usize = 3;
/// Of those that connect.
pub(super) const ADDRESS: usize = FIRST;

/// Same as `loop.sock_recv`.
pub fn recv(event_loop: &Obj, sock: &Obj, count: &Obj) -> Res {
    coroutine::start("EventLoop.sock_recv", [event_loop, sock, count], |frame| async move {
        check(&frame)?;
        retry(&frame, Direction::Read, |sock| {
            let count = frame.local(FIRST);
            match direct(sock).zip(size(&count)) {
                Some((fd, size)) => receive(&frame.local(LOOP), fd, size),
                None => attempt(sock.call_method(name!("recv"), [&*count])),
            }
        })
        .await
    })
}

/// Same as `loop.sock_recv_into`.
pub fn recv_into(event_loop: &Obj, sock: &Obj, buffer: &Obj) -> Res {
    coroutine::start("EventLoop.sock_recv_into", [event_loop, sock, buffer], |frame| async move {
        check(&frame)?;
        retry(&frame, Direction::Read, |sock| {
            let buffer = frame.local(FIRST);
            if direct(sock).is_none() {
                return attempt(sock.call_method(name!("recv_into"), [&*buffer]));
            }
            let mut view = WriteBuffer::new(&buffer).map_err(|raised| not_writable(raised, &buffer))?;
            // As it is now: the view is made by the program's code, which may have closed the socket.
            let fd = socket_fd(sock, -1);
            // Nothing is asked of the kernel for no room, as in CPython.
            let outcome = if view.len() == 0 { Ok(0) } else { socket::recv(fd, view.room()) };
            drop(view);
            arrived(outcome)?.map(|count| int(count as i64)).transpose()
        })
        .await
    })
}

/// Same as `loop.sock_recvfrom`.
pub fn recvfrom(event_loop: &Obj, sock: &Obj, size: &Obj) -> Res {
    coroutine::start("EventLoop.sock_recvfrom", [event_loop, sock, size], |frame| async move {
        check(&frame)?;
        let call = |sock: &Obj| attempt(sock.call_method(name!("recvfrom"), [&*frame.local(FIRST)]));
        retry(&frame, Direction::Read, call).await
    })
}

/// Same as `loop.sock_recvfrom_into`.
pub fn recvfrom_into(event_loop: &Obj, sock: &Obj, buffer: &Obj, count: &Obj) -> Res {
    coroutine::start("EventLoop.sock_recvfrom_into", [event_loop, sock, buffer, count], |frame| async move {
        check(&frame)?;
        if !frame.local(SECOND).is_true()? {
            let size = frame.local(FIRST).len()?;
            frame.set_local(SECOND, int(size as i64)?);
        }
        retry(&frame, Direction::Read, |sock| {
            attempt(sock.call_method(name!("recvfrom_into"), [&*frame.local(FIRST), &*frame.local(SECOND)]))
        })
        .await
    })
}

/// Same as `loop.sock_sendto`.
pub fn sendto(event_loop: &Obj, sock: &Obj, data: &Obj, to: &Obj) -> Res {
    coroutine::start("EventLoop.sock_sendto", [event_loop, sock, data, to], |frame| async move {
        check(&frame)?;
        retry(&frame, Direction::Write, |sock| {
            attempt(sock.call_method(name!("sendto"), [&*frame.local(FIRST), &*frame.local(SECOND)]))
        })
        .await
    })
}

/// Same as `loop.sock_sendall`. While it waits a view of `data` is held: a `bytearray` cannot be resized meanwhile.
pub fn sendall(event_loop: &Obj, sock: &Obj, data: &Obj) -> Res {
    coroutine::start("EventLoop.sock_sendall", [event_loop, sock, data, none()], |frame| async move {
        check(&frame)?;
        let mut sent = 0;
        if send_rest(&frame, FIRST, &mut sent)? {
            return Ok(none().to_ref());
        }
        // Where the collector sees it.
        frame.set_local(SECOND, imports().memoryview.call1(&frame.local(FIRST))?);
        loop {
            ready(&frame, Direction::Write).await?;
            if send_rest(&frame, SECOND, &mut sent)? {
                return Ok(none().to_ref());
            }
        }
    })
}

/// Send what is left of a local; was it all?
fn send_rest(frame: &Frame, data: usize, sent: &mut usize) -> Res<bool> {
    let sock = frame.local(SOCK);
    if direct(&sock).is_none() && *sent == 0 && data == FIRST {
        // The program's own method, with the program's own object.
        let count = attempt(sock.call_method(name!("send"), [&*frame.local(FIRST)]))?;
        *sent = count.map_or(Ok(0), |count| index_value(&count))? as usize;
        return Ok(*sent == ReadBuffer::new(&frame.local(FIRST))?.as_slice().len());
    }
    let view = ReadBuffer::new(&frame.local(data))?;
    let rest = view.as_slice().get(*sent..).unwrap_or_default();
    let count = match direct(&sock) {
        Some(fd) => arrived(socket::send(fd, rest))?,
        None => {
            // An object that cannot outlive the view's bytes.
            let count = attempt(sock.call_method(name!("send"), [&*bytes_from(rest)?]))?;
            count.map(|count| index_value(&count)).transpose()?.map(|count| count as usize)
        }
    };
    *sent += count.unwrap_or(0).min(rest.len());
    Ok(count.is_some() && *sent >= view.as_slice().len())
}

/// Same as `loop.sock_accept`.
pub fn accept(event_loop: &Obj, sock: &Obj) -> Res {
    coroutine::start("EventLoop.sock_accept", [event_loop, sock], |frame| async move {
        check(&frame)?;
        let blocks = direct(&frame.local(SOCK)).is_some_and(|fd| !socket::is_non_blocking(fd));
        if blocks {
            // accept(2) knows no MSG_DONTWAIT.
            ready(&frame, Direction::Read).await?;
        }
        retry(&frame, Direction::Read, |sock| match direct(sock).filter(|_| !blocks) {
            Some(fd) => accept_plain(sock, fd),
            None => accept_by_method(sock),
        })
        .await
    })
}

fn accept_plain(sock: &Obj, fd: RawFd) -> Res<Option<Ref>> {
    let (accepted, peer) = match socket::accept_from(fd) {
        Ok(accepted) => accepted,
        Err(error) => return arrived(Err(error)).map(|_nothing| None),
    };
    let connection = socket_object::adopt(accepted, socket_object::kind(sock)?)?;
    let peer = address::of_peer(&connection, peer.and_then(Endpoint::of).as_ref())?;
    tuple([&*connection, &*peer]).map(Some)
}

fn accept_by_method(sock: &Obj) -> Res<Option<Ref>> {
    let Some(accepted) = attempt(sock.call_method(name!("accept"), []))? else {
        return Ok(None);
    };
    accepted.get_item(&*int(0)?)?.call_method(name!("setblocking"), [crate::ffi::false_()])?;
    Ok(Some(accepted))
}

/// Same as `loop.sock_connect`.
pub fn connect(event_loop: &Obj, sock: &Obj, to: &Obj) -> Res {
    coroutine::start("EventLoop.sock_connect", [event_loop, sock, to], |frame| async move {
        check(&frame)?;
        connect_to(&frame).await
    })
}

/// Connect the frame's socket to the frame's address.
pub(super) async fn connect_to(frame: &Frame) -> Res {
    let family = socket_object::family(&frame.local(SOCK))?;
    // connect(2) on a socket that blocks is for its method, which lets go of the interpreter.
    let fd = direct(&frame.local(SOCK)).filter(|&fd| socket::is_non_blocking(fd));
    let begun = match address::from_python(&frame.local(ADDRESS), family).zip(fd) {
        Some((address, _)) => {
            audit(c"socket.connect", &frame.local(SOCK), &frame.local(ADDRESS))?;
            // The descriptor as it is now: a hook is the program's code, and may have closed the socket.
            socket::connect(socket_fd(&frame.local(SOCK), -1), &address)
        }
        None => {
            if address::is_ip_family(family) {
                resolve(frame).await?;
            }
            let connected = frame.local(SOCK).call_method(name!("connect"), [&*frame.local(ADDRESS)]);
            attempt(connected)?.map(drop).ok_or_else(|| io::ErrorKind::WouldBlock.into())
        }
    };
    match begun {
        Ok(()) => return Ok(none().to_ref()),
        // Interrupted or in progress, it goes on in the background; SO_ERROR tells how it ended.
        Err(error) if is_not_ready(&error) || socket::is_in_progress(&error) => {}
        Err(error) => return Err(Raised::os(&error)),
    }
    loop {
        ready(frame, Direction::Write).await?;
        match socket::take_error(socket_fd(&frame.local(SOCK), -1)) {
            Ok(None) => return Ok(none().to_ref()),
            Ok(Some(error)) | Err(error) if is_not_ready(&error) => drop(error),
            Ok(Some(error)) => return Err(connect_failed(&error, &frame.local(ADDRESS))?),
            Err(error) => return Err(Raised::os(&error)),
        }
    }
}

/// Put the first address that the frame's one resolves to in its place.
async fn resolve(frame: &Frame) -> Res<()> {
    let resolving = {
        let (event_loop, address) = (frame.local(LOOP), frame.local(ADDRESS));
        let [family, type_, protocol] = socket_object::attributes(&frame.local(SOCK))?;
        event_loop.call_method_kw(
            name!("_ensure_resolved"),
            [&*address, &*family, &*type_, &*protocol, &*event_loop],
            kwnames!("family", "type", "proto", "loop"),
        )?
    };
    let infos = frame.wait_for(resolving).await?;
    let first = infos.get_item(&*int(0)?)?;
    frame.set_local(ADDRESS, first.get_item(&*int(4)?)?);
    Ok(())
}

/// OSError "Connect call failed ('127.0.0.1', 1)".
#[cold]
fn connect_failed(error: &io::Error, address: &Obj) -> Res<Raised> {
    let text = string(&format!("Connect call failed {}", str_of(address)?))?;
    let exception = exc::os_error().call([&*int(error.raw_os_error().unwrap_or_default().into())?, &*text])?;
    Ok(Raised::raise(exception))
}

/// Make the call until it is done; `call` gives None for "not now".
async fn retry(frame: &Rc<Frame>, d: Direction, mut call: impl FnMut(&Obj) -> Res<Option<Ref>>) -> Res {
    loop {
        if let Some(done) = call(&frame.local(SOCK))? {
            return Ok(done);
        }
        ready(frame, d).await?;
    }
}

/// Wait until the socket is ready.
///
/// # Errors
/// RuntimeError if a transport uses the descriptor; OSError as epoll has it; what is thrown in.
pub(super) async fn ready(frame: &Frame, d: Direction) -> Res<()> {
    let future = Owned::new(Future::default())?;
    let watch = {
        let (event_loop, sock) = (frame.local(LOOP), frame.local(SOCK));
        Fut::from_inst(&*future).init(Some(&event_loop))?;
        let Some(driver) = Driver::of(&event_loop) else {
            return Err(Raised::type_error("the loop is not an aioxide loop"));
        };
        let fd = descriptor(&sock)?;
        driver.transports.ensure_free(fd, &*int(fd.into())?)?;
        driver.watch_once(fd, d, future.obj())?;
        Watch { frame, fd, d, future: future.obj().address() }
    };
    let woken = frame.wait(future.into_ref()).await;
    drop(watch);
    woken.map(drop)
}

/// A watch of this coroutine's, which ends with it.
struct Watch<'a> {
    frame: &'a Frame,
    fd: RawFd,
    d: Direction,
    /// By address: whoever else has the place by now keeps it.
    future: usize,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(driver) = Driver::of(&self.frame.local(LOOP)) {
            driver.linger(self.fd, self.d, self.future);
        }
    }
}

/// What `sock_*` asks of the socket before anything else.
fn check(frame: &Frame) -> Res<()> {
    let (event_loop, sock) = (frame.local(LOOP), frame.local(SOCK));
    if let Some(driver) = Driver::of(&event_loop) {
        driver.held.flush()?;
    }
    socket_object::refuse_tls(&sock)?;
    let is_debug = Scheduler::of(&event_loop).is_some_and(|s| s.debug.get());
    if is_debug {
        let timeout = sock.call_method(name!("gettimeout"), [])?;
        if timeout.is_none() || float_value(&timeout)? != 0.0 {
            return Err(Raised::value_error("the socket must be non-blocking"));
        }
    }
    Ok(())
}

/// The descriptor of a plain socket.
#[inline]
fn direct(sock: &Obj) -> Option<RawFd> {
    socket_object::is_plain(sock).then(|| socket_fd(sock, -1))
}

/// A size that `recv` can be asked for directly; anything else is for the method, whose errors are the right ones.
fn size(count: &Obj) -> Option<usize> {
    if !count.is_long() {
        return None;
    }
    match index_value(count) {
        Ok(count) => usize::try_from(count).ok().filter(|&count| count != 0),
        Err(raised) => {
            raised.forget();
            None
        }
    }
}

fn receive(event_loop: &Obj, fd: RawFd, size: usize) -> Res<Option<Ref>> {
    if let (Some(driver), true) = (Driver::of(event_loop), size <= COPIED_BYTES) {
        let received = socket::recv_into(fd, &mut driver.receive_buffer.borrow_mut()[..size]);
        let Some(count) = arrived(received)? else {
            return Ok(None);
        };
        return bytes_from(&driver.receive_buffer.borrow()[..count]).map(Some);
    }
    let mut writer = BytesWriter::with_capacity(size)?;
    let Some(count) = arrived(socket::recv(fd, writer.room()))? else {
        return Ok(None);
    };
    writer.finish(count).map(Some)
}

/// What a method of the socket came to; None for "not now".
pub(super) fn attempt(outcome: Res) -> Res<Option<Ref>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(raised) if raised.matches(exc::blocking_io_error()) || raised.matches(exc::interrupted_error()) => {
            raised.forget();
            Ok(None)
        }
        Err(raised) => Err(raised),
    }
}

fn is_not_ready(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
