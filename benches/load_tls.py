"""The load's scenarios with TLS.

A client that encrypts and decrypts as it goes costs as much as the server that is measured, and a server that waits for its load is
another case: it sleeps, and is woken for a message or two. So in `tls_ping_pong` and `tls_answer` the records of many messages are made
ahead, outside the measured time, and what comes back is counted by the lengths in the records' headers, unopened: within the measured
time the load does what it does without TLS, a send and a recv per message. One connection's answers are opened and checked afterwards.

Where connections come and go, the load is an ordinary blocking SSLSocket: the server is mostly idle there, on every loop.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from benches import certificate
from benches.row import Load
from benches.stopwatch import (
    MAX_REQUESTS,
    RESET_AT_CLOSE,
    SILENCE_S,
    Broken,
    Figures,
    connect_to,
    cpu_ns_of,
    length_of_response,
    per_request,
    warm_up_rounds,
)

KIB = 1024
AHEAD, AHEAD_BYTES = (
    20_000,
    24 * KIB * KIB,
)  # messages that are encrypted at a time, over all connections, and the most that they hold
ROOM = 256 * KIB
HEADER = 5  # of a record
SEAL = 17  # of a TLS 1.3 record with AES-GCM or ChaCha20-Poly1305: a type and a tag
SILENCE = struct.pack("ll", int(SILENCE_S), 0)

HELLO_PLAIN, GO_TLS = b"STARTTLS\n", b"GO\n"

T = TypeVar("T")


class Peer:
    """One end of a connection, with at most one message on its way in each direction."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool = False) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else certificate.HOST
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)
        self.ahead: deque[bytes] = deque()  # encrypted messages
        self.kept: list[bytes] | None = None  # what has come in and has not been opened, if somebody wants to
        self.missing = 0  # plaintext of the message under way
        self.record = 0  # bytes of the record that is under way
        self.head = b""  # of a record whose header has come in part
        self.until_done(self.tls.do_handshake)

    def until_done(self, call: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                result = call(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                if not (data := self.sock.recv(ROOM)):
                    raise Broken("the connection was closed") from None
                self.incoming.write(data)
            else:
                self.flush()
                return result

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def read(self, length: int) -> bytes:
        got = b""
        while len(got) < length:
            if not (data := self.until_done(self.tls.read, length - len(got))):
                raise Broken("the connection was closed")
            got += data
        return got

    def write(self, message: bytes) -> None:
        self.tls.write(message)
        self.flush()

    def without_timeout(self) -> None:
        """A socket with a timeout in Python polls before each call; the kernel's timeouts cost nothing."""
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, SILENCE)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SILENCE)

    def encrypt_ahead(self, message: bytes, number: int) -> None:
        for _ in range(number):
            self.tls.write(message)
            self.ahead.append(self.outgoing.read())

    def send(self, answer: int) -> None:
        self.missing += answer
        self.sock.sendall(self.ahead.popleft())

    def take(self, room: bytearray) -> int:
        """Receive once, count the plaintext of what came; the number of bytes received, 0 at the end."""
        received = self.sock.recv_into(room)
        if self.kept is not None:
            self.kept.append(bytes(memoryview(room)[:received]))
        if self.head:  # rare: a header in two parts
            head, self.head = self.head, b""
            self.count(head + bytes(memoryview(room)[:received]))
        else:
            self.count(memoryview(room)[:received])
        return received

    def count(self, data: bytes | memoryview) -> None:
        at, end = self.record, len(data)
        while at < end:
            if end - at < HEADER:
                self.head = bytes(data[at:])
                self.record = 0
                return
            body = data[at + 3] << 8 | data[at + 4]
            self.missing -= body - SEAL
            at += HEADER + body
        self.record = at - end

    def idle(self) -> bool:
        return not (self.missing or self.record or self.head)

    def open(self, length: int) -> bytes:
        """The plaintext of what was kept."""
        assert self.kept is not None
        self.incoming.write(b"".join(self.kept))
        self.kept.clear()
        got = b""
        while len(got) < length:
            got += self.tls.read(length - len(got))
        return got


class Clients:
    def __init__(self, port: int, load: Load) -> None:
        self.request = load.request.encode("latin-1")
        self.answer = load.answer or len(self.request)
        self.echo = not load.answer
        self.room = bytearray(ROOM)
        self.epoll = select.epoll()
        self.by_fd: dict[int, Peer] = {}
        context = certificate.context(server_side=False)
        for _ in range(load.connections):
            sock = connect_to(port)
            self.by_fd[sock.fileno()] = Peer(sock, context)
            self.epoll.register(sock, select.EPOLLIN)
        self.first = next(iter(self.by_fd.values()))
        if load.answer < 0:
            self.answer = self.length_of_response()
        self.warm_up()
        self.first.kept = []

    def length_of_response(self) -> int:
        """Ask once: a response has the same length each time."""
        self.first.write(self.request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.first.read(1)
        length = length_of_response(got)
        self.first.read(length - len(got))
        return length

    def warm_up(self) -> None:
        """Some full round trips, which also check the answer; the last one is counted, which checks how that is done."""
        for _ in range(warm_up_rounds(len(self.by_fd))):
            for peer in self.by_fd.values():
                peer.write(self.request)
            for peer in self.by_fd.values():
                got = peer.read(self.answer)
                if self.echo and got != self.request:
                    raise Broken("the answer is not what was sent")
        for peer in self.by_fd.values():
            if peer.incoming.pending or peer.tls.pending():
                raise Broken("more came than was asked for")
            peer.without_timeout()

    def encrypt_ahead(self) -> None:
        number = max(1, min(AHEAD, AHEAD_BYTES // len(self.request)) // len(self.by_fd))
        for peer in self.by_fd.values():
            peer.encrypt_ahead(self.request, number - len(peer.ahead))

    def play(self, deadline: float) -> int:
        """Ping-pong until the deadline, or until nothing is left that was encrypted; the number of answers."""
        answered, busy, by_fd, room, answer = 0, len(self.by_fd), self.by_fd, self.room, self.answer
        for peer in by_fd.values():
            peer.send(answer)
        while busy:
            events = self.epoll.poll(SILENCE_S)
            if not events:
                raise Broken(f"no answer for {SILENCE_S:.0f} s")
            late = time.monotonic() >= deadline
            for fd, _ in events:
                peer = by_fd[fd]
                if not peer.take(room):
                    raise Broken("the server closed a connection")
                if not peer.missing:
                    answered += 1
                    if peer.ahead and not late:
                        peer.send(answer)
                    else:
                        busy -= 1
        if not all(peer.idle() for peer in by_fd.values()):
            raise Broken("more came than was asked for")
        return answered

    def check(self, sent: int) -> None:
        got = self.first.open(sent * self.answer)
        if self.echo and got != self.request * sent:
            raise Broken("the answer is not what was sent")

    def close(self) -> None:
        self.epoll.close()
        for peer in self.by_fd.values():
            peer.sock.close()


def tls_ping_pong(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """As ping_pong. The clock is stopped while records are made."""
    answered = used = 0
    with closing(Clients(port, load)) as clients:
        while answered < MAX_REQUESTS and seconds > 0:
            clients.encrypt_ahead()
            prepared = len(clients.first.ahead)
            before, started = cpu_ns_of(pid), time.monotonic()
            answered += clients.play(started + seconds)
            seconds -= time.monotonic() - started
            used += cpu_ns_of(pid) - before
            clients.check(prepared - len(clients.first.ahead))
    return per_request(used, answered)


# -- connections that come and go ------------------------------------------------------------------------------------------------------


def closed_by_peer(tls: ssl.SSLSocket) -> None:
    """The peer has sent its close_notify: answer it, and see the end of the connection."""
    try:
        with tls.unwrap() as sock:
            sock.settimeout(SILENCE_S)
            while sock.recv(4096):
                pass
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    except TimeoutError:
        raise Broken(f"a closed connection has no end for {SILENCE_S:.0f} s") from None
    except OSError:
        tls.close()  # it has not waited for the answer


def read_to_end(tls: ssl.SSLSocket) -> bytes:
    got = b""
    try:
        while data := tls.recv(4096):
            got += data
    except TimeoutError:
        raise Broken(f"no close_notify for {SILENCE_S:.0f} s") from None
    return got


def visits(port: int, pid: int, seconds: float, load: Load, upgrade: bool) -> Figures:
    message = load.request.encode("latin-1")
    context = certificate.context(server_side=False)

    def visit() -> None:
        sock = connect_to(port)
        if upgrade:
            sock.sendall(HELLO_PLAIN)
            if sock.recv(len(GO_TLS)) != GO_TLS:
                raise Broken("the server does not want to go on with TLS")
        with context.wrap_socket(sock, server_hostname=certificate.HOST) as tls:
            tls.sendall(message)
            if read_to_end(tls) != message:
                raise Broken("the answer is not what was sent")
            closed_by_peer(tls)

    for _ in range(20):
        visit()
    number = 0
    before = cpu_ns_of(pid)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        visit()
        number += 1
    return per_request(cpu_ns_of(pid) - before, number)


def tls_connect(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """One client after the other: connect, handshake, an echo, and the server closes."""
    return visits(port, pid, seconds, load, upgrade=False)


def tls_upgrade(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """The same, but the connection begins without TLS."""
    return visits(port, pid, seconds, load, upgrade=True)


def tls_accept(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """The roles are exchanged: the measured loop connects, handshakes, sends, reads the echo, and closes."""
    size = len(load.request)
    context = certificate.context(server_side=True)
    with connect_to(port) as order, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(SILENCE_S)

        def take_visit() -> bool:
            """False when the measured loop has understood that it is enough."""
            ready = select.select([listener, order], [], [], SILENCE_S)[0]
            if not ready:
                raise Broken(f"no connection for {SILENCE_S:.0f} s")
            if listener not in ready:
                return False
            sock = listener.accept()[0]
            sock.settimeout(SILENCE_S)
            with context.wrap_socket(sock, server_side=True) as tls:
                got = b""
                while len(got) < size:
                    if not (data := tls.recv(size)):
                        raise Broken("the client closed before its time")
                    got += data
                tls.sendall(got)
                if read_to_end(tls):
                    raise Broken("a client that sends more than it was told")
                closed_by_peer(tls)
            return True

        order.sendall(b"%d" % listener.getsockname()[1])
        for _ in range(20):
            if not take_visit():
                raise Broken("the client gave up")
        number = 0
        before = cpu_ns_of(pid)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not take_visit():
                raise Broken("the client gave up")
            number += 1
        used = cpu_ns_of(pid) - before
        order.shutdown(socket.SHUT_WR)
        while take_visit():
            pass
    return per_request(used, number)


# -- the measured loop as a client of HTTPS --------------------------------------------------------------------------------------------

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 18\r\n\r\n"
    + b'{"hello": "world"}'
)


class Server:
    """An HTTPS server for as many connections as come; all requests are of one length, and all answers the same."""

    def __init__(self, connections: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.context = certificate.context(server_side=True)
        self.connections = connections
        self.room = bytearray(ROOM)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.by_fd: dict[int, Peer] = {}
        self.request = 0  # bytes of one

    def accept(self) -> None:
        sock = self.listener.accept()[0]
        sock.settimeout(SILENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(sock, self.context, server_side=True)
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            got += peer.read(1)
        if self.request not in (0, len(got)):
            raise Broken("requests of different lengths")
        self.request = len(got)
        self.by_fd[sock.fileno()] = peer
        self.epoll.register(sock, select.EPOLLIN)
        peer.without_timeout()
        self.encrypt_ahead(peer)
        peer.send(self.request)

    def encrypt_ahead(self, peer: Peer) -> None:
        number = AHEAD // self.connections
        peer.encrypt_ahead(RESPONSE, number - len(peer.ahead))

    def serve(self, requests: int, deadline: float) -> int:
        """Answer so many requests, or until the deadline; how many there were. 0 when all clients have left."""
        answered = 0
        while answered < requests and time.monotonic() < deadline:
            events = self.epoll.poll(SILENCE_S)
            if not events:
                raise Broken(f"no request for {SILENCE_S:.0f} s")
            for fd, _ in events:
                if fd == self.listener.fileno():
                    self.accept()
                    continue
                peer = self.by_fd[fd]
                if not peer.take(self.room) or peer.missing < 0 or self.closing(peer):
                    self.leave(fd)
                    if not self.by_fd:
                        return 0
                elif not peer.missing:
                    answered += 1
                    if not peer.ahead:
                        self.encrypt_ahead(peer)
                    peer.send(self.request)
        return answered

    def closing(self, peer: Peer) -> bool:
        """A close_notify is the only message of two bytes."""
        return peer.missing == self.request - 2

    def leave(self, fd: int) -> None:
        self.epoll.unregister(fd)
        self.by_fd.pop(fd).sock.close()

    def close(self) -> None:
        self.epoll.close()
        self.listener.close()
        for peer in self.by_fd.values():
            peer.sock.close()


def tls_answer(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """The measured loop has clients that ask over HTTPS, and keep their connections."""
    with connect_to(port) as order, closing(Server(load.connections)) as server:
        order.sendall(b"%d" % server.listener.getsockname()[1])
        if not server.serve(10 * load.connections, time.monotonic() + SILENCE_S):
            raise Broken("no client came")
        before, started = cpu_ns_of(pid), time.monotonic()
        answered = server.serve(MAX_REQUESTS, started + seconds)
        used = cpu_ns_of(pid) - before
        order.shutdown(socket.SHUT_WR)
        while server.serve(MAX_REQUESTS, time.monotonic() + SILENCE_S):
            pass
    return per_request(used, answered)


# -- memory ----------------------------------------------------------------------------------------------------------------------------


def tls_hold(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """As `hold`; each connection has its handshake and one echo before the next one comes."""
    message = load.request.encode("latin-1")
    context = certificate.context(server_side=False)
    held: list[ssl.SSLSocket] = []

    def more(number: int) -> None:
        for _ in range(number):
            tls = context.wrap_socket(connect_to(port), server_hostname=certificate.HOST)
            held.append(tls)
            tls.sendall(message)
            missing = len(message)
            while missing:
                if not (data := tls.recv(missing)):
                    raise Broken("the server closed a connection")
                missing -= len(data)

    try:
        for number in (load.answer, load.connections - load.answer):
            more(number)
            if not held[0].recv(1):
                raise Broken("the server closed a connection")
    finally:
        for tls in held:
            tls.close()
    return {}


SCENARIOS: tuple[Callable[[int, int, float, Load], Figures], ...] = (
    tls_ping_pong,
    tls_connect,
    tls_upgrade,
    tls_accept,
    tls_answer,
    tls_hold,
)
