//! The traps of epoll, each with real descriptors. Numbers that are closed and come back are private to
//! their test (`support::at`).
//!
//! No test waits for time to pass: loopback and socket pairs are ready when the call returns, and "nothing
//! is reported" is asked for with a timeout of zero.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use aioxide_core::reactor::{AfterFork, Direction, Event, Reactor};
use aioxide_core::sys::epoll;
use aioxide_core::sys::pipe::WakePipe;
use rustix::io::{Errno, dup};

use crate::support::{FIRST_PRIVATE, at};
use Direction::{Read, Write};

/// The reactor's model test has the first twenty.
const fn number(test: RawFd) -> RawFd {
    FIRST_PRIVATE + 20 + test
}

fn events<W>(reactor: &Reactor<W>) -> Vec<Event> {
    let mut events = Vec::with_capacity(16);
    reactor.poller().wait(&mut events, Some(Duration::ZERO)).unwrap();
    events
}

/// The watchers woken by one look, readers and writers.
fn woken<W: Clone>(reactor: &mut Reactor<W>) -> Vec<W> {
    let resolved: Vec<_> = events(reactor).into_iter().map(|event| reactor.resolve(event)).collect();
    resolved.into_iter().flat_map(|(reader, writer)| [reader, writer]).flatten().collect()
}

/// A socket with a byte to read and room to write, and its peer.
fn ready_socket() -> (UnixStream, UnixStream) {
    use std::io::Write;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    (ours, theirs)
}

/// A connection that its peer has reset.
fn reset_socket() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
    drop(theirs);
    ours
}

#[test]
fn without_interest_a_reset_peer_does_not_spin() {
    let (socket, mut reactor) = (reset_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    reactor.set(fd, Read, 'r').unwrap();
    reactor.set(fd, Write, 'w').unwrap();
    assert_eq!(woken(&mut reactor), ['r', 'w']);
    assert_eq!(reactor.clear(fd, Read).unwrap(), Some('r'));
    assert_eq!(reactor.clear(fd, Write).unwrap(), Some('w'));
    assert!(events(&reactor).is_empty());
    assert!(reactor.is_empty());
}

#[test]
fn a_reset_wakes_a_lone_reader_and_a_lone_writer() {
    let (socket, mut reactor) = (reset_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    for d in [Read, Write] {
        reactor.set(fd, d, d).unwrap();
        assert_eq!(woken(&mut reactor), [d]);
        reactor.clear(fd, d).unwrap();
    }
}

#[test]
fn hang_up_alone_wakes_the_reader_and_error_alone_the_writer() {
    let mut reactor = Reactor::new().unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    reactor.set(reader.as_raw_fd(), Read, 'h').unwrap();
    drop(writer);
    assert_eq!(woken(&mut reactor), ['h'], "EPOLLHUP");
    reactor.clear(reader.as_raw_fd(), Read).unwrap();

    let (reader, writer) = rustix::pipe::pipe().unwrap();
    reactor.set(writer.as_raw_fd(), Write, 'e').unwrap();
    drop(reader);
    assert_eq!(woken(&mut reactor), ['e'], "EPOLLERR");
}

#[test]
fn clearing_one_direction_leaves_the_other() {
    let ((socket, _peer), mut reactor) = (ready_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    reactor.set(fd, Read, 'r').unwrap();
    reactor.set(fd, Write, 'w').unwrap();
    assert_eq!(reactor.len(), 1);
    assert_eq!(reactor.clear(fd, Read).unwrap(), Some('r'));
    assert_eq!(reactor.clear(fd, Read).unwrap(), None);
    assert_eq!(woken(&mut reactor), ['w']);
    assert_eq!((reactor.get(fd, Read), reactor.get(fd, Write)), (None, Some(&'w')));
}

#[test]
fn a_watcher_is_replaced_by_set_and_swapped_in_place_by_get_mut() {
    let ((socket, _peer), mut reactor) = (ready_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    assert_eq!(reactor.set(fd, Read, 1).unwrap(), None);
    assert_eq!(reactor.set(fd, Read, 2).unwrap(), Some(1));
    *reactor.get_mut(fd, Read).unwrap() = 3;
    assert_eq!(woken(&mut reactor), [3]);
    assert_eq!(reactor.iter().collect::<Vec<_>>(), [(fd, Read, &3)]);
    assert_eq!(reactor.clear_all(), [3]);
    assert!(events(&reactor).is_empty());
}

#[test]
fn a_closed_descriptor_with_a_live_dup_is_silent_after_a_rebuild() {
    let mut reactor = Reactor::new().unwrap();
    let (dup, _peer) = ready_socket();
    let (other, _other_peer) = ready_socket();
    let fd = number(0);
    let closing = at(fd, &dup);
    reactor.set(fd, Read, 'x').unwrap();
    reactor.set(other.as_raw_fd(), Read, 'o').unwrap();
    let poller = reactor.poller();
    drop(closing);
    assert_eq!(reactor.clear(fd, Read).unwrap(), Some('x'), "EBADF is no error here");
    assert_eq!(events(&reactor).len(), 2, "the kernel still reports the file: this would spin");
    assert_eq!(woken(&mut reactor), ['o']);
    assert!(reactor.is_stale());
    reactor.rebuild_if_stale().unwrap();
    assert!(!reactor.is_stale());
    assert_eq!(events(&reactor).len(), 1);
    assert_eq!(woken(&mut reactor), ['o']);
    assert_eq!(reactor.poller(), poller, "the set keeps its number");
    assert!(rustix::io::fcntl_getfd(dup_of(&reactor)).is_ok());
}

/// A dup of the reactor's epoll descriptor: the same set, as a forked process has it.
fn dup_of<W>(reactor: &Reactor<W>) -> std::os::fd::OwnedFd {
    let set = reactor.poller().as_raw_fd();
    // SAFETY: the reactor owns the descriptor and lives.
    dup(unsafe { std::os::fd::BorrowedFd::borrow_raw(set) }).unwrap()
}

#[test]
fn a_closed_descriptor_that_was_not_cleared_is_left_out_of_a_rebuilt_set() {
    let mut reactor = Reactor::new().unwrap();
    let (dup, _peer) = ready_socket();
    let (kept, cleared) = (number(1), number(2));
    let closing = [at(kept, &dup), at(cleared, &dup)];
    reactor.set(kept, Read, 'k').unwrap();
    reactor.set(cleared, Read, 'c').unwrap();
    drop(closing);
    reactor.clear(cleared, Read).unwrap();
    woken(&mut reactor);
    reactor.rebuild_if_stale().unwrap();
    assert!(events(&reactor).is_empty());
    assert_eq!(reactor.get(kept, Read), Some(&'k'));
    assert_eq!(reactor.clear(kept, Read).unwrap(), Some('k'));
}

#[test]
fn a_reused_number_is_registered_anew_though_it_was_never_cleared() {
    let mut reactor = Reactor::new().unwrap();
    let fd = number(3);
    let (old, old_peer) = ready_socket();
    let closing = at(fd, &old);
    reactor.set(fd, Read, "old").unwrap();
    drop((closing, old, old_peer));
    let (new, _new_peer) = ready_socket();
    let _reused = at(fd, &new);
    assert_eq!(reactor.set(fd, Read, "new").unwrap(), Some("old"), "MOD says ENOENT, so ADD");
    assert_eq!(woken(&mut reactor), ["new"]);
}

#[test]
fn events_of_the_old_file_do_not_wake_the_watcher_of_the_new_one() {
    let mut reactor = Reactor::new().unwrap();
    let fd = number(4);
    let (old, _old_peer) = ready_socket();
    let closing = at(fd, &old);
    reactor.set(fd, Read, "old").unwrap();
    drop(closing);
    let (quiet, _quiet_peer) = UnixStream::pair().unwrap();
    let _reused = at(fd, &quiet);
    reactor.set(fd, Read, "new").unwrap();
    assert_eq!(events(&reactor).len(), 1, "the old file, through its dup");
    assert_eq!(woken(&mut reactor), [""; 0]);
    reactor.rebuild_if_stale().unwrap();
    assert!(events(&reactor).is_empty());
}

#[test]
fn a_file_that_comes_back_under_its_number_is_modified_where_add_says_it_exists() {
    let mut reactor = Reactor::new().unwrap();
    let fd = number(5);
    let (file, _peer) = ready_socket();
    let closing = at(fd, &file);
    reactor.set(fd, Read, 1).unwrap();
    drop(closing);
    reactor.clear(fd, Read).unwrap();
    let _back = at(fd, &file);
    reactor.set(fd, Read, 2).unwrap();
    assert_eq!(woken(&mut reactor), [2]);
    assert!(!reactor.is_stale());
}

#[test]
fn a_modify_that_hits_a_leftover_does_not_lend_its_generation_to_another_file() {
    let mut reactor = Reactor::new().unwrap();
    let fd = number(6);
    let (first, _first_peer) = ready_socket();
    let (second, _second_peer) = ready_socket();
    let closing = at(fd, &first);
    reactor.set(fd, Read, 1).unwrap();
    drop(closing);
    reactor.clear(fd, Read).unwrap(); // (first, fd) is left over in the kernel
    let closing = at(fd, &second);
    reactor.set(fd, Read, 2).unwrap();
    drop(closing); // and now (second, fd) as well
    let _back = at(fd, &first);
    reactor.set(fd, Read, 3).unwrap(); // MOD succeeds, on the leftover of the first
    assert_eq!(woken(&mut reactor), [3], "once, for the file that has the number");
    assert!(reactor.is_stale());
}

#[test]
fn clearing_a_number_that_means_a_regular_file_by_now_is_no_error() {
    let mut reactor = Reactor::new().unwrap();
    let fd = number(7);
    let (socket, _peer) = ready_socket();
    let closing = at(fd, &socket);
    reactor.set(fd, Read, 'x').unwrap();
    drop(closing);
    let _reused = at(fd, std::fs::File::open("/proc/self/exe").unwrap());
    assert_eq!(reactor.clear(fd, Read).unwrap(), Some('x'), "the kernel says EPERM");
}

#[test]
fn a_failed_set_changes_nothing() {
    let mut reactor = Reactor::new().unwrap();
    let errno = |result: std::io::Result<Option<i32>>| result.unwrap_err().raw_os_error();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(errno(reactor.set(file.as_raw_fd(), Read, 1)), Some(Errno::PERM.raw_os_error()));
    assert_eq!(errno(reactor.set(-1, Read, 1)), Some(Errno::BADF.raw_os_error()));
    assert_eq!(reactor.len(), 0);

    let fd = number(8);
    let (socket, _peer) = ready_socket();
    let closing = at(fd, &socket);
    reactor.set(fd, Read, 1).unwrap();
    drop(closing);
    assert_eq!(errno(reactor.set(fd, Read, 2)), Some(Errno::BADF.raw_os_error()));
    assert_eq!(errno(reactor.set(fd, Write, 2)), Some(Errno::BADF.raw_os_error()));
    assert_eq!((reactor.get(fd, Read), reactor.get(fd, Write), reactor.len()), (Some(&1), None, 1));
}

#[test]
fn an_event_fetched_before_its_watch_was_cleared_wakes_nobody_and_costs_no_rebuild() {
    let ((socket, _peer), mut reactor) = (ready_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    reactor.set(fd, Read, 1).unwrap();
    let fetched = events(&reactor);
    reactor.clear(fd, Read).unwrap();
    assert_eq!(reactor.resolve(fetched[0]), (None, None));
    assert!(!reactor.is_stale());
    reactor.set(fd, Read, 2).unwrap();
    assert_eq!(reactor.resolve(fetched[0]), (None, None), "another registration");
    assert_eq!(woken(&mut reactor), [2]);
}

#[test]
fn a_forked_child_that_forgets_leaves_the_set_of_its_parent_alone() {
    let ((socket, _peer), mut reactor) = (ready_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    reactor.set(fd, Read, 1).unwrap();
    let (parent, poller) = (dup_of(&reactor), reactor.poller());
    assert_eq!(reactor.after_fork_child(AfterFork::Forget).unwrap(), [1]);
    assert!(reactor.is_empty() && events(&reactor).is_empty());
    assert_eq!(reactor.poller(), poller);
    reactor.set(fd, Write, 2).unwrap();
    reactor.clear(fd, Write).unwrap();
    assert_eq!(seen_by(parent.as_raw_fd()), 1, "the parent still watches");
}

#[test]
fn a_forked_child_may_watch_on_in_a_set_of_its_own() {
    let ((socket, _peer), mut reactor) = (ready_socket(), Reactor::new().unwrap());
    let fd = socket.as_raw_fd();
    reactor.set(fd, Read, 1).unwrap();
    let parent = dup_of(&reactor);
    assert_eq!(reactor.after_fork_child(AfterFork::Reregister).unwrap(), []);
    assert_eq!(woken(&mut reactor), [1]);
    reactor.clear(fd, Read).unwrap();
    assert!(events(&reactor).is_empty());
    assert_eq!(seen_by(parent.as_raw_fd()), 1, "the parent still watches");
}

fn seen_by(set: RawFd) -> usize {
    epoll::wait(set, &mut Vec::with_capacity(8), Some(Duration::ZERO)).unwrap()
}

#[test]
fn a_wait_in_one_thread_sees_what_another_registers_meanwhile() {
    let (pipe, mut reactor) = (WakePipe::new().unwrap(), Reactor::new().unwrap());
    let poller = reactor.poller();
    let waiter = std::thread::spawn(move || {
        let mut events = Vec::with_capacity(1);
        poller.wait(&mut events, None).map(|()| events.len())
    });
    reactor.set(pipe.reader_fd(), Read, ()).unwrap();
    pipe.wake().unwrap();
    assert_eq!(waiter.join().unwrap().unwrap(), 1);
}
