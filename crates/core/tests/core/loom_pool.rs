//! The work queue under loom: every interleaving of those who push and the workers (with a bound on preemptions for
//! three threads). A lost wake-up is a worker that waits for ever, which loom reports as a deadlock.

use aioxide_core::pool::{Take, WorkQueue};
use loom::sync::Arc;
use loom::thread;

/// A worker's body: what it got until the queue was closed.
fn worker(queue: &Arc<WorkQueue<u8>>) -> thread::JoinHandle<Vec<u8>> {
    let queue = Arc::clone(queue);
    thread::spawn(move || {
        let mut got = Vec::new();
        let mut next = queue.take();
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
    })
}

fn bounded() -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model
}

#[test]
fn loom_a_worker_gets_every_item_in_order_and_ends() {
    loom::model(|| {
        let queue = Arc::new(WorkQueue::new());
        let only = worker(&queue);
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        queue.close();
        assert_eq!(only.join().unwrap(), [1, 2]);
    });
}

#[test]
fn loom_two_workers_lose_and_double_nothing() {
    bounded().check(|| {
        let queue = Arc::new(WorkQueue::new());
        let workers = [worker(&queue), worker(&queue)];
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        queue.close();
        let mut got: Vec<u8> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn loom_an_item_is_taken_by_somebody_although_nobody_closes() {
    // Two items that wait for one another: both workers must be let through.
    bounded().check(|| {
        let queue = Arc::new(WorkQueue::new());
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let mut next = queue.take();
                    loop {
                        match next {
                            Take::Item(item) => return item,
                            Take::Nothing => {
                                queue.wait();
                                next = queue.take_woken();
                            }
                            Take::End => unreachable!("nobody closes it"),
                        }
                    }
                })
            })
            .collect();
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        let mut got: Vec<u8> = takers.into_iter().map(|t| t.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn loom_a_worker_that_was_idle_before_is_called_by_whoever_pushes() {
    bounded().check(|| {
        let queue = Arc::new(WorkQueue::new());
        assert_eq!(queue.take(), Take::Nothing);
        let pushers: Vec<_> = (1..=2)
            .map(|item| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(item).unwrap())
            })
            .collect();
        queue.wait();
        assert_ne!(queue.take_woken(), Take::Nothing);
        pushers.into_iter().for_each(|p| p.join().unwrap());
        assert_eq!(queue.len(), 1);
    });
}
