//! What epoll carries for us: a descriptor and the generation of its registration, in 64 bits.
//!
//! CPython counterpart: none; `selectors` takes the bare number back, and takes an event of a file that is
//! long closed for one of the file that has the number now.
//!
//! Invariants: generation 0 is never given out, so an empty slot matches no event. One counter for all
//! descriptors, so that an empty slot needs no memory of its own past; it wraps after 2^32 registrations, and
//! a leaked registration would have to sleep that long to be mistaken.

use std::os::fd::RawFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(u64);

impl Token {
    #[inline]
    pub(super) fn new(fd: RawFd, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(fd as u32))
    }

    #[inline]
    pub(super) fn fd(self) -> RawFd {
        self.0 as u32 as RawFd
    }

    #[inline]
    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl From<u64> for Token {
    #[inline]
    fn from(raw: u64) -> Self {
        Self(raw)
    }
}

impl From<Token> for u64 {
    #[inline]
    fn from(token: Token) -> Self {
        token.0
    }
}

#[derive(Debug)]
pub(super) struct Generations(u32);

impl Generations {
    pub(super) const fn new() -> Self {
        Self(0)
    }

    #[inline]
    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(1).max(1);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_what_it_was_made_of() {
        for (fd, generation) in [(0, 1), (7, u32::MAX), (RawFd::MAX, 3)] {
            let token = Token::from(u64::from(Token::new(fd, generation)));
            assert_eq!((token.fd(), token.generation()), (fd, generation));
        }
    }

    #[test]
    fn generation_zero_is_skipped_when_the_counter_wraps() {
        let mut generations = Generations(u32::MAX);
        assert_eq!(generations.next(), 1);
    }
}
