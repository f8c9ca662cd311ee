"""`start_tls` of loops and streams, TLS in TLS, TLS over a transport of somebody else's.

Where asyncio decides, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import socket
import sys

import pytest
import tls
from differential import describe, outcome
from peers import BufferedRecorder, Recorder, raises, reset, tcp_pair, turns
from tls import NEW, SIDES, VERSIONS, Peer, calm, drop, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")

both_sides = pytest.mark.parametrize("side", SIDES)
both_versions = pytest.mark.parametrize("version", VERSIONS)
layered = pytest.mark.skipif(not NEW, reason="3.10: TLS in TLS is not supported")


def options_of(side):
    return {"server_hostname": "localhost"} if side == "client" else {"server_side": True}


async def plain_and_peer(certs, side, make=Recorder, version=None):
    """A protocol on TCP, a peer that has not begun, and our context."""
    here, there = tcp_pair()
    _, protocol = await asyncio.get_running_loop().create_connection(make, sock=here)
    server, client = certs.shared(version)
    if side == "client":
        return protocol, Peer(there, server, server_side=True), client
    return protocol, Peer(there, client, server_hostname="localhost"), server


async def upgrade(protocol, context, side, **options):
    loop = asyncio.get_running_loop()
    protocol.transport = await loop.start_tls(protocol.transport, protocol, context, **options_of(side), **options)
    return protocol.transport


# --- the loop's ----------------------------------------------------------------------------------


@both_sides
@both_versions
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_connection_is_upgraded(run, certs, side, version, make):
    async def main():
        protocol, peer, context = await plain_and_peer(certs, side, make, version)
        protocol.transport.write(b"plain")
        assert await peer.receive_raw() == b"plain"
        await peer.send_raw(b"plain")
        await protocol.until_received(5)
        lower = protocol.transport
        transport, _ = await asyncio.gather(upgrade(protocol, context, side), peer.handshake())
        assert transport is not lower and transport.get_protocol() is protocol
        assert lower.get_protocol() is not protocol
        assert protocol.calls == ["made"]  # not a second time
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("ssl_object").version() == peer.tls.version()
        transport.write(b"secret")
        assert await peer.receive(6) == b"secret"
        await peer.send(b"secret")
        await protocol.until_received(11)
        assert protocol.received == b"plainsecret"
        transport.close()
        assert (await peer.receive_to_end())[1] == "close_notify"
        await peer.send_raw(peer.close_notify())
        assert await protocol.lost is None
        assert lower.is_closing()
        peer.close()

    run(main)


@both_sides
@both_versions
@pytest.mark.parametrize("size", [1, 500, 100_000])
def test_writes_before_and_after_go_in_order(run, certs, side, version, size):
    """Plain bytes that are still queued below are sent before the handshake."""

    async def main():
        protocol, peer, context = await plain_and_peer(certs, side, version=version)
        protocol.transport.write(b"p" * (size * 20))
        task = asyncio.ensure_future(upgrade(protocol, context, side))
        got = bytearray()
        while len(got) < size * 20:
            got += await peer.receive_raw(size * 20 - len(got))
        assert got == b"p" * (size * 20)
        await peer.handshake()
        transport = await task
        transport.write(b"s" * size)
        assert await peer.receive(size) == b"s" * size
        await drop(protocol, peer)

    run(main)


@both_sides
@both_versions
def test_the_peer_is_early(run, certs, side, version):
    """A client's hello, or a server's silence, is there before start_tls is called; in pieces."""

    async def main():
        for piece in (1, 7, 10_000):
            protocol, peer, context = await plain_and_peer(certs, side, version=version)
            protocol.transport.pause_reading()
            with_peer = asyncio.ensure_future(peer.handshake())
            await asyncio.sleep(0.005)
            if piece == 10_000:
                protocol.transport.resume_reading()
                protocol.transport.pause_reading()
            await asyncio.gather(upgrade(protocol, context, side), with_peer)
            await peer.send(b"x" * piece)
            await protocol.until_received(piece)
            await drop(protocol, peer)

    run(main)


WRONG = [
    {"context": None},
    {"context": object()},
    {"context": True},
    {"transport": None},
    {"transport": object()},
    {"transport": asyncio.Transport()},
    {"ssl_handshake_timeout": 0},
    {"ssl_handshake_timeout": -1},
    {"ssl_handshake_timeout": "x"},
    {"ssl_shutdown_timeout": 0},
    {"ssl_shutdown_timeout": -1},
    {"server_hostname": "x" * 300},
    {"server_hostname": ".dot"},
    {"server_hostname": None},
    {"server_hostname": ""},
    {"server_hostname": 5},
    {"server_side": True},
    {"nonsense": 1},
]


def test_wrong_arguments(certs):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        for index, wrong in enumerate(WRONG):
            here, there = tcp_pair()
            there.setblocking(False)
            transport, protocol = await loop.create_connection(Recorder, sock=here)
            options = {"server_hostname": "localhost", **wrong}
            context = options.pop("context", certs.shared()[1])
            lower = options.pop("transport", transport)
            there.shutdown(socket.SHUT_WR)  # if it begins, it ends
            try:
                result = await outcome(loop.start_tls(lower, protocol, context, **options))
            except TypeError as error:
                result = "raises", describe(error)
            kind, what = result
            seen.append((index, kind, what[0], "" if "unexpected keyword" in what[2] else tls.plain_tls(what[2])))
            transport.abort()
            await turns(3)
            there.close()
        return seen

    assert all(kind == "raises" for _, kind, *_ in same(scenario)["result"])


@both_sides
@pytest.mark.parametrize("end", ["eof", "timeout", "garbage", "certificate"])
def test_an_upgrade_that_fails(certs, side, end):
    async def scenario():
        protocol, peer, context = await plain_and_peer(certs, side)
        options = {"ssl_handshake_timeout": 0.05} if end == "timeout" else {}
        if end == "certificate":
            context = certs.client() if side == "client" else certs.server("stranger")
            if side == "client":
                peer.tls = certs.server("stranger").wrap_bio(peer.incoming, peer.outgoing, server_side=True)
        lower = protocol.transport
        task = asyncio.ensure_future(outcome(upgrade(protocol, context, side, **options)))
        with_peer = None
        if end == "eof":
            peer.shut()
        elif end == "garbage":
            await peer.send_raw(b"500 no TLS here\r\n")
        elif end == "certificate":
            with_peer = asyncio.ensure_future(outcome(peer.handshake()))
        kind, what = await asyncio.wait_for(task, 5)
        if with_peer:
            peer.shut() if side == "server" else None
            await asyncio.wait_for(with_peer, 5)
        # What becomes of the program's protocol: it was connected, and is told of the end.
        await turns(5)
        seen = kind, what if kind == "raises" else "upgraded", lower.is_closing()
        if kind != "raises":
            await drop(protocol)
        peer.close()
        await calm(0.02)
        return seen, protocol.calls, describe(protocol.lost.result()) if protocol.lost.done() else None

    same(scenario, debug=True)


@both_sides
def test_an_upgrade_that_is_cancelled(run, certs, side):
    """At each turn; what is below is closed, and the one who cancelled gets its CancelledError."""

    async def main():
        for count in range(1, 10):
            protocol, peer, context = await plain_and_peer(certs, side)
            lower = protocol.transport
            task = asyncio.ensure_future(upgrade(protocol, context, side))
            with_peer = asyncio.ensure_future(outcome(peer.handshake()))
            await turns(count)
            task.cancel()
            kind, what = await outcome(task)
            if kind == "raises":
                assert what[0] == "CancelledError" and lower.is_closing()
                await turns(5)
            else:
                await drop(protocol)
            peer.close() if with_peer.done() else None
            await with_peer
            peer.close()
        await calm()

    run(main)


@both_sides
def test_a_lower_transport_that_is_lost(certs, side):
    async def scenario():
        seen = []
        for how in ("abort", "close"):
            protocol, peer, context = await plain_and_peer(certs, side)
            lower = protocol.transport
            await asyncio.gather(upgrade(protocol, context, side), peer.handshake())
            getattr(lower, how)()
            seen.append((describe(await protocol.lost), protocol.calls, protocol.transport.is_closing()))
            peer.close()
        return seen

    same(scenario)


@both_sides
def test_a_protocol_that_raises_after_the_upgrade(certs, side):
    async def scenario():
        protocol, peer, context = await plain_and_peer(certs, side, raises("data_received"))
        await asyncio.gather(upgrade(protocol, context, side), peer.handshake())
        await peer.send(b"x")
        lost = describe(await protocol.lost)
        peer.close()
        return lost, protocol.calls

    same(scenario)


@both_versions
def test_it_is_upgraded_again_after_it_was_unwrapped(run, certs, version):
    """TLS ends with close_notify both ways, as FTP does it: with the transport below it is over for both loops."""

    async def main():
        protocol, peer, context = await plain_and_peer(certs, "server", version=version)
        lower = protocol.transport
        await asyncio.gather(upgrade(protocol, context, "server"), peer.handshake())
        await peer.send_raw(peer.close_notify() + b"plain again")
        lost = await protocol.lost
        assert lost is None or isinstance(lost, tls.ssl.SSLError)
        await turns(5)
        assert lower.is_closing() and protocol.received == b""
        peer.close()

    run(main)


# --- of streams ----------------------------------------------------------------------------------


@pytest.mark.skipif(not NEW, reason="3.11")
@both_versions
def test_streams_are_upgraded(run, certs, version):
    """As SMTP does it, from both ends."""

    async def main():
        server_context, client_context = certs.shared(version)
        seen, over = [], asyncio.Event()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"220 go\n")
            await writer.drain()
            await writer.start_tls(server_context)
            seen.append(writer.get_extra_info("ssl_object").server_side)
            assert await reader.readline() == b"secret\n"
            writer.write(b"x" * 300_000)
            writer.close()
            await writer.wait_closed()
            over.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"220 go\n"
        lower = writer.transport
        await writer.start_tls(client_context, server_hostname="localhost")
        assert writer.transport is not lower and not writer.can_write_eof()
        writer.write(b"secret\n")
        assert await reader.read() == b"x" * 300_000
        writer.close()
        await writer.wait_closed()
        await over.wait()
        server.close()
        await server.wait_closed()
        assert seen == [True]

    run(main)


@pytest.mark.skipif(not NEW, reason="3.11")
@pytest.mark.parametrize("early", ["with the command", "after it", "nothing"])
def test_bytes_that_a_stream_has_buffered(certs, early):
    """A client that does not wait for the answer: its hello is in the reader's buffer, or comes with the command."""

    async def scenario():
        server_context, client_context = certs.shared()
        ends = asyncio.get_running_loop().create_future()
        is_sent = asyncio.Event()

        async def serve(reader, writer):
            seen = [await reader.readline()]
            await is_sent.wait()
            if early != "nothing":
                await asyncio.sleep(0.02)  # the hello arrives in the reader
            result = await outcome(asyncio.wait_for(writer.start_tls(server_context, ssl_handshake_timeout=0.3), 5))
            if result[0] == "is":
                result = "upgraded", await outcome(reader.readline())
                writer.close()
            ends.set_result((seen, result))
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        sock = socket.create_connection(server.sockets[0].getsockname())
        peer = Peer(sock, client_context, server_hostname="localhost")
        hello = b""
        if early != "nothing":
            try:
                peer.tls.do_handshake()
            except tls.ssl.SSLWantReadError:
                hello = peer.outgoing.read()
        if early == "with the command":
            await peer.send_raw(b"STARTTLS\n" + hello)
        else:
            await peer.send_raw(b"STARTTLS\n")
            await asyncio.sleep(0.01)
            await peer.send_raw(hello)
        is_sent.set()

        async def talk():
            await peer.handshake()
            await peer.send(b"secret\n")

        talking = asyncio.ensure_future(outcome(talk()))
        result = await ends
        await asyncio.wait_for(talking, 5)
        peer.close()
        server.close()
        await turns(5)
        return result

    seen = same(scenario)["result"]
    if sys.version_info >= (3, 15) or early == "nothing":
        assert seen[1] == ("upgraded", ("is", b"secret\n"))


# --- layers --------------------------------------------------------------------------------------


@layered
@both_versions
@pytest.mark.parametrize("layers", [2, 3])
def test_tls_in_tls(run, certs, version, layers):
    async def main():
        one, other = await secure_pair(certs, version=version)
        server, client = certs.shared(version)
        for _ in range(layers - 1):
            await asyncio.gather(upgrade(one, client, "client"), upgrade(other, server, "server"))
        for protocol, far in ((one, other), (other, one)):
            data = b"".join(b"%d," % number for number in range(30_000))
            protocol.transport.write(data)
            await far.until_received(len(data))
            assert far.received == data
            info = protocol.transport.get_extra_info
            assert info("ssl_object").version() and info("peername") and info("socket") is not None
        assert one.calls[0] == other.calls[0] == "made"
        one.transport.close()
        assert await asyncio.wait_for(one.lost, 5) is None and await asyncio.wait_for(other.lost, 5) is None

    run(main)


@layered
@pytest.mark.parametrize("how", ["close", "abort", "eof", "inner goodbye", "close below", "abort below", "reset"])
def test_layers_end(certs, how):
    async def scenario():
        outer, peer = await secure(certs)
        inner_peer = Layered(peer, certs.shared()[0])
        lower = outer.transport
        await asyncio.gather(upgrade(outer, certs.shared()[1], "client"), inner_peer.handshake())
        await inner_peer.send(b"inner")
        await outer.until_received(5)
        if how in ("close", "abort"):
            getattr(outer.transport, how)()
            if how == "close":
                await outcome(inner_peer.answer_goodbye())
                await outcome(peer.through(peer.tls.unwrap))
        elif how.endswith("below"):
            getattr(lower, how.split()[0])()
            if how == "close below":
                await outcome(peer.through(peer.tls.unwrap))
        elif how == "eof":
            peer.shut()
        elif how == "reset":
            reset(peer.sock)
        else:
            await inner_peer.goodbye()
            await outcome(peer.receive_to_end())
            await outcome(peer.through(peer.tls.unwrap))
        lost = describe(await asyncio.wait_for(outer.lost, 5))
        peer.close()
        await turns(5)
        return lost, outer.calls, bytes(outer.received), lower.is_closing(), outer.transport.is_closing()

    same(scenario)


class Layered(Peer):
    """A peer whose wire is another one's data."""

    def __init__(self, below, context):
        self.below = below
        super().__init__(below.sock, context, server_side=True)

    async def send_raw(self, data):
        await self.below.send(data)

    async def receive_raw(self, most=1 << 16):
        return await self.below.through(self.below.tls.read, most)

    async def goodbye(self):
        await self.send_raw(self.close_notify())

    async def answer_goodbye(self):
        await self.receive_to_end()
        await self.goodbye()


@layered
def test_layers_are_paused(run, certs):
    """Nothing is read through two layers while the program pauses; nothing is lost."""

    async def main():
        one, other = await secure_pair(certs)
        server, client = certs.shared()
        await asyncio.gather(upgrade(one, client, "client"), upgrade(other, server, "server"))
        other.transport.pause_reading()
        total = 9 << 20
        one.transport.write(bytes(total))
        await asyncio.sleep(0.05)
        assert other.received == b""
        other.transport.resume_reading()
        await other.until_received(total)
        for protocol in (one, other):
            await drop(protocol)

    run(main)


# --- a transport of somebody else's --------------------------------------------------------------


class Pipe(asyncio.Transport):
    """A transport in Python: what is written is the other's data, in pieces, a turn later."""

    _start_tls_compatible = True

    def __init__(self, protocol, piece):
        self.loop = asyncio.get_running_loop()
        self.protocol, self.piece = protocol, piece
        self.other, self.is_paused, self.ended = None, False, False
        self.waiting = bytearray()

    def get_protocol(self):
        return self.protocol

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_extra_info(self, name, default=None):
        return {"peername": "a pipe"}.get(name, default)

    def is_closing(self):
        return self.ended

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False
        self.loop.call_soon(self.deliver)

    def write(self, data):
        if self.other is not None and not self.other.ended:
            self.other.waiting += data
            self.loop.call_soon(self.other.deliver)

    def deliver(self):
        while self.waiting and not self.is_paused and not self.ended:
            data = bytes(self.waiting[: self.piece])
            del self.waiting[: self.piece]
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                while data:
                    room = memoryview(self.protocol.get_buffer(len(data)))
                    count = min(len(room), len(data))
                    room[:count] = data[:count]
                    self.protocol.buffer_updated(count)
                    data = data[count:]
            else:
                self.protocol.data_received(data)

    def close(self):
        self._force_close(None)

    abort = close

    def _force_close(self, exception):
        if not self.ended:
            self.ended = True
            self.loop.call_soon(self.protocol.connection_lost, exception)
            if self.other is not None:
                self.loop.call_soon(self.other.eof)

    def eof(self):
        if not self.ended and not self.protocol.eof_received():
            self.close()


@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
@both_versions
def test_over_a_transport_in_python(run, certs, piece, version):
    async def main():
        protocols = Recorder(), Recorder()
        pipes = [Pipe(protocol, piece) for protocol in protocols]
        pipes[0].other, pipes[1].other = pipes[1], pipes[0]
        for protocol, pipe in zip(protocols, pipes):
            protocol.connection_made(pipe)
        server, client = certs.shared(version)
        one, other = protocols
        await asyncio.gather(upgrade(one, client, "client"), upgrade(other, server, "server"))
        total = 20_000 if piece == 1 else 500_000
        one.transport.write(b"x" * total)
        other.transport.write(b"y" * total)
        await one.until_received(total)
        await other.until_received(total)
        assert one.received == b"y" * total and other.received == b"x" * total
        assert one.transport.get_extra_info("peername") == "a pipe"
        one.transport.close()
        assert await asyncio.wait_for(one.lost, 5) is None and await asyncio.wait_for(other.lost, 5) is None
        assert pipes[0].ended and pipes[1].ended

    run(main)
