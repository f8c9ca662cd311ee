//! The ways a transport ends, all of which lead to `connection_lost`, once.
//!
//! CPython counterpart: `_SelectorTransport.close`, `abort`, `_force_close`, `_fatal_error`, `_call_connection_lost`, `__del__`.
//!
//! | way          | queued datagrams | `connection_lost` gets |
//! |--------------|------------------|------------------------|
//! | close()      | are sent         | None                   |
//! | abort()      | are dropped      | None                   |
//! | fatal error  | are dropped      | the exception          |
//! | nobody left  | are dropped      | is not called: ResourceWarning, as in asyncio |

use super::DatagramTransport;
use crate::ffi::{Inst, Obj, Raised, Res, exc, none, str_of, warn};
use crate::io::base::Base;
use crate::io::driver::Driver;
use crate::io::{finally, socket_object};

impl Inst<DatagramTransport> {
    /// Same as `close`.
    pub(super) fn close(&self) -> Res<()> {
        if self.base.closing.replace(true) {
            return Ok(());
        }
        finally(self.stop_reading(), || {
            if !self.is_idle() {
                return Ok(());
            }
            self.base.conn_lost.set(self.base.conn_lost.get() + 1);
            finally(self.stop_writing(), || self.base.schedule_loss(self.obj(), none()))
        })
    }

    /// Same as `_force_close`: `exception` may be None.
    pub(super) fn force_close(&self, exception: &Obj) -> Res<()> {
        if self.base.conn_lost.get() != 0 {
            return Ok(());
        }
        self.base.conn_lost.set(1);
        self.base.closing.set(true);
        self.discard();
        finally(self.stop_writing(), || finally(self.stop_reading(), || self.base.schedule_loss(self.obj(), exception)))
    }

    /// Same as `_fatal_error`.
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
        let told = self.base.tell_of(self.obj(), exception, message, Base::is_os_error(exception));
        finally(told, || self.force_close(exception))
    }

    /// Same as `_call_connection_lost`: the protocol's last call, then everything is let go.
    ///
    /// # Errors
    /// What `connection_lost` or the socket's `close` raised, after the rest is done all the same.
    pub(super) fn lose_connection(&self, exception: &Obj) -> Res<()> {
        let told = self.base.protocol.connection_lost(exception);
        finally(finally(told, || self.base.flush_held()), || self.release())
    }

    /// Let go of a socket that is still somebody else's: the transport could not be made.
    #[cold]
    pub(super) fn disown(&self, driver: &Driver) -> Res<()> {
        let removed = driver.transports.remove(self.fd.get(), self.obj());
        self.sock.clear();
        finally(removed, || self.release())
    }

    /// Close the socket and let go of protocol and loop.
    fn release(&self) -> Res<()> {
        finally(self.close_socket(), || {
            self.reader.clear();
            self.writer.clear();
            self.sender.clear();
            self.discard();
            self.base.clear();
            Ok(())
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
        if let Err(raised) = finally(finally(self.stop_reading(), || self.stop_writing()), removed) {
            raised.forget();
        }
        socket_object::close(&sock)
    }
}

/// `__del__`: nobody can close it any more.
pub(super) fn finalize(this: &Inst<DatagramTransport>) {
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
