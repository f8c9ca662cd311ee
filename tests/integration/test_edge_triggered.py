"""Reading TCP with edges: the kernel tells of a byte once, so none that is left unread may be forgotten.

All of it is asyncio's behaviour, whose kernel tells again and again.
"""

import asyncio
import os
import random
import select
import socket
import struct
import time

import pytest
from peers import PATIENCE_S, BufferedRecorder, Recorder, close, connect, raises, receive_exactly, reset, tcp_pair


def shut(sock):
    sock.shutdown(socket.SHUT_WR)


class Pieces(Recorder):
    """Notes each message."""

    def data_received(self, data):
        super().data_received(data)
        self.note(bytes(data))


async def quiet():
    """A moment in which whatever is ready is reported."""
    await asyncio.sleep(0.005)


# --- the end of the stream -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [Recorder, lambda: BufferedRecorder(3), lambda: BufferedRecorder(4)])
def test_data_and_the_end_together(run, make):
    async def main():
        here, there = tcp_pair()
        there.sendall(b"last")
        shut(there)
        _, protocol = await asyncio.get_running_loop().create_connection(make, sock=here)
        assert await protocol.lost is None
        assert protocol.received == b"last"
        assert protocol.calls == ["made", "eof", "lost"]
        there.close()

    run(main)


@pytest.mark.parametrize("ending", [shut, socket.socket.close, reset])
def test_the_end_after_the_data_was_read(run, ending):
    async def main():
        protocol, peer = await connect()
        peer.sendall(b"last")
        await protocol.until_received(4)
        await quiet()
        ending(peer)
        exception = await protocol.lost
        assert type(exception) is (ConnectionResetError if ending is reset else type(None))
        peer.close()

    run(main)


@pytest.mark.parametrize("ending", [shut, socket.socket.close, reset])
@pytest.mark.parametrize("when", ["paused", "in the callback"])
def test_the_end_while_reading_is_paused(run, ending, when):
    class Pauses(Recorder):
        def data_received(self, data):
            self.transport.pause_reading()
            if when == "in the callback":
                ending(self.peer)
            super().data_received(data)

    async def main():
        protocol, peer = await connect(Pauses)
        protocol.peer = peer
        peer.sendall(b"last")
        await protocol.until_received(4)
        if when == "paused":
            ending(peer)
        before = time.thread_time()
        await asyncio.sleep(0.02)
        assert time.thread_time() - before < 0.015, "it spins"
        assert not protocol.lost.done() and protocol.calls == ["made"]
        protocol.transport.resume_reading()
        exception = await protocol.lost
        assert type(exception) is (ConnectionResetError if ending is reset else type(None))
        assert protocol.received == b"last"
        peer.close()

    run(main)


@pytest.mark.parametrize("ending", [shut, socket.socket.close])
def test_the_data_before_the_end_is_read_in_small_steps(run, ending):
    """Of the end the kernel tells once, with the first byte."""

    class Steps(BufferedRecorder):
        def buffer_updated(self, count):
            self.transport.pause_reading()
            super().buffer_updated(count)
            self.loop.call_soon(self.transport.resume_reading)

    async def main():
        protocol, peer = await connect(lambda: Steps(7))
        protocol.transport.pause_reading()
        peer.sendall(bytes(100))
        ending(peer)
        protocol.transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.received == bytes(100)
        peer.close()

    run(main)


def test_a_half_closed_connection_that_is_kept_open_does_not_spin(run):
    class Keeps(Recorder):
        keeps_open = True

    async def main():
        protocol, peer = await connect(Keeps)
        peer.sendall(b"x")
        shut(peer)
        await protocol.until(lambda: "eof" in protocol.calls)
        before = time.thread_time()
        await asyncio.sleep(0.02)
        assert time.thread_time() - before < 0.015, "it spins"
        protocol.transport.write(b"answer")
        assert receive_exactly(peer, 6) == b"answer"
        await close(protocol, peer)

    run(main)


# --- receives that fill their room, or stop short ------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1024])
def test_a_buffer_smaller_than_the_message(run, size):
    async def main():
        protocol, peer = await connect(lambda: BufferedRecorder(size))
        for round in range(3):
            message = random.Random(round).randbytes(2000)
            peer.sendall(message)
            await protocol.until_received(2000)
            assert protocol.received == message
            protocol.received.clear()
            await quiet()
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("size", [1, 1024, 8192, 16384, 65536, 131072])
def test_messages_of_the_size_of_the_buffer(run, size):
    async def main():
        for make in (Recorder, lambda: BufferedRecorder(size)):
            protocol, peer = await connect(make)
            peer.setblocking(False)
            for _ in range(4):
                await protocol.loop.sock_sendall(peer, bytes(size))
                await protocol.until_received(size)
                protocol.received.clear()
                await quiet()
            peer.send(b"and on")
            await protocol.until_received(6)
            assert protocol.received == b"and on"
            await close(protocol, peer)

    run(main)


def test_a_long_stream_leaves_room_for_others(run):
    async def main():
        one, its_peer = await connect(lambda: BufferedRecorder(16))
        other, its_other_peer = await connect()
        its_peer.sendall(bytes(60_000))
        await one.until_received(160)
        its_other_peer.sendall(b"x")
        await other.until_received(1)
        assert len(one.received) < 60_000
        await one.until_received(60_000)
        await close(one, its_peer)
        await close(other, its_other_peer)

    run(main)


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("inline", [False, True])
def test_urgent_data_in_the_middle(run, inline, size):
    """A receive stops before the urgent byte although there is more behind it."""

    async def main():
        protocol, peer = await connect(lambda: BufferedRecorder(size))
        sock = protocol.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
        expected = b""
        for _ in range(3):
            protocol.transport.pause_reading()
            peer.sendall(b"before")
            peer.send(b"!", socket.MSG_OOB)
            peer.sendall(b"behind")
            expected += b"before!behind" if inline else b"beforebehind"
            protocol.transport.resume_reading()
            await protocol.until_received(len(expected))
            await quiet()
            assert protocol.received == expected
        peer.send(b"!", socket.MSG_OOB)
        await quiet()
        peer.sendall(b"end")
        expected += b"!end" if inline else b"end"
        await protocol.until_received(len(expected))
        assert protocol.received == expected
        shut(peer)
        assert await protocol.lost is None
        peer.close()

    run(main)


def test_a_low_water_mark_of_the_socket(run):
    async def main():
        protocol, peer = await connect(Pieces)
        sock = protocol.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
        for _ in range(3):
            peer.sendall(b"12345")
            await quiet()
            assert protocol.received == b""
            peer.sendall(b"67890")
            await protocol.until_received(10)
            protocol.received.clear()
        peer.sendall(b"left")
        await quiet()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        await protocol.until_received(4)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 10)
        peer.sendall(b"last")
        shut(peer)
        assert await protocol.lost is None
        assert protocol.received == b"leftlast"
        peer.close()

    run(main)


# --- who reads changes ---------------------------------------------------------------------------


def test_another_protocol_takes_over_in_the_middle(run):
    class First(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.set_protocol(self.next)
            self.next.transport = self.transport

    async def main():
        for make in (lambda: Recorder(), lambda: BufferedRecorder(3)):
            protocol, peer = await connect(lambda: First(5))
            protocol.next = make()
            peer.sendall(b"firstsecond")
            await protocol.next.until_received(6)
            assert (protocol.received, protocol.next.received) == (b"first", b"second")
            await close(protocol.next, peer)

    run(main)


def test_data_that_came_before_the_transport(run):
    async def main():
        here, there = tcp_pair()
        there.sendall(b"early")

        class Late(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.pause_reading()
                self.loop.call_later(0.01, transport.resume_reading)

        _, protocol = await asyncio.get_running_loop().create_connection(Late, sock=here)
        await protocol.until_received(5)
        await close(protocol, there)

    run(main)


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("exit", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_leaves_the_bytes_to_the_next_run(new_loop, method, exit):
    loop, left = new_loop(), [exit]

    class Exits(BufferedRecorder):
        def get_buffer(self, sizehint):
            if method == "get_buffer" and left:
                raise left.pop()
            return super().get_buffer(sizehint)

        def buffer_updated(self, count):
            super().buffer_updated(count)
            if method == "buffer_updated" and left:
                raise left.pop()

    protocol, peer = loop.run_until_complete(connect(lambda: Exits(4)))
    peer.sendall(b"received!")
    with pytest.raises(exit):
        loop.run_forever()
    loop.run_until_complete(asyncio.wait_for(protocol.until_received(9), PATIENCE_S))
    assert protocol.received == b"received!"
    loop.run_until_complete(close(protocol, peer))


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_a_protocol_that_raises_is_told_no_more(run, reports, method):
    async def main():
        protocol, peer = await connect(lambda: raises(method, base=BufferedRecorder)(4))
        peer.sendall(b"received!")
        assert type(await protocol.lost) is ZeroDivisionError
        assert protocol.calls.count(method) == 1
        peer.close()

    run(main)
    assert [kind for _, kind in reports.take()] == [ZeroDivisionError]


def test_stop_in_the_middle_leaves_the_rest_to_the_next_run(new_loop):
    loop = new_loop()

    class Stops(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.loop.stop()

    protocol, peer = loop.run_until_complete(connect(lambda: Stops(1)))
    peer.sendall(b"abcdef")
    while len(protocol.received) < 6:
        before = len(protocol.received)
        loop.run_forever()
        assert len(protocol.received) == before + 1
    loop.run_until_complete(close(protocol, peer))


def test_a_writer_comes_and_goes_while_data_arrives(run):
    """With bytes queued the kernel tells as often as it can; without it tells once again."""

    async def main():
        protocol, peer = await connect(lambda: BufferedRecorder(3))
        peer.setblocking(False)
        sent, expected = 0, b""
        for round in range(10):
            while not protocol.transport.get_write_buffer_size():
                protocol.transport.write(bytes(100_000))
                sent += 100_000
            peer.send(b"question%d" % round)
            expected += b"question%d" % round
            if round % 2:
                await protocol.until_received(len(expected))
            while protocol.transport.get_write_buffer_size():
                peer.recv(1 << 20) if select.select([peer], [], [], 0)[0] else None
                await asyncio.sleep(0)
            peer.send(b"more")
            expected += b"more"
            await protocol.until_received(len(expected))
            await quiet()
        assert protocol.received == expected
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("seed", range(20))
def test_pauses_at_random_lose_no_byte(run, seed):
    randomly = random.Random(seed)

    class Moody(BufferedRecorder):
        def __init__(self):
            super().__init__(randomly.choice([1, 100, 4096]))

        def buffer_updated(self, count):
            super().buffer_updated(count)
            what = randomly.randrange(6)
            if what == 0:
                self.transport.pause_reading()
                self.loop.call_soon(self.transport.resume_reading)
            elif what == 1:
                self.transport.pause_reading()
                self.transport.resume_reading()
            elif what == 2:
                self.transport.pause_reading()
                self.loop.call_later(0.0005, self.transport.resume_reading)

    class MoodyBytes(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if randomly.randrange(3) == 0:
                self.transport.pause_reading()
                self.loop.call_soon(self.transport.resume_reading)

    async def main():
        for make in (Moody, MoodyBytes):
            protocol, peer = await connect(make)
            peer.setblocking(False)
            data = randomly.randbytes(randomly.randrange(1, 3000))
            at = 0
            while at < len(data):
                size = randomly.choice([1, 10, 500])
                at += peer.send(data[at : at + size])
                if randomly.randrange(2):
                    await asyncio.sleep(randomly.choice([0, 0, 0.0003]))
            if randomly.randrange(2):
                await quiet()
            shut(peer)
            assert await protocol.lost is None
            assert protocol.received == data
            peer.close()

    run(main)


# --- descriptors ---------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio watches the dead number
def test_a_descriptor_that_was_closed_while_a_dup_lives(run):
    async def main():
        protocol, peer = await connect()
        kept = os.dup(protocol.transport.get_extra_info("socket").fileno())
        protocol.transport.abort()
        await protocol.lost
        peer.sendall(b"for nobody")
        other, its_peer = await connect()
        its_peer.sendall(b"x")
        await other.until_received(1)
        before = time.thread_time()
        await asyncio.sleep(0.02)
        assert time.thread_time() - before < 0.015, "it spins"
        os.close(kept)
        peer.close()
        await close(other, its_peer)

    run(main)


@pytest.mark.aioxide_only  # a forked child of asyncio's changes the epoll set of its parent
@pytest.mark.filterwarnings("default")
def test_a_forked_child_reads_what_is_left(new_loop):
    loop = new_loop()
    protocol, peer = loop.run_until_complete(connect(lambda: BufferedRecorder(2)))
    loop.set_exception_handler(None)
    peer.sendall(b"123456")
    loop.run_until_complete(protocol.until_received(2))
    had = len(protocol.received)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.run_until_complete(asyncio.wait_for(protocol.until_received(6), PATIENCE_S))
            status = 0 if protocol.received == b"123456" else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    peer.sendall(b"on")
    loop.run_until_complete(protocol.until_received(had + 2))
    assert protocol.received[had:] == b"on"
    loop.run_until_complete(close(protocol, peer))


def test_a_socket_of_another_kind_is_read_as_ever(run):
    """Unix sockets stop a receive where a descriptor was passed along: no edges for them."""

    async def main():
        here, there = socket.socketpair()
        _, protocol = await asyncio.get_running_loop().create_connection(lambda: BufferedRecorder(64), sock=here)
        protocol.transport.pause_reading()
        there.sendall(b"one")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", there.fileno()))]
        there.sendmsg([b"two"], rights)
        there.sendall(b"three")
        protocol.transport.resume_reading()
        await protocol.until_received(11)
        assert protocol.received == b"onetwothree"
        await close(protocol, there)

    run(main)
