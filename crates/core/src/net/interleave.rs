//! The order in which addresses are tried: families by turns.
//!
//! CPython counterpart: `asyncio.base_events._interleave_addrinfos` (RFC 8305 section 4).
//!
//! Invariants: nothing is lost or doubled; the order within a family is kept; families come in the order of
//! their first address, and the first one opens with `first_address_family_count` addresses.

use std::collections::VecDeque;

/// Interleaves `items` by `family`. A count of 0 or 1 alternates from the start.
///
/// asyncio raises IndexError for no items and a count above 1; here that is no items.
pub fn interleave<T, F: PartialEq>(
    items: impl IntoIterator<Item = T>,
    family: impl Fn(&T) -> F,
    first_address_family_count: usize,
) -> Vec<T> {
    // A linear search: there are two families, and rarely a third.
    let mut groups: Vec<(F, VecDeque<T>)> = Vec::new();
    for item in items {
        let key = family(&item);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push_back(item),
            None => groups.push((key, VecDeque::from([item]))),
        }
    }
    let mut ordered = Vec::with_capacity(groups.iter().map(|(_, group)| group.len()).sum());
    if let Some((_, first)) = groups.first_mut() {
        let ahead = first_address_family_count.saturating_sub(1).min(first.len());
        ordered.extend(first.drain(..ahead));
    }
    while groups.iter().any(|(_, group)| !group.is_empty()) {
        ordered.extend(groups.iter_mut().filter_map(|(_, group)| group.pop_front()));
    }
    ordered
}
