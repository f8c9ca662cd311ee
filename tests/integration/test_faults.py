"""Faults: peers that reset, stall or trickle, cancellation at every suspension point, lost descriptors, forks.

After each: no descriptor, task, timer or watcher left, no byte lost or doubled, and a loop that sleeps when it has
nothing to do.
"""

import asyncio
import contextlib
import gc
import hashlib
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import types

import pytest
from differential import in_thread, switches, thread_time
from peers import (
    PATIENCE_S,
    TOO_MUCH,
    BufferedRecorder,
    Recorder,
    close,
    connect,
    receive_all,
    receive_exactly,
    reset,
    tcp_pair,
    turns,
)

of_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="of 3.11")

# --- ten thousand connections, reset at random ---------------------------------------------------

CONNECTIONS = 10_000
BATCH = 100

#: What connection_lost may be told.
ENDS = {None, ConnectionResetError, BrokenPipeError, ConnectionAbortedError, TimeoutError}


class Storm:
    """A server whose protocols behave at random, and the count of what happened to them."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.alive = set()
        self.made = self.lost = 0
        self.wrong = []

    def __call__(self):
        return Stormy(self)


class Stormy(asyncio.Protocol):
    def __init__(self, storm):
        self.storm = storm
        self.behaviour = storm.chance.choice(["echo"] * 6 + ["big", "abort", "close", "pause", "deaf", "eof", "keep"])
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        self.storm.made += 1
        self.storm.alive.add(self)
        if self.behaviour == "big":
            transport.write(bytes(1 << 20))
        elif self.behaviour == "abort":
            transport.abort()
        elif self.behaviour == "pause":
            transport.pause_reading()
            asyncio.get_running_loop().call_later(0.005, transport.resume_reading)
        elif self.behaviour == "deaf":
            transport.pause_reading()
            asyncio.get_running_loop().call_later(0.02, transport.abort)
        elif self.behaviour == "eof":
            with contextlib.suppress(OSError):  # shutdown(2) of a connection that was reset
                transport.write_eof()

    def data_received(self, data):
        if self.ended:
            self.storm.wrong.append("data after the end")
        if self.behaviour == "close":
            self.transport.write(data)
            self.transport.close()
        elif self.behaviour != "eof":
            self.transport.write(data)

    def eof_received(self):
        if self.behaviour == "keep":
            self.transport.write(b"and the end")
            self.transport.close()
            return True
        return None

    def connection_lost(self, exception):
        if self.ended:
            self.storm.wrong.append("lost twice")
        self.ended = True
        self.storm.lost += 1
        self.storm.alive.discard(self)
        if exception is not None and type(exception) not in ENDS:
            self.storm.wrong.append(repr(exception))


def storm_clients(address, seed, count):
    """Connect, do something, end somehow; in batches, so that resets come while others are made."""
    chance = random.Random(seed)
    done = 0
    while done < count:
        batch = [socket.create_connection(address, PATIENCE_S) for _ in range(min(BATCH, count - done))]
        done += len(batch)
        for sock in batch:
            end = chance.choice(["reset", "reset", "reset", "send, reset", "half, reset", "read, reset", "close", "eof"])
            with contextlib.suppress(OSError):  # the other end may be gone first
                if end != "reset":
                    sock.sendall(b"x" * chance.choice([1, 100, 10_000]))
                if end == "half, reset":
                    sock.shutdown(socket.SHUT_WR)
                elif end == "read, reset":
                    sock.settimeout(0.001)
                    with contextlib.suppress(TimeoutError):
                        sock.recv(chance.choice([1, 10_000]))
                elif end == "eof":
                    sock.shutdown(socket.SHUT_WR)
                    sock.settimeout(0.005)
                    with contextlib.suppress(TimeoutError):
                        while sock.recv(1 << 16):
                            pass
            if end in ("close", "eof"):
                sock.close()
            else:
                reset(sock)


def test_ten_thousand_connections_reset_at_random(new_loop, reports):
    loop = new_loop()
    storm = Storm(seed=1)

    async def main():
        server = await loop.create_server(storm, "127.0.0.1", 0, backlog=4 * BATCH)
        tasks = asyncio.all_tasks()
        address = server.sockets[0].getsockname()
        await asyncio.gather(*(in_thread(storm_clients, address, seed, CONNECTIONS // 2) for seed in (2, 3)))
        # One that is reset before it is accepted may never be made.
        deadline = loop.time() + 10
        while storm.alive and loop.time() < deadline:
            await asyncio.sleep(0.01)
        assert storm.alive == set()
        # The server is as it was.
        reader, writer = await asyncio.open_connection(*address)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)
        while storm.alive and loop.time() < deadline:  # up to 3.11 wait_closed() waits for nobody
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() <= tasks

    # differential.in_thread has a limit of its own, which is for less.
    loop.run_until_complete(asyncio.wait_for(main(), 55))
    assert storm.wrong == []
    assert storm.made == storm.lost >= CONNECTIONS * 0.9
    assert [timer for timer in loop._scheduled if timer is not None and not timer.cancelled()] == []


# --- a peer that never reads ---------------------------------------------------------------------


class Feeder(Recorder):
    """Writes as long as it may."""

    piece = bytes(32 * 1024)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.may_write = True
        self.has_more = True
        self.written = 0
        self.most = 0

    def feed(self):
        while self.may_write and self.has_more:
            self.transport.write(self.piece)
            self.written += len(self.piece)
            self.most = max(self.most, self.transport.get_write_buffer_size())

    def pause_writing(self):
        super().pause_writing()
        self.may_write = False

    def resume_writing(self):
        super().resume_writing()
        self.may_write = True
        self.feed()


def test_a_peer_that_never_reads_holds_the_writer_back(run):
    async def main():
        protocol, peer = await connect(Feeder)
        protocol.feed()
        written = protocol.written
        _, high = protocol.transport.get_write_buffer_limits()
        await asyncio.sleep(0.1)
        assert protocol.written == written  # nothing moves
        assert protocol.most <= high + len(Feeder.piece)
        assert protocol.transport.get_write_buffer_size() > high
        assert protocol.calls == ["made", "pause"]
        assert await thread_time(0.2) < 0.02
        await close(protocol, peer)
        assert protocol.transport.get_write_buffer_size() == 0

    run(main)


@pytest.mark.parametrize("ending", ["abort", "close, abort", "reset", "close, reset", "close, read"])
def test_a_connection_with_a_peer_that_never_reads_can_be_ended(run, ending):
    async def main():
        protocol, peer = await connect(Feeder)
        protocol.feed()
        protocol.has_more = False
        if ending.startswith("close"):
            protocol.transport.close()
            await asyncio.sleep(0.05)
            assert not protocol.lost.done()
            assert protocol.transport.is_closing() and protocol.transport.get_write_buffer_size() > 0
        if ending.endswith("abort"):
            protocol.transport.abort()
            assert await protocol.lost is None
        elif ending.endswith("reset"):
            reset(peer)
            assert type(await protocol.lost) in (ConnectionResetError, BrokenPipeError)
        else:
            peer.setblocking(False)
            assert not any(await receive_all(peer, protocol.written))
            assert await protocol.loop.sock_recv(peer, 1) == b""
            assert await protocol.lost is None
        assert protocol.calls.count("lost") == 1
        peer.close()

    run(main)


def test_many_peers_that_never_read_cost_bounded_memory(run):
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    async def main():
        count = 50
        pairs = [await connect(Feeder) for _ in range(count)]
        before = resident()
        for protocol, _ in pairs:
            protocol.feed()
        queued = sum(protocol.transport.get_write_buffer_size() for protocol, _ in pairs)
        assert queued <= count * (64 + 32) * 1024
        # What is queued, and not a multiple of it; the kernel's buffers are not ours.
        assert resident() - before < queued + 8 * 1024 * 1024
        for protocol, peer in pairs:
            await close(protocol, peer)

    run(main)


def test_drain_holds_a_stream_back(run):
    async def main():
        here, peer = tcp_pair()
        _, writer = await asyncio.open_connection(sock=here)
        sent = 0

        async def write():
            nonlocal sent
            while True:
                writer.write(bytes(100_000))
                await writer.drain()
                sent += 100_000

        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.1)
        before = sent
        await asyncio.sleep(0.1)
        assert sent == before
        writing.cancel()
        await asyncio.wait([writing])
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        peer.close()

    run(main)


# --- one byte a time -----------------------------------------------------------------------------


def frames(seed, count=60):
    chance = random.Random(seed)
    return [chance.randbytes(chance.choice([0, 1, 2, 50, 100])) for _ in range(count)]


def wire(messages):
    return b"".join(struct.pack(">H", len(message)) + message for message in messages)


def trickle(sock, data):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data)):
        sock.sendall(data[at : at + 1])
        if at % 50 == 0:
            time.sleep(0.0005)


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_protocol_receives_what_comes_byte_by_byte(run, make):
    data = wire(frames(1))

    async def main():
        protocol, peer = await connect(make)
        await in_thread(trickle, peer, data)
        await protocol.until_received(len(data))
        assert protocol.received == data
        await close(protocol, peer)

    run(main)


def test_a_buffer_of_one_byte(run):
    data = wire(frames(2))

    async def main():
        protocol, peer = await connect(lambda: BufferedRecorder(1))
        peer.sendall(data)
        await protocol.until_received(len(data))
        assert protocol.received == data
        await close(protocol, peer)

    run(main)


def test_framing_of_streams_survives_byte_by_byte(run):
    messages = frames(3)

    async def main():
        here, peer = tcp_pair()
        reader, writer = await asyncio.open_connection(sock=here)
        trickling = asyncio.ensure_future(in_thread(trickle, peer, wire(messages) + b"a line\nrest"))
        for message in messages:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            assert await reader.readexactly(size) == message
        assert await reader.readline() == b"a line\n"
        await trickling
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read() == b"rest"
        writer.close()
        await writer.wait_closed()
        peer.close()

    run(main)


@pytest.mark.parametrize("method", ["write", "writelines"])
def test_bytes_written_one_by_one_arrive_in_order(run, method):
    data = random.Random(4).randbytes(5000)

    async def main():
        protocol, peer = await connect()
        for at in range(len(data)):
            piece = data[at : at + 1]
            protocol.transport.write(piece) if method == "write" else protocol.transport.writelines([piece])
            if at % 97 == 0:
                await asyncio.sleep(0)
        protocol.transport.write_eof()
        assert await in_thread(receive_exactly, peer, len(data)) == data
        assert await in_thread(peer.recv, 1) == b""
        await close(protocol, peer)

    run(main)


def test_sock_calls_byte_by_byte(run):
    data = wire(frames(5))

    async def main():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        with here, there:
            here.setblocking(False)
            trickling = asyncio.ensure_future(in_thread(trickle, there, data))
            received = bytearray()
            buffer = bytearray(1)
            while len(received) < len(data):
                if len(received) % 2:
                    received += await loop.sock_recv(here, 1)
                else:
                    assert await loop.sock_recv_into(here, buffer) == 1
                    received += buffer
            await trickling
            assert received == data
            for at in range(1000):
                await loop.sock_sendall(here, data[at : at + 1])
            assert await in_thread(receive_exactly, there, 1000) == data[:1000]

    run(main)


def test_an_echo_of_bytes_that_come_one_by_one(run):
    data = random.Random(6).randbytes(3000)

    class Echo(Recorder):
        def data_received(self, data):
            for at in range(len(data)):
                self.transport.write(data[at : at + 1])

    async def main():
        protocol, peer = await connect(Echo)
        echoed = asyncio.ensure_future(in_thread(receive_exactly, peer, len(data)))
        await in_thread(trickle, peer, data)
        assert await echoed == data
        await close(protocol, peer)

    run(main)


# --- cancelled at every suspension point ---------------------------------------------------------


MOMENTS = ("parked", "woken", "twice")


@types.coroutine
def cancelled_at(point, awaitable, moment):
    """Await, and be cancelled at suspension number `point` (from 1); the result and the number of suspensions.

    "parked": while it waits. "woken": when what it waited for has happened, as a task that is cancelled between its
    wake-up and its step. "twice": while it waits, and again at the next suspension, in its clean-up if it has one.
    """
    coroutine = awaitable.__await__()
    count = 0
    error = None
    while True:
        try:
            waited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value, count
        error = None
        count += 1
        if (count == point and moment != "woken") or (count == point + 1 and moment == "twice"):
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            yield waited
        except BaseException as thrown:
            error = thrown
        else:
            if count == point and moment == "woken":
                error = asyncio.CancelledError()


def open_files():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return {number: name for number, name in found.items() if not name.startswith("/proc/")}


async def quiet(loop):
    """Let everything happen that would happen by itself, threads of the resolver included."""
    await turns(10)
    await asyncio.sleep(0.002)
    await turns(10)
    gc.collect()


async def at_every_point(make, undo, most=60, least=1):
    """Cancel `make()` at each of its suspension points, in each way; how many there are.

    After each the descriptors, tasks and timers are those of before.
    """
    loop = asyncio.get_running_loop()
    # Pools start at the first use; what they hold is not the call's.
    await undo(await make())
    await quiet(loop)
    points = 0
    for moment in MOMENTS:
        for point in range(1, most):
            files, tasks = open_files(), asyncio.all_tasks()

            async def call(point=point, moment=moment):
                return await cancelled_at(point, make(), moment)

            task = asyncio.ensure_future(call())
            await asyncio.wait([task], timeout=PATIENCE_S)
            assert task.done(), f"cancelled at {point} ({moment}) it does not end"
            over = False
            if not task.cancelled():
                result, count = task.result()
                over = count < point
                await undo(result)
                result = None
            points = max(points, point - over)
            del task, call
            await quiet(loop)
            assert asyncio.all_tasks() == tasks, (point, moment)
            timers = [timer for timer in loop._scheduled if timer is not None and not timer.cancelled()]
            # The limit of the test itself may be one.
            assert len(timers) <= 1, (point, moment, timers)
            deadline = time.monotonic() + 5
            while open_files() != files and time.monotonic() < deadline:
                await quiet(loop)
            assert open_files() == files, (point, moment)
            if over:
                break
        else:
            raise AssertionError(f"more than {most} points")
    assert points >= least
    return points


def refusing():
    """An address that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


@contextlib.contextmanager
def silent():
    """An address that never answers: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def resolve_to(loop, answers):
    """Let names mean addresses, after a turn or two as a thread would have it."""

    async def getaddrinfo(host, port, **options):
        waiter = loop.create_future()
        loop.call_soon(lambda: loop.call_soon(lambda: waiter.done() or waiter.set_result(None)))
        await waiter
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in answers[host]]

    loop.getaddrinfo = getaddrinfo


def accept_all(listener):
    """Every connection that the calls have made is over."""
    listener.setblocking(False)
    while True:
        try:
            peer, _ = listener.accept()
        except BlockingIOError:
            return
        with peer:
            peer.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""


ours_only = pytest.mark.aioxide_only  # asyncio leaves sockets to the garbage collector, with ResourceWarnings


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize(
    ("target", "options", "least"),
    [
        ("literal", {}, 1),
        ("literal", {"happy_eyeballs_delay": 0.01}, 1),
        ("localhost", {"family": socket.AF_INET}, 1),
        ("good", {}, 1),
        ("refused, good", {}, 1),
        ("refused, good", {"happy_eyeballs_delay": 0.01}, 1),
        ("silent, refused, good", {"happy_eyeballs_delay": 0.01}, 2),
        ("silent, silent, good", {"happy_eyeballs_delay": 0.005}, 2),
        ("good, good, good", {"happy_eyeballs_delay": 0}, 1),
        ("refused, refused", {}, 1),
        ("refused, refused", {"happy_eyeballs_delay": 0.01}, 1),
        ("good", {"local_addr": ("127.0.0.2", 0)}, 1),
        ("good", {"local_addr": ("local", 0)}, 2),
        ("silent, good", {"local_addr": ("local", 0), "happy_eyeballs_delay": 0.005}, 2),
    ],
    ids=str,
)
def test_create_connection_cancelled_at_each_point(run, target, options, least):
    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
            host, port = "name", 1
            if target in ("literal", "localhost"):
                host, port = {"literal": "127.0.0.1"}.get(target, target), listener.getsockname()[1]
            else:
                addresses = []
                for word in target.split(", "):
                    if word == "good":
                        addresses.append(listener.getsockname())
                    else:
                        addresses.append(refusing() if word == "refused" else stack.enter_context(silent()))
                resolve_to(loop, {"name": addresses, "local": [("127.0.0.3", 0)]})

            async def make():
                try:
                    return await loop.create_connection(Recorder, host, port, **options)
                except OSError:
                    assert "good" not in target and target not in ("literal", "localhost")
                    return None

            async def undo(made):
                if made is not None:
                    await close(made[1])

            await at_every_point(make, undo, least=least)
            accept_all(listener)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_a_socket_given_cancelled_at_each_point(run, method):
    """The socket was the caller's; from the call on it is the transport's, also when the call is cancelled."""

    async def main():
        loop = asyncio.get_running_loop()
        peers = []

        async def make():
            here, there = tcp_pair()
            peers.append(there)
            return await getattr(loop, method)(Recorder, sock=here)

        async def undo(made):
            await close(made[1])
            end_peers()

        def end_peers():
            while peers:
                with peers.pop() as peer, contextlib.suppress(ConnectionResetError):
                    assert peer.recv(1) == b""

        # The peers of cancelled calls count as leaks unless they end with them.
        async def cancelled():
            try:
                return await make()
            except BaseException:
                loop.call_later(0.001, end_peers)
                raise

        await at_every_point(cancelled, undo)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["localhost"], ["127.0.0.1", "127.0.0.2"], ["one", "two"]], ids=str)
@pytest.mark.parametrize("start_serving", [True, False])
def test_create_server_cancelled_at_each_point(run, hosts, start_serving):
    async def main():
        loop = asyncio.get_running_loop()
        if "one" in hosts:
            resolve_to(loop, {"one": [("127.0.0.1", 0)], "two": [("127.0.0.2", 0)]})

        async def make():
            return await loop.create_server(
                Recorder, hosts, 0, family=socket.AF_INET, start_serving=start_serving
            )

        async def undo(server):
            server.close()
            await server.wait_closed()

        least = 0 if hosts[0].startswith("127") and not start_serving else 1
        await at_every_point(make, undo, least=least)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("name", ["open_connection", "start_server"])
def test_streams_cancelled_at_each_point(run, name):
    async def main():
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
            address = listener.getsockname()
            resolve_to(asyncio.get_running_loop(), {"name": [address], "local": [("127.0.0.1", 0)]})

            async def make():
                if name == "open_connection":
                    return await asyncio.open_connection("name", 1)
                return await asyncio.start_server(lambda reader, writer: None, "local", 0)

            async def undo(made):
                if name == "open_connection":
                    made[1].close()
                    await made[1].wait_closed()
                else:
                    made.close()
                    await made.wait_closed()

            await at_every_point(make, undo, least=2)
            accept_all(listener)

    run(main)


def full(sock):
    """Fill the kernel's buffers, so that the next send must wait; how much it took."""
    count = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            count += sock.send(bytes(65536))
    return count


SOCK_CALLS = ["recv", "recv_into", "sendall", "accept", "connect", "recvfrom", "recvfrom_into", "sendto"]


@pytest.mark.parametrize("name", SOCK_CALLS)
def test_sock_calls_cancelled_at_each_point(run, name):
    """What they wait for never comes, so each has at least the point where it waits; then it works as before."""
    if name in ("recvfrom", "recvfrom_into", "sendto") and sys.version_info < (3, 11):
        pytest.skip("of 3.11")

    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            here, there = socket.socketpair()
            stack.enter_context(here)
            stack.enter_context(there)
            here.setblocking(False)
            sock = here
            filled = 0
            if name == "recv":
                call = lambda: loop.sock_recv(here, 10)  # noqa: E731
            elif name == "recv_into":
                call = lambda: loop.sock_recv_into(here, bytearray(10))  # noqa: E731
            elif name == "sendall":
                filled = full(here)
                call = lambda: loop.sock_sendall(here, b"never sent")  # noqa: E731
            elif name == "accept":
                sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                sock.setblocking(False)
                call = lambda: loop.sock_accept(sock)  # noqa: E731
            elif name == "connect":
                address = stack.enter_context(silent())
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                call = lambda: loop.sock_connect(sock, address)  # noqa: E731
            elif name == "sendto":
                one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                stack.enter_context(one)
                stack.enter_context(two)
                two_name = f"\0aioxide-{os.getpid()}"
                receiver = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                receiver.bind(two_name)
                sock = one
                one.setblocking(False)
                sender = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                sender.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sender.sendto(bytes(1000), two_name)
                sock = sender
                call = lambda: loop.sock_sendto(sender, b"never sent", two_name)  # noqa: E731
            else:
                sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
                if name == "recvfrom":
                    call = lambda: loop.sock_recvfrom(sock, 10)  # noqa: E731
                else:
                    call = lambda: loop.sock_recvfrom_into(sock, bytearray(10))  # noqa: E731

            async def later(action):
                """What the call waits for happens some turns later."""
                task = asyncio.ensure_future(awaited(call()))
                await turns(3)
                assert not task.done()
                action()
                return await task

            files = open_files()
            for number in range(1, 8):
                for moment in ("parked", "cancelled at once"):
                    task = asyncio.ensure_future(called(call))
                    if moment == "parked":
                        await turns(number)
                        assert not task.done()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    await turns(2)
                    assert loop.remove_reader(sock) is False
                    assert loop.remove_writer(sock) is False
                    assert open_files() == files
            # Cancelled at its first suspension, by hand.
            for _ in range(3):
                task = asyncio.ensure_future(awaited(cancelled_at(1, call(), "parked")))
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 5)
            # And nothing of it is left in the way of the next one.
            if name == "recv":
                assert await later(lambda: there.send(b"data")) == b"data"
            elif name == "recv_into":
                assert await later(lambda: there.send(b"data")) == 4
            elif name == "sendall":
                there.setblocking(False)
                sending = asyncio.ensure_future(awaited(call()))
                data = await receive_all(there, filled + 10)
                await sending
                assert data[filled:] == b"never sent"  # once, not once per cancelled call
            elif name == "accept":
                client = stack.enter_context(socket.socket())
                connection, _ = await later(lambda: client.connect(sock.getsockname()))
                connection.close()
            elif name == "sendto":
                received = []

                def take():
                    receiver.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            received.append(receiver.recv(2000))

                assert await later(take) == 10
                take()
                assert [data for data in received if data != bytes(1000)] == [b"never sent"]
            elif name.startswith("recvfrom"):
                sender = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                result, address = await later(lambda: sender.sendto(b"data", sock.getsockname()))
                assert result in (b"data", 4) and address[0] == "127.0.0.1"

    run(main)


async def called(call):
    return await call()


async def awaited(awaitable):
    """A coroutine of any awaitable: what `sock_*` return need not be one."""
    return await awaitable


@pytest.mark.aioxide_only  # asyncio takes the data out in its watcher, and a cancelled task never sees it
@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "accept"])
def test_a_sock_call_cancelled_when_woken_takes_nothing(run, name):
    if name == "recvfrom" and sys.version_info < (3, 11):
        pytest.skip("of 3.11")

    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            if name == "accept":
                here = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                there = stack.enter_context(socket.socket())
                act = lambda: there.connect(here.getsockname())  # noqa: E731
            elif name == "recvfrom":
                here = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                here.bind(("127.0.0.1", 0))
                there = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                act = lambda: there.sendto(b"data", here.getsockname())  # noqa: E731
            else:
                here, there = map(stack.enter_context, socket.socketpair())
                act = lambda: there.send(b"data")  # noqa: E731
            here.setblocking(False)
            calls = {
                "recv": lambda: loop.sock_recv(here, 10),
                "recv_into": lambda: loop.sock_recv_into(here, bytearray(10)),
                "recvfrom": lambda: loop.sock_recvfrom(here, 10),
                "accept": lambda: loop.sock_accept(here),
            }
            task = asyncio.ensure_future(awaited(cancelled_at(1, calls[name](), "woken")))
            await turns(3)
            act()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)
            assert loop.remove_reader(here) is False
            result = await asyncio.wait_for(awaited(calls[name]()), 5)
            if name == "accept":
                result[0].close()
            else:
                assert result in (b"data", 4) or result[0] == b"data"

    run(main)


@pytest.mark.parametrize("name", ["getaddrinfo", "getnameinfo", "run_in_executor"])
def test_calls_in_threads_cancelled_at_each_point(run, name, monkeypatch):
    started, release = threading.Event(), threading.Event()

    def slow(*args, **options):
        started.set()
        assert release.wait(PATIENCE_S)
        return []

    async def main():
        loop = asyncio.get_running_loop()
        if name != "run_in_executor":
            monkeypatch.setattr(socket, name, slow)
        calls = {
            "getaddrinfo": lambda: loop.getaddrinfo("name.invalid", 1),
            "getnameinfo": lambda: loop.getnameinfo(("127.0.0.1", 1)),
            "run_in_executor": lambda: loop.run_in_executor(None, slow),
        }
        tasks = asyncio.all_tasks()
        for count in range(1, 6):
            started.clear()
            task = asyncio.ensure_future(awaited(calls[name]()))
            await turns(count)
            if count == 1:
                while not started.is_set():
                    await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == tasks
        # The loop is free meanwhile, and the threads end once they may.
        release.set()
        assert await asyncio.wait_for(awaited(calls[name]()), 5) == []

    try:
        run(main)
    finally:
        release.set()


def test_a_cancelled_resolution_leaves_the_loop_responsive_and_lets_it_close(new_loop, monkeypatch):
    """A name server that does not answer must not hold up what does not wait for it."""
    release = threading.Event()

    def slow(*args, **options):
        release.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    loop = new_loop()

    async def main():
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.create_connection(Recorder, "name.invalid", 1), 0.02)
        before = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - before < 1
        release.set()

    loop.run_until_complete(asyncio.wait_for(main(), 20))


# --- descriptors that live twice, or anew ---------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio's selector cannot take such a descriptor out of the epoll set: it spins
def test_a_watched_descriptor_that_was_closed_while_a_dup_lives_does_not_spin(run):
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        copy = os.dup(here.fileno())
        number = here.fileno()
        seen = []
        loop.add_reader(here, seen.append, 1)
        loop.remove_reader(number)
        loop.add_reader(number, seen.append, 2)
        here.close()
        there.send(b"x")
        loop.remove_reader(number)
        assert await thread_time(0.2) < 0.02
        seen.clear()
        await turns(20)
        assert seen == []
        there.close()
        os.close(copy)

    run(main)


def test_a_transports_socket_closed_while_a_dup_lives(run, is_ours):
    async def main():
        protocol, peer = await connect()
        copy = protocol.transport._sock.dup()
        protocol.transport._sock.close()
        peer.sendall(b"x")
        used = await thread_time(0.2)
        if is_ours:
            assert used < 0.02
        # Either it was told, or it can be ended.
        if not protocol.lost.done():
            protocol.transport.abort()
        error = await asyncio.wait_for(asyncio.shield(protocol.lost), 5)
        assert error is None or type(error) is OSError
        assert protocol.received == b""
        copy.settimeout(5)
        assert copy.recv(1) == b"x"
        copy.close()
        peer.close()

    if is_ours:
        run(main)
    else:
        with contextlib.suppress(ValueError, KeyError):  # it asks the closed socket for its number
            run(main)


def test_a_duplicated_socket_outlives_its_transport(run):
    async def main():
        protocol, peer = await connect()
        copy = protocol.transport.get_extra_info("socket").dup()
        await close(protocol)
        peer.sendall(b"for the copy")
        assert await thread_time(0.1) < 0.02
        copy.settimeout(5)
        assert copy.recv(100) == b"for the copy"
        assert protocol.received == b""
        copy.sendall(b"and back")
        assert peer.recv(100) == b"and back"
        copy.close()
        peer.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio's watcher stays with the number
def test_a_number_used_again_does_not_give_its_data_to_who_waited_for_the_old(run):
    async def main():
        loop = asyncio.get_running_loop()
        for reuse in ("pair", "dup"):
            old, far = socket.socketpair()
            old.setblocking(False)
            number = old.fileno()
            waiting = asyncio.ensure_future(awaited(loop.sock_recv(old, 10)))
            await turns(3)
            old.close()
            new, other = socket.socketpair()
            if new.fileno() != number:
                new, other = other, new
            assert new.fileno() == number
            if reuse == "dup":
                os.dup2(new.fileno(), 200)
                os.close(200)
            other.send(b"for the new")
            await turns(5)
            await asyncio.sleep(0.01)
            if waiting.done():
                assert isinstance(waiting.exception(), OSError)
            new.setblocking(False)
            assert await asyncio.wait_for(awaited(loop.sock_recv(new, 100)), 5) == b"for the new"
            # Ending the old call does not disturb a new one.
            second = asyncio.ensure_future(awaited(loop.sock_recv(new, 100)))
            await turns(3)
            waiting.cancel()
            await asyncio.wait([waiting])
            await turns(3)
            assert not second.done()
            other.send(b"again")
            assert await asyncio.wait_for(second, 5) == b"again"
            for sock in (far, new, other):
                sock.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio keeps the old watcher for the number
def test_a_transport_on_a_number_that_a_sock_call_waited_for(run):
    async def main():
        loop = asyncio.get_running_loop()
        old, far = socket.socketpair()
        old.setblocking(False)
        number = old.fileno()
        waiting = asyncio.ensure_future(awaited(loop.sock_recv(old, 10)))
        await turns(3)
        old.close()
        new, other = socket.socketpair()
        if new.fileno() != number:
            new, other = other, new
        _, protocol = await loop.create_connection(Recorder, sock=new)
        other.send(b"for the transport")
        await asyncio.wait_for(protocol.until_received(17), 5)
        waiting.cancel()
        await asyncio.wait([waiting])
        other.send(b", still")
        await asyncio.wait_for(protocol.until_received(24), 5)
        assert protocol.received == b"for the transport, still"
        await close(protocol)
        far.close()
        other.close()

    run(main)


def test_a_new_transport_may_have_the_number_of_one_that_is_lost(run):
    async def main():
        numbers = set()
        for size in range(1, 50):
            protocol, peer = await connect()
            numbers.add(protocol.transport._sock_fd)
            peer.sendall(bytes(size))
            await protocol.until_received(size)
            assert protocol.received == bytes(size)
            if size % 2:
                reset(peer)
                assert type(await protocol.lost) is ConnectionResetError
            else:
                await close(protocol, peer)
        assert len(numbers) < 10

    run(main)


# --- forks in mid-traffic ------------------------------------------------------------------------

FORKS = textwrap.dedent("""
    import asyncio, hashlib, os, random, socket, subprocess, sys
    name, child = sys.argv[1:]
    if name == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    SIZE = 4_000_000
    CONNECTIONS = 4

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)
        def pause_writing(self):
            self.transport.pause_reading()
        def resume_writing(self):
            self.transport.resume_reading()

    def fork():
        if child == "subprocess":
            assert subprocess.run([sys.executable, "-S", "-c", "print(1)"], capture_output=True).stdout == b"1\\n"
            return
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if child == "close":
                    loop_class = type(loop)
                    asyncio._set_running_loop(None)
                    other = loop_class()
                    assert other.run_until_complete(asyncio.sleep(0.001, 5)) == 5
                    other.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0

    async def talk(address, seed):
        reader, writer = await asyncio.open_connection(*address)
        data = random.Random(seed).randbytes(SIZE)
        async def write():
            for at in range(0, SIZE, 50_000):
                writer.write(data[at : at + 50_000])
                await writer.drain()
            writer.write_eof()
        writing = asyncio.ensure_future(write())
        received = hashlib.blake2b()
        count = 0
        while piece := await reader.read(1 << 16):
            received.update(piece)
            count += len(piece)
        await writing
        writer.close()
        await writer.wait_closed()
        assert count == SIZE, count
        assert received.digest() == hashlib.blake2b(data).digest()

    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        talks = [asyncio.ensure_future(talk(address, seed)) for seed in range(CONNECTIONS)]
        forks = 0
        while not all(task.done() for task in talks):
            await asyncio.sleep(0.005)
            if forks < 8:
                loop.call_soon(fork)
                forks += 1
        await asyncio.gather(*talks)
        assert forks >= 2
        # And afterwards: new connections, watchers, timers, threads.
        await talk(address, 99)
        here, there = socket.socketpair()
        here.setblocking(False)
        there.send(b"x")
        assert await loop.sock_recv(here, 1) == b"x"
        here.close(); there.close()
        assert await loop.run_in_executor(None, int, "5") == 5
        server.close()
        await server.wait_closed()
        await loop.shutdown_default_executor()
        print("well")
    loop.run_until_complete(asyncio.wait_for(main(), 40))
    loop.close()
""")


@pytest.mark.parametrize("child", ["exit", "close", "subprocess"])
def test_forks_in_mid_traffic_disturb_no_byte(loop_name, child):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, loop_name, child],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


FORKED_USE = textwrap.dedent("""
    import asyncio, os, socket, sys
    import aioxide
    loop = aioxide.EventLoop()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        pid = os.fork()
        if pid == 0:
            # The child goes on with the loop that it has inherited: watchers it removes and closes are its own. The
            # interpreter has told it that no loop runs.
            asyncio._set_running_loop(loop)
            server.close()
            writer.transport._sock.close()
            here, there = socket.socketpair()
            here.setblocking(False)
            loop.call_later(0.01, there.send, b"x")
            ok = await loop.sock_recv(here, 1) == b"x"
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
        for number in range(100):
            writer.write(b"%05d" % number)
            assert await reader.readexactly(5) == b"%05d" % number
        second_reader, second = await asyncio.open_connection(*address)
        second.write(b"new")
        assert await second_reader.readexactly(3) == b"new"
        for one in (writer, second):
            one.close()
            await one.wait_closed()
        server.close()
        await server.wait_closed()
        print("well")
    loop.run_until_complete(asyncio.wait_for(main(), 20))
    loop.close()
""")


def test_a_child_that_goes_on_with_the_loop_takes_nothing_from_its_parent():
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED_USE],
        capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


# --- idle ----------------------------------------------------------------------------------------

IDLE_S = 0.5
#: CPU seconds of the loop's thread in that time, and how often it may wake up.
IDLE_CPU_S = 0.01
IDLE_WAKEUPS = 20


async def assert_idle():
    await turns(20)
    await asyncio.sleep(0.02)
    gc.collect()
    assert await thread_time(IDLE_S) < IDLE_CPU_S
    assert await switches(0.1) < IDLE_WAKEUPS


class KeepsOpen(Recorder):
    keeps_open = True


def test_a_hundred_idle_connections_cost_nothing(run):
    async def main():
        pairs = [await connect() for _ in range(100)]
        await assert_idle()
        for protocol, peer in pairs:
            peer.sendall(b"x")
            await protocol.until_received(1)
            await close(protocol, peer)

    run(main)


@pytest.mark.parametrize(
    "state",
    [
        "paused, data",
        "paused, eof",
        "paused, reset",
        "half-closed by the peer",
        "half-closed by the peer, paused",
        "half-closed by us",
        "half-closed both",
        "half-closed by the peer, reset",
        "queued",
        "queued, paused, data",
        "queued, closing",
        "queued, half-closed by the peer",
        "lost",
    ],
)
def test_connections_in_any_state_cost_nothing(run, state):
    async def main():
        pairs = [await connect(KeepsOpen) for _ in range(20)]
        for protocol, peer in pairs:
            transport = protocol.transport
            if "queued" in state:
                transport.write(bytes(TOO_MUCH))
            if "paused" in state and "by the peer" not in state:
                transport.pause_reading()
            if "data" in state:
                peer.sendall(b"x")
            if "half-closed by the peer" in state or "half-closed both" in state or ", eof" in state:
                peer.shutdown(socket.SHUT_WR)
            if "by the peer" in state or "both" in state:
                await protocol.until(lambda: "eof" in protocol.calls)
            if "by the peer, paused" in state:
                transport.pause_reading()
            if "by us" in state or "both" in state:
                transport.write_eof()
            if "closing" in state:
                transport.close()
            if "reset" in state:
                reset(peer)
            if state == "lost":
                transport.abort()
                await protocol.lost
        await assert_idle()
        for protocol, peer in pairs:
            if not protocol.lost.done():
                protocol.transport.abort()
                await protocol.lost
            peer.close()
            assert protocol.calls.count("lost") == 1

    run(main)


def test_watchers_waiting_sock_calls_servers_and_timers_cost_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(20)]
            for pair in pairs:
                for sock in pair:
                    stack.enter_context(sock).setblocking(False)
            waiting = [asyncio.ensure_future(awaited(loop.sock_recv(here, 1))) for here, _ in pairs[:10]]
            for here, _ in pairs[10:]:
                loop.add_reader(here, print)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            waiting.append(asyncio.ensure_future(awaited(loop.sock_accept(listener))))
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            timers = [loop.call_later(1000 + number, print) for number in range(100)]
            cancelled = [loop.call_later(0.1 + number / 1000, print) for number in range(100)]
            for timer in cancelled:
                timer.cancel()
            await assert_idle()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            for timer in timers:
                timer.cancel()
            for here, _ in pairs[10:]:
                assert loop.remove_reader(here)
            server.close()
            await server.wait_closed()

    run(main)


def test_a_loop_is_idle_again_after_a_storm(run):
    async def main():
        loop = asyncio.get_running_loop()
        storm = Storm(seed=7)
        server = await loop.create_server(storm, "127.0.0.1", 0, backlog=400)
        await in_thread(storm_clients, server.sockets[0].getsockname(), 8, 500)
        deadline = loop.time() + 5
        while storm.alive and loop.time() < deadline:
            await asyncio.sleep(0.01)
        assert storm.alive == set()
        await assert_idle()
        server.close()
        await server.wait_closed()

    run(main)


def test_a_large_transfer_survives_pauses_on_both_sides(run):
    """No byte is lost or doubled when reading and writing stop and go at random."""
    size = 5_000_000
    data = random.Random(11).randbytes(size)

    class Hashing(Recorder):
        def __init__(self):
            super().__init__()
            self.sum, self.count = hashlib.blake2b(), 0
            self.chance = random.Random(12)

        def data_received(self, data):
            self.sum.update(data)
            self.count += len(data)
            if self.chance.random() < 0.2:
                self.transport.pause_reading()
                self.loop.call_later(0.0005, self.transport.resume_reading)
            self.look_again()

    async def main():
        loop = asyncio.get_running_loop()
        one, other = tcp_pair()
        _, sender = await loop.create_connection(Recorder, sock=one)
        _, receiver = await loop.create_connection(Hashing, sock=other)
        chance = random.Random(13)
        at = 0
        while at < size:
            end = min(size, at + chance.choice([1, 7, 1000, 65536, 300_000]))
            sender.transport.write(data[at:end])
            at = end
            if sender.transport.get_write_buffer_size() > 200_000:
                await asyncio.sleep(0)
        sender.transport.write_eof()
        await receiver.lost
        assert receiver.count == size
        assert receiver.sum.digest() == hashlib.blake2b(data).digest()
        if not sender.lost.done():
            sender.transport.abort()
            await sender.lost

    run(main)
