//! Who has the interpreter's wake-up descriptor: where the C signal handler writes the number of each signal.
//!
//! CPython counterpart: the calls of `signal.set_wakeup_fd` in `asyncio.unix_events`.
//!
//! There is one for the whole process, and only the main thread may set it. Who has it, the first that wants it:
//!
//! 1. the loop that has installed a signal handler last, running or not, until its last handler is removed;
//! 2. the program's own, if it has set one;
//! 3. the loop that runs in the main thread, so that a signal ends its wait.
//!
//! So `add_signal_handler` takes it from anybody, as in asyncio, and puts the program's own back afterwards, which asyncio
//! does not. What the program sets meanwhile stays; the loop is then told of signals by their Python handler (`signals`).
//! In the child of a fork nobody has it: its number would mean the parent's pipe.
//!
//! A loop that merely runs has it under the number of an [`Outlet`]: whoever sets a descriptor of his own is told that number,
//! and may put it back when the loop is long gone. Who has it can only be asked by putting something else in its place; what
//! comes in that moment is written on to where it belongs.
//!
//! Invariant: the claims say whose turn it is, the interpreter says who has it. The lock is never held across a call.

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard};

use aioxide_core::sys::file;
use aioxide_core::sys::outlet::Outlet;
use aioxide_core::sys::pipe::WakePipe;
use aioxide_core::sys::process::is_main_thread;

use crate::ffi::{Raised, Res, exc, false_, index_value, int};
use crate::kwnames;
use crate::objects::names::imports;

const NOBODY: i64 = -1;

struct Claims {
    /// Of loops with signal handlers, the last one first in line.
    handlers: Vec<i64>,
    /// The program's own, which a loop of `handlers` has taken over.
    program: i64,
    /// Loops that run in the main thread; more than one if a program nests them.
    running: usize,
    /// Where those have it. Made by the first.
    outlet: Option<&'static Outlet>,
}

static CLAIMS: Mutex<Claims> = Mutex::new(Claims { handlers: Vec::new(), program: NOBODY, running: 0, outlet: None });

fn claims() -> MutexGuard<'static, Claims> {
    CLAIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Claims {
    fn outlet_number(&self) -> i64 {
        self.outlet.map_or(NOBODY, |outlet| outlet.number().into())
    }

    fn knows(&self, fd: i64) -> bool {
        fd == NOBODY || fd == self.outlet_number() || self.handlers.contains(&fd)
    }

    fn first_in_line(&self) -> i64 {
        let running = if self.running > 0 { self.outlet_number() } else { NOBODY };
        let wants = [self.handlers.last().copied().unwrap_or(NOBODY), self.program, running];
        wants.into_iter().find(|&fd| fd != NOBODY).unwrap_or(NOBODY)
    }

    /// The outlet, fit for use; none if there is no descriptor left for it.
    fn fresh_outlet(&mut self) -> Option<&'static Outlet> {
        if !self.outlet.is_some_and(|outlet| self.running > 0 || outlet.is_intact()) {
            self.outlet = Outlet::new().ok().map(|outlet| &*Box::leak(Box::new(outlet)));
        }
        self.outlet
    }
}

/// `signal.set_wakeup_fd(fd)`; what was there.
///
/// # Errors
/// ValueError in another thread than the main one, or for a bad descriptor; OSError for one that is closed.
fn exchange(fd: i64) -> Res<i64> {
    let old = imports().set_wakeup_fd.call_kw(&[&*int(fd)?, false_()], kwnames!("warn_on_full_buffer"))?;
    index_value(&old)
}

/// The same for what was somebody's before. A descriptor that was closed meanwhile is of no use to anybody.
fn put_back(fd: i64) -> Res<i64> {
    match exchange(fd) {
        Err(raised) if !raised.is_exit() => {
            raised.forget();
            exchange(NOBODY)
        }
        outcome => outcome,
    }
}

/// Who has it. Nothing changes, but for a moment `mine` has it, which leads into `pipe`.
///
/// # Errors
/// As for [`exchange`].
fn ask(mine: i64, pipe: &WakePipe) -> Res<i64> {
    let old = exchange(mine)?;
    if old != mine {
        put_back(old)?;
        write_on(old, pipe);
    }
    Ok(old)
}

/// What has come into `pipe` belongs to `fd`.
fn write_on(fd: i64, pipe: &WakePipe) {
    let meanwhile = pipe.drain().unwrap_or_default();
    // Wake-ups of other threads were drained with it.
    let _closed = pipe.wake();
    if let (Ok(fd @ 0..), false) = (RawFd::try_from(fd), meanwhile.is_empty()) {
        let _full = file::write(fd, &meanwhile);
    }
}

/// A loop is about to run: signals end its wait by `pipe`, if nobody else wants them. Whether [`end_run`] is due; in another
/// thread than the main one it is not.
pub fn begin_run(pipe: &WakePipe) -> Res<bool> {
    if !is_main_thread() {
        return Ok(false);
    }
    let (outlet, is_wanted) = {
        let mut claims = claims();
        let Some(outlet) = claims.fresh_outlet() else {
            return Ok(false);
        };
        (outlet, claims.handlers.is_empty())
    };
    let mine = i64::from(outlet.number());
    let _unled = outlet.lead_to(pipe.writer_fd());
    if is_wanted {
        match exchange(mine) {
            Ok(old) if old == NOBODY || old == mine => {}
            Ok(old) => {
                put_back(old)?;
                write_on(old, pipe);
            }
            // An interpreter whose main thread is not the process's.
            Err(raised) if raised.matches(exc::value_error()) => {
                raised.forget();
                return Ok(false);
            }
            Err(raised) => return Err(raised),
        }
    }
    claims().running += 1;
    Ok(true)
}

/// The run is over.
pub fn end_run(pipe: &WakePipe) -> Res<()> {
    let (outlet, is_wanted) = {
        let mut claims = claims();
        claims.running = claims.running.saturating_sub(1);
        let Some(outlet) = claims.outlet.filter(|_| claims.running == 0) else {
            return Ok(());
        };
        (outlet, claims.handlers.is_empty())
    };
    let mine = i64::from(outlet.number());
    let given_up = match is_wanted {
        true => ask(mine, pipe).and_then(|now| if now == mine { exchange(NOBODY).map(drop) } else { Ok(()) }),
        false => Ok(()),
    };
    let _unled = outlet.lead_nowhere();
    given_up
}

/// A loop has a signal handler: it has the descriptor from now on, whoever had it.
///
/// # Errors
/// ValueError in another thread than the main one.
pub fn claim(fd: RawFd) -> Res<()> {
    let fd = i64::from(fd);
    let old = exchange(fd)?;
    let mut claims = claims();
    if !claims.knows(old) {
        claims.program = old;
    }
    claims.handlers.retain(|&other| other != fd);
    claims.handlers.push(fd);
    Ok(())
}

/// The loop that has claimed it for `pipe` has no signal handler any more. What the program has set meanwhile stays.
///
/// # Errors
/// ValueError in another thread than the main one; then nothing has changed.
pub fn release(pipe: &WakePipe) -> Res<()> {
    let fd = i64::from(pipe.writer_fd());
    let next = {
        let mut claims = claims();
        if !claims.handlers.contains(&fd) {
            return Ok(());
        }
        claims.handlers.retain(|&other| other != fd);
        claims.first_in_line()
    };
    let given_up = ask(fd, pipe).and_then(|now| if now == fd { put_back(next).map(drop) } else { Ok(()) });
    if let Err(raised) = given_up {
        claims().handlers.insert(0, fd);
        return Err(raised);
    }
    let mut claims = claims();
    if claims.handlers.is_empty() {
        claims.program = NOBODY;
    }
    Ok(())
}

/// The pipe is about to be closed: its number may soon mean another file.
pub fn forget(pipe: &WakePipe) {
    Raised::aside(|| release(pipe).unwrap_or_else(Raised::forget));
    // In another thread the interpreter goes on writing to that number; nobody can help it.
    let fd = i64::from(pipe.writer_fd());
    claims().handlers.retain(|&other| other != fd);
}

/// Whether the descriptor is in the hands of a loop, so that its pipe tells of every signal. In another thread than the main
/// one nobody can ask.
pub fn is_a_loops(pipe: &WakePipe) -> Res<bool> {
    match ask(pipe.writer_fd().into(), pipe) {
        Ok(has_it) => Ok(claims().handlers.contains(&has_it)),
        Err(raised) if raised.matches(exc::value_error()) => {
            raised.forget();
            Ok(true)
        }
        Err(raised) => Err(raised),
    }
}

/// In the child of a fork: the parent's signals are not ours, and ours not the parent's.
pub fn after_fork() -> Res<()> {
    let old = exchange(NOBODY)?;
    let (is_the_programs, outlet) = {
        let mut claims = claims();
        let known = claims.knows(old);
        let outlet = claims.outlet;
        *claims = Claims { handlers: Vec::new(), program: NOBODY, running: 0, outlet };
        (!known, outlet)
    };
    let _unled = outlet.map(Outlet::lead_nowhere);
    if is_the_programs { put_back(old).map(drop) } else { Ok(()) }
}
