//! Edges: a reader that is reported once must hear of everything it has not read, whatever happens to the set meanwhile.
//!
//! Loopback TCP of Linux hands over a segment inside of `send`, so each look finds what was sent before.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use aioxide_core::reactor::{AfterFork, Direction, Event, Reactor};
use aioxide_core::sys::socket;
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::io::dup;

use crate::support::{MAX_OPERATIONS, cases};
use Direction::{Read, Write};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nodelay(true).unwrap();
    (ours, theirs)
}

fn events(reactor: &Reactor<char>) -> Vec<Event> {
    let mut events = Vec::with_capacity(16);
    reactor.poller().wait(&mut events, Some(Duration::ZERO)).unwrap();
    events
}

/// Who is woken by one look, those reported again included; and whether a reader was told that there may be more.
fn look(reactor: &mut Reactor<char>) -> (Vec<char>, bool) {
    let (mut woken, mut more) = (Vec::new(), false);
    for event in events(reactor) {
        let (reader, writer) = reactor.resolve(event);
        more |= reader.is_some() && reactor.hints_at_more(event);
        woken.extend([reader, writer].into_iter().flatten());
    }
    woken.extend(reactor.take_again());
    reactor.rebuild_if_stale().unwrap();
    (woken, more)
}

fn woken(reactor: &mut Reactor<char>) -> Vec<char> {
    look(reactor).0
}

/// A reader with edges and a byte that was reported to it.
fn reported() -> (TcpStream, TcpStream, Reactor<char>, RawFd) {
    let ((ours, mut theirs), mut reactor) = (pair(), Reactor::new().unwrap());
    let fd = ours.as_raw_fd();
    theirs.write_all(b"a").unwrap();
    reactor.set_edge(fd, 'r').unwrap();
    assert_eq!(look(&mut reactor), (vec!['r'], false));
    (ours, theirs, reactor, fd)
}

#[test]
fn what_was_reported_is_not_reported_twice_and_new_bytes_are() {
    let (_ours, mut theirs, mut reactor, _) = reported();
    assert_eq!(woken(&mut reactor), []);
    theirs.write_all(b"b").unwrap();
    assert_eq!(woken(&mut reactor), ['r']);
    assert_eq!(woken(&mut reactor), []);
}

#[test]
fn what_is_asked_for_is_reported_again_once() {
    let (_ours, mut theirs, mut reactor, fd) = reported();
    assert!(!reactor.has_again());
    reactor.report_again(fd);
    reactor.report_again(fd);
    assert!(reactor.has_again());
    assert_eq!(woken(&mut reactor), ['r']);
    assert!(!reactor.has_again());
    assert_eq!(woken(&mut reactor), []);
    // An event of the kernel's is report enough.
    reactor.report_again(fd);
    theirs.write_all(b"b").unwrap();
    assert_eq!(woken(&mut reactor), ['r']);
    assert_eq!(woken(&mut reactor), []);
}

#[test]
fn a_reader_that_went_is_not_reported_again_and_a_new_one_is_reported_at_once() {
    let (_ours, _theirs, mut reactor, fd) = reported();
    reactor.report_again(fd);
    reactor.clear(fd, Read).unwrap();
    assert_eq!(woken(&mut reactor), []);
    reactor.set_edge(fd, 's').unwrap();
    assert_eq!(woken(&mut reactor), ['s']);
    assert_eq!(woken(&mut reactor), []);
    reactor.set_edge(fd, 't').unwrap();
    assert_eq!(woken(&mut reactor), ['t'], "MOD looks anew");
}

#[test]
fn with_a_writer_there_are_no_edges_and_without_it_there_are_again() {
    let (_ours, _theirs, mut reactor, fd) = reported();
    reactor.set(fd, Write, 'w').unwrap();
    for _ in 0..3 {
        assert_eq!(woken(&mut reactor), ['r', 'w']);
        reactor.report_again(fd);
        assert!(!reactor.has_again(), "the kernel does");
    }
    reactor.clear(fd, Write).unwrap();
    assert_eq!(woken(&mut reactor), ['r'], "MOD looks anew");
    assert_eq!(woken(&mut reactor), []);
    reactor.set(fd, Write, 'w').unwrap();
    reactor.clear(fd, Read).unwrap();
    assert_eq!(woken(&mut reactor), ['w']);
    assert_eq!(woken(&mut reactor), ['w'], "a lone writer has no edges");
    reactor.set_edge(fd, 'r').unwrap();
    assert_eq!(woken(&mut reactor), ['r', 'w']);
    assert_eq!(woken(&mut reactor), ['r', 'w']);
}

#[test]
fn a_plain_reader_in_its_place_has_no_edges() {
    let (_ours, _theirs, mut reactor, fd) = reported();
    reactor.set(fd, Read, 'p').unwrap();
    for _ in 0..3 {
        assert_eq!(woken(&mut reactor), ['p']);
    }
}

#[test]
fn an_end_after_the_data_is_a_new_edge_and_tells_of_more() {
    let (_ours, theirs, mut reactor, _) = reported();
    theirs.shutdown(Shutdown::Write).unwrap();
    assert_eq!(look(&mut reactor), (vec!['r'], true));
    assert_eq!(woken(&mut reactor), []);
}

#[test]
fn data_and_end_together_tell_of_more() {
    let ((ours, mut theirs), mut reactor) = (pair(), Reactor::new().unwrap());
    reactor.set_edge(ours.as_raw_fd(), 'r').unwrap();
    theirs.write_all(b"last").unwrap();
    drop(theirs);
    assert_eq!(look(&mut reactor), (vec!['r'], true));
}

#[test]
fn a_reset_tells_of_more() {
    let (_ours, theirs, mut reactor, _) = reported();
    rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).unwrap();
    drop(theirs);
    assert_eq!(look(&mut reactor), (vec!['r'], true));
}

#[test]
fn urgent_data_tells_of_more_and_a_receive_stops_before_it() {
    let ((ours, theirs), mut reactor) = (pair(), Reactor::new().unwrap());
    let fd = ours.as_raw_fd();
    reactor.set_edge(fd, 'r').unwrap();
    use rustix::net::{SendFlags, send};
    send(&theirs, b"be", SendFlags::empty()).unwrap();
    send(&theirs, b"!", SendFlags::OOB).unwrap();
    send(&theirs, b"hind", SendFlags::empty()).unwrap();
    assert_eq!(look(&mut reactor), (vec!['r'], true));
    let mut buffer = [0; 64];
    assert_eq!(socket::recv_into(fd, &mut buffer).unwrap(), 2, "short, and not empty");
    assert_eq!(woken(&mut reactor), [], "which the kernel does not report");
    reactor.report_again(fd);
    assert_eq!(woken(&mut reactor), ['r']);
    assert_eq!(socket::recv_into(fd, &mut buffer).unwrap(), 4);
}

#[test]
fn a_new_set_reports_what_is_unread() {
    let (_ours, _theirs, mut reactor, fd) = reported();
    reactor.report_again(fd);
    assert!(reactor.after_fork_child(AfterFork::Reregister).unwrap().is_empty());
    assert_eq!(woken(&mut reactor), ['r']);
    assert_eq!(woken(&mut reactor), []);
}

#[test]
fn a_closed_number_with_a_live_dup_is_nobodys() {
    let (ours, mut theirs, mut reactor, fd) = reported();
    let kept = dup(&ours).unwrap();
    reactor.report_again(fd);
    drop(ours);
    reactor.clear(fd, Read).unwrap();
    theirs.write_all(b"b").unwrap();
    for _ in 0..3 {
        assert_eq!(woken(&mut reactor), []);
    }
    assert!(events(&reactor).is_empty(), "rebuilt");
    drop(kept);
}

#[test]
fn tcp_is_known_by_the_kernel() {
    let (ours, _) = pair();
    assert!(socket::is_tcp(ours.as_raw_fd()).unwrap());
    let (unix, _) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(!socket::is_tcp(unix.as_raw_fd()).unwrap());
    assert!(socket::is_tcp(-1).is_err());
}

#[derive(Clone, Debug)]
enum Operation {
    Send(usize),
    /// A look, and what the transport does with it, with room for so many bytes.
    Look(usize),
    Pause,
    Resume,
    AddWriter,
    RemoveWriter,
    Rebuild,
    End,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (1..20_usize).prop_map(Operation::Send),
        8 => (1..16_usize).prop_map(Operation::Look),
        2 => Just(Operation::Pause),
        3 => Just(Operation::Resume),
        1 => Just(Operation::AddWriter),
        1 => Just(Operation::RemoveWriter),
        1 => Just(Operation::Rebuild),
        1 => Just(Operation::End),
    ]
}

/// A transport as the binding has it: one receive each time it is woken.
struct Transport {
    sock: TcpStream,
    received: usize,
    ended: bool,
    reads_all: bool,
}

impl Transport {
    fn on_readable(&mut self, reactor: &mut Reactor<char>, more: bool, room: usize) {
        self.reads_all |= more;
        let mut buffer = vec![0; room];
        let unread = match self.sock.read(&mut buffer) {
            Ok(0) => {
                self.ended = true;
                reactor.clear(self.sock.as_raw_fd(), Read).unwrap();
                false
            }
            Ok(count) => {
                self.received += count;
                count == room || self.reads_all
            }
            Err(_) => {
                self.reads_all = false;
                false
            }
        };
        if unread {
            reactor.report_again(self.sock.as_raw_fd());
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever comes between: in the end every byte is read, and the end is seen.
    #[test]
    fn no_byte_and_no_end_is_missed(operations in vec(operation(), 1..MAX_OPERATIONS)) {
        let ((ours, mut theirs), mut reactor) = (pair(), Reactor::new().unwrap());
        let fd = ours.as_raw_fd();
        let mut transport = Transport { sock: ours, received: 0, ended: false, reads_all: false };
        let (mut sent, mut open) = (0, true);
        reactor.set_edge(fd, 'r').unwrap();
        let look_once = |reactor: &mut Reactor<char>, transport: &mut Transport, room| {
            let (woken, more) = look(reactor);
            if woken.contains(&'r') {
                transport.on_readable(reactor, more, room);
            }
        };
        for operation in operations {
            match operation {
                Operation::Send(count) if open => {
                    theirs.write_all(&vec![0; count]).unwrap();
                    sent += count;
                }
                Operation::End if open => {
                    theirs.shutdown(Shutdown::Write).unwrap();
                    open = false;
                }
                Operation::Look(room) => look_once(&mut reactor, &mut transport, room),
                Operation::Pause => drop(reactor.clear(fd, Read).unwrap()),
                Operation::Resume if !transport.ended && reactor.get(fd, Read).is_none() => {
                    reactor.set_edge(fd, 'r').unwrap();
                }
                Operation::AddWriter => drop(reactor.set(fd, Write, 'w').unwrap()),
                Operation::RemoveWriter => drop(reactor.clear(fd, Write).unwrap()),
                Operation::Rebuild => drop(reactor.after_fork_child(AfterFork::Reregister).unwrap()),
                _ => {}
            }
        }
        if !transport.ended && reactor.get(fd, Read).is_none() {
            reactor.set_edge(fd, 'r').unwrap();
        }
        for _ in 0..=2 * sent + 2 {
            look_once(&mut reactor, &mut transport, 7);
        }
        prop_assert_eq!(transport.received, sent);
        prop_assert_eq!(transport.ended, !open);
        prop_assert!(!reactor.has_again(), "nothing is asked for without need");
    }
}
