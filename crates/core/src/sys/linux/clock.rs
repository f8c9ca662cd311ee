//! The loop's clock: `CLOCK_MONOTONIC`, in the seconds `time.monotonic()` returns.
//!
//! CPython counterpart: `time.monotonic` and `_PyTime_AsSecondsDouble`. Users compare `loop.time()`
//! with `time.monotonic()`, so both must round alike: CPython turns the nanoseconds into one
//! integer and divides (`sec + nsec * 1e-9` is off by an ulp now and then), but keeps whole seconds
//! integral.
//!
//! The coarse clock costs a fifth (no TSC read) and lags by up to one tick of the kernel; it is for
//! decisions that may be a tick late, never for deadlines.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// The coarse clock lags by at most this much: one tick at `CONFIG_HZ=100`, and slack.
pub const COARSE_LAG_S: f64 = 0.012;

const NS_PER_S: i64 = 1_000_000_000;

/// Same value as `time.monotonic()`, bit for bit for the same reading.
#[inline]
pub fn monotonic_s() -> f64 {
    seconds(clock_gettime(ClockId::Monotonic))
}

/// `CLOCK_MONOTONIC_COARSE`: never ahead of [`monotonic_s`], behind by up to [`COARSE_LAG_S`].
#[inline]
pub fn monotonic_coarse_s() -> f64 {
    seconds(clock_gettime(ClockId::MonotonicCoarse))
}

/// Same as `time.get_clock_info("monotonic").resolution`: 1e-9 with high-resolution timers.
pub fn resolution_s() -> f64 {
    let resolution = clock_getres(ClockId::Monotonic);
    // CPython adds here and does not divide (`py_get_monotonic_clock`).
    resolution.tv_sec as f64 + resolution.tv_nsec as f64 * 1e-9
}

#[inline]
fn seconds(reading: Timespec) -> f64 {
    let ns = reading.tv_sec * NS_PER_S + reading.tv_nsec;
    if ns % NS_PER_S == 0 { (ns / NS_PER_S) as f64 } else { ns as f64 / 1e9 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tv_sec: i64, tv_nsec: i64) -> f64 {
        seconds(Timespec { tv_sec, tv_nsec })
    }

    #[test]
    fn rounding_is_that_of_cpython_and_not_of_a_sum() {
        // int / 1e9 in Python: 1000000000.000000001 s and friends.
        assert_eq!(at(12, 0), 12.0);
        assert_eq!(at(0, 1), 1e-9);
        assert_eq!(at(3, 300_000_000), 3_300_000_000_f64 / 1e9);
        assert_eq!(at(0, 3), 3e-9);
        assert_ne!(3.0 * 1e-9, 3e-9, "what a sum of products would give");
    }

    #[test]
    fn the_coarse_clock_is_never_ahead_and_lags_by_no_more_than_promised() {
        for _ in 0..1000 {
            let before = monotonic_s();
            let coarse = monotonic_coarse_s();
            let after = monotonic_s();
            assert!(coarse <= after);
            assert!(coarse >= before - COARSE_LAG_S);
        }
    }

    #[test]
    fn resolution_is_a_nanosecond_here() {
        assert_eq!(resolution_s(), 1e-9);
    }
}
