"""Write gathering: fewer segments where a callback writes several times, and nothing else that could be told from asyncio.

A test that asks for `run` runs on both loops, on aioxide once cold and once warm: in gather mode, which a transport
earns by two callbacks with several writes. Segments are counted by the kernel (TCP_INFO).
"""

import asyncio
import contextlib
import os
import socket
import time

import pytest
from gathering import arrived, in_callback, segments, segments_of, steadily, warm, write_each
from peers import PATIENCE_S, Recorder, close, connect, receive_exactly, reset

#: A callback is slow above 1 ms.
SLOW_S = 0.005


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


def test_is_closing_knows_of_a_failed_send_when_the_send_is_made(run, is_ours):
    """At once on asyncio and on a cold transport; at the callback's end where the write is held."""

    async def looks(protocol, peer):
        protocol.transport.pause_reading()  # so that only the send finds out
        reset(peer)
        await asyncio.sleep(0.01)

        def write_and_look():
            before = protocol.transport.is_closing()
            protocol.transport.write(b"a")
            return before, protocol.transport.is_closing()

        found = await in_callback(write_and_look)
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        return found, protocol.transport.is_closing()

    async def held(protocol, peer):
        assert await looks(protocol, peer) == ((False, False), True)

    async def main():
        assert await looks(*await connect()) == ((False, True), True)
        if is_ours:
            await steadily(held)

    run(main)
