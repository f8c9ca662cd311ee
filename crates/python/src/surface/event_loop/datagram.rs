//! Transports for datagram sockets.

use super::EventLoop;
use crate::ffi::{Args, Inst, Obj, Owned, Res, none};
use crate::io::datagram;

pub fn make_datagram_transport(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let [sock, protocol, address, waiter, extra] =
        args.bind("_make_datagram_transport", ["sock", "protocol", "address", "waiter", "extra"], 5, 2)?;
    let given = |o: Option<&'_ Obj>| o.filter(|o| !o.is_none()).map(Obj::to_ref);
    datagram::make(
        this.obj(),
        sock.unwrap_or(none()),
        protocol.unwrap_or(none()),
        given(address).as_deref(),
        given(waiter).as_deref(),
        given(extra).as_deref(),
    )
    .map(Owned::into_ref)
}
