//! What the tests share: the size of the model runs, and descriptors at numbers of their own.
//!
//! Tests run in threads of one process, and the kernel gives out the lowest free number: a test that
//! closes a number and wants it back must stay away from the low ones. [`at`] takes numbers from
//! [`FIRST_PRIVATE`] on, where each test has a region to itself.

use std::os::fd::{AsFd, OwnedFd, RawFd};

use proptest::test_runner::{Config, RngSeed};
use rustix::io::fcntl_dupfd_cloexec;

/// Operations in one case, at most; about half as many on average.
pub const MAX_OPERATIONS: usize = 200;

/// Below, every test allocates as it likes.
pub const FIRST_PRIVATE: RawFd = 400;

/// 100 cases (some 10^4 operations) unless `AIOXIDE_PROPTEST_CASES` says otherwise; the same ones each time
/// unless `AIOXIDE_PROPTEST_SEED` does.
pub fn cases() -> Config {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    Config {
        cases: number("AIOXIDE_PROPTEST_CASES").unwrap_or(100) as u32,
        rng_seed: RngSeed::Fixed(number("AIOXIDE_PROPTEST_SEED").unwrap_or(0)),
        failure_persistence: None,
        ..Config::default()
    }
}

/// A dup of `file` whose number is `number`, which must be free.
pub fn at(number: RawFd, file: impl AsFd) -> OwnedFd {
    use std::os::fd::AsRawFd;
    let fd = fcntl_dupfd_cloexec(file, number).unwrap();
    assert_eq!(fd.as_raw_fd(), number, "the number is taken");
    fd
}
