//! What `sendfile` and `sock_sendfile` (`python/aioxide/_sendfile.py`) need of the native loop.

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Res, none};
use crate::io::sendfile;
use crate::io::transport::SocketTransport;

pub fn sendfile(this: &Inst<EventLoop>, args: Args) -> Res {
    let names = ["sock", "file", "offset", "count", "size", "always"];
    let [sock, file, offset, count, size, always] = args.exactly("_sendfile", names)?;
    sendfile::sock_sendfile(this.obj(), sock, file, [offset, count, size], always.is_true()?)
}

pub fn set_aside(this: &Inst<EventLoop>, transport: &Obj) -> Res {
    if let Some(socket) = transport.downcast::<SocketTransport>() {
        this.driver.transports.remove(socket.number(), transport)?;
    }
    Ok(none().to_ref())
}

pub fn take_back(this: &Inst<EventLoop>, transport: &Obj) -> Res {
    // One that was closed meanwhile has no descriptor any more; its number may be another one's.
    if let Some(socket) = transport.downcast::<SocketTransport>().filter(|socket| socket.is_open(None)) {
        this.driver.transports.insert(socket.number(), transport)?;
    }
    Ok(none().to_ref())
}
