//! The child's end: noticed by its pidfd (or a thread), its status taken, the protocol told, `wait()` woken.
//!
//! CPython counterpart: `PidfdChildWatcher._do_wait`, `_process_exited`, `_try_finish`, `_call_connection_lost`, `_wait`.

use std::os::fd::AsRawFd;

use aioxide_core::reactor::Direction;
use aioxide_core::sys::process;

use super::SubprocessTransport;
use crate::ffi::{Context, Inst, Obj, Owned, Raised, Res, exc, index_value, int, none, str_of, string, warn};
use crate::io::driver::Driver;
use crate::io::finally;
use crate::name;
use crate::objects::future::Fut;
use crate::objects::names::imports;
use crate::tasks::coroutine::{self, Frame};

/// When `wait()` is woken; asyncio has changed it twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Notices {
    /// 3.10: with the status, after the protocol's calls are scheduled.
    AfterExit,
    /// 3.11 to 3.13: with `connection_lost`, when the pipes have ended too.
    AtLoss,
    /// Later: with the status (gh-119710).
    AtExit,
}

/// The status of a child whose own was taken by somebody else.
const UNKNOWN_STATUS: i32 = 255;

impl Inst<SubprocessTransport> {
    /// Watch for the child's end by its pidfd, or have a thread wait for it.
    pub(super) fn watch_for_exit(&self, event_loop: &Obj, by_pidfd: bool) -> Res<()> {
        let opened = if by_pidfd { Some(process::open_pidfd(self.pid)) } else { None };
        match opened {
            Some(Ok(pidfd)) => {
                if cfg!(Py_3_12) {
                    self.exit_context.put(Context::copy_current()?);
                }
                let fd = pidfd.as_raw_fd();
                *self.pidfd.borrow_mut() = Some(pidfd);
                match Driver::of(event_loop) {
                    Some(driver) => driver.watch(fd, Direction::Read, self.obj()),
                    None => Err(Raised::type_error("the loop is not an aioxide loop")),
                }
            }
            // Its end is known, and so is that nobody will learn its status (SIGCHLD is ignored).
            Some(Err(error)) if process::is_unknown(&error) => {
                self.call_soon(&*self.obj().getattr(name!("_reap"))?, &[])
            }
            Some(Err(_)) | None => event_loop.call_method(name!("_wait_in_thread"), [self.obj()]).map(drop),
        }
    }

    /// Take the status, if there is one by now, and publish it.
    pub(super) fn reap(&self) -> Res<()> {
        if self.returncode.get().is_some() {
            return Ok(());
        }
        let status = match process::take_status(self.pid) {
            Ok(Some(status)) => Some(status),
            Ok(None) => return Ok(()),
            Err(_) => self.status_of_popen()?,
        };
        let by_pidfd = self.pidfd.borrow().is_some();
        let stopped = self.stop_watching();
        finally(stopped, || {
            let told = match status {
                None => self.warn_of_unknown_status(),
                // Up to 3.11 asyncio's thread says this.
                Some(status) if !cfg!(Py_3_12) && by_pidfd && self.base.is_debug() => self.log_status(status),
                Some(_) => Ok(()),
            };
            finally(told, || self.on_exit(status.unwrap_or(UNKNOWN_STATUS)))
        })
    }

    fn log_status(&self, status: i32) -> Res<()> {
        let (pid, status) = (int(self.pid.into())?, int(status.into())?);
        self.base.event_loop.get_or_none().call_method(name!("_log_exit"), [&*pid, &*status]).map(drop)
    }

    /// Somebody has called the Popen's `wait()` or `poll()`.
    fn status_of_popen(&self) -> Res<Option<i32>> {
        let status = self.process.get_or_none().getattr_opt(name!("returncode"))?;
        match status {
            Some(status) if status.is_long() => Ok(i32::try_from(index_value(&status)?).ok()),
            _ => Ok(None),
        }
    }

    fn warn_of_unknown_status(&self) -> Res<()> {
        let event_loop = self.base.event_loop.get_or_none();
        event_loop.call_method(name!("_warn_of_unknown_status"), [&*int(self.pid.into())?]).map(drop)
    }

    fn stop_watching(&self) -> Res<()> {
        // It is closed at the end of this function, after the watch.
        let Some(pidfd) = self.pidfd.take() else {
            return Ok(());
        };
        match self.base.event_loop.get().as_deref().and_then(Driver::of) {
            Some(driver) => driver.unwatch(pidfd.as_raw_fd(), Direction::Read, self.obj()),
            None => Ok(()),
        }
    }

    /// Same as `_process_exited`.
    pub(super) fn on_exit(&self, status: i32) -> Res<()> {
        let logged = self.log_exit(status);
        self.returncode.set(Some(status));
        finally(logged, || self.publish(status))
    }

    fn log_exit(&self, status: i32) -> Res<()> {
        if !self.base.is_debug() {
            return Ok(());
        }
        let format = string("%r exited with return code %r")?;
        imports().logger.call_method(name!("info"), [&*format, self.obj(), &*int(status.into())?]).map(drop)
    }

    /// Tell the Popen, the protocol and who waits.
    fn publish(&self, status: i32) -> Res<()> {
        let returncode = int(status.into())?;
        let popen = self.process.get_or_none();
        if popen.getattr(name!("returncode"))?.is_none() {
            popen.setattr(name!("returncode"), &returncode)?;
        }
        self.tell(name!("process_exited"), &[])?;
        if self.notices.get() == Notices::AtExit {
            self.wake_waiters()?;
        }
        self.try_finish()?;
        if self.notices.get() == Notices::AfterExit { self.wake_waiters() } else { Ok(()) }
    }

    /// Same as `_try_finish`: `connection_lost` when the child and all its pipes have ended.
    pub(super) fn try_finish(&self) -> Res<()> {
        let has_ended = |fd: usize| {
            let pipe = self.pipes[fd].get();
            !self.has_pipe[fd]
                || pipe.is_some_and(|p| p.downcast::<super::pipe::PipeProtocol>().is_some_and(|p| p.is_disconnected()))
        };
        if self.returncode.get().is_none() || !(0..super::PIPES).all(has_ended) || self.finished.replace(true) {
            return Ok(());
        }
        self.call(&*self.obj().getattr(name!("_call_connection_lost"))?, &[none()])
    }

    /// Same as `_call_connection_lost`: the protocol's last call, then everything is let go.
    pub(super) fn lose_connection(&self, exception: &Obj) -> Res<()> {
        let told = self.base.protocol.object().call_method(name!("connection_lost"), [exception]).map(drop);
        finally(told, || {
            let woken = self.wake_waiters();
            self.base.clear();
            self.process.clear();
            woken
        })
    }

    fn wake_waiters(&self) -> Res<()> {
        let Some(status) = self.returncode.get() else {
            return Ok(());
        };
        let waiters = self.waiters.take();
        let mut outcome = Ok(());
        for waiter in waiters {
            outcome = finally(outcome, || match Fut::of(&waiter) {
                Some(future) if !future.core.is_pending() => Ok(()),
                Some(future) => future.set_result(int(status.into())?),
                None if waiter.call_method(name!("done"), [])?.is_true()? => Ok(()),
                None => waiter.call_method(name!("set_result"), [&*int(status.into())?]).map(drop),
            });
        }
        outcome
    }

    /// Same as `_wait`: the return code, when there is one.
    pub(super) fn wait(&self) -> Res {
        coroutine::start("SubprocessTransport._wait", [self.obj(), none()], |frame| async move {
            if let Some(status) = transport_of(&frame)?.returncode.get() {
                return int(status.into());
            }
            let _waiting = Waiting::start(&frame)?;
            frame.wait_for(frame.local(FUTURE)).await
        })
    }
}

const TRANSPORT: usize = 0;
const FUTURE: usize = 1;

fn transport_of(frame: &Frame) -> Res<Owned<SubprocessTransport>> {
    let gone = || Raised::runtime("the subprocess's transport is gone");
    frame.local(TRANSPORT).downcast_into::<SubprocessTransport>().ok_or_else(gone)
}

/// A waiter in the transport's list, until it is woken or given up.
struct Waiting<'a>(&'a Frame);

impl Waiting<'_> {
    fn start(frame: &Frame) -> Res<Waiting<'_>> {
        let transport = transport_of(frame)?;
        let future = transport.base.event_loop()?.call_method(name!("create_future"), [])?;
        frame.set_local(FUTURE, future.clone());
        transport.waiters.borrow_mut().push(future);
        Ok(Waiting(frame))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let future = self.0.local(FUTURE);
        if let Some(transport) = self.0.local(TRANSPORT).downcast::<SubprocessTransport>() {
            let mut waiters = transport.waiters.borrow_mut();
            let mine = waiters.iter().position(|w| w.is(&future)).map(|i| waiters.swap_remove(i));
            drop(waiters);
            drop(mine);
        }
    }
}

/// `__del__`: nobody can close it any more.
pub(super) fn finalize(this: &Inst<SubprocessTransport>) {
    if this.base.closing.get() {
        return;
    }
    let warned = super::face::repr(this)
        .and_then(|text| str_of(&text))
        .and_then(|text| warn(exc::resource_warning(), &format!("unclosed transport {text}"), Some(this.obj())));
    if let Err(raised) = warned {
        raised.unraisable(this.obj());
    }
    if let Err(raised) = this.close() {
        raised.unraisable(this.obj());
    }
}
