//! The outbound queue of a transport: chunks that somebody else has made, sent from the front.
//!
//! CPython counterpart: `_SelectorSocketTransport._buffer` (a `bytearray` up to 3.11, a deque of memoryviews
//! from 3.12).
//!
//! Nothing is copied: a chunk is whatever owns the bytes (the binding passes a Python `bytes`, having copied
//! what is mutable), and one `sendmsg` gathers many. The length in bytes is kept, because asyncio asks for it
//! on every write (`get_write_buffer_size`).
//!
//! Invariants: `sent` is less than the length of the front chunk, or 0; `len` is the sum of the chunks less
//! `sent`; a chunk is never dropped in here but handed out (its drop may run user code). A chunk must
//! give the same bytes each time it is asked.

use std::collections::VecDeque;
use std::io::IoSlice;

/// Something that owns bytes which do not change.
pub trait Chunk {
    /// The bytes; the same ones on each call.
    fn as_bytes(&self) -> &[u8];
}

impl Chunk for Vec<u8> {
    fn as_bytes(&self) -> &[u8] {
        self
    }
}

/// A queue of chunks, consumed by the byte.
#[derive(Debug)]
pub struct Outbound<C: Chunk> {
    chunks: VecDeque<C>,
    /// Bytes of the front chunk that are gone.
    sent: usize,
    len: usize,
}

impl<C: Chunk> Outbound<C> {
    /// An empty queue; allocates nothing.
    pub const fn new() -> Self {
        Self { chunks: VecDeque::new(), sent: 0, len: 0 }
    }

    /// Appends a chunk. An empty one is held until the next [`advance`](Self::advance).
    #[inline]
    pub fn push(&mut self, chunk: C) {
        self.len += chunk.as_bytes().len();
        self.chunks.push_back(chunk);
    }

    /// Appends to an empty queue a chunk whose first `sent` bytes are gone: what a `send` that was tried
    /// at once has left over.
    pub fn push_rest(&mut self, chunk: C, sent: usize) {
        debug_assert!(self.chunks.is_empty(), "only the front chunk can be partly sent");
        let size = chunk.as_bytes().len();
        self.sent = sent.min(size);
        self.len += size - self.sent;
        self.chunks.push_back(chunk);
    }

    /// Bytes not sent yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is left to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` with the unsent bytes from the front, as far as it goes; returns how many slices.
    pub fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent;
        let mut count = 0;
        for chunk in &self.chunks {
            if count == out.len() {
                break;
            }
            let bytes = chunk.as_bytes().get(skip..).unwrap_or_default();
            skip = 0;
            if !bytes.is_empty() {
                out[count] = IoSlice::new(bytes);
                count += 1;
            }
        }
        count
    }

    /// The front chunk, and how many of its bytes are gone; all of it only in an empty queue.
    pub fn front(&self) -> Option<(&C, usize)> {
        self.chunks.front().map(|chunk| (chunk, self.sent))
    }

    /// `n` more bytes were sent. Returns the chunks that are wholly sent, so that the caller drops them
    /// outside the borrow; allocates nothing if there are none.
    pub fn advance(&mut self, n: usize) -> Vec<C> {
        debug_assert!(n <= self.len, "sent more than there was");
        self.len = self.len.saturating_sub(n);
        self.sent += n;
        let mut done = Vec::new();
        while let Some(size) = self.chunks.front().map(|chunk| chunk.as_bytes().len()) {
            if self.sent < size {
                return done;
            }
            self.sent -= size;
            done.extend(self.chunks.pop_front());
        }
        self.sent = 0;
        done
    }

    /// Empties the queue and returns all chunks.
    pub fn clear(&mut self) -> Vec<C> {
        self.sent = 0;
        self.len = 0;
        std::mem::take(&mut self.chunks).into()
    }

    /// Every chunk not wholly sent, from the front.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.chunks.iter()
    }
}

impl<C: Chunk> Default for Outbound<C> {
    fn default() -> Self {
        Self::new()
    }
}
