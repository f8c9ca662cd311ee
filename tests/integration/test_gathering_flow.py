"""Write gathering and flow control: the edges come where they come in asyncio, and what finds no room is sent later."""

import asyncio
import contextlib
import contextvars
import random
import socket

import pytest
from gathering import arrived, in_callback, warm, write_each
from peers import PATIENCE_S, Recorder, close, connect, receive_exactly


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
