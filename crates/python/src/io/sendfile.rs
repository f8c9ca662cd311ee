//! sendfile(2): a file goes to a socket without passing through the process.
//!
//! CPython counterpart: `_sock_sendfile_native` of asyncio's unix loop. What it cannot do is sent by the fallback
//! (`python/aioxide/_sendfile.py`): reading in a thread and sending.
//!
//! As in asyncio, the loop has its turn after each piece: the kernel takes what the socket has room for, and a reader that is
//! fast enough would keep everything else waiting. The call may have to read from the disk, so it lets go of the interpreter.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;

use aioxide_core::reactor::Direction;
use aioxide_core::sys::file;

use super::driver::Driver;
use super::sock::{LOOP, SOCK, ready};
use super::socket_object;
use crate::ffi::{
    Obj, Raised, Ref, Res, check_signals, detached, exc, index_value, int, saturated_value, socket_fd, string,
};
use crate::name;
use crate::objects::names::imports;
use crate::tasks::coroutine::{self, Frame};

const FILE: usize = 2;
const OFFSET: usize = 3;
const COUNT: usize = 4;
const SIZE: usize = 5;

/// `ENOTCONN`
const NOT_CONNECTED: i32 = 107;

/// Send `count` bytes of the descriptor `file` from `offset` on, or all up to the end for None, in pieces of `size`; the number
/// of bytes that went. The file's position is left after the last one sent; if `always`, also if there was none.
///
/// # Errors
/// SendfileNotAvailableError if nothing could be sent this way; OSError if the connection ends in the middle.
pub fn sock_sendfile(event_loop: &Obj, sock: &Obj, file: &Obj, part: [&Obj; 3], always: bool) -> Res {
    let [offset, count, size] = part;
    let locals = [event_loop, sock, file, offset, count, size];
    coroutine::start("EventLoop.sock_sendfile", locals, move |frame| async move {
        if let Some(driver) = Driver::of(&frame.local(LOOP)) {
            driver.held.flush()?;
        }
        let mut progress = Progress::of(&frame, always)?;
        let mut has_waited = false;
        loop {
            let socket = descriptor(&frame.local(SOCK))?;
            let (from, offset, size) = (progress.file, progress.offset, progress.size());
            match detached(|| file::send_file(socket, from, offset, size)) {
                Ok(0) => break,
                Ok(count) => {
                    progress.sent(count);
                    if progress.size() == 0 {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    check_signals()?;
                    continue;
                }
                Err(e) => return Err(failed(&e, &progress, has_waited)?),
            }
            ready(&frame, Direction::Write).await?;
            has_waited = true;
        }
        progress.leave_position()?;
        int(progress.total)
    })
}

struct Progress {
    file: RawFd,
    /// In the file: where the next piece begins.
    offset: i64,
    total: i64,
    /// What shall be sent in all; None: everything.
    count: Option<i64>,
    /// Of a piece.
    at_most: i64,
    /// The position is left where it shall be even if nothing was sent.
    always: bool,
}

impl Progress {
    fn of(frame: &Frame, always: bool) -> Res<Progress> {
        let count = frame.local(COUNT);
        // asyncio cuts large numbers only from 3.13 on; before, they are an OverflowError of os.sendfile.
        let number = |o: &Obj| if cfg!(Py_3_13) { saturated_value(o) } else { index_value(o) };
        Ok(Progress {
            file: saturated_value(&frame.local(FILE))?.try_into().unwrap_or(-1),
            offset: index_value(&frame.local(OFFSET))?,
            total: 0,
            count: if count.is_none() { None } else { Some(number(&count)?) },
            at_most: number(&frame.local(SIZE))?,
            always,
        })
    }

    /// Of the next piece; 0 if all is sent.
    fn size(&self) -> usize {
        let size = self.count.map_or(self.at_most, |count| count - self.total);
        usize::try_from(size).unwrap_or(0)
    }

    fn sent(&mut self, count: usize) {
        let count = count as i64;
        self.offset += count;
        self.total += count;
    }

    /// sendfile(2) with an offset of its own does not move the file's position: that is done once, at the end, also of one that
    /// fails.
    fn leave_position(&self) -> Res<()> {
        if self.total == 0 && !self.always {
            return Ok(());
        }
        file::seek(self.file, self.offset).map_err(|e| Raised::os(&e))
    }
}

/// The socket's descriptor as it is now.
fn descriptor(sock: &Obj) -> Res<RawFd> {
    if socket_object::is_plain(sock) {
        return Ok(socket_fd(sock, -1));
    }
    let fd = index_value(&*sock.call_method(name!("fileno"), [])?)?;
    Ok(RawFd::try_from(fd).unwrap_or(-1))
}

#[cold]
fn failed(error: &io::Error, progress: &Progress, has_waited: bool) -> Res<Raised> {
    progress.leave_position()?;
    if progress.total == 0 {
        // The file is none that could be mapped, most of all: the fallback may do better.
        return Ok(Raised::new(&imports().sendfile_not_available, "os.sendfile call failed"));
    }
    let raised = Raised::os(error);
    if !has_waited || error.raw_os_error() != Some(NOT_CONNECTED) {
        return Ok(raised);
    }
    // The connection was closed in the middle: asyncio says so in the same words on all systems.
    let cause: Ref = raised.take();
    let (text, number) = (string("socket is not connected")?, int(NOT_CONNECTED.into())?);
    let exception = exc::connection_error().call([&*text, &*number])?;
    exception.set_cause(cause);
    Ok(Raised::raise(exception))
}
