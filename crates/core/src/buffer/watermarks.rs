//! Flow control: when a protocol is told to pause writing, and when to resume.
//!
//! CPython counterpart: `asyncio.transports._FlowControlMixin`.
//!
//! Invariants: `high >= low >= 0`; pause and resume alternate, pause first. The machine only says what
//! must be called; the caller calls it (`pause_writing` is user code and may write again, so the state is
//! changed before). Limits are `i64` because that is what Python passes; the binding clamps larger ones.

use std::fmt;

const DEFAULT_HIGH_BYTES: i64 = 64 * 1024;

/// The limits, and on which side of them the transport is.
#[derive(Clone, Debug)]
pub struct Watermarks {
    high_bytes: i64,
    low_bytes: i64,
    paused: bool,
}

/// Limits that are not `high >= low >= 0`. The text is that of asyncio's ValueError.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLimits {
    /// The high limit, given or derived.
    pub high: i64,
    /// The low limit, given or derived.
    pub low: i64,
}

impl fmt::Display for InvalidLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "high ({}) must be >= low ({}) must be >= 0", self.high, self.low)
    }
}

impl std::error::Error for InvalidLimits {}

impl Watermarks {
    /// asyncio's defaults: 64 KiB and a quarter of it, not paused.
    pub const fn new() -> Self {
        Self { high_bytes: DEFAULT_HIGH_BYTES, low_bytes: DEFAULT_HIGH_BYTES / 4, paused: false }
    }

    /// Same as `_set_write_buffer_limits`: a missing high is four times low, a missing low a quarter of
    /// high. On an error nothing is changed. asyncio then asks [`on_grow`](Self::on_grow) with the present size.
    pub fn set(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), InvalidLimits> {
        let high = match (high, low) {
            (Some(high), _) => high,
            (None, Some(low)) => low.saturating_mul(4),
            (None, None) => DEFAULT_HIGH_BYTES,
        };
        // Python's `//` rounds towards minus infinity, which shows in the error's text.
        let low = low.unwrap_or_else(|| high.div_euclid(4));
        if high >= low && low >= 0 {
            (self.high_bytes, self.low_bytes) = (high, low);
            Ok(())
        } else {
            Err(InvalidLimits { high, low })
        }
    }

    /// The buffer has grown to `size` bytes: `true` if `pause_writing` must be called now.
    #[inline]
    pub fn on_grow(&mut self, size: usize) -> bool {
        let pauses = !self.paused && as_limit(size) > self.high_bytes;
        self.paused |= pauses;
        pauses
    }

    /// The buffer has shrunk to `size` bytes: `true` if `resume_writing` must be called now.
    #[inline]
    pub fn on_shrink(&mut self, size: usize) -> bool {
        let resumes = self.paused && as_limit(size) <= self.low_bytes;
        self.paused &= !resumes;
        resumes
    }

    /// The high limit, in bytes.
    pub fn high(&self) -> i64 {
        self.high_bytes
    }

    /// The low limit, in bytes.
    pub fn low(&self) -> i64 {
        self.low_bytes
    }

    /// Whether the protocol was told to pause and not yet to resume.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused
    }
}

impl Default for Watermarks {
    fn default() -> Self {
        Self::new()
    }
}

#[inline]
fn as_limit(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
