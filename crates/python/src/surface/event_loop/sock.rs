//! `sock_recv` and its like: arguments in, a native coroutine out (`io::sock`).

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Res, int, none};
use crate::io::{connect as connecting, sock};

pub fn recv(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, n] = args.exactly("sock_recv", ["sock", "n"])?;
    sock::recv(this.obj(), sock, n)
}

pub fn recv_into(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, buffer] = args.exactly("sock_recv_into", ["sock", "buf"])?;
    sock::recv_into(this.obj(), sock, buffer)
}

pub fn recvfrom(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, size] = args.exactly("sock_recvfrom", ["sock", "bufsize"])?;
    sock::recvfrom(this.obj(), sock, size)
}

pub fn recvfrom_into(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, buffer, count] = args.bind("sock_recvfrom_into", ["sock", "buf", "nbytes"], 3, 2)?;
    let zero = int(0)?;
    let given = |o: Option<&Obj>| o.map(Obj::to_ref);
    let (sock, buffer) = (given(sock).unwrap_or_else(|| zero.clone()), given(buffer).unwrap_or_else(|| zero.clone()));
    sock::recvfrom_into(this.obj(), &sock, &buffer, count.unwrap_or(&zero))
}

pub fn sendall(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, data] = args.exactly("sock_sendall", ["sock", "data"])?;
    sock::sendall(this.obj(), sock, data)
}

pub fn sendto(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, data, address] = args.exactly("sock_sendto", ["sock", "data", "address"])?;
    sock::sendto(this.obj(), sock, data, address)
}

pub fn connect(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, address] = args.exactly("sock_connect", ["sock", "address"])?;
    sock::connect(this.obj(), sock, address)
}

pub fn accept(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock] = args.exactly("sock_accept", ["sock"])?;
    sock::accept(this.obj(), sock)
}

pub fn connect_sock(this: &Inst<EventLoop>, args: Args) -> Res {
    let [errors, info, local_infos] =
        args.bind("_connect_sock", ["exceptions", "addr_info", "local_addr_infos"], 3, 2)?;
    let (errors, info) = (errors.unwrap_or(none()), info.unwrap_or(none()));
    let local_infos = local_infos.unwrap_or(none());
    connecting::connect_sock(this.obj(), errors, info, local_infos, this.sock_connect_overridden.get())
}

pub fn create_transport(this: &Inst<EventLoop>, args: Args) -> Res {
    let [sock, factory] = args.exactly("_create_connection_transport", ["sock", "protocol_factory"])?;
    connecting::create_transport(this.obj(), sock, factory)
}
