//! `tls::Records`, which sees a stream in pieces, against a look at the whole from its beginning.

use aioxide_core::tls::Records;
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

/// Bytes after the last whole record; none if there is something that is no record.
fn unfinished(stream: &[u8]) -> usize {
    let mut left = stream;
    while let [kind, major, _, high, low, body @ ..] = left {
        let size = usize::from(*high) << 8 | usize::from(*low);
        if !(20..=24).contains(kind) || *major != 3 || size > 16_384 + 2048 {
            return 0;
        }
        match body.get(size..) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    left.len()
}

/// Mostly records, now and then something else.
fn parts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let record = |kind: u8, major: u8, size: usize| {
        let mut bytes = vec![kind, major, 3, (size >> 8) as u8, size as u8];
        bytes.resize(5 + size, 23);
        bytes
    };
    let sizes = prop_oneof![8 => 0usize..300, 1 => 16_380usize..18_440, 1 => 18_430usize..65_536];
    let part = prop_oneof![
        20 => (20u8..25, sizes).prop_map(move |(kind, size)| record(kind, 3, size)),
        1 => (any::<u8>(), 0usize..300).prop_map(move |(kind, size)| record(kind, 3, size)),
        1 => (20u8..25, any::<u8>(), 0usize..300).prop_map(move |(kind, major, size)| record(kind, major, size)),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(part, 0..30)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn records_model(parts in parts(), cuts in proptest::collection::vec(1usize..600, 1..MAX_OPERATIONS)) {
        let stream: Vec<u8> = parts.into_iter().flatten().collect();
        let (mut records, mut at) = (Records::new(), 0);
        for cut in cuts {
            let next = (at + cut).min(stream.len());
            records.feed(&stream[at..next]);
            at = next;
            prop_assert_eq!(records.unfinished(), unfinished(&stream[..at]), "{} of {}", at, stream.len());
        }
    }
}
