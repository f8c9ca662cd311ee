//! The timer heap against a sorted vector.

use aioxide_core::time::TimerHeap;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

#[derive(Clone, Debug)]
enum Operation {
    Push(f64),
    Pop,
    PopDue(f64),
    DrainMultiplesOf(u32),
}

fn deadline() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-3..12_i8).prop_map(f64::from),
        2 => -1.0..10.0_f64,
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, -0.0, 0.0]),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => deadline().prop_map(Operation::Push),
        2 => Just(Operation::Pop),
        4 => deadline().prop_map(Operation::PopDue),
        1 => (2..7_u32).prop_map(Operation::DrainMultiplesOf),
    ]
}

/// Entries in the order in which they must come out.
#[derive(Default)]
struct Model(Vec<(f64, u32)>);

impl Model {
    fn push(&mut self, when: f64, id: u32) {
        // Behind everything that is not later: NaN is later than all but NaN.
        let is_later = |other: f64| {
            if when.is_nan() { false } else { other.is_nan() || other > when }
        };
        let place = self.0.iter().position(|&(other, _)| is_later(other)).unwrap_or(self.0.len());
        self.0.insert(place, (when, id));
    }

    fn pop_if(&mut self, due: impl Fn(f64) -> bool) -> Option<(f64, u32)> {
        let &(when, _) = self.0.first()?;
        due(when).then(|| self.0.remove(0))
    }
}

fn run(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let (mut heap, mut model) = (TimerHeap::new(), Model::default());
    for (id, operation) in (0_u32..).zip(operations) {
        match operation {
            Operation::Push(when) => {
                heap.push(when, id);
                model.push(when, id);
            }
            Operation::Pop => {
                let (popped, expected) = (heap.pop(), model.pop_if(|_| true));
                prop_assert_eq!(popped.map(|(_, id)| id), expected.map(|(_, id)| id));
                if let (Some((when, _)), Some((expected, _))) = (popped, expected) {
                    prop_assert!(when == expected || when.is_nan() && expected.is_nan());
                }
            }
            Operation::PopDue(end) => {
                let expected = model.pop_if(|when| when < end || when.is_nan() || end.is_nan());
                prop_assert_eq!(heap.pop_due(end), expected.map(|(_, id)| id));
            }
            Operation::DrainMultiplesOf(n) => {
                let mut removed = heap.drain_where(|id| id % n == 0);
                removed.sort_unstable();
                let mut expected: Vec<u32> = model.0.iter().map(|&(_, id)| id).filter(|id| id % n == 0).collect();
                expected.sort_unstable();
                model.0.retain(|&(_, id)| id % n != 0);
                prop_assert_eq!(removed, expected);
            }
        }
        prop_assert_eq!(heap.len(), model.0.len());
        prop_assert_eq!(heap.is_empty(), model.0.is_empty());
        prop_assert_eq!(heap.peek().copied(), model.0.first().map(|&(_, id)| id));
    }
    let mut rest: Vec<u32> = heap.iter().copied().collect();
    let mut expected: Vec<u32> = model.0.iter().map(|&(_, id)| id).collect();
    rest.sort_unstable();
    expected.sort_unstable();
    prop_assert_eq!(rest, expected);
    Ok(())
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn the_heap_is_a_list_sorted_by_deadline_then_insertion(operations in vec(operation(), 0..MAX_OPERATIONS)) {
        run(operations)?;
    }
}

#[test]
fn a_timer_due_exactly_at_the_end_is_not_due_yet() {
    let mut heap = TimerHeap::new();
    heap.push(1.0, 'a');
    assert_eq!(heap.pop_due(1.0), None);
    assert_eq!(heap.pop_due(1.0 + 1e-9), Some('a'));
}

#[test]
fn equal_deadlines_keep_their_order_and_negative_ones_come_first() {
    let mut heap = TimerHeap::new();
    for (when, item) in [(0.0, 1), (-0.0, 2), (f64::INFINITY, 9), (0.0, 3), (-5.0, 0), (f64::NAN, 10)] {
        heap.push(when, item);
    }
    let order: Vec<i32> = std::iter::from_fn(|| heap.pop().map(|(_, item)| item)).collect();
    assert_eq!(order, [0, 1, 2, 3, 9, 10]);
}

#[test]
fn a_lone_nan_is_due_at_once_as_in_asyncio() {
    let mut heap = TimerHeap::new();
    heap.push(f64::NAN, ());
    assert_eq!(heap.pop_due(0.0), Some(()));
}
