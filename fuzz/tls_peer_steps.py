"""Steps of what the other end of a TLS connection does: talk, end, be wrong."""

import socket
import ssl
import struct
import time

from .connections import is_open, on_its_way, payload, sizes
from .operations import index, one_of, operation
from .tls import secure_step, settle, unacknowledged
from .tls_peers import Peer
from .world import describe


def peer_step(weight, *draws):
    """The same, where the other end is a `Peer` that has done its handshake. It stands outside, and rests."""

    def enter(function):
        def guarded(connection, transport, *rest):
            peer = connection.peer
            if peer is None or not is_open(peer) or not peer.is_ready:
                return None
            try:
                return function(connection, peer, *rest)
            except (OSError, ssl.SSLError) as error:
                connection.note_peer(function.__name__, describe(error))

        guarded.__name__ = function.__name__
        return secure_step(weight, *draws, outside=True, rests=True)(guarded)

    return enter


@secure_step(2, outside=True, rests=True)
def tls_flight(connection, transport):
    """One more of a handshake that stopped in the middle."""
    flight(connection)


@operation(1, index, feature="tls", outside=True, rests=True, since=(3, 11))
def tls_go_on(world, at):
    connection = world.pick(world.secure, at)
    if connection is not None and connection.peer is not None and not connection.settled():
        settle(connection, 1)


def flight(connection):
    if connection.peer is not None:
        connection.peer.pump()


def arrives(connection):
    """What the peer did has reached the kernel on the loop's side, where the next poll finds it; or the protocol."""
    sock = connection.peer.root()

    def is_there():
        if sock.family == socket.AF_UNIX or connection.lost:
            return True
        if sock.fileno() >= 0 and not connection.peer.is_shut:
            return unacknowledged(sock) == 0
        return connection.ended or connection.transport.is_closing()

    connection.world.expect(is_there)


def ends(connection):
    if connection.had_backlog:  # KNOWN["backlog"]
        connection.is_account_closed = connection.is_peers_account_closed = True


@peer_step(6, sizes)
def tls_peer_send(connection, peer, size):
    if size:
        connection.expected += peer.send(payload(connection.expected, size))
        arrives(connection)


@peer_step(1, one_of(16_384, 16_385, 100_000), one_of(None, "notify", "end", "both"))
def tls_peer_send_and(connection, peer, size, then):
    """Much, and its end, in one piece if the kernel will."""
    if connection.expected - connection.received > 100_000:
        return
    if connection.lends and then in ("end", "both"):
        return  # KNOWN["cut"]
    if then is not None:
        ends(connection)
    data = payload(connection.expected, size)
    count = peer.object.write(data)
    connection.expected += count
    if then in ("notify", "both"):
        try:
            peer.object.unwrap()
        except ssl.SSLWantReadError:
            pass
    peer.flush()
    if then in ("end", "both"):
        peer.shutdown(socket.SHUT_WR)
    arrives(connection)


@peer_step(3)
def tls_peer_read(connection, peer):
    """All that has been written, and its end."""
    world = connection.world
    deadline = time.monotonic() + 0.2
    idle = 0
    while idle < 4:
        try:
            data = peer.recv(1 << 16)
        except BlockingIOError:
            if carries(connection) and time.monotonic() < deadline:
                time.sleep(0.001)
            else:
                idle += 1
            world.turn()
            continue
        except ssl.SSLError as error:
            connection.note_peer("fails", describe(error))
            return
        idle = 0
        if not data:
            connection.note_peer("eof" if peer.ended_below else "close_notify")
            return
        connection.note_peer("data", data)
        world.turn()


def carries(connection):
    if connection.plain is None and connection.transport is None:
        return False
    return not isinstance(connection.peer.sock, Peer) and on_its_way(connection)


@peer_step(0.6)
def tls_peer_notify(connection, peer):
    ends(connection)
    peer.notify()
    arrives(connection)


@peer_step(0.5)
def tls_peer_end(connection, peer):
    """Without close_notify."""
    ends(connection)
    peer.shutdown(socket.SHUT_WR)
    arrives(connection)


@peer_step(0.4)
def tls_peer_close(connection, peer):
    peer.close()
    arrives(connection)


@peer_step(0.4)
def tls_peer_reset(connection, peer):
    if peer.family != socket.AF_UNIX:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    arrives(connection)


#: What no peer says at this place.
JUNK = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "bad mac": b"\x17\x03\x03\x00\x40" + bytes(64),
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "too long": b"\x17\x03\x03\xff\xff" + bytes(100),
    "half": b"\x17\x03\x03\x00\x40" + bytes(10),
    "change": b"\x14\x03\x03\x00\x01\x01",
    "hello": b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
    "empty": b"\x17\x03\x03\x00\x00",
}


@peer_step(0.7, one_of(*JUNK))
def tls_peer_junk(connection, peer, kind):
    connection.is_peers_account_closed = True
    connection.is_account_closed |= not connection.transport.is_reading()  # "lost tail"
    peer.send_raw(JUNK[kind])
    arrives(connection)


@peer_step(0.4)
def tls_peer_asks(connection, peer):
    """For a certificate, after the handshake: answered inside of a read."""
    if peer.object.server_side and peer.object.version() == "TLSv1.3":
        peer.object.verify_client_post_handshake()
        peer.send(b"?")
        connection.expected += 1
        arrives(connection)
