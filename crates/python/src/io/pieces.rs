//! The queue of a transport that sends a stream of bytes.
//!
//! CPython counterpart: `_SelectorSocketTransport._buffer`, `_UnixWritePipeTransport._buffer`.
//!
//! A `bytes` is queued by reference: it never changes, and as it refers to nothing the collector need not see it. Of anything
//! else the unsent rest is copied by whoever queues it: a bytearray changes, an instance of a subclass of `bytes` has a `__dict__`.

use std::io::{self, ErrorKind, IoSlice};

use aioxide_core::buffer::{Chunk, Outbound};
use aioxide_core::sys::socket;

use crate::ffi::cell::RefCell;
use crate::ffi::{Ref, bytes_of};

/// Chunks that one send gathers without an allocation.
const FEW_SLICES: usize = 64;

/// A `bytes`, exactly, on its way out.
pub struct Piece(pub Ref);

impl Chunk for Piece {
    fn as_bytes(&self) -> &[u8] {
        bytes_of(&self.0).unwrap_or_default()
    }
}

/// How many bytes went; none if the kernel has no room.
#[inline]
pub fn sent(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome {
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

/// Queue what a send that was tried at once has left over: all but the first `done` bytes.
pub fn queue_rest(queue: &RefCell<Outbound<Piece>>, piece: Piece, done: usize) {
    let mut queue = queue.borrow_mut();
    // Without a GIL another thread may have been here since, though it must not.
    if done > 0 && queue.is_empty() {
        queue.push_rest(piece, done);
    } else {
        queue.push(piece);
    }
}

/// Send what is queued, as much as goes in one call of `send`; how many bytes went. One borrow for all of it: nobody else
/// sends or drops the same bytes meanwhile.
pub fn send_queued(
    queue: &RefCell<Outbound<Piece>>,
    send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut queue = queue.borrow_mut();
    let count = sent(send_front(&queue, send))?;
    let done = queue.advance(count);
    drop(queue);
    drop(done);
    Ok(count)
}

fn send_front(queue: &Outbound<Piece>, send: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); FEW_SLICES];
    let n = queue.slices(&mut slices);
    if n < FEW_SLICES {
        return send(&slices[..n]);
    }
    let mut slices = vec![IoSlice::new(&[]); socket::MAX_SLICES];
    let n = queue.slices(&mut slices);
    send(&slices[..n])
}
