//! The ways to end.
//!
//! CPython counterpart: `SSLProtocol._start_shutdown`, `_do_flush`, `_do_shutdown`, `_on_shutdown_complete`, `_abort`,
//! `connection_lost`; `_SSLProtocolTransport.close`, `abort`, `__del__`.
//!
//! | way           | what is written    | `close_notify` | `connection_lost` gets                      |
//! |---------------|--------------------|----------------|---------------------------------------------|
//! | close()       | is sent            | sent, awaited  | None, or TimeoutError if it does not come   |
//! | the peer's    | is sent            | answered       | None                                        |
//! | EOF below     | is sent            | not sent       | None                                        |
//! | abort()       | is dropped         | not sent       | None                                        |
//! | an error      | is dropped         | an alert       | the error                                   |

use aioxide_core::tls::{AtClose, Phase};

use super::TlsTransport;
use super::session::{is_failure, is_tls_error};
use crate::ffi::{Inst, Obj, Ref, Res, exc, import_attr, none, str_of, string, warn};
use crate::io::finally;
use crate::name;

impl Inst<TlsTransport> {
    /// Same as `close`. Who calls it again lets go of the context and all else, as with asyncio.
    pub(super) fn close(&self) -> Res<()> {
        finally(self.base.flush_held(), || {
            if !self.base.closing.replace(true) {
                return self.start_shutdown();
            }
            self.is_let_go.set(true);
            self.let_go();
            Ok(())
        })
    }

    fn let_go(&self) {
        if self.is_let_go.get() && !self.lower.is_some() {
            self.session.clear();
            self.extra.clear();
        }
    }

    /// Same as `_start_shutdown`.
    pub(super) fn start_shutdown(&self) -> Res<()> {
        // What was written before comes before.
        self.base.flush_held()?;
        match self.step(|m| m.on_close()) {
            AtClose::Nothing => Ok(()),
            AtClose::Abort => {
                self.base.closing.set(true);
                self.end(none())
            }
            AtClose::Flush => {
                self.base.closing.set(true);
                let callback = self.obj().getattr(name!("_check_shutdown_timeout"))?;
                self.shutdown.start(&*self.base.event_loop()?, &callback)?;
                self.flush(&[])
            }
        }
    }

    /// Same as `_do_flush`, when `input` has come.
    pub(super) fn flush(&self, input: &[u8]) -> Res<()> {
        if self.is_delivering.get() && self.has_more() {
            self.flush_is_due.set(true);
            return self.session.keep(input);
        }
        self.read(input)?;
        // After the peer's end nothing calls for another round: a small buffer gets the rest now.
        while self.machine.get().has_eof() && self.base.protocol.is_buffered() && self.may_read_more() {
            self.read(&[])?;
        }
        if self.step(|m| m.shut_down()) { self.shut_down(&[]) } else { Ok(()) }
    }

    /// Same as `_do_shutdown`, when `input` has come.
    pub(super) fn shut_down(&self, input: &[u8]) -> Res<()> {
        if self.machine.get().has_eof() {
            // Nobody is there to say goodbye to.
            self.send_waiting()?;
            self.tell_eof()?;
            return self.on_shutdown_done(None);
        }
        let outcome = self.exchange_and_send(input, |exchange| exchange.shut_down());
        match outcome {
            Ok(Some(true)) => {
                self.control_writing()?;
                if cfg!(Py_3_11) {
                    self.tell_eof()?;
                }
                self.on_shutdown_done(None)
            }
            Ok(_) => self.control_writing(),
            Err(raised) if is_failure(&raised) => {
                let exception = raised.take();
                if is_tls_error(&exception) {
                    self.on_shutdown_done(Some(&exception))
                } else {
                    Err(crate::ffi::Raised::raise(exception))
                }
            }
            Err(raised) => Err(raised),
        }
    }

    /// Same as `_on_shutdown_complete`.
    fn on_shutdown_done(&self, failure: Option<&Obj>) -> Res<()> {
        self.shutdown.cancel()?;
        if let Some(exception) = failure {
            return self.fail(exception, "Fatal error on transport");
        }
        // What waits goes to the transport below, which sends it before it closes, whether it has asked for a pause or not.
        self.lower_writing_is_paused.set(false);
        self.send_waiting()?;
        let Some(lower) = self.lower.get() else {
            return Ok(());
        };
        let close = lower.getattr(name!("close"))?;
        self.base.schedule(&close, &[])
    }

    /// Same as `_check_shutdown_timeout`.
    pub(super) fn on_shutdown_timeout(&self) -> Res<()> {
        if !matches!(self.machine.get().phase(), Phase::Flushing | Phase::Shutdown) {
            return Ok(());
        }
        let exception =
            import_attr("asyncio.exceptions", "TimeoutError")?.call1(&*string("SSL shutdown timed out")?)?;
        self.force_close_lower(&exception)
    }

    /// Same as `_force_close`: `exception` may be None.
    pub(super) fn force_close(&self, exception: &Obj) -> Res<()> {
        finally(self.base.flush_held(), || {
            self.base.closing.set(true);
            self.end(exception)
        })
    }

    /// Same as `_abort`.
    fn end(&self, exception: &Obj) -> Res<()> {
        self.step(|m| m.end());
        self.force_close_lower(exception)
    }

    fn force_close_lower(&self, exception: &Obj) -> Res<()> {
        match self.lower.get() {
            Some(lower) => lower.call_method(name!("_force_close"), [exception]).map(drop),
            None => Ok(()),
        }
    }

    /// Same as `connection_lost`: the stream below is gone.
    pub(super) fn on_lower_lost(&self, exception: &Obj) -> Res<()> {
        self.discard();
        self.base.conn_lost.set(self.base.conn_lost.get() + 1);
        self.base.closing.set(true);
        let told = if self.step(|m| m.lose()) { self.schedule_loss(exception) } else { Ok(()) };
        self.lower.clear();
        self.session.end();
        let woken = finally(told, || {
            let exception = Some(exception).filter(|e| !e.is_none());
            self.wake_waiter(exception)
        });
        let timers = finally(finally(woken, || self.shutdown.cancel()), || self.handshake.cancel());
        self.base.clear();
        self.let_go();
        timers
    }

    /// `call_soon(protocol.connection_lost, exception)`
    fn schedule_loss(&self, exception: &Obj) -> Res<()> {
        let callback = self.base.protocol.object().getattr(name!("connection_lost"))?;
        self.base.schedule(&callback, &[exception])
    }
}

/// `__del__`: nobody can close it any more.
pub(super) fn finalize(this: &Inst<TlsTransport>) {
    if this.base.closing.get() {
        return;
    }
    let warned = this
        .obj()
        .repr()
        .and_then(|text: Ref| str_of(&text))
        .and_then(|text| warn(exc::resource_warning(), &format!("unclosed transport {text}"), Some(this.obj())));
    this.base.closing.set(true);
    if let Err(raised) = warned {
        raised.unraisable(this.obj());
    }
}
