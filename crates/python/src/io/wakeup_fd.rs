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
//! Invariant: the claims say whose turn it is, the interpreter says who has it. The lock is never held across a call.

use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard};

use crate::ffi::{Raised, Res, exc, false_, index_value, int};
use crate::kwnames;
use crate::objects::names::imports;

const NOBODY: i64 = -1;

struct Claims {
    /// Of loops with signal handlers, the last one first in line.
    handlers: Vec<i64>,
    /// The program's own, which a loop of `handlers` has taken over.
    program: i64,
    /// Of the loop that runs in the main thread.
    running: i64,
}

static CLAIMS: Mutex<Claims> = Mutex::new(Claims { handlers: Vec::new(), program: NOBODY, running: NOBODY });

fn claims() -> MutexGuard<'static, Claims> {
    CLAIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Claims {
    fn knows(&self, fd: i64) -> bool {
        fd == NOBODY || fd == self.running || self.handlers.contains(&fd)
    }

    fn first_in_line(&self) -> i64 {
        let wants = [self.handlers.last().copied().unwrap_or(NOBODY), self.program, self.running];
        wants.into_iter().find(|&fd| fd != NOBODY).unwrap_or(NOBODY)
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

/// A loop is about to run: its pipe is taken if nobody else's is there. In another thread than the main one nothing is.
pub fn begin_run(fd: RawFd) -> Res<()> {
    let fd = i64::from(fd);
    match exchange(fd) {
        Ok(NOBODY) => claims().running = fd,
        Ok(old) => {
            put_back(old)?;
            let mut claims = claims();
            if claims.running == NOBODY {
                claims.running = fd;
            }
        }
        Err(raised) if raised.matches(exc::value_error()) => raised.forget(),
        Err(raised) => return Err(raised),
    }
    Ok(())
}

/// The run is over.
pub fn end_run(fd: RawFd) -> Res<()> {
    let fd = i64::from(fd);
    {
        let mut claims = claims();
        if claims.running != fd {
            return Ok(());
        }
        claims.running = NOBODY;
        if !claims.handlers.is_empty() {
            return Ok(());
        }
    }
    give_up(fd, NOBODY)
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

/// The loop has no signal handler any more.
///
/// # Errors
/// ValueError in another thread than the main one; then nothing has changed.
pub fn release(fd: RawFd) -> Res<()> {
    let fd = i64::from(fd);
    let next = {
        let mut claims = claims();
        if !claims.handlers.contains(&fd) {
            return Ok(());
        }
        claims.handlers.retain(|&other| other != fd);
        claims.first_in_line()
    };
    if let Err(raised) = give_up(fd, next) {
        claims().handlers.insert(0, fd);
        return Err(raised);
    }
    let mut claims = claims();
    if claims.handlers.is_empty() {
        claims.program = NOBODY;
    }
    Ok(())
}

/// Put `next` in the place of `fd`. What the program has set meanwhile stays.
fn give_up(fd: i64, next: i64) -> Res<()> {
    let now = put_back(next)?;
    if now != fd && now != next {
        put_back(now)?;
    }
    Ok(())
}

/// The pipe is about to be closed: its number may soon mean another file.
pub fn forget(fd: RawFd) {
    let known = {
        let claims = claims();
        i64::from(fd) == claims.running || claims.handlers.contains(&i64::from(fd))
    };
    if !known {
        return;
    }
    Raised::aside(|| {
        for outcome in [release(fd), end_run(fd)] {
            outcome.unwrap_or_else(Raised::forget);
        }
    });
    // In another thread the interpreter goes on writing to that number; nobody can help it.
    claims().handlers.retain(|&other| other != i64::from(fd));
}

/// Whether the descriptor is in the hands of a loop, so that its pipe tells of every signal. In another thread than the main
/// one nobody can ask.
pub fn is_a_loops(fd: RawFd) -> Res<bool> {
    let fd = i64::from(fd);
    let old = match exchange(fd) {
        Ok(old) => old,
        Err(raised) if raised.matches(exc::value_error()) => {
            raised.forget();
            return Ok(true);
        }
        Err(raised) => return Err(raised),
    };
    if old != fd {
        put_back(old)?;
    }
    Ok(claims().handlers.contains(&old))
}

/// In the child of a fork: the parent's signals are not ours, and ours not the parent's.
pub fn after_fork() -> Res<()> {
    let old = exchange(NOBODY)?;
    let is_the_programs = {
        let mut claims = claims();
        let known = claims.knows(old);
        *claims = Claims { handlers: Vec::new(), program: NOBODY, running: NOBODY };
        !known
    };
    if is_the_programs { put_back(old).map(drop) } else { Ok(()) }
}
