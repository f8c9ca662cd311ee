"""Sending files, on both loops: what arrives, where the file is left, and what comes of every error.

Where asyncio decides, the scenario runs on both loops of this Python and is compared.
"""

import asyncio
import builtins
import contextlib
import io
import os
import select
import socket
import ssl
import sys
import threading
from asyncio import constants, transports

import pytest
from differential import outcome, same
from gathering import is_aioxide, warm
from peers import TOO_MUCH, Recorder, close, connect, reset, tcp_pair, turns
from test_cancellation import at_every_point

SIZE = 300_000
CONTENT = bytes(range(256)) * (SIZE // 256) + b"end"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """More than a connection's buffers hold."""
    path = tmp_path_factory.mktemp("sendfile") / "large"
    with path.open("wb") as file:
        file.truncate(TOO_MUCH)
    return path


class Collector(threading.Thread):
    """Receives all that comes from a socket, up to its end, in a thread."""

    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock = sock
        self.data = bytearray()
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while piece := self.sock.recv(1 << 16):
                self.data += piece

    async def all(self):
        """To be asked for once the other end is closed."""
        while self.is_alive():
            await asyncio.sleep(0.001)
        self.join()
        self.sock.close()
        return bytes(self.data)


async def begun(sock):
    """Something has arrived."""
    while not select.select([sock], [], [], 0)[0]:
        await asyncio.sleep(0.001)


class Unseekable(io.RawIOBase):
    """A file that can only be read."""

    seek = property(lambda self: (_ for _ in ()).throw(AttributeError("seek")))

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


class Failing(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        raise ZeroDivisionError("while reading")


class Numberless(io.BytesIO):
    """The descriptor that it names is none."""

    def fileno(self):
        return 1 << 20


def opened(kind, path):
    """A file object of each kind; each is to be closed."""
    if kind == "file":
        return path.open("rb")
    if kind == "unbuffered":
        return path.open("rb", buffering=0)
    if kind == "text":
        return path.open("r")
    if kind == "writable":
        return path.open("r+b")
    if kind == "empty":
        return open(os.devnull, "rb")
    if kind == "zeros":
        return open("/dev/zero", "rb", buffering=0)
    if kind == "proc":
        return open("/proc/cpuinfo", "rb")
    if kind == "closed":
        file = path.open("rb")
        file.close()
        return file
    if kind == "pipe":
        reader, writer = os.pipe()
        os.write(writer, b"from the pipe")
        os.close(writer)
        return open(reader, "rb", buffering=0)
    return {
        "bytes": lambda: io.BytesIO(CONTENT),
        "buffered": lambda: io.BufferedReader(io.BytesIO(CONTENT)),
        "unseekable": lambda: Unseekable(CONTENT),
        "failing": Failing,
        "numberless": lambda: Numberless(CONTENT),
    }[kind]()


def position(file):
    """Where the file is left, of the object and of the descriptor."""
    found = []
    for ask in (lambda: file.tell(), lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR)):
        try:
            found.append(ask())
        except Exception as error:
            found.append(type(error).__name__)
    return found


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
def test_every_kind_of_file(path, kind, fallback, target):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        for part in PARTS + BAD_PARTS:
            if not known(part, kind):
                continue
            file = opened(kind, path)
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


async def call(method, *args, **kwargs):
    return await method(*args, **kwargs)


def test_other_sockets(path):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        with contextlib.ExitStack() as stack, path.open("rb") as file:
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


def test_a_subclass_of_socket(path):
    class Own(socket.socket):
        pass

    async def scenario():
        loop = asyncio.get_running_loop()
        one, there = tcp_pair()
        here = Own(fileno=one.detach())
        here.setblocking(False)
        there = Collector(there)
        with path.open("rb") as file:
            sent = await loop.sock_sendfile(here, file)
        here.close()
        return sent, await there.all() == CONTENT

    assert same(scenario) == (len(CONTENT), True)


def test_what_no_transport_can_do(path):
    class Foreign(asyncio.Transport):
        def is_closing(self):
            return False

        def __repr__(self):
            return "<Foreign>"

    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        protocol, peer = await connect()
        with path.open("rb") as file:
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
        if self._closing:
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
def test_the_fallback_through_a_transport_of_somebody_elses(path, part, is_paused):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = Recorder()
        transport = Piped(loop, protocol)
        transport.set_write_buffer_limits(high=40_000)
        if is_paused:
            for _ in range(5):
                transport.write(bytes(10_000))
        with path.open("rb") as file:
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
def test_a_transport_of_somebody_elses_that_is_lost(path, error):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = Recorder()
        transport = Piped(loop, protocol)
        transport.set_write_buffer_limits(high=20_000)
        transport.pause = 0.01
        with path.open("rb") as file:
            sending = asyncio.ensure_future(outcome(call(loop.sendfile, transport, file)))
            while len(transport.sent) < 50_000:
                await asyncio.sleep(0)
            if error == "closing":
                transport._closing = True
                transport._protocol.resume_writing()
            else:
                while not transport._protocol_paused:
                    await asyncio.sleep(0)
                transport.lose(error)
            result = await sending
        return result, protocol.calls, transport.get_protocol() is protocol

    result, *_ = same(scenario)
    assert result[0] == "raises"


def test_many_are_sent_in_order(path):
    """Written data, files, and what comes back, on one connection."""

    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        there = Collector(peer)
        with path.open("rb") as file:
            for n in range(20):
                protocol.transport.write(b"<%d>" % n)
                await loop.sendfile(protocol.transport, file, n * 100, 5000 + n)
                peer.send(b"back")
                await protocol.until_received(4 * (n + 1))
        protocol.transport.close()
        await protocol.lost
        return await there.all()

    assert same(scenario) == b"".join(b"<%d>" % n + CONTENT[n * 100 :][: 5000 + n] for n in range(20))


def test_what_is_queued_goes_first(large):
    """Much more is queued than the connection takes; the file comes behind it."""

    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        protocol.transport.write(b"x" * (1 << 20) * 4)
        with large.open("rb") as file:
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
def test_what_is_held_goes_first(run, path):
    """A transport that gathers holds what the callback has written."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        await warm(protocol, peer)
        done = loop.create_future()
        file = path.open("rb")

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


def test_reading_is_paused_meanwhile(large):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        peer.send(b"early")
        await protocol.until_received(5)
        with large.open("rb") as file:
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
        with large.open("rb") as file:
            await loop.sendfile(protocol.transport, file, 0, 10)
        paused = not protocol.transport.is_reading()
        protocol.transport.close()
        await protocol.lost
        return seen, bytes(protocol.received), paused, len(await there.all())

    assert same(scenario) == (b"early", b"earlymeanwhile", True, TOO_MUCH + 10)


@pytest.mark.parametrize("target", ["socket", "transport"])
@pytest.mark.parametrize("way", ["reset", "close"])
def test_the_peer_ends_in_the_middle(large, target, way):
    async def scenario():
        loop = asyncio.get_running_loop()
        protocol = None
        if target == "socket":
            here, there = tcp_pair()
            here.setblocking(False)
        else:
            protocol, there = await connect()
        with large.open("rb") as file:
            if protocol is None:
                sending = asyncio.ensure_future(outcome(call(loop.sock_sendfile, here, file)))
            else:
                sending = asyncio.ensure_future(outcome(call(loop.sendfile, protocol.transport, file)))
            await begun(there)
            await asyncio.sleep(0.05)
            reset(there) if way == "reset" else there.close()
            result = await sending
            where = file.tell()
            assert 0 < where < TOO_MUCH
        if protocol is None:
            here.close()
        else:
            protocol.transport.abort()
            await protocol.lost
        return result[0], result[1][0]

    kind, error = same(scenario)
    assert kind == "raises"
    assert issubclass(getattr(builtins, error), ConnectionError)


@pytest.mark.aioxide_only  # asyncio waits for ever for a socket that is closed
@pytest.mark.parametrize("way", ["abort", "close"])
@pytest.mark.parametrize("queued", [0, 8 << 20])
def test_this_side_ends_in_the_middle(run, large, way, queued, is_ours):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        if queued:
            protocol.transport.write(bytes(queued))
        with large.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await begun(peer)
            await asyncio.sleep(0.05)
            getattr(protocol.transport, way)()
            there = Collector(peer)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 10)
        await protocol.lost
        await there.all()

    run(main)


@pytest.mark.parametrize("target", ["socket", "transport"])
def test_a_file_that_shrinks_and_one_that_grows(tmp_path, target):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []
        for change in (3 << 20, 32 << 20):
            path = tmp_path / "changing"
            with path.open("wb") as file:
                file.truncate(TOO_MUCH)
            protocol, peer = await connect()
            with path.open("rb") as file:
                if target == "socket":
                    here, there = tcp_pair()
                    here.setblocking(False)
                    sending = asyncio.ensure_future(loop.sock_sendfile(here, file))
                else:
                    here, there = None, peer
                    sending = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
                await begun(there)
                os.truncate(path, change)
                there = Collector(there)
                sent = await sending
                seen.append((sent >= min(change, TOO_MUCH) or sent > 3 << 20, file.tell() == sent))
            if here is not None:
                here.close()
            protocol.transport.close()
            await protocol.lost
            data = await there.all()
            assert len(data) == sent
            peer.close()
        return seen

    assert same(scenario) == [(True, True), (True, True)]


def test_one_at_a_time(run, large, is_ours):
    """The second is refused, the first goes on."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        with large.open("rb") as file, large.open("rb") as other:
            first = asyncio.ensure_future(loop.sendfile(protocol.transport, file))
            await turns(3)
            with pytest.raises(RuntimeError if is_ours else KeyError) as refused:
                await loop.sendfile(protocol.transport, other)
            if is_ours:
                assert str(refused.value) == "Empty waiter is already set"
            there = Collector(peer)
            assert await first == TOO_MUCH
            assert other.tell() == 0
        protocol.transport.close()
        await protocol.lost
        assert len(await there.all()) == TOO_MUCH

    run(main)


def test_add_writer_is_refused_before_and_after(run, path):
    """The descriptor is the transport's; only while the file is sent it counts as free."""

    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        there = Collector(peer)
        number = protocol.transport.get_extra_info("socket").fileno()
        with path.open("rb") as file:
            await loop.sendfile(protocol.transport, file)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_writer(number, print)
        protocol.transport.close()
        await protocol.lost
        assert await there.all() == CONTENT

    run(main)


# Cancellation.


@pytest.mark.parametrize("fallback", [False, True])
def test_sock_sendfile_cancelled_at_each_point(run, large, fallback):
    """It waits for a reader that never reads; then the socket works as before."""

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            file = io.BytesIO(bytes(1 << 22)) if fallback else large.open("rb")
            drained = 0

            async def make():
                nonlocal drained
                file.seek(0)
                loop.call_later(0.02, drain)
                return await loop.sock_sendfile(here, file)

            def drain():
                nonlocal drained
                there.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while piece := there.recv(1 << 20):
                        drained += len(piece)
                if not finished:
                    loop.call_later(0.001, drain)

            finished = []

            async def undo(sent):
                assert sent == (1 << 22 if fallback else TOO_MUCH)

            task = asyncio.ensure_future(make())
            await asyncio.sleep(0.005)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await turns(3)
            assert here.fileno() not in loop._selector.get_map()
            # The position is asyncio's: left alone by the kernel's way, set by the fallback.
            assert file.tell() % (1 << 18) == 0
            finished.append(True)
            await asyncio.sleep(0.03)
            with contextlib.suppress(BlockingIOError):
                while there.recv(1 << 20):
                    pass
            await loop.sock_sendall(here, b"again")
            assert there.recv(100) == b"again"
            await loop.shutdown_default_executor()
            file.close()

    run(main)


@pytest.mark.aioxide_only  # one that is cancelled while the queue drains leaves asyncio's transport unusable
@pytest.mark.parametrize("kind", ["file", "bytes"])
@pytest.mark.parametrize("queued", [0, 8 << 20])
def test_sendfile_cancelled_at_each_point(run, large, kind, queued):
    """After each the transport reads and writes as before."""

    async def main():
        loop = asyncio.get_running_loop()
        current = []

        async def make():
            protocol, peer = await connect()
            there = Collector(peer)
            current[:] = [protocol, there]
            protocol.transport.write(bytes(queued))
            file = large.open("rb") if kind == "file" else io.BytesIO(bytes(1 << 18))
            try:
                return await loop.sendfile(protocol.transport, file)
            finally:
                file.close()
                await end()

        async def end():
            protocol, there = current
            transport = protocol.transport
            assert transport.is_reading()
            assert transport.get_protocol() is protocol
            transport.write(b"after")
            there.sock.send(b"back")
            loop.call_later(0.05, transport.close)

        async def undo(sent):
            protocol, there = current
            await protocol.lost
            data = await there.all()
            assert len(data) == queued + sent + 5
            assert data.endswith(b"after")
            assert protocol.received == b"back"

        async def whole():
            try:
                return await make()
            except asyncio.CancelledError:
                protocol, there = current
                ending = loop.create_task(undo_cancelled(protocol, there))
                await asyncio.shield(ending)
                raise

        async def undo_cancelled(protocol, there):
            await protocol.lost
            data = await there.all()
            assert data.endswith(b"after")
            assert protocol.received == b"back"

        for point in range(4, 40, 3):
            task = asyncio.ensure_future(whole())
            # When the transport is there.
            current.clear()
            while not current:
                await asyncio.sleep(0)
            await turns(point - 4)
            task.cancel()
            try:
                await undo(await task)
            except asyncio.CancelledError:
                continue
        await undo(await make())

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves sockets of a cancelled create_connection to the garbage collector
@pytest.mark.parametrize("kind", ["file", "bytes"])
@pytest.mark.parametrize("target", ["socket", "transport"])
def test_points_of_cancellation_are_enumerated(run, path, kind, target):
    """Each suspension of `sock_sendfile` and `sendfile` to the end; nothing is left behind."""

    async def main():
        loop = asyncio.get_running_loop()

        async def make():
            here, there = tcp_pair()
            here.setblocking(False)
            transport = None
            with opened(kind, path) as file:
                try:
                    if target == "socket":
                        return await loop.sock_sendfile(here, file, 0, 10_000)
                    transport, protocol = await loop.create_connection(Recorder, sock=here)
                    sent = await loop.sendfile(transport, file, 0, 10_000)
                    assert transport.is_reading() and transport.get_protocol() is protocol
                    return sent
                finally:
                    if transport is not None:
                        transport.abort()
                    elif target == "socket":
                        here.close()
                    there.close()

        async def undo(sent):
            assert sent == 10_000

        await at_every_point(make, undo, least=0 if kind == "file" and target == "socket" else 1)

    run(main)


def test_many_at_once(run, path):
    """A hundred connections, each with a file of its own, to one peer that reads slowly."""

    async def main():
        loop = asyncio.get_running_loop()
        pairs = [await connect() for _ in range(100)]
        files = [path.open("rb") for _ in pairs]
        collectors = [Collector(peer) for _, peer in pairs]
        sent = await asyncio.gather(
            *(loop.sendfile(protocol.transport, file) for (protocol, _), file in zip(pairs, files))
        )
        assert sent == [len(CONTENT)] * 100
        assert [file.tell() for file in files] == sent
        for file in files:
            file.close()
        for protocol, _ in pairs:
            protocol.transport.close()
            await protocol.lost
        for collector in collectors:
            assert await collector.all() == CONTENT

    run(main)


def test_the_loop_has_its_turn_after_each_piece(run, large):
    """A reader that is always faster does not keep other callbacks waiting."""

    async def main():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        here.setblocking(False)
        collector = Collector(there)
        ticks, is_over = 0, False

        def tick():
            nonlocal ticks
            ticks += 1
            if not is_over:
                loop.call_soon(tick)

        loop.call_soon(tick)
        with large.open("rb") as file:
            assert await loop.sock_sendfile(here, file) == TOO_MUCH
        assert ticks > 2
        is_over = True
        here.close()
        assert len(await collector.all()) == TOO_MUCH

    run(main)
