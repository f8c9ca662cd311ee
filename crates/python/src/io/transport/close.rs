//! The ways a transport ends, all of which lead to `connection_lost`, once, in a later turn.
//!
//! CPython counterpart: `close`, `abort`, `_force_close`, `_fatal_error`, `_call_connection_lost`, `__del__`.
//!
//! | way          | queued bytes | `connection_lost` gets |
//! |--------------|--------------|------------------------|
//! | close()      | are sent     | None                   |
//! | abort()      | are dropped  | None                   |
//! | fatal error  | are dropped  | the exception          |
//! | nobody left  | are dropped  | is not called: ResourceWarning, as in asyncio |

use aioxide_core::reactor::Direction;

use super::SocketTransport;
use crate::ffi::{Inst, Obj, Raised, Res, exc, none, str_of, warn};
use crate::io::base::Base;
use crate::io::driver::Driver;
use crate::io::{finally, socket_object};
use crate::name;
use crate::objects::scheduler::Scheduler;

impl Inst<SocketTransport> {
    /// Same as `close`.
    pub(super) fn close(&self) -> Res<()> {
        finally(self.base.flush_held(), || self.close_flushed())
    }

    fn close_flushed(&self) -> Res<()> {
        if self.base.closing.replace(true) {
            return Ok(());
        }
        finally(self.stop_reading(), || {
            if self.unsent_bytes() != 0 {
                return Ok(());
            }
            self.base.conn_lost.set(self.base.conn_lost.get() + 1);
            finally(self.stop_writing(), || self.base.schedule_loss(self.obj(), none()))
        })
    }

    /// Same as `_force_close`: `exception` may be None.
    pub(super) fn force_close(&self, exception: &Obj) -> Res<()> {
        finally(self.base.flush_held(), || self.force_close_flushed(exception))
    }

    fn force_close_flushed(&self, exception: &Obj) -> Res<()> {
        if self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        self.base.conn_lost.set(1);
        self.base.closing.set(true);
        self.discard();
        finally(self.stop_writing(), || finally(self.stop_reading(), || self.base.schedule_loss(self.obj(), exception)))
    }

    /// Same as `_fatal_error`: an OSError is the network's and only logged, anything else is somebody's bug and reported.
    ///
    /// # Errors
    /// SystemExit and KeyboardInterrupt go on as they are.
    #[cold]
    pub(super) fn fatal_error(&self, raised: Raised, message: &str) -> Res<()> {
        if raised.is_exit() {
            return Err(raised);
        }
        self.fail(&raised.take(), message)
    }

    pub(super) fn fail(&self, exception: &Obj, message: &str) -> Res<()> {
        // The handler that is told may look at the peer.
        let told = finally(self.base.flush_held(), || {
            self.base.tell_of(self.obj(), exception, message, Base::is_os_error(exception))
        });
        finally(told, || self.force_close(exception))
    }

    /// Same as `_call_connection_lost`: the protocol's last call, then everything is let go.
    ///
    /// # Errors
    /// What `connection_lost` or the socket's `close` raised, after the rest is done all the same.
    pub(super) fn lose_connection(&self, exception: &Obj) -> Res<()> {
        let told = self.base.protocol.connection_lost(exception);
        // What it wrote elsewhere goes out before the end of this connection does.
        let released = finally(finally(told, || self.base.flush_held()), || self.release());
        if !self.empty_waiter.is_some() {
            return released;
        }
        finally(released, || {
            let closed = Raised::new(exc::connection_error(), "Connection is closed by peer");
            self.settle_empty_waiter(Some(closed.take()))
        })
    }

    /// Let go of a socket that is still somebody else's: the transport could not be made.
    #[cold]
    pub(super) fn disown(&self, driver: &Driver) -> Res<()> {
        let removed = driver.transports.remove(self.fd.get(), self.obj());
        self.sock.clear();
        finally(removed, || self.release())
    }

    /// Close the socket and let go of protocol, loop and server.
    fn release(&self) -> Res<()> {
        finally(self.close_socket(), || {
            self.inbound.clear();
            self.write_context.clear();
            self.base.clear();
            match self.server.take() {
                Some(server) => server.call_method(name!("_detach"), [self.obj()]).map(drop),
                None => Ok(()),
            }
        })
    }

    /// The watches go first: epoll cannot be told of a descriptor that is closed.
    fn close_socket(&self) -> Res<()> {
        let Some(sock) = self.sock.take() else {
            return Ok(());
        };
        let removed = || match self.base.event_loop.get().as_deref().and_then(Driver::of) {
            Some(driver) => driver.transports.remove(self.fd.get(), self.obj()),
            None => Ok(()),
        };
        let woken = self.wake_sendfile();
        if let Err(raised) = finally(finally(self.stop_reading(), || self.stop_writing()), removed) {
            raised.forget();
        }
        finally(woken, || socket_object::close(&sock))
    }

    /// Is a direction watched, and is there still a loop to say so?
    pub(super) fn watches(&self, d: Direction) -> Option<bool> {
        let event_loop = self.base.event_loop.get()?;
        Scheduler::of(&event_loop).filter(|s| !s.closed.get())?;
        Driver::of(&event_loop).map(|driver| driver.is_watched_by(self.fd.get(), d, self.obj()))
    }
}

/// `__del__`: nobody can close it any more.
pub(super) fn finalize(this: &Inst<SocketTransport>) {
    if !this.sock.is_some() {
        return;
    }
    let warned = super::face::repr(this)
        .and_then(|text| str_of(&text))
        .and_then(|text| warn(exc::resource_warning(), &format!("unclosed transport {text}"), Some(this.obj())));
    if let Err(raised) = warned {
        raised.unraisable(this.obj());
    }
    if let Err(raised) = this.release() {
        raised.unraisable(this.obj());
    }
}
