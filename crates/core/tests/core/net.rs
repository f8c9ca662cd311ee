//! The order of addresses against the answers of `asyncio.base_events` of CPython 3.11.

use aioxide_core::net::interleave;

type Item = (char, u8);

fn order(items: &[Item], count: usize) -> Vec<u8> {
    interleave(items.iter().copied(), |item| item.0, count).into_iter().map(|item| item.1).collect()
}

#[test]
fn families_take_turns_and_the_first_opens_with_its_count() {
    let items = [('6', 1), ('6', 2), ('4', 3), ('6', 4), ('4', 5), ('6', 6)];
    assert_eq!(order(&items, 1), [1, 3, 2, 5, 4, 6]);
    assert_eq!(order(&items, 0), [1, 3, 2, 5, 4, 6]);
    assert_eq!(order(&items, 2), [1, 2, 3, 4, 5, 6]);
    assert_eq!(order(&items, 3), [1, 2, 4, 3, 6, 5]);
    assert_eq!(order(&items, 99), [1, 2, 4, 6, 3, 5]);
    assert_eq!(order(&[], 2), []);
    assert_eq!(order(&[('u', 1), ('4', 2), ('6', 3), ('4', 4)], 1), [1, 2, 3, 4]);
}
