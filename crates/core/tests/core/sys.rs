//! Sockets and the wake-up pipe, as far as the kernel's answers are ours to keep.

use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use aioxide_core::net::Address;
use aioxide_core::reactor::{Direction, Reactor};
use aioxide_core::sys::file::{self, Kind};
use aioxide_core::sys::{epoll, pipe::WakePipe, socket};
use rustix::io::{Errno, FdFlags, fcntl_getfd};

const SOCK_STREAM: i32 = 1;
const AF_INET: i32 = 2;
const AF_UNIX: i32 = 1;

fn received(fd: RawFd, room: usize) -> Vec<u8> {
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let count = socket::recv(fd, &mut buffer).unwrap();
    buffer.truncate(count);
    // SAFETY: `recv` has initialised the first `count` bytes, which is all that is left.
    buffer.into_iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<Errno> {
    result.unwrap_err().raw_os_error().map(Errno::from_raw_os_error)
}

#[test]
fn a_wake_up_makes_the_pipe_readable_until_it_is_drained() {
    let pipe = WakePipe::new().unwrap();
    let mut reactor = Reactor::new().unwrap();
    reactor.set(pipe.reader_fd(), Direction::Read, ()).unwrap();
    let mut events = Vec::with_capacity(4);
    let poller = reactor.poller();
    poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty());
    pipe.wake().unwrap();
    pipe.wake().unwrap();
    poller.wait(&mut events, None).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(pipe.drain().unwrap(), []);
    poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty());
}

#[test]
fn draining_returns_the_signals_and_not_the_wake_ups() {
    let pipe = WakePipe::new().unwrap();
    pipe.wake().unwrap();
    // What the interpreter's signal handler does.
    write_like_a_signal_handler(pipe.writer_fd(), &[2, 15]);
    pipe.wake().unwrap();
    write_like_a_signal_handler(pipe.writer_fd(), &[10]);
    assert_eq!(pipe.drain().unwrap(), [2, 15, 10]);
    assert_eq!(pipe.drain().unwrap(), []);
}

fn write_like_a_signal_handler(fd: RawFd, bytes: &[u8]) {
    use std::io::Write;
    // SAFETY: the descriptor is the caller's and open; `ManuallyDrop` keeps it so.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    let mut file = std::mem::ManuallyDrop::new(file);
    file.write_all(bytes).unwrap();
}

#[test]
fn a_pipe_that_was_full_leaves_a_doubt() {
    let pipe = WakePipe::new().unwrap();
    assert!(!pipe.may_have_lost(0));
    write_like_a_signal_handler(pipe.writer_fd(), &[15]);
    assert!(!pipe.may_have_lost(pipe.drain().unwrap().len()));
    // More than a pipe holds by default: the last of them find no room.
    for _ in 0..70_000 {
        pipe.wake().unwrap();
    }
    assert!(pipe.drain().unwrap().is_empty());
    write_like_a_signal_handler(pipe.writer_fd(), &[10; 65_536]);
    assert!(pipe.may_have_lost(pipe.drain().unwrap().len()));
    pipe.close();
    assert!(!pipe.may_have_lost(1_000_000));
}

#[test]
fn a_closed_pipe_has_no_descriptors_and_wakes_nobody() {
    let pipe = WakePipe::new().unwrap();
    let fds = [pipe.reader_fd(), pipe.writer_fd()];
    let file = file_of(fds[0]);
    assert!(file.is_some());
    assert_eq!(file_of(fds[1]), file);
    pipe.wake().unwrap();
    pipe.close();
    pipe.close();
    // By file, not by number: other tests open descriptors meanwhile.
    assert!(fds.iter().all(|&fd| file_of(fd) != file));
    pipe.wake().unwrap();
    assert_eq!(pipe.drain().unwrap(), []);
    assert_eq!([pipe.reader_fd(), pipe.writer_fd()], [-1, -1]);
    pipe.renew().unwrap();
    assert_eq!(pipe.reader_fd(), -1);
}

/// Which open file a number stands for, such as "pipe:[4242]".
fn file_of(fd: RawFd) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()
}

#[test]
fn a_waker_keeps_the_pipe_open_until_it_has_woken() {
    let pipe = WakePipe::new().unwrap();
    let (fd, file) = (pipe.writer_fd(), file_of(pipe.writer_fd()));
    let waker = pipe.waker().unwrap();
    pipe.close();
    assert_eq!(file_of(fd), file);
    waker.wake().unwrap();
    assert_ne!(file_of(fd), file);
    assert!(pipe.waker().is_none());
}

#[test]
fn a_waker_that_never_comes_does_not_keep_a_pipe_from_being_renewed() {
    let pipe = WakePipe::new().unwrap();
    let fds = [pipe.reader_fd(), pipe.writer_fd()];
    let (of_a_lost_thread, before) = (pipe.waker(), file_of(fds[0]));
    pipe.renew().unwrap();
    assert_eq!([pipe.reader_fd(), pipe.writer_fd()], fds);
    assert_ne!(file_of(fds[0]), before);
    assert_eq!(file_of(fds[0]), file_of(fds[1]));
    drop(of_a_lost_thread);
}

#[test]
fn a_renewed_pipe_is_another_one_under_the_same_numbers() {
    let pipe = WakePipe::new().unwrap();
    let fds = [pipe.reader_fd(), pipe.writer_fd()];
    let before = file_of(fds[0]);
    pipe.wake().unwrap();
    write_like_a_signal_handler(pipe.writer_fd(), &[2]);
    pipe.renew().unwrap();
    assert_eq!([pipe.reader_fd(), pipe.writer_fd()], fds);
    assert!(file_of(fds[0]).is_some());
    assert_ne!(file_of(fds[0]), before);
    assert_eq!(file_of(fds[0]), file_of(fds[1]));
    assert_eq!(pipe.drain().unwrap(), [], "what lay in the old one is its other owner's");
    write_like_a_signal_handler(pipe.writer_fd(), &[15]);
    pipe.wake().unwrap();
    assert_eq!(pipe.drain().unwrap(), [15]);
    for fd in fds {
        // SAFETY: the pipe keeps it open.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
    }
}

#[test]
fn waking_a_full_pipe_neither_blocks_nor_fails_and_one_drain_empties_it() {
    let pipe = WakePipe::new().unwrap();
    (0..100_000).for_each(|_| pipe.wake().unwrap());
    assert_eq!(pipe.drain().unwrap(), []);
    let mut events = Vec::with_capacity(1);
    let epoll = epoll::Epoll::create().unwrap();
    epoll.add(pipe.reader_fd(), 1, epoll::Interest::READ).unwrap();
    assert_eq!(epoll.wait(&mut events, Some(Duration::ZERO)).unwrap(), 0);
}

#[test]
fn no_more_events_are_taken_than_there_is_capacity_for() {
    let pipes: Vec<WakePipe> = (0..3).map(|_| WakePipe::new().unwrap()).collect();
    let epoll = epoll::Epoll::create().unwrap();
    for (token, pipe) in (0..).zip(&pipes) {
        pipe.wake().unwrap();
        epoll.add(pipe.reader_fd(), token, epoll::Interest::READ).unwrap();
    }
    let mut events = Vec::with_capacity(2);
    assert_eq!(epoll.wait(&mut events, None).unwrap(), 2);
    assert_eq!(events.capacity(), 2);
    let mut roomless = Vec::new();
    assert_eq!(epoll.wait(&mut roomless, None).unwrap(), 3);
}

#[test]
fn a_tcp_connection_is_made_accepted_used_and_ended() {
    let listener = socket::socket(AF_INET, SOCK_STREAM, 0).unwrap();
    let listener_fd = listener.as_raw_fd();
    socket::bind(listener_fd, &Address::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))).unwrap();
    socket::listen(listener_fd, 1).unwrap();
    assert_eq!(errno(socket::accept(listener_fd)), Some(Errno::AGAIN));
    let address = socket::local_address(listener_fd).unwrap();

    let client = socket::socket(AF_INET, SOCK_STREAM, 6).unwrap();
    let client_fd = client.as_raw_fd();
    assert_eq!(errno(socket::connect(client_fd, &address)), Some(Errno::INPROGRESS));
    let mut reactor = Reactor::new().unwrap();
    reactor.set(client_fd, Direction::Write, ()).unwrap();
    reactor.set(listener_fd, Direction::Read, ()).unwrap();
    let mut events = Vec::with_capacity(2);
    while events.len() < 2 {
        reactor.poller().wait(&mut events, None).unwrap();
    }
    assert!(socket::take_error(client_fd).unwrap().is_none());
    let server = socket::accept(listener_fd).unwrap();
    let server_fd = server.as_raw_fd();
    assert_eq!(socket::peer_address(server_fd).unwrap(), socket::local_address(client_fd).unwrap());
    assert!(fcntl_getfd(&server).unwrap().contains(FdFlags::CLOEXEC));
    socket::set_nodelay(server_fd).unwrap();
    socket::set_keepalive(server_fd).unwrap();

    assert_eq!(errno(socket::recv(server_fd, &mut [MaybeUninit::uninit(); 8])), Some(Errno::AGAIN));
    assert_eq!(socket::send(client_fd, b"one").unwrap(), 3);
    wait_readable(server_fd);
    assert_eq!(received(server_fd, 8), b"one");
    let slices = [IoSlice::new(b"tw"), IoSlice::new(b""), IoSlice::new(b"o")];
    assert_eq!(socket::send_vectored(client_fd, &slices).unwrap(), 3);
    wait_readable(server_fd);
    assert_eq!(received(server_fd, 8), b"two");
    socket::shutdown_write(client_fd).unwrap();
    wait_readable(server_fd);
    assert_eq!(received(server_fd, 8), b"");
}

fn wait_readable(fd: RawFd) {
    let mut reactor = Reactor::new().unwrap();
    reactor.set(fd, Direction::Read, ()).unwrap();
    reactor.poller().wait(&mut Vec::with_capacity(1), None).unwrap();
}

#[test]
fn a_refused_connect_is_taken_as_an_error_once() {
    // A bound port that nobody listens on.
    let holder = socket::socket(AF_INET, SOCK_STREAM, 0).unwrap();
    socket::bind(holder.as_raw_fd(), &Address::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = socket::local_address(holder.as_raw_fd()).unwrap();
    let client = socket::socket(AF_INET, SOCK_STREAM, 0).unwrap();
    let fd = client.as_raw_fd();
    assert_eq!(errno(socket::connect(fd, &address)), Some(Errno::INPROGRESS));
    let mut reactor = Reactor::new().unwrap();
    reactor.set(fd, Direction::Write, ()).unwrap();
    reactor.poller().wait(&mut Vec::with_capacity(1), None).unwrap();
    assert_eq!(socket::take_error(fd).unwrap().map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));
    assert!(socket::take_error(fd).unwrap().is_none());
}

#[test]
fn a_send_to_a_closed_peer_is_epipe_and_no_signal() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert_eq!(errno(socket::send(ours.as_raw_fd(), b"x")), Some(Errno::PIPE));
    assert_eq!(errno(socket::send_vectored(ours.as_raw_fd(), &[IoSlice::new(b"x")])), Some(Errno::PIPE));
}

#[test]
fn more_slices_than_the_kernel_takes_are_sent_in_part() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let slices = vec![IoSlice::new(b"x"); socket::MAX_SLICES + 1];
    assert_eq!(socket::send_vectored(ours.as_raw_fd(), &slices).unwrap(), socket::MAX_SLICES);
}

#[test]
fn unix_names_keep_their_kind() {
    let bound = |address: &Address| {
        let socket = socket::socket(AF_UNIX, SOCK_STREAM, 0).unwrap();
        socket::bind(socket.as_raw_fd(), address).unwrap();
        socket::local_address(socket.as_raw_fd()).unwrap()
    };
    let id = std::process::id();
    let hidden = Address::UnixAbstract(format!("aioxide-core-{id}").into_bytes());
    assert_eq!(bound(&hidden), hidden);
    let path = std::env::temp_dir().join(format!("aioxide-core-{id}.sock"));
    let visible = Address::UnixPath(path.clone().into_os_string().into_encoded_bytes());
    assert_eq!(bound(&visible), visible);
    std::fs::remove_file(path).unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert_eq!(socket::peer_address(ours.as_raw_fd()).unwrap(), Address::UnixUnnamed);
    assert_eq!(visible.family(), AF_UNIX);
}

#[test]
fn a_bad_descriptor_or_number_is_an_error_and_no_panic() {
    for fd in [-1, RawFd::MIN, 1_000_000] {
        assert_eq!(errno(socket::send(fd, b"x")), Some(Errno::BADF));
        assert_eq!(errno(socket::recv(fd, &mut [])), Some(Errno::BADF));
        assert_eq!(errno(socket::accept(fd)), Some(Errno::BADF));
    }
    assert_eq!(errno(socket::socket(-1, SOCK_STREAM, 0)), Some(Errno::AFNOSUPPORT));
    assert_eq!(errno(socket::socket(AF_INET, -1, 0)), Some(Errno::INVAL));
    let long = Address::UnixPath(vec![b'x'; 200]);
    let socket = socket::socket(AF_UNIX, SOCK_STREAM, 0).unwrap();
    assert!(socket::bind(socket.as_raw_fd(), &long).is_err());
}

#[test]
fn a_descriptor_says_what_it_is_of() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let open = |path: &str| std::fs::File::open(path).unwrap();
    assert_eq!(file::kind(reader.as_raw_fd()).unwrap(), Kind::Fifo);
    assert_eq!(file::kind(writer.as_raw_fd()).unwrap(), Kind::Fifo);
    assert_eq!(file::kind(ours.as_raw_fd()).unwrap(), Kind::Socket);
    assert_eq!(file::kind(open("/dev/null").as_raw_fd()).unwrap(), Kind::CharDevice);
    assert_eq!(file::kind(open("/").as_raw_fd()).unwrap(), Kind::Other);
    assert_eq!(file::kind(open("/proc/self/exe").as_raw_fd()).unwrap(), Kind::Other);
    assert_eq!(errno(file::kind(-1)), Some(Errno::BADF));
}

#[test]
fn a_pipe_reads_and_writes_without_blocking() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (reader_fd, writer_fd) = (reader.as_raw_fd(), writer.as_raw_fd());
    for fd in [reader_fd, writer_fd, writer_fd] {
        file::set_nonblocking(fd).unwrap();
        assert!(socket::is_non_blocking(fd));
    }
    let mut room = [MaybeUninit::uninit(); 8];
    assert_eq!(errno(file::read(reader_fd, &mut room)), Some(Errno::AGAIN));
    assert_eq!(file::write(writer_fd, b"abc").unwrap(), 3);
    assert_eq!(file::write_vectored(writer_fd, &[IoSlice::new(b"de"), IoSlice::new(b"f")]).unwrap(), 3);
    let mut buffer = [0; 4];
    assert_eq!(file::read_into(reader_fd, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer, b"abcd");
    assert_eq!(file::read(reader_fd, &mut room).unwrap(), 2);
    let full = vec![0; 1 << 20];
    let written = file::write(writer_fd, &full).unwrap();
    assert!(written < full.len());
    assert_eq!(errno(file::write(writer_fd, b"x")), Some(Errno::AGAIN));
    let slices = vec![IoSlice::new(b"x"); socket::MAX_SLICES + 1];
    assert_eq!(errno(file::write_vectored(writer_fd, &slices)), Some(Errno::AGAIN));
    drop(writer);
    drop(reader);
    assert_eq!(errno(file::write(-1, b"x")), Some(Errno::BADF));
}

#[test]
fn the_end_of_a_pipe_is_zero_bytes_and_a_reader_gone_is_epipe() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(writer);
    assert_eq!(file::read_into(reader.as_raw_fd(), &mut [0]).unwrap(), 0);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    assert_eq!(errno(file::write(writer.as_raw_fd(), b"x")), Some(Errno::PIPE));
}

const SOCK_DGRAM: i32 = 2;

fn datagram_socket(address: &Address) -> std::os::fd::OwnedFd {
    let socket = socket::socket(address.family(), SOCK_DGRAM, 0).unwrap();
    socket::bind(socket.as_raw_fd(), address).unwrap();
    socket
}

#[test]
fn a_datagram_comes_with_its_senders_address() {
    let nowhere = Address::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (datagram_socket(&nowhere), datagram_socket(&nowhere));
    let (from, to) = (one.as_raw_fd(), other.as_raw_fd());
    let (here, there) = (socket::local_address(from).unwrap(), socket::local_address(to).unwrap());
    let mut buffer = [0; 16];
    assert_eq!(errno(socket::recv_from(to, &mut buffer)), Some(Errno::AGAIN));
    for message in [&b"a datagram"[..], b""] {
        assert_eq!(socket::send_to(from, message, &there).unwrap(), message.len());
        assert_eq!(socket::recv_from(to, &mut buffer).unwrap(), (message.len(), Some(here.clone())));
        assert_eq!(&buffer[..message.len()], message);
    }
}

#[test]
fn what_does_not_fit_of_a_datagram_is_lost() {
    let nowhere = Address::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    let (one, other) = (datagram_socket(&nowhere), datagram_socket(&nowhere));
    let (from, to) = (one.as_raw_fd(), other.as_raw_fd());
    let there = socket::local_address(to).unwrap();
    socket::send_to(from, b"too long", &there).unwrap();
    socket::send_to(from, b"next", &there).unwrap();
    let mut buffer = [0; 4];
    assert_eq!(socket::recv_from(to, &mut buffer).unwrap().0, 4);
    assert_eq!(&buffer, b"too ");
    assert_eq!(socket::recv_from(to, &mut buffer).unwrap().0, 4);
    assert_eq!(&buffer, b"next");
    assert_eq!(errno(socket::send_to(from, &[0; 70_000], &there)), Some(Errno::MSGSIZE));
}

#[test]
fn a_unix_datagram_comes_from_a_name_or_from_nobody() {
    let name =
        |suffix: &str| Address::UnixAbstract(format!("aioxide-core-{}-{suffix}", std::process::id()).into_bytes());
    let (one, other) = (datagram_socket(&name("one")), datagram_socket(&name("other")));
    let nobody = socket::socket(AF_UNIX, SOCK_DGRAM, 0).unwrap();
    let mut buffer = [0; 16];
    socket::send_to(one.as_raw_fd(), b"named", &name("other")).unwrap();
    assert_eq!(socket::recv_from(other.as_raw_fd(), &mut buffer).unwrap(), (5, Some(name("one"))));
    socket::send_to(nobody.as_raw_fd(), b"unnamed", &name("other")).unwrap();
    assert_eq!(socket::recv_from(other.as_raw_fd(), &mut buffer).unwrap(), (7, None));
    assert_eq!(errno(socket::send_to(nobody.as_raw_fd(), b"x", &name("nobody"))), Some(Errno::CONNREFUSED));
    assert_eq!(errno(socket::recv_from(-1, &mut buffer)), Some(Errno::BADF));
}
