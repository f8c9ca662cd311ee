//! Transports with TLS.

use super::EventLoop;
use crate::ffi::{Args, Inst, Owned, Res};
use crate::io::tls::{self, Wanted};

pub fn make(this: &Inst<EventLoop>, args: Args) -> Res {
    this.scheduler.check_closed()?;
    let names = [
        "protocol",
        "sslcontext",
        "waiter",
        "server_side",
        "server_hostname",
        "tells_made",
        "handshake_timeout",
        "shutdown_timeout",
    ];
    let given = args.exactly("_make_tls", names)?;
    let [protocol, context, waiter, server_side, server_hostname, tells_made, handshake, shutdown] = given;
    let wanted = Wanted {
        protocol,
        context,
        waiter: Some(waiter).filter(|o| !o.is_none()),
        server_side,
        server_hostname,
        tells_made: tells_made.is_true()?,
        handshake_timeout: handshake,
        shutdown_timeout: shutdown,
    };
    tls::make(this.obj(), &wanted).map(Owned::into_ref)
}
