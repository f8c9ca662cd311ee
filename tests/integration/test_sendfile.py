"""Sending files, on both loops: what arrives, where the file is left, and what comes of every error.

Where asyncio decides, the scenario runs on both loops of this Python and is compared.
"""

import asyncio
import contextlib
import socket
import ssl
from asyncio import constants, transports

import pytest
from differential import outcome, same
from files import CONTENT, SIZE, Collector, call, opened, position
from gathering import is_aioxide, warm
from peers import TOO_MUCH, Recorder, close, connect, tcp_pair, turns

KINDS = [
    *("file", "unbuffered", "text", "writable", "empty", "zeros", "closed", "pipe"),
    *("bytes", "buffered", "unseekable", "failing", "numberless"),
]
PARTS = [
    {},
    {"offset": 1000},
    {"count": 5000},
    {"offset": 70_001, "count": 131_072},
    {"offset": SIZE + 10_000},
    {"offset": 10, "count": 10 * SIZE},
]
BAD_PARTS = [
    {"offset": -1},
    {"offset": 1.5},
    {"offset": None},
    {"offset": "0"},
    {"count": 0},
    {"count": -1},
    {"count": 1.5},
    {"count": "1"},
    {"offset": True, "count": True},
]


def known(part, kind):
    # Without a count that never ends.
    return kind != "zeros" or "count" in part


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("target", ["socket", "transport"])
def test_every_kind_of_file(sent_file, kind, fallback, target):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        for part in PARTS + BAD_PARTS:
            if not known(part, kind):
                continue
            file = opened(kind, sent_file)
            with contextlib.ExitStack() as stack:
                if kind != "closed":
                    stack.enter_context(file)
                if target == "socket":
                    here, there = tcp_pair()
                    there = Collector(there)
                    here.setblocking(False)
                    result = await outcome(call(loop.sock_sendfile, here, file, fallback=fallback, **part))
                    where = position(file)
                    here.close()
                else:
                    protocol, peer = await connect()
                    there = Collector(peer)
                    protocol.transport.write(b"before")
                    result = await outcome(call(loop.sendfile, protocol.transport, file, fallback=fallback, **part))
                    where = position(file)
                    usable = protocol.transport.is_reading() and protocol.transport.get_protocol() is protocol
                    # What cannot be sought in leaves asyncio's transport without its protocol.
                    assert usable or (kind == "pipe" and not is_aioxide())
                    protocol.transport.write(b"after")
                    protocol.transport.close()
                    while not protocol.lost.done() and usable:
                        await asyncio.sleep(0)
                data = await there.all()
            seen.append((part, result, where, len(data), hash(data)))
        return seen

    seen = same(scenario)
    kept = [result for _, result, *_ in seen if result[0] == "is"]
    assert kept or kind in ("text", "closed", "failing") or not fallback


def test_other_sockets(sent_file):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        with contextlib.ExitStack() as stack, sent_file.open("rb") as file:
            datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            datagram.setblocking(False)
            closed = socket.socket()
            closed.close()
            unconnected = stack.enter_context(socket.socket())
            unconnected.setblocking(False)
            blocking, other = tcp_pair()
            stack.enter_context(blocking)
            stack.enter_context(other)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            secure = stack.enter_context(context.wrap_socket(socket.socket()))
            for sock in (datagram, closed, unconnected, secure, None, 1):
                for fallback in (True, False):
                    seen.append(await outcome(call(loop.sock_sendfile, sock, file, fallback=fallback)))
                    seen.append(position(file))
            loop.set_debug(True)
            blocking.settimeout(5)
            seen.append(await outcome(call(loop.sock_sendfile, blocking, file)))
            loop.set_debug(False)
            seen.append(await outcome(call(loop.sock_sendfile, blocking, file, count=100)))
            seen.append(len(other.recv(1000)))
            for args in ((), (blocking,), (blocking, file, 0, 1, True)):
                with contextlib.suppress(TypeError):
                    seen.append(await loop.sock_sendfile(*args))
            for local in (socket.socketpair(),):
                for end in local:
                    stack.enter_context(end).setblocking(False)
                seen.append(await outcome(call(loop.sock_sendfile, local[0], file, 0, 1000)))
                seen.append(local[1].recv(2000) == CONTENT[:1000])
        return seen

    same(scenario)


def test_a_subclass_of_socket(sent_file):
    class Own(socket.socket):
        pass

    async def scenario():
        loop = asyncio.get_running_loop()
        one, there = tcp_pair()
        here = Own(fileno=one.detach())
        here.setblocking(False)
        there = Collector(there)
        with sent_file.open("rb") as file:
            sent = await loop.sock_sendfile(here, file)
        here.close()
        return sent, await there.all() == CONTENT

    assert same(scenario) == (len(CONTENT), True)


def test_what_no_transport_can_do(sent_file):
    class Foreign(asyncio.Transport):
        def is_closing(self):
            return False

        def __repr__(self):
            return "<Foreign>"

    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        protocol, peer = await connect()
        with sent_file.open("rb") as file:
            for transport in (Foreign(), None):
                for fallback in (True, False):
                    seen.append(await outcome(call(loop.sendfile, transport, file, fallback=fallback)))
            fallback_only = Foreign()
            fallback_only._sendfile_compatible = constants._SendfileMode.FALLBACK
            seen.append(await outcome(call(loop.sendfile, fallback_only, file, fallback=False)))
            seen.append(await outcome(call(loop.sendfile, fallback_only, file)))
            protocol.transport.close()
            seen.append(await outcome(call(loop.sendfile, protocol.transport, file)))
            await protocol.lost
            seen.append(await outcome(call(loop.sendfile, protocol.transport, file)))
            peer.close()
        return seen

    same(scenario)


class Piped(transports._FlowControlMixin, asyncio.Transport):
    """A transport of somebody else's that can only be written to: what it gets it passes on, a piece per turn."""

    _sendfile_compatible = constants._SendfileMode.FALLBACK
    pause = 0.0001
    #: Nothing is passed on.
    is_stuck = False

    def __init__(self, loop, protocol):
        super().__init__(loop=loop)
        self._protocol, self._reading, self._closing = protocol, True, False
        self.queue, self.sent, self.calls = [], bytearray(), []

    def get_write_buffer_size(self):
        return sum(map(len, self.queue))

    def get_protocol(self):
        return self._protocol

    def set_protocol(self, protocol):
        self._protocol = protocol

    def is_reading(self):
        return self._reading

    def is_closing(self):
        return self._closing

    def pause_reading(self):
        self.calls.append("pause")
        self._reading = False

    def resume_reading(self):
        self.calls.append("resume")
        self._reading = True

    def write(self, data):
        if not self.queue:
            self._loop.call_later(self.pause, self._pump)
        self.queue.append(bytes(data))
        self._maybe_pause_protocol()

    def _pump(self):
        if self._closing or self.is_stuck:
            return
        self.sent += self.queue.pop(0)
        self._maybe_resume_protocol()
        if self.queue:
            self._loop.call_later(self.pause, self._pump)

    def lose(self, error):
        self._closing = True
        self._protocol.connection_lost(error)


@pytest.mark.parametrize("part", [{}, {"offset": 5}, {"count": 100_000}, {"offset": SIZE, "count": 10}])
@pytest.mark.parametrize("is_paused", [False, True])
def test_the_fallback_through_a_transport_of_somebody_elses(sent_file, part, is_paused):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = Recorder()
        transport = Piped(loop, protocol)
        transport.set_write_buffer_limits(high=40_000)
        if is_paused:
            for _ in range(5):
                transport.write(bytes(10_000))
        with sent_file.open("rb") as file:
            sent = await loop.sendfile(transport, file, **part)
            where = file.tell()
        while transport.queue:
            await asyncio.sleep(0)
        begin = part.get("offset", 0)
        expected = CONTENT[begin : begin + part["count"]] if "count" in part else CONTENT[begin:]
        assert transport.sent == bytes(50_000 * is_paused) + expected
        assert transport.get_protocol() is protocol
        return sent, where, transport.calls, protocol.calls

    same(scenario)


@pytest.mark.parametrize("error", [None, BrokenPipeError("lost"), "closing"])
def test_a_transport_of_somebody_elses_that_is_lost(sent_file, error):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = Recorder()
        transport = Piped(loop, protocol)
        transport.set_write_buffer_limits(high=20_000)
        transport.pause = 0.01
        with sent_file.open("rb") as file:
            sending = asyncio.ensure_future(outcome(call(loop.sendfile, transport, file)))
            while len(transport.sent) < 50_000:
                await asyncio.sleep(0)
            if error == "closing":
                transport._closing = True
                transport._protocol.resume_writing()
            else:
                while not transport._protocol_paused:
                    await asyncio.sleep(0)
                # The next piece is read from the file by now, and waits.
                transport.is_stuck = True
                await asyncio.sleep(0.05)
                transport.lose(error)
            result = await sending
        return result, protocol.calls, transport.get_protocol() is protocol

    result, *_ = same(scenario)
    assert result[0] == "raises"


def test_many_are_sent_in_order(sent_file):
    """Written data, files, and what comes back, on one connection."""

    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        there = Collector(peer)
        with sent_file.open("rb") as file:
            for n in range(20):
                protocol.transport.write(b"<%d>" % n)
                await loop.sendfile(protocol.transport, file, n * 100, 5000 + n)
                peer.send(b"back")
                await protocol.until_received(4 * (n + 1))
        protocol.transport.close()
        await protocol.lost
        return await there.all()

    assert same(scenario) == b"".join(b"<%d>" % n + CONTENT[n * 100 :][: 5000 + n] for n in range(20))


def test_what_is_queued_goes_first(large_file):
    """Much more is queued than the connection takes; the file comes behind it."""

    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        protocol.transport.write(b"x" * (1 << 20) * 4)
        with large_file.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await turns(5)
            refused = []
            for method, data in (("write", b"bare"), ("write", b""), ("writelines", [b"bare"])):
                try:
                    refused.append(getattr(protocol.transport, method)(data))
                except RuntimeError as error:
                    refused.append(str(error))
            reading = protocol.transport.is_reading()
            there = Collector(peer)
            sent = await sending
            where = file.tell()
        protocol.transport.write(b"y")
        protocol.transport.close()
        await protocol.lost
        data = await there.all()
        assert data == b"x" * (4 << 20) + bytes(TOO_MUCH) + b"y"
        return sent, where, refused, reading, protocol.calls

    sent, where, _, reading, _ = same(scenario)
    assert (sent, where, reading) == (TOO_MUCH, TOO_MUCH, False)


@pytest.mark.aioxide_only
def test_what_is_held_goes_first(run, sent_file):
    """A transport that gathers holds what the callback has written."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        await warm(protocol, peer)
        done = loop.create_future()
        file = sent_file.open("rb")

        def callback():
            protocol.transport.write(b"one")
            protocol.transport.write(b"two")
            sending = loop.sendfile(protocol.transport, file, 0, 3)
            try:
                while True:
                    sending.send(None)
            except StopIteration as stop:
                done.set_result(stop.value)

        loop.call_soon(callback)
        assert await done == 3
        file.close()
        data = b""
        while len(data) < 9:
            data += peer.recv(100)
        assert data == b"onetwo" + CONTENT[:3]
        await close(protocol, peer)

    run(main)


def test_reading_is_paused_meanwhile(large_file):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        peer.send(b"early")
        await protocol.until_received(5)
        with large_file.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await turns(3)
            peer.send(b"meanwhile")
            await asyncio.sleep(0.02)
            seen = bytes(protocol.received)
            there = Collector(peer)
            await sending
        await protocol.until_received(14)
        # One that was paused before stays so.
        protocol.transport.pause_reading()
        with large_file.open("rb") as file:
            await loop.sendfile(protocol.transport, file, 0, 10)
        paused = not protocol.transport.is_reading()
        protocol.transport.close()
        await protocol.lost
        return seen, bytes(protocol.received), paused, len(await there.all())

    assert same(scenario) == (b"early", b"earlymeanwhile", True, TOO_MUCH + 10)
