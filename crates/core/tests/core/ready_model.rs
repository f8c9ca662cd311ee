//! The ready queue against a vector.

use aioxide_core::ready::Ready;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

#[derive(Clone, Debug)]
enum Operation {
    PushBack,
    PushFront,
    PopFront,
    Extend(u8),
    Drain,
    DrainInto,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => Just(Operation::PushBack),
        1 => Just(Operation::PushFront),
        8 => Just(Operation::PopFront),
        1 => (0..9_u8).prop_map(Operation::Extend),
        1 => Just(Operation::Drain),
        1 => Just(Operation::DrainInto),
    ]
}

fn run(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let (mut ready, mut model) = (Ready::new(), Vec::<u32>::new());
    for (id, operation) in (0_u32..).map(|n| n * 10).zip(operations) {
        match operation {
            Operation::PushBack => {
                ready.push_back(id);
                model.push(id);
            }
            Operation::PushFront => {
                ready.push_front(id);
                model.insert(0, id);
            }
            Operation::PopFront => {
                let expected = (!model.is_empty()).then(|| model.remove(0));
                prop_assert_eq!(ready.pop_front(), expected);
            }
            Operation::Extend(count) => {
                ready.extend(id..id + u32::from(count));
                model.extend(id..id + u32::from(count));
            }
            Operation::Drain => {
                prop_assert_eq!(ready.drain().collect::<Vec<_>>(), std::mem::take(&mut model));
            }
            Operation::DrainInto => {
                let mut out = vec![7];
                ready.drain_into(&mut out);
                model.insert(0, 7);
                prop_assert_eq!(out, std::mem::take(&mut model));
            }
        }
        prop_assert_eq!(ready.len(), model.len());
        prop_assert_eq!(ready.is_empty(), model.is_empty());
        prop_assert!(ready.iter().eq(&model));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn the_ready_queue_is_a_list(operations in vec(operation(), 0..MAX_OPERATIONS)) {
        run(operations)?;
    }
}
