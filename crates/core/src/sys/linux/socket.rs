//! Socket calls on descriptors somebody else owns.
//!
//! CPython counterpart: the methods of `socket.socket`.
//!
//! Invariants: a socket made here is non-blocking and close-on-exec from birth (`accept4`,
//! `SOCK_CLOEXEC`: a later `fcntl` would race with a fork in another thread); no receive or send ever blocks, whatever
//! the program made of its socket (`MSG_DONTWAIT`); a send never raises SIGPIPE; `EINTR` is returned to the caller, who knows whether signal handlers have to run.
//!
//! Received bytes go to `MaybeUninit` memory that the binding provides: the core allocates nothing
//! for them and zeroes nothing before them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, Protocol, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
    sockopt,
};

use super::fd::borrow;
use crate::sys::Address;

/// `IOV_MAX`: more slices in one call are `EMSGSIZE`.
pub const MAX_SLICES: usize = 1024;

/// Or-ed to the type given to `socket.socket(..., fileno=fd)`, it tells Python that the descriptor does not block
/// already.
pub const NONBLOCK: i32 = SocketFlags::NONBLOCK.bits() as i32;

/// `recv(2)`: the first so many bytes of `buffer` are initialised; zero is the end of the stream.
#[inline]
pub fn recv(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (_, count) = net::recv(borrow(fd)?, buffer, RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// `recv(2)` into memory that is initialised already.
#[inline]
pub fn recv_into(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = net::recv(borrow(fd)?, buffer, RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// `recvfrom(2)`: how many bytes, the rest of a longer datagram being lost, and who sent them: nobody who has a name, if the
/// kernel says none (an unbound Unix socket). `EAFNOSUPPORT` for a family the core has no word for.
#[inline]
pub fn recv_from(fd: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<Address>)> {
    let size = buffer.len();
    let (_, count, sender) = net::recvfrom(borrow(fd)?, buffer, RecvFlags::DONTWAIT)?;
    Ok((count.min(size), sender.map(Address::from_sockaddr).transpose()?))
}

/// `sendto(2)` with `MSG_NOSIGNAL`.
#[inline]
pub fn send_to(fd: RawFd, bytes: &[u8], address: &Address) -> io::Result<usize> {
    let (fd, flags) = (borrow(fd)?, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    Ok(match address {
        Address::V4(v4) => net::sendto(fd, bytes, flags, v4)?,
        Address::V6(v6) => net::sendto(fd, bytes, flags, v6)?,
        other => net::sendto(fd, bytes, flags, &other.to_sockaddr()?)?,
    })
}

/// `send(2)` with `MSG_NOSIGNAL`.
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(net::send(borrow(fd)?, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// `sendmsg(2)` with `MSG_NOSIGNAL`; slices beyond [`MAX_SLICES`] wait for the next call.
#[inline]
pub fn send_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let slices = &slices[..slices.len().min(MAX_SLICES)];
    let mut control = SendAncillaryBuffer::default();
    Ok(net::sendmsg(borrow(fd)?, slices, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// `shutdown(SHUT_WR)`: what `write_eof` does.
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    Ok(net::shutdown(borrow(fd)?, Shutdown::Write)?)
}

/// `accept4(SOCK_NONBLOCK | SOCK_CLOEXEC)`
pub fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    Ok(net::accept_with(borrow(fd)?, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// The same with the peer's address; `None` for a family the core has no word for.
pub fn accept_from(fd: RawFd) -> io::Result<(OwnedFd, Option<Address>)> {
    let (accepted, address) = net::acceptfrom_with(borrow(fd)?, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    Ok((accepted, address.and_then(|any| Address::from_sockaddr(any).ok())))
}

/// Whether a failed accept says that the system has run out of something, and not that the socket is bad: the
/// connection stays in the backlog and is reported again at once.
pub fn is_exhausted(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Takes the pending error (`SO_ERROR`): how a connect in progress has ended.
pub fn take_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    Ok(sockopt::socket_error(borrow(fd)?)?.err().map(io::Error::from))
}

/// Whether the socket is TCP, whatever its Python object was told (`SO_PROTOCOL`; MPTCP is another one).
pub fn is_tcp(fd: RawFd) -> io::Result<bool> {
    Ok(sockopt::socket_protocol(borrow(fd)?)? == Some(net::ipproto::TCP))
}

/// `TCP_NODELAY` on.
pub fn set_nodelay(fd: RawFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(borrow(fd)?, true)?)
}

/// `SO_KEEPALIVE` on.
pub fn set_keepalive(fd: RawFd) -> io::Result<()> {
    Ok(sockopt::set_socket_keepalive(borrow(fd)?, true)?)
}

/// A new socket from the numbers of `socket.socket(family, type, proto)`.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let family = u16::try_from(family).map_err(|_| Errno::AFNOSUPPORT)?;
    let kind = u32::try_from(kind).map_err(|_| Errno::INVAL)?;
    let protocol = u32::try_from(protocol).map_err(|_| Errno::PROTONOSUPPORT)?;
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    Ok(net::socket_with(
        AddressFamily::from_raw(family),
        SocketType::from_raw(kind),
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        protocol,
    )?)
}

/// Whether calls on the descriptor return at once (`O_NONBLOCK`). A bad one does: with its error.
pub fn is_non_blocking(fd: RawFd) -> bool {
    let flags = borrow(fd).ok().and_then(|fd| rustix::fs::fcntl_getfl(fd).ok());
    flags.is_none_or(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// Whether a failed connect goes on in the background, this one or an earlier one.
pub fn is_in_progress(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::INPROGRESS | Errno::ALREADY))
}

/// `connect(2)`; `EINPROGRESS` is an error here, as it is for `socket.connect`.
pub fn connect(fd: RawFd, address: &Address) -> io::Result<()> {
    Ok(net::connect(borrow(fd)?, &address.to_sockaddr()?)?)
}

/// `bind(2)`
pub fn bind(fd: RawFd, address: &Address) -> io::Result<()> {
    Ok(net::bind(borrow(fd)?, &address.to_sockaddr()?)?)
}

/// `listen(2)`
pub fn listen(fd: RawFd, backlog: i32) -> io::Result<()> {
    Ok(net::listen(borrow(fd)?, backlog)?)
}

/// `getsockname(2)`
pub fn local_address(fd: RawFd) -> io::Result<Address> {
    Address::from_sockaddr(net::getsockname(borrow(fd)?)?)
}

/// `getpeername(2)`; an unnamed Unix peer is [`Address::UnixUnnamed`].
pub fn peer_address(fd: RawFd) -> io::Result<Address> {
    net::getpeername(borrow(fd)?)?.map_or(Ok(Address::UnixUnnamed), Address::from_sockaddr)
}
