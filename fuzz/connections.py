"""Steps of connections, listeners, plain sockets and watched descriptors. Each is a channel of its own."""

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
import time

from .operations import index, one_of, operation, up_to
from .world import CARRY_S, describe

#: More than the kernel holds of a unix socket.
MUCH = 400_000

#: asyncio before 3.14 has faults of its own here: it tells the end twice, and writes lines after the end.
NEW_TRANSPORTS = sys.version_info >= (3, 14)

INSIDE = [
    *[None] * 8,
    "close in data",
    "abort in data",
    "pause in data",
    "raise in data",
    "set_protocol in data",
    "write in data",
    "task in data",
    "write in eof",
    "close in eof",
    "raise in eof",
    "eof in made",
    "raise in made",
    "close in made",
    "write in lost",
    "raise in lost",
    *(["abort in pause", "close in resume"] if NEW_TRANSPORTS else []),
]


def payload(number, size):
    """Bytes that tell where they come from and in which place they stand."""
    pattern = bytes((number * 31 + at) % 251 for at in range(min(size, 251)))
    return (pattern * (size // 251 + 1))[:size]


class Connection:
    """A transport of the loop, its peer, and the account of its protocol."""

    def __init__(self, world, sock=None, peer=None, inside=None, keeps=False, name="c"):
        self.world, self.sock, self.peer, self.inside, self.keeps = world, sock, peer, inside, keeps
        self.channel = f"{name}{world.number(name)}"
        self.transport = None
        self.lost = self.ended = self.had_backlog = False
        self.received = self.sent = self.expected = 0
        world.connections.append(self)
        world.cleaning.append(self.clean)

    def note(self, *event):
        self.world.note(self.channel, *event)

    def clean(self):
        if self.transport is not None and not self.is_forgotten():
            self.transport.abort()
        if self.peer is not None:
            self.peer.close()

    def is_forgotten(self):
        """asyncio's transport fails in its inside when it is used after an end that waited for its backlog."""
        return self.lost and self.had_backlog

    def protocol(self, buffered=False):
        return (Buffered if buffered else Noting)(self)


class Noting(asyncio.Protocol):
    def __init__(self, connection):
        self.connection = connection

    def does(self, where):
        """What was drawn for this callback."""
        connection = self.connection
        inside = connection.inside or ""
        act, _, place = inside.partition(" in ")
        if place != where:
            return
        transport = connection.transport
        if act == "raise":
            raise ZeroDivisionError(where)
        if act == "pause":
            transport.pause_reading()
        elif act == "write":
            transport.write(b"from " + where.encode())
        elif act == "eof":
            transport.write_eof()
        elif act == "task":
            connection.world.spawn(connection.channel + " task", asyncio.sleep(0, "task"))
        elif act == "set_protocol":
            transport.set_protocol(type(self)(connection))
        else:
            getattr(transport, act)()

    def connection_made(self, transport):
        self.connection.transport = transport
        self.connection.note("made")
        self.does("made")

    def data_received(self, data):
        connection = self.connection
        connection.received += len(data)
        connection.note("data", bytes(data))
        self.does("data")

    def eof_received(self):
        self.connection.ended = True
        self.connection.note("eof")
        self.does("eof")
        return self.connection.keeps

    def pause_writing(self):
        self.connection.note("pause")
        self.does("pause")

    def resume_writing(self):
        self.connection.note("resume")
        self.does("resume")

    def connection_lost(self, error):
        self.connection.lost = True
        self.connection.note("lost", describe(error))
        self.does("lost")


class Buffered(Noting, asyncio.BufferedProtocol):
    def __init__(self, connection):
        super().__init__(connection)
        self.space = bytearray(100)

    def get_buffer(self, sizehint):
        return self.space

    def buffer_updated(self, count):
        self.data_received(self.space[:count])


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), 10)
        other, _ = listener.accept()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return one, other


@operation(3, one_of("unix", "unix", "tcp"), one_of(*INSIDE), up_to(2), up_to(2), rests=True)
def connect(world, family, inside, keeps, buffered):
    """A transport on a socket whose other end the steps hold."""
    here, there = socket.socketpair() if family == "unix" else tcp_pair()
    there.setblocking(False)
    here.setblocking(False)
    connection = Connection(world, here, there, inside, bool(keeps))
    make = lambda: connection.protocol(buffered)  # noqa: E731
    world.spawn(connection.channel, world.loop.create_connection(make, sock=here), shows=lambda made: "connected")


def transport_step(weight, *draws, **options):
    """A step that gets a connection which has a transport."""

    def enter(function):
        def step(world, at, *rest):
            connection = world.pick(world.connections, at)
            if connection is None or connection.transport is None or connection.is_forgotten():
                return
            try:
                answer = function(connection, connection.transport, *rest)
            except Exception as error:
                connection.note(function.__name__, describe(error))
            else:
                if answer is not None:
                    connection.note(function.__name__, answer)

        step.__name__ = function.__name__
        return operation(weight, index, *draws, **options)(step)

    return enter


sizes = one_of(0, 1, 10, 1000, 5000)


@transport_step(8, sizes, one_of("bytes", "bytearray", "memoryview"))
def write(connection, transport, size, kind):
    data = payload(connection.sent, size)
    connection.sent += 1
    transport.write({"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](data))


@transport_step(1)
def write_much(connection, transport):
    if connection.sock is not None and connection.sock.family == socket.AF_UNIX:
        connection.had_backlog = True
        transport.write(payload(connection.sent, MUCH))
        connection.sent += 1


@transport_step(2, up_to(4), one_of(1, 10, 5000))
def writelines(connection, transport, count, size):
    # Nor empty lines: asyncio keeps them, and never comes to the end of what it has to send.
    if NEW_TRANSPORTS or not transport.is_closing():
        transport.writelines([payload(connection.sent + at, size) for at in range(count)])
        connection.sent += count


@transport_step(0.3, one_of("text", None, 5))
def write_wrong(connection, transport, what):
    transport.write(what)


@transport_step(2)
def pause_reading(connection, transport):
    transport.pause_reading()


@transport_step(2.5, rests=True)
def resume_reading(connection, transport):
    """After a pause in the same turn, asyncio forgets an event that has come, and aioxide does not: a turn's difference."""
    transport.resume_reading()


@transport_step(0.7)
def write_eof(connection, transport):
    transport.write_eof()


@transport_step(0.6)
def close(connection, transport):
    transport.close()


@transport_step(0.4)
def abort(connection, transport):
    transport.abort()


@transport_step(1, one_of((None, None), (0, 0), (100, 10), (10, None), (1, 2), (1 << 30, None)))
def set_limits(connection, transport, limits):
    transport.set_write_buffer_limits(*limits)


@transport_step(1)
def look_at_transport(connection, transport):
    # While its send is held, a transport does not know yet that it will fail.
    return transport.is_reading(), transport.get_write_buffer_limits(), transport.can_write_eof()


@transport_step(0.5, outside=True)
def look_at_ends(connection, transport):
    return transport.is_closing(), transport.get_write_buffer_size() > 0


@transport_step(0.7, up_to(2))
def set_protocol(connection, transport, buffered):
    transport.set_protocol(connection.protocol(buffered))


@transport_step(6, sizes, outside=True)
def peer_send(connection, transport, size):
    if is_open(connection.peer):
        connection.expected += connection.peer.send(payload(connection.expected, size))
        arrives(connection, lambda: connection.received >= connection.expected)


@transport_step(0.5, outside=True, rests=True)
def peer_send_much(connection, transport):
    """Several reads' worth, but never more than the kernel holds. Of TCP nobody knows how much the first of them brings."""
    peer = connection.peer
    stops_at_first = connection.inside in ("pause in data", "close in data", "abort in data")
    if not is_open(peer) or (stops_at_first and peer.family != socket.AF_UNIX):
        return
    if connection.expected - connection.received < 50_000:
        connection.expected += connection.peer.send(payload(connection.expected, 100_000))
        arrives(connection, lambda: connection.received >= connection.expected)


def is_open(sock):
    return sock is not None and sock.fileno() >= 0


def arrives(connection, condition):
    """What the peer did will reach the protocol, unless it does not read."""
    transport = connection.transport

    def is_there():
        is_over = connection.lost or connection.ended or transport.is_closing()
        return is_over or not transport.is_reading() or condition()

    connection.world.expect(is_there)


def on_its_way(connection):
    """Whether the kernel is still carrying what the transport sent, its end included."""
    if connection.peer.family == socket.AF_UNIX:
        return False  # it is there at once
    if connection.lost:
        return True
    number = connection.transport.get_extra_info("socket").fileno()
    return number >= 0 and fcntl.ioctl(number, termios.TIOCOUTQ, b"1234") != bytes(4)


@transport_step(3, outside=True, rests=True)
def peer_read(connection, transport):
    """All that has been written, and its end."""
    peer, world, channel = connection.peer, connection.world, connection.channel + " peer"
    limit = time.monotonic() + CARRY_S
    idle = 0
    while is_open(peer) and idle < 4:
        try:
            data = peer.recv(1 << 20)
        except BlockingIOError:
            if on_its_way(connection) and time.monotonic() < limit:
                select.select([peer], [], [], 0.001)
            else:
                idle += 1
            world.turn()
            continue
        except OSError as error:
            world.note(channel, "fails", describe(error))
            break
        idle = 0
        if not data:
            world.note(channel, "eof")
            break
        world.note(channel, "data", data)
        world.turn()


@transport_step(0.5, outside=True, rests=True)
def peer_end(connection, transport):
    if is_open(connection.peer):
        connection.peer.shutdown(socket.SHUT_WR)
        arrives(connection, lambda: False)


@transport_step(0.4, outside=True, rests=True)
def peer_close(connection, transport):
    if is_open(connection.peer):
        connection.peer.close()
        arrives(connection, lambda: False)


@transport_step(0.4, outside=True, rests=True)
def peer_reset(connection, transport):
    peer = connection.peer
    if is_open(peer):
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        arrives(connection, lambda: False)


# --- servers ---------------------------------------------------------------------------------------


class Listening:
    """A server, and what the steps know of it."""

    def __init__(self, world, inside):
        self.world, self.inside = world, inside
        self.channel = f"server{world.number('server')}"
        self.server = self.address = self.path = None
        self.is_unix = False
        #: Sockets that were connected, in order: the next to be accepted belongs to the first.
        self.dialled = []
        world.servers.append(self)
        world.cleaning.append(self.clean)

    def clean(self):
        if self.server is not None:
            self.server.close()
        for sock in self.dialled:
            sock.close()

    def make_protocol(self):
        peer = self.dialled.pop(0) if self.dialled else None
        return Connection(self.world, None, peer, self.inside, name="a").protocol()

    async def start(self, making):
        self.server = await making
        self.address = self.server.sockets[0].getsockname()
        return len(self.server.sockets)


@operation(0.7, one_of(*INSIDE), up_to(3), rests=True)
def serve(world, inside, how):
    listening = Listening(world, inside)
    make = listening.make_protocol
    if how == 0:
        making = world.loop.create_server(make, "127.0.0.1", 0)
    elif how == 1:
        making = world.loop.create_server(make, "127.0.0.1", 0, backlog=5, start_serving=False)
    else:
        sock = socket.create_server(("127.0.0.1", 0))
        making = world.loop.create_server(make, sock=sock)
    world.spawn(listening.channel, listening.start(making))


def server_step(weight, *draws, outside=False, rests=True, since=(3, 10)):
    """A step that gets a server that was made."""

    def enter(function):
        def step(world, at, *rest):
            listening = world.pick(world.servers, at)
            if listening is None or listening.server is None or listening.is_unix:
                return
            try:
                answer = function(world, listening, *rest)
            except Exception as error:
                world.note(listening.channel, function.__name__, describe(error))
            else:
                if answer is not None:
                    world.note(listening.channel, function.__name__, answer)

        step.__name__ = function.__name__
        return operation(weight, index, *draws, since=since, outside=outside, rests=rests)(step)

    return enter


@server_step(1.5, up_to(3), outside=True)
def dial(world, listening, more):
    """Connections from outside, several at once."""
    for _ in range(more + 1):
        sock = socket.socket()
        sock.settimeout(10)
        try:
            sock.connect(listening.address)
        except OSError as error:
            sock.close()
            world.note(listening.channel, "dial", describe(error))
            continue
        sock.setblocking(False)
        if listening.server.is_serving():
            listening.dialled.append(sock)
        else:
            sock.close()
    if listening.server.is_serving():
        world.expect(lambda: not listening.dialled)


@server_step(1, one_of(*INSIDE))
def dial_inside(world, listening, inside):
    """A connection whose both ends are the loop's."""
    connection = Connection(world, inside=inside, name="d")
    if not listening.server.is_serving():
        return
    making = world.loop.create_connection(connection.protocol, *listening.address)
    world.spawn(connection.channel, making, shows=lambda made: "connected")


@server_step(0.3)
def server_start(world, listening):
    world.spawn(listening.channel, listening.server.start_serving())


@server_step(0.5)
def server_close(world, listening):
    listening.server.close()
    return listening.server.is_serving(), len(listening.server.sockets)


@server_step(0.3, rests=True)
def server_wait(world, listening):
    world.spawn(listening.channel, listening.server.wait_closed())


@server_step(0.3, one_of("close_clients", "abort_clients"), since=(3, 13))
def server_end_clients(world, listening, how):
    getattr(listening.server, how)()
