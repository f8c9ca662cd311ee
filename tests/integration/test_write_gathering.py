"""Write gathering: fewer segments where a callback writes several times, and nothing else that could be told from asyncio.

A test that asks for `run` runs on both loops, on aioxide once cold and once warm: in gather mode, which a transport
earns by two callbacks with several writes. Segments are counted by the kernel (TCP_INFO).
"""

import asyncio
import contextlib
import contextvars
import gc
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
import weakref

import pytest
from peers import PATIENCE_S, Recorder, close, connect, receive_exactly, reset, tcp_pair

TCPI_DATA_SEGS_OUT = 156  # offset in struct tcp_info

#: A callback is slow above 1 ms.
SLOW_S = 0.005


def segments(protocol):
    """Segments with data that the protocol's socket has sent."""
    sock = protocol.transport.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("I", info, TCPI_DATA_SEGS_OUT)[0]


async def in_callback(function, *args):
    """Its result, or what it raised, after a callback of its own."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def call():
        try:
            done.set_result(function(*args))
        except Exception as error:
            done.set_exception(error)

    loop.call_soon(call)
    return await done


async def segments_of(protocol, function, *args):
    before = segments(protocol)
    await in_callback(function, *args)
    return segments(protocol) - before


async def warm(protocol, peer):
    """Two quick callbacks with two writes each. On a machine that stalls, as many as it takes."""
    for _ in range(200):
        twos = [await segments_of(protocol, write_each, protocol.transport, b"warm", b"warm") for _ in range(3)]
        receive_exactly(peer, 3 * 8)
        if twos[-1] == 1 or not is_aioxide():
            return
    raise AssertionError("it never gathers")


def is_aioxide():
    return type(asyncio.get_running_loop()).__module__.startswith("aioxide")


def write_each(transport, *pieces):
    for piece in pieces:
        transport.write(piece)


def arrived(peer, count=1 << 16):
    """What the peer has got by now. An end of the stream is no byte either."""
    ready, _, _ = select.select([peer], [], [], 0)
    return peer.recv(count) if ready else b""


@pytest.fixture(params=["cold", "warm"])
def temperature(request, loop_name):
    if request.param == "warm" and loop_name == "asyncio":
        pytest.skip("asyncio has no such thing")
    return request.param


@pytest.fixture
def pair(temperature):
    """Connects a transport, which is brought to its temperature."""

    async def pair(make=Recorder):
        protocol, peer = await connect(make)
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    return pair


# --- how many segments ---------------------------------------------------------------------------


def test_a_cold_transport_sends_each_write_at_once(run):
    async def main():
        protocol, peer = await connect()

        def write_and_look():
            protocol.transport.write(b"a")
            first = arrived(peer)
            protocol.transport.write(b"b")
            return first, arrived(peer)

        assert await in_callback(write_and_look) == (b"a", b"b")
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_two_callbacks_with_several_writes_earn_it_and_one_with_a_single_write_loses_it(run):
    async def counts(*writes):
        protocol, peer = await connect()
        found = [await segments_of(protocol, write_each, protocol.transport, *[b"x"] * n) for n in writes]
        receive_exactly(peer, sum(writes))
        await close(protocol, peer)
        return found

    async def main():
        for attempt in range(20):  # a machine that stalls for a millisecond makes a callback slow
            found = await counts(2, 2, 2, 5, 3, 1, 2, 2, 2)
            if found == [2, 2, 1, 1, 1, 1, 2, 2, 1]:
                return
            assert attempt < 19, found

    run(main)


async def steadily(body, connections=1, make=Recorder):
    """`body` with connections that gather. Again if it fails: a machine that stalls for 1 ms makes them direct."""
    for attempt in range(5):
        pairs = [await connect(make) for _ in range(connections)]
        try:
            for protocol, peer in pairs:
                await warm(protocol, peer)
            await body(*(end for pair in pairs for end in pair))
            return
        except AssertionError:
            if attempt == 4:
                raise
        finally:
            for protocol, peer in pairs:
                await close(protocol, peer)


@pytest.mark.aioxide_only
def test_a_protocol_gathers(run):
    class Answers(Recorder):
        def data_received(self, data):
            write_each(self.transport, b"one", b"two", b"three")
            super().data_received(data)

    async def body(protocol, peer):
        before = segments(protocol)
        peer.sendall(b"?")
        await protocol.until_received(1)
        assert receive_exactly(peer, 11) == b"onetwothree"
        assert segments(protocol) - before == 1

    run(steadily, body, 1, Answers)


@pytest.mark.aioxide_only
def test_a_task_gathers(run):
    async def body(protocol, peer):
        before = segments(protocol)
        write_each(protocol.transport, b"four", b"five")  # this task's step
        assert arrived(peer) == b""
        await asyncio.sleep(0)
        assert receive_exactly(peer, 8) == b"fourfive"
        assert segments(protocol) - before == 1

    run(steadily, body)


@pytest.mark.aioxide_only
def test_it_can_be_switched_off_for_a_process(run, monkeypatch):
    monkeypatch.setenv("AIOXIDE_GATHER", "0")

    async def main():
        protocol, peer = await connect()
        for _ in range(5):
            assert await segments_of(protocol, write_each, protocol.transport, b"x", b"y", b"z") == 3
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_it_can_be_switched_off_and_on(run):
    async def body(protocol, peer):
        loop, transport = protocol.loop, protocol.transport

        def write_and_switch():
            write_each(transport, b"a", b"b")
            before = arrived(peer)
            loop.set_write_gathering(False)
            return before, arrived(peer)

        assert await in_callback(write_and_switch) == (b"", b"ab")
        for _ in range(5):
            assert await segments_of(protocol, write_each, transport, b"x", b"y", b"z") == 3
        receive_exactly(peer, 15)
        loop.set_write_gathering(enabled=True)
        await warm(protocol, peer)

    run(steadily, body)


@pytest.mark.aioxide_only
def test_debug_mode_sends_at_once(run):
    async def main():
        protocol, peer = await connect()
        await warm(protocol, peer)
        protocol.loop.slow_callback_duration = 1000
        protocol.loop.set_debug(True)
        for _ in range(3):
            assert await segments_of(protocol, write_each, protocol.transport, b"x", b"y") == 2
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_a_large_write_goes_at_once_with_what_is_held(run):
    async def body(protocol, peer):
        def write_and_look():
            protocol.transport.write(b"head")
            held = arrived(peer)
            protocol.transport.write(bytes(16384))
            return held, receive_exactly(peer, 4 + 16384)[:5]

        assert await in_callback(write_and_look) == (b"", b"head\0")

    run(steadily, body)


# --- what a program can see ----------------------------------------------------------------------


def test_the_peer_in_the_same_callback_gets_what_was_written(run):
    async def main():
        protocol, peer = await connect()
        for _ in range(3):

            def ask():
                protocol.transport.write(b"question")
                return peer.recv(100)  # blocks: uvloop < 0.23 hung here

            assert await in_callback(ask) == b"question"
        await close(protocol, peer)

    run(main)


def test_slow_callbacks_are_not_late(run):
    """`write; work; write; work` on a cold transport: each write is there at once."""

    async def main():
        protocol, peer = await connect()

        def work():
            seen = []
            for letter in (b"a", b"b", b"c"):
                protocol.transport.write(letter)
                seen.append(arrived(peer))
                time.sleep(SLOW_S)
            return seen

        for _ in range(4):
            assert await in_callback(work) == [b"a", b"b", b"c"]
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_a_transport_that_gathers_is_late_once(run):
    async def body(protocol, peer):
        def work():
            seen = []
            for letter in (b"a", b"b", b"c"):
                protocol.transport.write(letter)
                seen.append(arrived(peer))
                time.sleep(SLOW_S)
            return seen

        assert await in_callback(work) == [b"", b"ab", b"c"]
        for _ in range(5):
            assert await in_callback(work) == [b"a", b"b", b"c"]

    run(steadily, body)


def test_writes_of_two_connections_keep_their_order(run, pair):
    """Whoever sees the second byte can see the first: the peers are looked at in the other order."""

    async def main():
        (one, peer1), (two, peer2) = await pair(), await pair()

        def write_both():
            one.transport.write(b"1")
            two.transport.write(b"2")
            second = arrived(peer2)
            first = arrived(peer1)
            return first == b"1" or second == b""

        assert await in_callback(write_both)
        assert await in_callback(write_both)
        await close(one, peer1)
        await close(two, peer2)

    run(main)


@pytest.mark.aioxide_only
def test_another_transports_write_flushes(run):
    async def body(one, peer1, two, peer2):
        def write_both():
            write_each(one.transport, b"1", b"1")
            before = arrived(peer1)
            write_each(two.transport, b"2", b"2")
            return before, arrived(peer1), arrived(peer2)

        assert await in_callback(write_both) == (b"", b"11", b"")
        assert arrived(peer2) == b"22"

    run(steadily, body, 2)


# Each of these must find sent what was written before it, as it does in asyncio.
FLUSHES = {
    "get_write_buffer_size": lambda t: t.get_write_buffer_size(),
    "set_write_buffer_limits": lambda t: t.set_write_buffer_limits(100),
    "writelines": lambda t: t.writelines([b"cd"]),
    "write_eof": lambda t: t.write_eof(),
    "close": lambda t: t.close(),
    "abort": lambda t: t.abort(),
    "_force_close": lambda t: t._force_close(None),
    "_fatal_error": lambda t: t._fatal_error(ConnectionError("planted")),
    "set_protocol": lambda t: t.set_protocol(t.get_protocol()),
    "pause_reading": lambda t: t.pause_reading(),
    "resume_reading": lambda t: t.resume_reading(),
    "add_reader": lambda t: t._loop.add_reader(0, print),
    "add_writer": lambda t: t._loop.add_writer(1, print),
    "call_soon_threadsafe": lambda t: t._loop.call_soon_threadsafe(int),
    "run_in_executor": lambda t: t._loop.run_in_executor(None, int),
    "set_write_gathering": lambda t: getattr(t._loop, "set_write_gathering", bool)(True),
}

COROUTINES = {
    "getaddrinfo": lambda loop, sock: loop.getaddrinfo("127.0.0.1", 1),
    "getnameinfo": lambda loop, sock: loop.getnameinfo(("127.0.0.1", 1)),
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 1),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, "127.0.0.1:"),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "create_connection": lambda loop, sock: loop.create_connection(asyncio.Protocol, "127.0.0.1", 1),
    "create_server": lambda loop, sock: loop.create_server(asyncio.Protocol, "127.0.0.1", 0, start_serving=False),
}


@pytest.mark.parametrize("call", FLUSHES)
def test_what_was_written_before_is_sent(run, pair, call):
    async def main():
        protocol, peer = await pair()
        if call in ("add_reader", "add_writer"):
            reader, writer = os.pipe()
            watch = getattr(protocol.loop, call)

        def write_and_call():
            write_each(protocol.transport, b"a", b"b")
            if call == "add_reader":
                watch(reader, int)
            elif call == "add_writer":
                watch(writer, int)
            else:
                outcome = FLUSHES[call](protocol.transport)
                if call == "get_write_buffer_size":
                    assert outcome == 0
            return arrived(peer)

        expected = b"abcd" if call == "writelines" else b"ab"
        assert await in_callback(write_and_call) == expected
        if call in ("add_reader", "add_writer"):
            protocol.loop.remove_reader(reader)
            protocol.loop.remove_writer(writer)
            os.close(reader)
            os.close(writer)
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("call", COROUTINES)
def test_what_was_written_before_is_sent_when_a_coroutine_begins(run, pair, call):
    async def main():
        protocol, peer = await pair()
        loop, (sock, other) = protocol.loop, socket.socketpair()
        if call in ("sock_accept", "sock_connect"):
            sock.close()
            sock = socket.socket()
            if call == "sock_accept":
                sock.listen()
        sock.setblocking(False)

        def write_and_begin():
            write_each(protocol.transport, b"a", b"b")
            coroutine = COROUTINES[call](loop, sock)
            with contextlib.suppress(StopIteration, OSError, TypeError):
                waited = coroutine.send(None)
                if waited is not None:
                    waited._asyncio_future_blocking = False
            seen = arrived(peer)
            coroutine.close()
            return seen

        assert await in_callback(write_and_begin) == b"ab"
        sock.close()
        other.close()
        await loop.shutdown_default_executor()
        await close(protocol, peer)

    run(main)


def test_write_and_close_and_abort_deliver(run, pair):
    async def main():
        for ending in ("close", "abort"):
            protocol, peer = await pair()

            def write_and_end(protocol=protocol, ending=ending):
                write_each(protocol.transport, b"last", b"words")
                getattr(protocol.transport, ending)()

            await in_callback(write_and_end)
            assert await protocol.lost is None
            assert receive_exactly(peer, 9) == b"lastwords"
            assert peer.recv(1) == b""
            peer.close()

    run(main)


def test_write_and_write_eof_deliver_in_order(run, pair):
    async def main():
        protocol, peer = await pair()

        def write_and_end():
            write_each(protocol.transport, b"last", b"words")
            protocol.transport.write_eof()
            with pytest.raises(RuntimeError, match="after write_eof"):
                protocol.transport.write(b"more")

        await in_callback(write_and_end)
        assert receive_exactly(peer, 9) == b"lastwords"
        assert peer.recv(1) == b""
        await close(protocol, peer)

    run(main)


def test_a_mutable_buffer_may_be_changed_after_the_write(run, pair):
    async def main():
        protocol, peer = await pair()

        def write_and_change():
            data = bytearray(b"right")
            protocol.transport.write(data)
            protocol.transport.write(memoryview(data))
            data[:] = b"wrong"

        await in_callback(write_and_change)
        assert receive_exactly(peer, 10) == b"rightright"
        await close(protocol, peer)

    run(main)


def test_a_protocol_that_raises_has_written_all_the_same(run, pair, reports):
    class Raises(Recorder):
        def data_received(self, data):
            write_each(self.transport, b"fare", b"well")
            raise ZeroDivisionError

    async def main():
        protocol, peer = await pair(Raises)
        peer.sendall(b"?")
        assert type(await protocol.lost) is ZeroDivisionError
        assert receive_exactly(peer, 8) == b"farewell"
        peer.close()

    run(main)
    assert [kind for _, kind in reports.take()] == [ZeroDivisionError]


def test_a_handler_of_exceptions_finds_it_sent(run, pair):
    class Raises(Recorder):
        def data_received(self, data):
            write_each(self.transport, b"fare", b"well")
            raise ZeroDivisionError

    async def main():
        protocol, peer = await pair(Raises)
        seen = []
        protocol.loop.set_exception_handler(lambda loop, context: seen.append(arrived(peer)))
        peer.sendall(b"?")
        await protocol.lost
        assert seen == [b"farewell"]
        peer.close()

    run(main)


def test_a_task_that_is_cancelled_or_fails_has_written_all_the_same(run, pair):
    async def main():
        protocol, peer = await pair()

        async def writes(ending):
            write_each(protocol.transport, b"a", b"b")
            if ending == "raise":
                raise ZeroDivisionError
            if ending == "cancel":
                asyncio.current_task().cancel()
                await asyncio.sleep(PATIENCE_S)

        for ending in ("return", "raise", "cancel"):
            task = asyncio.create_task(writes(ending))
            await asyncio.wait([task])
            assert ending == "return" or task.cancelled() or type(task.exception()) is ZeroDivisionError
            assert receive_exactly(peer, 2) == b"ab"
        await close(protocol, peer)

    run(main)


def test_the_end_of_another_connection_comes_after_what_connection_lost_wrote(run, pair):
    class Tells(Recorder):
        def connection_lost(self, exception):
            write_each(self.other.transport, b"it", b"ended")
            super().connection_lost(exception)

    async def main():
        other, peer = await pair()
        protocol, its_peer = await connect(Tells)
        protocol.other = other
        protocol.transport.close()
        await protocol.lost
        assert its_peer.recv(1) == b""  # blocks until the end is there
        assert arrived(peer) == b"itended"
        its_peer.close()
        await close(other, peer)

    run(main)


def test_a_failing_send_ends_the_connection(run, pair):
    async def main():
        protocol, peer = await pair()
        protocol.transport.pause_reading()  # so that only the send finds out
        reset(peer)
        await asyncio.sleep(0.01)
        await in_callback(write_each, protocol.transport, b"a", b"b", b"c")
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls == ["made", "lost"]

    run(main)


def test_a_socket_that_was_closed_by_hand_is_an_error_of_the_connection(run, pair):
    async def main():
        protocol, peer = await pair()
        protocol.transport.pause_reading()
        closing = protocol.transport._sock

        def close_and_write():
            protocol.transport.write(b"a")
            closing.close()
            protocol.transport.write(b"b")

        await in_callback(close_and_write)
        assert isinstance(await protocol.lost, OSError)
        peer.close()

    run(main)


def test_resume_writing_runs_in_the_context_of_the_write(run, pair):
    variable = contextvars.ContextVar("variable", default=None)

    class Context(Recorder):
        def resume_writing(self):
            self.seen = variable.get()
            super().resume_writing()

    async def main():
        protocol, peer = await pair(Context)
        protocol.transport.set_write_buffer_limits(high=1 << 16, low=0)

        def write_until_paused():
            variable.set("writer's")
            while "pause" not in protocol.calls:
                protocol.transport.write(bytes(8000))

        protocol.loop.call_soon(contextvars.copy_context().run, write_until_paused)
        await protocol.until(lambda: "pause" in protocol.calls)
        while "resume" not in protocol.calls:
            arrived(peer, 1 << 20)
            await asyncio.sleep(0)
        assert protocol.seen == "writer's"
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_a_rest_at_the_end_of_the_callback_is_sent_later_in_its_context(run):
    """The kernel has no room for what was held: nothing is lost, and the writer's context is the write's."""
    variable = contextvars.ContextVar("variable", default=None)

    async def main():
        protocol, peer = await connect()
        loop, sock = protocol.loop, protocol.transport._sock
        await warm(protocol, peer)
        filler = fill(sock)
        pieces = [bytes([i]) * 1000 for i in range(40)]

        def write():
            variable.set("writer's")
            write_each(protocol.transport, *pieces)

        loop.call_soon(contextvars.copy_context().run, write)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert protocol.transport.get_write_buffer_size() == 40_000
        assert protocol.calls == ["made"]  # below the limit, as in asyncio
        peer.setblocking(False)
        data = bytearray()
        while len(data) < filler + 40_000:
            data += await loop.sock_recv(peer, 1 << 20)
        assert bytes(data[filler:]) == b"".join(pieces)
        await close(protocol, peer)

    run(main)


def test_a_limit_of_zero_pauses_inside_the_write(run, pair):
    async def main():
        protocol, peer = await pair()
        protocol.transport.set_write_buffer_limits(high=0)

        def write_until_paused():
            for _ in range(100_000):
                protocol.transport.write(bytes(1000))
                if "pause" in protocol.calls:
                    return protocol.transport.get_write_buffer_size() > 0
                assert protocol.transport.get_write_buffer_size() == 0
            raise AssertionError("never paused")

        assert await in_callback(write_until_paused)
        await close(protocol, peer)

    run(main)


def fill(sock):
    """Until the kernel takes not one byte more."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += sock.send(bytes(1 << 16))
    return count


async def unix_pair(loop):
    here, there = socket.socketpair()
    there.settimeout(PATIENCE_S)
    _, protocol = await loop.create_connection(Recorder, sock=here)
    for _ in range(5):
        await in_callback(write_each, protocol.transport, b"warm", b"warm")
    receive_exactly(there, 40)
    return protocol, there


def flow_trace(loop, seed):
    """Writes of random sizes to a peer that does not read, then reads all: what each write does to the flow control."""
    randomly = random.Random(seed)

    async def main():
        protocol, peer = await unix_pair(loop)
        trace, transport = [], protocol.transport

        def write_some(sizes):
            for size in sizes:
                transport.write(bytes(size))
                trace.append(len(protocol.calls))

        for _ in range(3):
            transport.set_write_buffer_limits(high=randomly.choice([0, 1000, 20_000, 65_536]))
            total = fill(transport._sock)
            for _ in range(randomly.randrange(1, 4)):
                sizes = [randomly.choice([10, 1000, 5000, 20_000]) for _ in range(randomly.randrange(1, 12))]
                await in_callback(write_some, sizes)
                total += sum(sizes)
                trace.append(transport.get_write_buffer_size())
            while total:
                total -= len(arrived(peer, 1 << 20))
                await asyncio.sleep(1e-4)
            trace.append(transport.get_write_buffer_size())
            for _ in range(3):
                await in_callback(write_each, transport, b"warm", b"warm")
            receive_exactly(peer, 24)
        await close(protocol, peer)
        return trace, protocol.calls

    return loop.run_until_complete(main())


@pytest.mark.parametrize("seed", range(20))
def test_the_edges_of_flow_control_are_asyncios(new_loop, is_ours, seed):
    trace = flow_trace(new_loop(), seed)
    stock = asyncio.SelectorEventLoop()
    assert trace == flow_trace(stock, seed)
    stock.close()
    if is_ours:
        without = new_loop()
        without.set_write_gathering(False)
        assert trace == flow_trace(without, seed)


@pytest.mark.parametrize("seed", range(20))
def test_the_edges_of_flow_control_come_inside_of_write(new_loop, seed):
    """With a peer that reads now and then. What fits into the kernel depends on the sizes of sends, so no trace is compared."""
    randomly = random.Random(seed)
    loop = new_loop()

    async def main():
        protocol, peer = await unix_pair(loop)
        transport = protocol.transport
        high = randomly.choice([0, 1000, 20_000, 65_536])
        transport.set_write_buffer_limits(high=high)
        total = 0

        def write_some():
            nonlocal total
            for _ in range(randomly.randrange(2, 12)):
                was_paused, size = protocol.calls[-1] == "pause", randomly.choice([10, 1000, 5000, 20_000, 60_000])
                transport.write(bytes(size))
                total += size
                if protocol.calls[-1] == "pause" and not was_paused:
                    assert transport.get_write_buffer_size() > high
            is_paused = protocol.calls[-1] == "pause"
            assert is_paused or transport.get_write_buffer_size() <= high
            return len(protocol.calls)

        for _ in range(30):
            edges = await in_callback(write_some)
            assert protocol.calls[edges:] in ([], ["resume"])  # paused by no flush
            for _ in range(randomly.randrange(4)):
                total -= len(arrived(peer, randomly.choice([3000, 200_000])))
            await asyncio.sleep(1e-4)
        while total:
            total -= len(arrived(peer, 1 << 20))
            await asyncio.sleep(1e-4)
        assert transport.get_write_buffer_size() == 0
        await close(protocol, peer)

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE_S))


@pytest.mark.aioxide_only
def test_a_transport_that_is_held_lives_until_it_is_sent(run):
    async def main():
        protocol, peer = await connect()
        await warm(protocol, peer)
        protocol.transport.pause_reading()  # so that nobody watches
        dying = weakref.ref(protocol.transport)

        def write_and_drop():
            protocol.transport.write(b"a")
            protocol.transport.write(b"b")
            protocol.transport = None
            gc.collect()
            return dying() is not None

        with pytest.warns(ResourceWarning, match="unclosed transport"):
            assert await in_callback(write_and_drop)
            await asyncio.sleep(0)
            gc.collect()
        assert dying() is None
        assert receive_exactly(peer, 2) == b"ab"
        peer.close()

    run(main)


def test_what_is_written_between_two_callbacks_is_sent_before_the_loop_sleeps(run, pair):
    """By a signal handler that runs while the loop waits."""

    async def main():
        protocol, peer = await pair()
        answered = asyncio.get_running_loop().create_future()
        previous = signal.signal(
            signal.SIGALRM, lambda *_: write_each(protocol.transport, b"from ", b"the ", b"handler")
        )
        protocol.loop.add_reader(peer, lambda: answered.done() or answered.set_result(arrived(peer)))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            received = await asyncio.wait_for(answered, PATIENCE_S)
            while len(received) < len(b"from the handler"):
                await asyncio.sleep(0)
                received += arrived(peer)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert received == b"from the handler"
        protocol.loop.remove_reader(peer)
        await close(protocol, peer)

    run(main)


def test_a_write_while_the_loop_does_not_run_goes_at_once(new_loop, temperature):
    loop = new_loop()

    async def main():
        protocol, peer = await connect()
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    protocol, peer = loop.run_until_complete(main())
    for _ in range(3):
        write_each(protocol.transport, b"a", b"b")
        assert arrived(peer) == b"ab"
    loop.run_until_complete(close(protocol, peer))


def test_a_write_from_another_thread_goes_at_once(run, pair):
    async def main():
        protocol, peer = await pair()
        loop = protocol.loop

        def write():
            write_each(protocol.transport, b"a", b"b")
            return arrived(peer)

        for _ in range(3):
            assert await loop.run_in_executor(None, write) == b"ab"

        def write_here_then_there():
            from threading import Thread

            seen = []
            protocol.transport.write(b"here")
            thread = Thread(target=lambda: seen.append(write()))
            thread.start()
            thread.join()
            return seen[0]

        seen = await in_callback(write_here_then_there)
        assert seen == b"hereab"
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_ends_the_callback_first(new_loop, temperature, exit):
    loop = new_loop()

    async def main():
        protocol, peer = await connect()
        if temperature == "warm":
            await warm(protocol, peer)
        return protocol, peer

    protocol, peer = loop.run_until_complete(main())

    def write_and_exit():
        write_each(protocol.transport, b"last", b"words")
        raise exit

    loop.call_soon(write_and_exit)
    with pytest.raises(exit):
        loop.run_forever()
    assert arrived(peer) == b"lastwords"

    async def in_a_task():
        write_each(protocol.transport, b"last", b"words")
        raise exit

    task = loop.create_task(in_a_task())
    with pytest.raises(exit):
        loop.run_forever()
    assert type(task.exception()) is exit
    assert arrived(peer) == b"lastwords"

    def write_and_stop():
        write_each(protocol.transport, b"last", b"words")
        loop.stop()

    loop.call_soon(write_and_stop)
    loop.run_forever()
    assert arrived(peer) == b"lastwords"
    loop.run_until_complete(close(protocol, peer))


# --- processes that end or fork ------------------------------------------------------------------

PROGRAM = textwrap.dedent("""
    import asyncio, os, socket, sys, threading
    which, temperature, ending = sys.argv[1:]
    if which == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    sock = socket.socket(fileno=0)
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=sock))

    def write():
        transport.write(b"one ")
        transport.write(b"two ")

    if temperature == "warm":
        for _ in range(5):
            loop.call_soon(write)
            loop.call_soon(loop.stop)
            loop.run_forever()

    def end():
        write()
        if ending == "_exit":
            os._exit(0)
        if ending == "exit":
            sys.exit(0)
        if ending == "raise":
            raise KeyboardInterrupt
        if ending == "fork":
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            os.waitpid(pid, 0)
        if ending == "fork_in_thread":
            def fork():
                if (pid := os.fork()) == 0:
                    transport.get_write_buffer_size()  # flushes in the parent
                    os._exit(0)
                os.waitpid(pid, 0)
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        loop.stop()

    transport.write(b"end:") if temperature == "cold" else loop.call_soon(transport.write, b"end:")
    if temperature == "warm":
        for _ in range(5):
            loop.call_soon(write)
    loop.call_soon(end)
    try:
        loop.run_forever()
    except KeyboardInterrupt:
        pass
    transport.abort()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
""")


@pytest.mark.parametrize("ending", ["_exit", "exit", "raise", "fork", "fork_in_thread", "stop"])
def test_a_process_that_ends_or_forks_has_sent_each_byte_once(loop_name, temperature, ending):
    if ending == "_exit" and temperature == "warm":
        pytest.skip("what is held is lost by os._exit, SIGKILL and exec: docs/differences.md")
    here, there = tcp_pair()
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, loop_name, temperature, ending]
    with here, there:
        done = subprocess.run(program, stdin=here, capture_output=True, text=True, timeout=30)
        here.close()
        received = b""
        while piece := there.recv(1 << 16):
            received += piece
    assert (done.returncode, done.stderr) == (0, "")
    writes = 1 if temperature == "cold" else 11
    assert received.count(b"one two ") == writes, received
    assert len(received) == 4 + 8 * writes
