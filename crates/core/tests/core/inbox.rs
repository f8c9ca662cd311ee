//! The inbox with one thread (the rules) and with many (the throughput of a real scheduler). That no
//! interleaving breaks it is loom's business: `loom_inbox.rs`.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use aioxide_core::kernel::Inbox;

fn drained<T: Send>(inbox: &Inbox<T>) -> Vec<T> {
    let mut out = Vec::new();
    inbox.drain_into(&mut out);
    out
}

#[test]
fn a_push_to_an_owner_who_is_awake_needs_no_wake_up() {
    let inbox = Inbox::new();
    assert!(!inbox.push(1));
    assert!(!inbox.is_empty());
    let mut seen = Vec::new();
    inbox.for_each(|&item| seen.push(item));
    assert_eq!(seen, [1]);
    assert_eq!(drained(&inbox), [1]);
    assert!(inbox.is_empty());
}

#[test]
fn exactly_one_push_per_sleep_has_to_wake() {
    let inbox = Inbox::new();
    for _ in 0..2 {
        assert!(inbox.prepare_sleep());
        assert!(inbox.push(1));
        assert!(!inbox.push(2));
        inbox.finish_sleep();
        assert!(!inbox.push(3));
        assert_eq!(drained(&inbox), [1, 2, 3]);
    }
}

#[test]
fn an_owner_who_woke_by_itself_needs_no_wake_up() {
    let inbox = Inbox::new();
    assert!(inbox.prepare_sleep());
    inbox.finish_sleep();
    assert!(!inbox.push(1));
}

#[test]
fn sleep_is_refused_while_there_is_work() {
    let inbox = Inbox::new();
    inbox.push(1);
    assert!(!inbox.prepare_sleep());
    assert!(!inbox.push(2), "nobody sleeps");
    assert_eq!(drained(&inbox), [1, 2]);
    assert!(inbox.prepare_sleep());
}

#[test]
fn draining_appends_to_what_is_there() {
    let inbox = Inbox::new();
    inbox.push(2);
    let mut out = vec![1];
    inbox.drain_into(&mut out);
    assert_eq!(out, [1, 2]);
}

#[test]
fn many_producers_and_a_sleeping_owner_lose_nothing() {
    const PRODUCERS: usize = 4;
    const EACH: usize = 5_000;
    let inbox = Arc::new(Inbox::new());
    let (wake, woken) = mpsc::channel();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (inbox, wake) = (Arc::clone(&inbox), wake.clone());
            thread::spawn(move || {
                for number in 0..EACH {
                    if inbox.push((producer, number)) {
                        wake.send(()).unwrap();
                    }
                }
            })
        })
        .collect();
    drop(wake);
    let (mut got, mut next) = (0, [0; PRODUCERS]);
    while got < PRODUCERS * EACH {
        if inbox.prepare_sleep() {
            // Hangs here (and fails by the harness' patience) if a wake-up is lost.
            woken.recv().unwrap();
        }
        inbox.finish_sleep();
        for (producer, number) in drained(&inbox) {
            assert_eq!(number, next[producer], "order of a producer");
            next[producer] += 1;
            got += 1;
        }
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert!(drained(&inbox).is_empty());
}
