//! Where received bytes go, what a receive came to, and what is said of a buffer that cannot take it.
//!
//! CPython counterpart: `sock_recv` and `sock_recv_into` of `socketmodule.c`.

use crate::ffi::cell::Cell;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;

use super::driver::Driver;
use crate::ffi::{BytesWriter, Obj, Raised, Ref, Res, bytes_from, str_of};
use crate::name;

/// Up to this size a copy is cheaper than a `bytes` that shrinks.
const SMALL_BYTES: usize = 8 * 1024;
const LARGEST_BYTES: usize = 128 * 1024 - 128;

/// How much room a transport makes for the next message: 0 for the loop's buffer.
///
/// A small message is received into that buffer and copied into a `bytes` of its size. Once a message was large the next one
/// is received straight into a `bytes` of about that size, which then shrinks: the copy would cost more than the allocation.
/// That size stays below malloc's mmap threshold (128 KiB): asyncio's 256 KiB for each read are an mmap, page faults and a
/// munmap for each read.
#[derive(Default)]
pub(super) struct Room(Cell<usize>);

impl Room {
    /// The next bytes by one call of `small` or `large`; `arrived` says what came of it in so much room.
    #[inline]
    pub(super) fn receive(
        &self,
        driver: &Driver,
        small: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        large: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
        arrived: impl FnOnce(io::Result<usize>, usize) -> Res<Option<usize>>,
    ) -> Res<Option<Ref>> {
        let room = self.0.get();
        if room == 0 {
            // Given back before an error becomes an exception: the collector may run there, and user code with it.
            let (received, size) = {
                let mut buffer = driver.receive_buffer.borrow_mut();
                (small(&mut buffer), buffer.len())
            };
            let Some(count) = arrived(received, size)? else {
                return Ok(None);
            };
            let buffer = driver.receive_buffer.borrow();
            self.adapt(count, buffer.len());
            return bytes_from(&buffer[..count]).map(Some);
        }
        let mut writer = BytesWriter::with_capacity(room)?;
        let Some(count) = arrived(large(writer.room()), room)? else {
            return Ok(None);
        };
        self.adapt(count, room);
        writer.finish(count).map(Some)
    }

    /// A message of `count` bytes came where there was room for `room`.
    fn adapt(&self, count: usize, room: usize) {
        let next = match count {
            0..=SMALL_BYTES => 0,
            full if full == room => full * 2,
            // More than it needs: a receive that fills its room has to be made once more.
            _ => (count + 1).next_power_of_two(),
        };
        self.0.set(next.min(LARGEST_BYTES));
    }
}

/// What a receive came to; None: nothing there, the kernel will report again.
#[inline]
pub(super) fn arrived(outcome: io::Result<usize>) -> Res<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(e) => Err(Raised::os(&e)),
    }
}

/// What `socket.recv_into` says of such a buffer.
#[cold]
pub(super) fn not_writable(raised: Raised, buffer: &Obj) -> Raised {
    if raised.is_exit() {
        return raised;
    }
    raised.forget();
    if buffer.is_none() {
        return Raised::type_error("recv_into() argument 1 must be read-write bytes-like object, not None");
    }
    let name = buffer.class().getattr(name!("__name__"));
    match name.and_then(|n| str_of(&n)) {
        Ok(name) => {
            Raised::type_error(&format!("recv_into() argument 1 must be read-write bytes-like object, not {name}"))
        }
        Err(raised) => raised,
    }
}
