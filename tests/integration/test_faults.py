"""Faults of peers: they reset, they stall, they trickle.

After each: no descriptor, task, timer or watcher left, no byte lost or doubled, and a loop that sleeps when it has
nothing to do.
"""

import asyncio
import contextlib
import hashlib
import random
import resource
import socket
import struct
import sys
import time

import pytest
from differential import assert_idle, in_thread, thread_time
from peers import (
    PATIENCE_S,
    BufferedRecorder,
    Recorder,
    close,
    connect,
    receive_all,
    receive_exactly,
    reset,
    tcp_pair,
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
            end = chance.choice(
                ["reset", "reset", "reset", "send, reset", "half, reset", "read, reset", "close", "eof"]
            )
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
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 10)
        while storm.alive and loop.time() < deadline:  # up to 3.11 wait_closed() waits for nobody
            await asyncio.sleep(0.01)
        assert asyncio.all_tasks() <= tasks
        await asyncio.sleep(0.05)  # the protocols' own timers, of 20 ms at most, may outlive their connections

    loop.run_until_complete(asyncio.wait_for(main(), 55))
    assert storm.wrong == []
    assert storm.made == storm.lost >= CONNECTIONS * 0.9
    assert [timer for timer in loop._scheduled if timer is not None and not timer.cancelled()] == []


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
