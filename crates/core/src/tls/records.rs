//! Where records begin and end in a stream of TLS bytes.
//!
//! CPython counterpart: none. An engine that must call `SSLObject.read` through Python wants to know whether a whole record
//! is in, because a call in vain costs an exception.
//!
//! A header is 5 bytes: type, version, length (RFC 8446, 5.1). What can be no header is for OpenSSL to judge, at once: from
//! there on everything counts as whole.

/// Bytes of a record's header.
const HEADER: usize = 5;
/// Plain text of one record, at most (RFC 8446, 5.1).
pub const RECORD_BYTES: usize = 1 << 14;
/// That, and what a record may grow by: 2048 up to TLS 1.2, 256 later.
const LONGEST: usize = RECORD_BYTES + 2048;

/// What is known of a stream of which all bytes so far were shown, in order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Records {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    header_len: usize,
    /// Bytes of the body that have not.
    body_left: usize,
    /// Bytes of the body that have.
    body_len: usize,
    is_strange: bool,
}

impl Records {
    /// Of a stream that begins.
    pub const fn new() -> Records {
        Records { header: [0; HEADER], header_len: 0, body_left: 0, body_len: 0, is_strange: false }
    }

    /// The next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_strange {
            if self.header_len < HEADER {
                let take = bytes.len().min(HEADER - self.header_len);
                self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
                self.header_len += take;
                bytes = &bytes[take..];
                if self.header_len < HEADER {
                    return;
                }
                self.body_left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.body_len = 0;
                self.is_strange = !matches!(self.header[0], 20..=24) || self.header[1] != 3 || self.body_left > LONGEST;
            }
            let take = bytes.len().min(self.body_left);
            self.body_left -= take;
            self.body_len += take;
            bytes = &bytes[take..];
            if self.body_left == 0 {
                self.header_len = 0;
                self.body_len = 0;
            }
        }
    }

    /// How many of the last bytes belong to a record that is not whole yet.
    #[inline]
    pub fn unfinished(&self) -> usize {
        if self.is_strange { 0 } else { self.header_len + self.body_len }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(len: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3, (len >> 8) as u8, len as u8];
        bytes.resize(HEADER + len, 7);
        bytes
    }

    #[test]
    fn whole_and_partial() {
        let mut r = Records::new();
        assert_eq!(r.unfinished(), 0);
        r.feed(&record(10));
        assert_eq!(r.unfinished(), 0);
        r.feed(&record(10)[..4]);
        assert_eq!(r.unfinished(), 4);
        r.feed(&record(10)[4..7]);
        assert_eq!(r.unfinished(), 7);
        r.feed(&record(10)[7..]);
        assert_eq!(r.unfinished(), 0);
        r.feed(&record(0));
        assert_eq!(r.unfinished(), 0);
    }

    #[test]
    fn what_is_no_record_is_shown_at_once() {
        for strange in [&b"GET / HTTP/1.1\r\n"[..], &[23, 2, 0, 0, 9], &[23, 3, 3, 255, 255], &[99, 3, 3, 0, 1]] {
            let mut r = Records::new();
            r.feed(&record(3));
            r.feed(strange);
            assert_eq!(r.unfinished(), 0, "{strange:?}");
        }
    }

    proptest! {
        /// However the stream is cut, what is unfinished is what follows the last whole record.
        #[test]
        fn any_cut(lengths in proptest::collection::vec(0usize..300, 0..20), cuts in proptest::collection::vec(1usize..40, 1..60)) {
            let mut ends = vec![0];
            let mut stream = Vec::new();
            for len in lengths {
                stream.extend(record(len));
                ends.push(stream.len());
            }
            let (mut r, mut at) = (Records::new(), 0);
            for cut in cuts {
                let next = (at + cut).min(stream.len());
                r.feed(&stream[at..next]);
                at = next;
                let whole = ends.iter().rev().find(|end| **end <= at).copied().unwrap_or(0);
                prop_assert_eq!(r.unfinished(), at - whole);
            }
        }

        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let mut r = Records::new();
            r.feed(&bytes);
            prop_assert!(r.unfinished() <= bytes.len());
        }
    }
}
