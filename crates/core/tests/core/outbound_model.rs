//! The outbound queue against one flat string of bytes.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;

use aioxide_core::buffer::{Chunk, Outbound};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{MAX_OPERATIONS, cases};

/// Counts its drops, so that the test knows where a chunk has gone.
struct Counted {
    bytes: Vec<u8>,
    dropped: Rc<Cell<usize>>,
}

impl Chunk for Counted {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.dropped.set(self.dropped.get() + 1);
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Push(Vec<u8>),
    PushRest(Vec<u8>, usize),
    /// Sends this part (of 255) of what is there.
    Advance(u8),
    Clear,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..12).prop_map(Operation::Push),
        1 => (vec(any::<u8>(), 1..12), 0..12_usize).prop_map(|(bytes, sent)| Operation::PushRest(bytes, sent)),
        8 => any::<u8>().prop_map(Operation::Advance),
        1 => Just(Operation::Clear),
    ]
}

fn gathered(queue: &Outbound<Counted>, slots: usize) -> (usize, Vec<u8>) {
    let mut slices = vec![IoSlice::new(&[]); slots];
    let count = queue.slices(&mut slices);
    (count, slices[..count].iter().flat_map(|slice| slice.to_vec()).collect())
}

fn run(operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let dropped = Rc::new(Cell::new(0));
    let counted = |bytes: Vec<u8>| Counted { bytes, dropped: Rc::clone(&dropped) };
    let (mut queue, mut model) = (Outbound::new(), Vec::<u8>::new());
    for operation in operations {
        let before = dropped.get();
        let handed_out = match operation {
            Operation::Push(bytes) => {
                model.extend(&bytes);
                queue.push(counted(bytes));
                Vec::new()
            }
            Operation::PushRest(bytes, sent) => {
                let all = queue.clear();
                model = bytes.get(sent..).unwrap_or_default().to_vec();
                queue.push_rest(counted(bytes), sent);
                all
            }
            Operation::Advance(part) => {
                let n = model.len() * usize::from(part) / 255;
                model.drain(..n);
                queue.advance(n)
            }
            Operation::Clear => {
                model.clear();
                queue.clear()
            }
        };
        prop_assert_eq!(dropped.get(), before, "a chunk was dropped inside the borrow");
        drop(handed_out);
        prop_assert_eq!(queue.len(), model.len());
        prop_assert_eq!(queue.is_empty(), model.is_empty());
        let (_, bytes) = gathered(&queue, MAX_OPERATIONS);
        prop_assert_eq!(&bytes, &model);
        let (count, some) = gathered(&queue, 2);
        prop_assert!(count <= 2 && model.starts_with(&some));
        prop_assert_eq!(count == 0, model.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn the_outbound_queue_is_a_string_of_bytes(operations in vec(operation(), 0..MAX_OPERATIONS)) {
        run(operations)?;
    }
}

#[test]
fn a_partial_send_keeps_the_chunk_and_a_whole_one_hands_it_out() {
    let mut queue = Outbound::new();
    queue.push(b"hello".to_vec());
    queue.push(b"world".to_vec());
    assert!(queue.advance(4).is_empty());
    assert_eq!(queue.front(), Some((&b"hello".to_vec(), 4)));
    assert_eq!(queue.advance(1), [b"hello".to_vec()]);
    assert_eq!(queue.len(), 5);
    assert_eq!(queue.advance(5), [b"world".to_vec()]);
    assert!(queue.is_empty());
}
