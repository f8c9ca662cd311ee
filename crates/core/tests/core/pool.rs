//! The work queue with one thread (the rules) and with many. That no interleaving breaks it is loom's business:
//! `loom_pool.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aioxide_core::pool::{Take, WorkQueue};

/// Starts a worker as a pool does; it is on its way.
fn start(queue: &WorkQueue<u32>, limit: usize) -> bool {
    queue.announce(0, limit)
}

#[test]
fn items_come_out_in_order_and_then_there_is_nothing() {
    let queue = WorkQueue::new();
    for item in 0..3 {
        assert_eq!(queue.push(item), Ok(()));
    }
    assert_eq!(queue.len(), 3);
    assert_eq!(queue.pop(), Some(0));
    assert_eq!([queue.take(), queue.take(), queue.take()], [Take::Item(1), Take::Item(2), Take::Nothing]);
    assert!(queue.is_empty());
    assert_eq!(queue.pop(), None);
}

#[test]
fn a_thread_is_wanted_only_while_none_is_idle_and_there_are_fewer_than_the_limit() {
    let queue = WorkQueue::new();
    assert!(!queue.is_short(0), "no item, no worker");
    assert!(queue.is_short(1));
    queue.push(1).unwrap();
    assert!(start(&queue, 2));
    assert!(!queue.is_short(0), "it is on its way");
    assert_eq!(queue.take_first(), Take::Item(1));
    assert!(!queue.is_short(0));
    assert!(queue.is_short(1), "it is busy");
    queue.push(2).unwrap();
    assert!(start(&queue, 2));
    assert_eq!(queue.take_first(), Take::Item(2));
    queue.push(3).unwrap();
    assert!(queue.is_short(0));
    assert!(!start(&queue, 2), "the limit");
    assert!(start(&queue, 3), "which may be raised");
}

#[test]
fn an_idle_worker_covers_one_item() {
    let queue = WorkQueue::new();
    assert!(queue.announce(1, 9));
    assert_eq!(queue.take_first(), Take::Nothing);
    assert!(!queue.is_short(1));
    queue.push(1).unwrap();
    assert!(!queue.is_short(0), "it was called");
    assert!(queue.is_short(1));
    queue.wait();
    assert_eq!(queue.take(), Take::Item(1));
}

#[test]
fn a_thread_on_its_way_covers_one_item_too() {
    let queue = WorkQueue::<u32>::new();
    assert!(queue.announce(1, 9));
    assert!(!queue.is_short(1));
    assert!(queue.is_short(2));
    queue.not_started();
    assert!(queue.is_short(1), "it did not come");
    assert!(queue.announce(1, 1), "and does not count");
}

#[test]
fn a_closed_queue_refuses_items_and_workers_end_when_it_is_empty() {
    let queue = WorkQueue::new();
    queue.push(1).unwrap();
    queue.close();
    assert_eq!(queue.push(2), Err(2));
    assert!(!queue.is_short(1));
    assert!(!queue.announce(1, 9));
    assert_eq!([queue.take(), queue.take(), queue.take()], [Take::Item(1), Take::End, Take::End]);
}

#[test]
fn closing_lets_every_idle_worker_go() {
    let queue = Arc::new(WorkQueue::<u32>::new());
    let workers: Vec<_> = (0..3)
        .map(|_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                while queue.take() == Take::Nothing {
                    queue.wait();
                }
            })
        })
        .collect();
    queue.close();
    queue.close();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn many_producers_and_a_growing_pool_lose_and_double_nothing() {
    const PRODUCERS: u32 = 4;
    const EACH: u32 = 5_000;
    const LIMIT: usize = 3;
    let queue = Arc::new(WorkQueue::new());
    let started = Arc::new(AtomicUsize::new(0));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (queue, started) = (Arc::clone(&queue), Arc::clone(&started));
            thread::spawn(move || {
                let mut workers = Vec::new();
                for number in 0..EACH {
                    if queue.announce(1, LIMIT) {
                        started.fetch_add(1, Ordering::Relaxed);
                        let queue = Arc::clone(&queue);
                        workers.push(thread::spawn(move || work(&queue)));
                    }
                    queue.push(producer * EACH + number).unwrap();
                }
                workers
            })
        })
        .collect();
    let workers: Vec<_> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
    queue.close();
    let got: Vec<u32> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    assert_eq!(got.len(), (PRODUCERS * EACH) as usize);
    assert_eq!(got.iter().collect::<HashSet<_>>().len(), got.len());
    assert!((1..=LIMIT).contains(&started.load(Ordering::Relaxed)));
}

fn work(queue: &WorkQueue<u32>) -> Vec<u32> {
    let mut got = Vec::new();
    let mut next = queue.take_first();
    loop {
        match next {
            Take::Item(item) => got.push(item),
            Take::Nothing => {
                queue.wait();
                next = queue.take_woken();
                continue;
            }
            Take::End => return got,
        }
        next = queue.take();
    }
}
