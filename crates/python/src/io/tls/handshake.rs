//! The handshake: from the stream below being there to the program's `connection_made`.
//!
//! CPython counterpart: `SSLProtocol.connection_made`, `_start_handshake`, `_do_handshake`, `_on_handshake_complete`.
//!
//! An alert that explains a failure is sent before the connection is closed; asyncio drops it, and its peer sees a reset.

use super::TlsTransport;
use super::session::{self, is_failure};
use crate::ffi::{Inst, Obj, Raised, Ref, Res, exc, float, import_attr, string};
use crate::io::base::{self, Base};
use crate::io::finally;
use crate::name;
use crate::objects::names::imports;
use crate::objects::report::Report;

impl Inst<TlsTransport> {
    /// Same as `connection_made`: the stream below is there.
    pub(super) fn on_lower_made(&self, lower: &Obj) -> Res<()> {
        if !self.base.event_loop.is_some() {
            // Lost before it began: `start_tls` of a connection that was closing.
            return Ok(());
        }
        self.lower.put(lower.to_ref());
        if self.base.is_debug() {
            self.base.log_debug(self.obj(), "%r starts SSL handshake")?;
            self.began_s.set(self.now()?);
        }
        self.step(|m| m.start());
        let callback = self.obj().getattr(name!("_check_handshake_timeout"))?;
        self.handshake.start(&*self.base.event_loop()?, &callback)?;
        self.go_on(&[])
    }

    fn now(&self) -> Res<f64> {
        crate::ffi::float_value(&*self.base.event_loop()?.call_method(name!("time"), [])?)
    }

    /// Same as `_do_handshake`, when `input` has come.
    pub(super) fn go_on(&self, input: &[u8]) -> Res<()> {
        // What the program writes in `connection_made` goes with the last of the handshake.
        let outcome = match self.session.exchange(input, None, |exchange| exchange.handshake()) {
            Ok(Some(true)) => Ok(true),
            Ok(_) => self.send_waiting().map(|()| false),
            Err(raised) => finally(Err(raised), || self.send_waiting()).map(|()| false),
        };
        match outcome {
            Ok(true) => self.on_handshake_done(None),
            Ok(false) => Ok(()),
            Err(raised) if !is_failure(&raised) => Err(raised),
            Err(raised) => {
                let exception = raised.take();
                if session::is_tls_error(&exception) || !cfg!(Py_3_11) {
                    self.on_handshake_done(Some(exception))
                } else {
                    Err(Raised::raise(exception))
                }
            }
        }
    }

    /// Same as `_on_handshake_complete`.
    pub(super) fn on_handshake_done(&self, failure: Option<Ref>) -> Res<()> {
        self.handshake.cancel()?;
        if let Some(exception) = failure {
            return self.on_handshake_failed(exception);
        }
        if !self.step(|m| m.wrap()) {
            // Ended in the middle, by a callback of the context's.
            let text = "cannot switch state from SSLProtocolState.UNWRAPPED to SSLProtocolState.WRAPPED";
            return self.on_handshake_failed(Raised::runtime(text).take());
        }
        if let Err(raised) = self.take_down_session() {
            return if is_failure(&raised) { self.on_handshake_failed(raised.take()) } else { Err(raised) };
        }
        self.session.look_for_message_callback()?;
        if self.base.is_debug() {
            let (format, took_ms) =
                (string("%r: SSL handshake took %.1f ms")?, (self.now()? - self.began_s.get()) * 1e3);
            imports().logger.call_method(name!("debug"), [&*format, self.obj(), &*float(took_ms)?])?;
        }
        if self.step(|m| m.tell_made()) {
            self.base.protocol.object().call_method(name!("connection_made"), [self.obj()])?;
        }
        self.wake_waiter(None)?;
        self.read(&[])
    }

    /// What `get_extra_info` tells of the handshake.
    fn take_down_session(&self) -> Res<()> {
        let (object, extra) = (self.session.object(), self.extra.get_or_none());
        extra.set_item(name!("peercert"), &*object.call_method(name!("getpeercert"), [])?)?;
        extra.set_item(name!("cipher"), &*object.call_method(name!("cipher"), [])?)?;
        extra.set_item(name!("compression"), &*object.call_method(name!("compression"), [])?)?;
        extra.set_item(name!("ssl_object"), &object)
    }

    fn on_handshake_failed(&self, exception: Ref) -> Res<()> {
        self.step(|m| m.end());
        let message = match session::is_certificate_error(&exception) {
            true => "SSL handshake failed on verifying the certificate",
            false => "SSL handshake failed",
        };
        finally(self.fail(&exception, message), || self.wake_waiter(Some(&exception)))
    }

    /// Same as `_wakeup_waiter`.
    pub(super) fn wake_waiter(&self, exception: Option<&Obj>) -> Res<()> {
        let waiter = self.waiter.take();
        if self.is_accepted.replace(false) {
            if let Some(exception) = exception {
                return self.report_refused(exception);
            }
        }
        match (waiter, exception) {
            (None, _) => Ok(()),
            (Some(waiter), None) => base::wake(&waiter),
            (Some(waiter), Some(exception)) => base::fail(&waiter, exception),
        }
    }

    /// A connection that a server has accepted came to nothing: told in debug mode only.
    #[cold]
    fn report_refused(&self, exception: &Obj) -> Res<()> {
        let Some(event_loop) = self.base.event_loop.get().filter(|_| self.base.is_debug()) else {
            return Ok(());
        };
        Report::new("Error on transport creation for incoming connection")?
            .with(name!("exception"), exception)?
            .with_opt(name!("protocol"), Some(self.base.protocol.object()))?
            .with(name!("transport"), self.obj())?
            .send(&event_loop)
    }

    /// Same as `_check_handshake_timeout`.
    pub(super) fn on_handshake_timeout(&self) -> Res<()> {
        if self.machine.get().on_input() != aioxide_core::tls::AtInput::Handshake {
            return Ok(());
        }
        let seconds = crate::ffi::str_of(&*string_of(&self.handshake.after.get_or_none())?)?;
        let message = format!("SSL handshake is taking longer than {seconds} seconds: aborting the connection");
        let exception = exc::connection_aborted().call1(&*string(&message)?)?;
        self.fail(&exception, "Fatal error on transport")
    }

    /// Same as `_fatal_error`: an OSError, which those of TLS are, is logged in debug mode; another exception is reported.
    pub(super) fn fail(&self, exception: &Obj, message: &str) -> Res<()> {
        let closed = match self.lower.get() {
            Some(lower) => lower.call_method(name!("_force_close"), [exception]).map(drop),
            None => Ok(()),
        };
        finally(closed, || {
            if exception.is_exception_of(&imports().cancelled_error) {
                return Ok(());
            }
            self.tell_of(exception, message)
        })
    }

    /// asyncio names the transport below and itself, the protocol of that one.
    fn tell_of(&self, exception: &Obj, message: &str) -> Res<()> {
        if Base::is_os_error(exception) {
            return self.base.tell_of(self.obj(), exception, message, true);
        }
        let Some(event_loop) = self.base.event_loop.get() else {
            return Ok(());
        };
        Report::new(message)?
            .with(name!("exception"), exception)?
            .with(name!("transport"), &self.lower.get_or_none())?
            .with(name!("protocol"), self.obj())?
            .send(&event_loop)
    }
}

/// `str(o)`
fn string_of(o: &Obj) -> Res {
    import_attr("builtins", "str")?.call1(o)
}
