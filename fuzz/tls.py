"""Steps of TLS connections: one end is the loop's, the other a `tls_peers.Peer`, or both are the loop's.

Compared is what the two programs see: bytes, the order of events, exceptions and reports. Not how bytes are cut into
records or into `data_received`, nor what a program's death looks like to the other side: that is `KNOWN`.

asyncio's TLS of 3.10 is another one, with faults of its own at every end: these steps begin with 3.11.
"""

import fcntl
import socket
import sys
import termios
import time

from .connections import Buffered, Connection, Noting, payload, sizes, tcp_pair
from .endpoints import make_file
from .operations import index, one_of, operation, up_to
from .tls_peers import Peer, context
from .world import describe

#: Looks in vain, a millisecond apart, after which nothing more of a handshake comes.
PATIENCE = 40
#: More than the kernel holds of a unix socket, and than the transport below takes without a pause.
MUCH = 1_500_000

#: Where the loops may differ. From there on a connection's account is closed, on both loops alike.
KNOWN = {
    "alert": "asyncio drops the alert of a handshake that fails, or of a bad record: its peer sees an end, ours the reason",
    "let go": "closed twice, or by a create_connection that fails, asyncio's transport has no inside, and fails in it",
    "lost tail": "asyncio loses what came in one receive with a record that is bad; ours delivers it first",
    "cut": "an end without close_notify makes asyncio drop what a small lent buffer has not taken, sooner or later",
    "backlog": "when the peer ends, asyncio loses what waits for the transport below; ours is sent, and writing resumed",
    "flow": "asyncio gives all of one write to the transport below, whose backlog it does not count; ours counts it",
    "debug": "debug mode switched on in the middle of a handshake makes asyncio's fail: it has not looked at the clock",
    "held finish": "paused in connection_made, asyncio keeps the end of the handshake to itself",
}

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
    "abort in eof",
    "write in made",
    "raise in made",
    "close in made",
    "abort in made",
    "eof in made",
    "write in lost",
    "raise in lost",
    "raise in pause",
    "close in pause",
    "abort in pause",
    "raise in resume",
    "write in pause",
    "write in resume",
]


class Secure(Connection):
    """A connection with TLS on it. `connection.plain` is the transport below, where it was upgraded."""

    def __init__(self, world, sock=None, peer=None, inside=None, keeps=False, name="t"):
        super().__init__(world, sock, peer, inside, keeps, name)
        world.connections.remove(self)
        world.secure.append(self)
        self.task = self.plain = None
        self.began_in_debug_mode = world.loop.get_debug()
        self.lends = False
        self.is_let_go = self.is_account_closed = self.is_peers_account_closed = self.is_flow_known = False

    def note(self, *event):
        if not self.is_account_closed and not (self.is_flow_known and event[0] in ("pause", "resume")):
            super().note(*event)

    def note_peer(self, *event):
        if not self.is_peers_account_closed:
            self.world.note(self.channel + " peer", *event)

    def is_forgotten(self):
        return self.is_let_go

    def close(self):
        """Of a transport that is closing already, asyncio drops the inside: `KNOWN["let go"]`."""
        self.is_let_go = self.transport.is_closing()
        self.transport.close()

    def protocol(self, buffered=False):
        self.lends = self.lends or bool(buffered)
        return (SecureBuffered if buffered else SecureNoting)(self)

    def clean(self):
        if self.plain is not None and self.transport is None:
            self.plain.abort()
        super().clean()

    def settled(self):
        return self.task.done() and (self.peer is None or self.peer.is_settled)


class SecureNoting(Noting):
    def does(self, where):
        connection = self.connection
        if connection.is_let_go or (connection.is_flow_known and where in ("pause", "resume")):
            return
        if connection.inside == f"close in {where}":
            connection.close()
            return
        # Who made the connection closes it then, once more.
        connection.is_let_go = connection.is_let_go or connection.inside in ("raise in made", "eof in made")
        super().does(where)


class SecureBuffered(SecureNoting, Buffered):
    """Lends a memoryview: of a bytearray asyncio lends OpenSSL a copy."""

    def get_buffer(self, sizehint):
        return memoryview(self.space)


class Plain(Noting):
    """Before the upgrade."""

    def does(self, where):
        pass

    def connection_made(self, transport):
        self.connection.plain = transport
        self.connection.note("plain")


def secure_step(weight, *draws, **options):
    """A step that gets a connection whose TLS transport is there."""

    def enter(function):
        def step(world, at, *rest):
            connection = world.pick(world.secure, at)
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
        return operation(weight, index, *draws, feature="tls", since=(3, 11), **options)(step)

    return enter


# --- beginnings ------------------------------------------------------------------------------------


def pair(family):
    here, there = socket.socketpair() if family == "unix" else tcp_pair()
    there.setblocking(False)
    here.setblocking(False)
    if family == "tcp":
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


def settle(connection, flights=None):
    """Let both sides talk until the handshake is over, or for so many flights of the peer's."""
    world, peer, idle = connection.world, connection.peer, 0
    if world.loop.get_debug() and not connection.began_in_debug_mode:
        return  # KNOWN["debug"]
    while not connection.settled() and flights != 0:
        if not peer.pump():
            idle += 1
            if idle > (PATIENCE if peer.family != socket.AF_UNIX else 5):
                connection.note("the handshake does not end")
                return
            time.sleep(0.001 * (idle > 5))
        else:
            idle = 0
            if flights is not None:
                flights -= 1
        world.turn()


async def begin(connection, how, ours, make, **timeouts):
    """The coroutine that makes the connection, in one of four ways."""
    try:
        await beginning(connection, how, ours, make, **timeouts)
    except BaseException:
        connection.is_let_go = True
        raise
    return "secure"


async def beginning(connection, how, ours, make, **timeouts):
    loop, side = connection.world.loop, how.split()[-1]
    name = "localhost" if side == "client" else None
    if how.startswith("upgrade"):
        plain, protocol = await loop.create_connection(lambda: Plain(connection), sock=connection.sock)
        protocol = make()
        upgrading = loop.start_tls(
            plain, protocol, ours, server_side=side == "server", server_hostname=name, **timeouts
        )
        connection.transport = await upgrading
    elif side == "server":
        await loop.connect_accepted_socket(make, connection.sock, ssl=ours, **timeouts)
    else:
        await loop.create_connection(make, sock=connection.sock, ssl=ours, server_hostname=name, **timeouts)


ways = one_of("client", "server", "upgrade client", "upgrade server")
versions = one_of("1.2", "1.3", "1.3")


def start(
    world, how, family, version, inside=None, keeps=0, buffered=0, ours=None, theirs=None, name="localhost", **timeouts
):
    """A connection on which the peer has not said anything yet."""
    here, there = pair(family)
    sides = ("server", "client") if how.endswith("server") else ("client", "server")
    peer = Peer(there, context(sides[1], version, theirs), sides[1] == "server", name)
    connection = Secure(world, here, peer, inside, bool(keeps))
    mine = context(sides[0], version, ours)
    making = begin(connection, how, mine, lambda: connection.protocol(buffered), **timeouts)
    connection.task = world.spawn(connection.channel, making)
    if "ssl_handshake_timeout" in timeouts:
        # It comes at its time, not at rest.
        come = world.awaiting()
        connection.task.add_done_callback(lambda task: come())
    world.rest()
    return connection


@operation(
    4, ways, one_of("unix", "unix", "tcp"), versions, one_of(*INSIDE), up_to(2), up_to(2), one_of(None, None, None, 0, 1),
    feature="tls", outside=True, rests=True, since=(3, 11), begins=True,
)  # fmt: skip
def tls_connect(world, how, family, version, inside, keeps, buffered, flights):
    """With `flights` the peer stops in the middle of the handshake."""
    settle(start(world, how, family, version, inside, keeps, buffered), flights)


@operation(
    1, ways, versions, one_of("stranger", "asks", "version", "name", "plain text", "silence", "end", "alpn"),
    feature="tls", outside=True, rests=True, since=(3, 11),
)  # fmt: skip
def tls_trouble(world, how, version, trouble):
    """A handshake that must fail, or one whose failure comes late: of 1.3 a client is done before it is refused."""
    ours = theirs = None
    if trouble == "stranger":
        ours, theirs = ("stranger", None) if how.endswith("server") else (None, "stranger")
    elif trouble == "asks":
        ours, theirs = ("asks", None) if how.endswith("server") else (None, "asks")
    timeouts = {"ssl_handshake_timeout": 0.02} if trouble == "silence" else {}
    name = "elsewhere" if trouble == "name" else "localhost"
    connection = start(world, how, "unix", version, ours=ours, theirs=theirs, name=name, **timeouts)
    peer = connection.peer
    if trouble == "version":
        other = {"1.2": "1.3", "1.3": "1.2"}[version]
        side = "client" if how.endswith("server") else "server"
        connection.peer = peer = Peer(peer.sock, context(side, other), side == "server")
    elif trouble == "plain text":
        peer.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    elif trouble == "end":
        peer.shutdown(socket.SHUT_WR)
    connection.is_peers_account_closed = True
    settle(connection)


@operation(1, ways, versions, feature="tls", outside=True, rests=True, since=(3, 11))
def tls_slow(world, how, version):
    """A peer that says goodbye to nobody: the connection ends by its timer."""
    connection = start(world, how, "unix", version, ssl_shutdown_timeout=0.02)
    settle(connection)
    world.rest()
    if connection.transport is None:
        return
    come = world.awaiting()

    class Last(SecureNoting):
        def connection_lost(self, error):
            super().connection_lost(error)
            come()

    connection.transport.set_protocol(Last(connection))
    connection.close()


@operation(
    1, versions, one_of(*INSIDE), one_of(*INSIDE), up_to(2), feature="tls", outside=True, rests=True, since=(3, 11)
)
def tls_both_ends(world, version, inside, other, buffered):
    """A server and a client of the same loop."""
    if inside == other == "write in data":
        return  # they would answer each other for ever
    server, client = Secure(world, inside=inside, name="ts"), Secure(world, inside=other, name="tc")
    mine = [context("server", version), context("client", version)]

    async def talk():
        listening = await world.loop.create_server(lambda: server.protocol(buffered), "127.0.0.1", 0, ssl=mine[0])
        address = listening.sockets[0].getsockname()
        try:
            await world.loop.create_connection(client.protocol, *address, ssl=mine[1], server_hostname="localhost")
        except BaseException:
            client.is_let_go = True
            raise
        finally:
            listening.close()
        return "secure"

    come = world.awaiting()
    client.task = server.task = world.spawn(client.channel, talk())
    client.task.add_done_callback(lambda task: come())


@secure_step(0.7, versions, up_to(2), outside=True, rests=True)
def tls_inner(connection, transport, version, serves):
    """TLS in TLS."""
    world, below = connection.world, connection.peer
    if below is None or not below.is_ready or connection.lost or transport.is_closing() or connection.inside:
        return
    connection.note("goes on inside")
    sides = ("server", "client") if serves else ("client", "server")
    inner = Secure(world, None, Peer(below, context(sides[1], version), sides[1] == "server"), name="ti")
    world.secure.remove(connection)
    name = None if serves else "localhost"

    async def upgrade():
        make = inner.protocol()
        mine = context(sides[0], version)
        inner.transport = await world.loop.start_tls(
            transport, make, mine, server_side=bool(serves), server_hostname=name
        )
        return "secure"

    inner.task = world.spawn(inner.channel, upgrade())
    world.rest()
    settle(inner)


# --- what the program does -------------------------------------------------------------------------


def unacknowledged(sock):
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def expects(connection):
    """What is on its way from one end of the loop's to the other."""
    if connection.peer is None:
        sock = connection.transport.get_extra_info("socket")
        connection.world.expect(lambda: sock is None or sock.fileno() < 0 or unacknowledged(sock) == 0)


@secure_step(8, sizes, one_of("bytes", "bytearray", "memoryview"), rests=False)
def tls_write(connection, transport, size, kind):
    data = payload(connection.sent, size)
    connection.sent += 1
    transport.write({"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}[kind](data))
    expects(connection)


@secure_step(3, one_of(16_383, 16_384, 16_385, 100_000, MUCH), one_of(1, 25))
def tls_write_much(connection, transport, size, times):
    """Several records, or more than goes out at once."""
    if connection.peer is not None and connection.peer.family == socket.AF_UNIX:
        connection.had_backlog = True
        connection.is_flow_known |= size == MUCH
        for _ in range(1 if size == MUCH else times):
            transport.write(payload(connection.sent, size))
            connection.sent += 1


@secure_step(3, up_to(6), one_of(0, 1, 10, 5000))
def tls_writelines(connection, transport, count, size):
    transport.writelines([payload(connection.sent + at, size) for at in range(count)])
    connection.sent += count
    expects(connection)


@secure_step(0.3, one_of("text", None, 5))
def tls_write_wrong(connection, transport, what):
    transport.write(what)


@secure_step(0.3)
def tls_write_eof(connection, transport):
    transport.write_eof()


@secure_step(2)
def tls_pause_reading(connection, transport):
    transport.pause_reading()


@secure_step(2.5, rests=True)
def tls_resume_reading(connection, transport):
    transport.resume_reading()


@secure_step(1.2)
def tls_close(connection, transport):
    connection.close()


@secure_step(0.4)
def tls_abort(connection, transport):
    transport.abort()


@secure_step(1, one_of((None, None), (100_000, 10), (10, None), (1, 2), (1 << 30, None)), rests=True)
def tls_set_limits(connection, transport, limits):
    if not connection.lost:
        transport.set_write_buffer_limits(*limits)


@secure_step(0.7, one_of((None, None), (100, 10), (10, None), (1, 2), (1 << 30, None)), outside=True, rests=True)
def tls_set_read_limits(connection, transport, limits):
    if not connection.lost and not transport.is_closing():
        transport.set_read_buffer_limits(*limits)


@secure_step(1)
def tls_look(connection, transport):
    limits = transport.get_write_buffer_limits(), transport.get_read_buffer_limits()
    return transport.is_reading(), limits, transport.can_write_eof(), transport.is_closing()


@secure_step(0.5, outside=True)
def tls_look_further(connection, transport):
    secure = transport.get_extra_info("ssl_object")
    below = transport.get_extra_info("socket") is not None
    seen = [transport.get_extra_info(name) for name in ("cipher", "compression", "peercert", "nothing")]
    if secure is None:
        return below, seen
    return below, seen, secure.version(), secure.selected_alpn_protocol(), secure.cipher(), secure.pending()


@secure_step(0.7, up_to(2))
def tls_set_protocol(connection, transport, buffered):
    if not connection.lost:
        transport.set_protocol(connection.protocol(buffered))


@secure_step(0.7, one_of(0, 100, 30_000), one_of((0, None), (10, 500), (20_000, None)), outside=True, rests=True)
def tls_sendfile(connection, transport, size, window):
    world = connection.world
    if connection.lost or transport.is_closing() or connection.peer is None or connection.had_backlog:
        return
    file = make_file(world, size)
    come = world.awaiting()
    sending = world.spawn(connection.channel + " file", world.loop.sendfile(transport, file, *window))
    sending.add_done_callback(lambda task: come())
