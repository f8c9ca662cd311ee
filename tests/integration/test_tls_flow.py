"""Flow control and transfers over TLS: limits and pauses both ways, large and small writes, slow readers, cancellation.

Where asyncio decides, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import hashlib
import random

import pytest
import tls
from cancelling import open_files, quiet
from differential import describe, outcome
from peers import BufferedRecorder, Recorder, tcp_pair, turns
from tls import NEW, SIDES, VERSIONS, calm, drop, drop_both, half_secure, opening, same, secure, since_3_11

pytestmark = pytest.mark.usefixtures("no_leaks")

MEGABYTES = 12 << 20
both_sides = pytest.mark.parametrize("side", SIDES)
both_versions = pytest.mark.parametrize("version", VERSIONS)

# --- reading -------------------------------------------------------------------------------------


@both_sides
@both_versions
def test_a_paused_reader_gets_nothing(run, certs, side, version):
    async def main():
        protocol, peer = await secure(certs, side, version=version)
        transport = protocol.transport
        assert transport.is_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        await peer.send(b"later")
        await asyncio.sleep(0.01)
        assert protocol.received == b""
        transport.write(b"writing goes on")
        assert await peer.receive(15) == b"writing goes on"
        transport.resume_reading()
        assert transport.is_reading()
        await protocol.until_received(5)
        assert protocol.received == b"later"
        await drop(protocol, peer)

    run(main)


@pytest.mark.skipif(not NEW, reason="3.10 hands these calls to the transport below")
def test_pauses_and_resumes_may_be_repeated(certs):
    async def scenario():
        protocol, peer = await secure(certs)
        seen = []
        for method in ("resume", "resume", "pause", "pause", "resume", "resume", "pause"):
            try:
                getattr(protocol.transport, f"{method}_reading")()
                seen.append((method, protocol.transport.is_reading()))
            except Exception as error:
                seen.append((method, describe(error)))
        protocol.transport.resume_reading()
        await peer.send(b"data")
        await protocol.until_received(4)
        await drop(protocol, peer)
        return seen

    same(scenario)


@both_versions
@pytest.mark.parametrize("base", [Recorder, BufferedRecorder])
@since_3_11
def test_a_reader_that_pauses_at_each_piece(run, certs, version, base):
    class Pauses(base):
        async def go_on(self):
            while not self.lost.done():
                await self.until(lambda: not self.transport.is_reading() or self.lost.done())
                await asyncio.sleep(0)
                if not self.lost.done():
                    self.transport.resume_reading()

        def data_received(self, data):
            self.transport.pause_reading()
            super().data_received(data)

    async def main():
        protocol, peer = await secure(certs, "client", Pauses, version)
        goes = asyncio.ensure_future(protocol.go_on())
        data = random.Random(1).randbytes(700_000)
        sending = asyncio.ensure_future(peer.send_raw(peer.encrypted(data) + peer.close_notify()))
        await protocol.until_received(len(data))
        await protocol.lost
        await sending
        await goes
        assert protocol.received == data
        assert protocol.calls.count("made") == 1 and protocol.calls[-1] == "lost"
        peer.close()

    run(main)


@pytest.mark.skipif(not NEW, reason="3.10 has no limits of reading")
def test_limits_of_reading(certs):
    async def scenario():
        protocol, peer = await secure(certs)
        transport, seen = protocol.transport, []
        for limits in [(None, None), (1000, None), (None, 10), (1000, 10), (0, 0), (10, 1000), (-1, None), (5, 5)]:
            seen.append((limits, await outcome(set_limits(transport.set_read_buffer_limits, *limits))))
            seen.append(transport.get_read_buffer_limits())
        transport.set_read_buffer_limits()
        seen.append((transport.get_read_buffer_limits(), transport.get_read_buffer_size()))
        await drop(protocol, peer)
        return seen

    same(scenario)


async def set_limits(method, high, low):
    return method(high=high, low=low)


@both_sides
@pytest.mark.skipif(not NEW, reason="3.10 has no limits of reading")
def test_a_paused_reader_pauses_the_peer(run, certs, side):
    """No more is buffered than the limit, and what one read of the socket brings; then the kernel's buffers fill."""

    async def main():
        protocol, peer = await secure(certs, side)
        protocol.transport.set_read_buffer_limits(high=100_000)
        protocol.transport.pause_reading()
        sent = 0
        while True:
            data = peer.encrypted(bytes(100_000))
            try:
                await asyncio.wait_for(peer.send_raw(data), 0.3)
            except asyncio.TimeoutError:
                break
            sent += 100_000
            assert sent < 30 << 20, "nothing ever stops the peer"
        assert protocol.received == b""
        assert 0 <= protocol.transport.get_read_buffer_size() < 1 << 20
        await calm()
        protocol.transport.resume_reading()
        await protocol.until_received(sent)
        assert protocol.received == bytes(len(protocol.received))
        await drop(protocol, peer)

    run(main)


# --- writing -------------------------------------------------------------------------------------


def test_limits_of_writing(certs):
    async def scenario():
        protocol, peer = await secure(certs)
        transport, seen = protocol.transport, [protocol.transport.get_write_buffer_limits()]
        for limits in [(None, None), (1000, None), (None, 10), (1000, 10), (10, 1000), (-1, None), (5, 5)]:
            seen.append((limits, await outcome(set_limits(transport.set_write_buffer_limits, *limits))))
            seen.append(transport.get_write_buffer_limits())
        await turns(3)
        await drop(protocol, peer)
        return seen, protocol.calls

    same(scenario)


@pytest.mark.aioxide_only  # from 3.11 on asyncio pauses at once, and resumes and pauses at each step from there
def test_a_limit_of_zero_pauses_only_while_something_waits(run, certs):
    async def main():
        protocol, peer = await secure(certs)
        protocol.transport.set_write_buffer_limits(0)
        for _ in range(5):
            protocol.transport.write(b"small")
            assert protocol.calls == ["made"]
        assert await peer.receive(25) == b"small" * 5
        await drop(protocol, peer)

    run(main)


@both_sides
@both_versions
def test_a_peer_that_does_not_read_pauses_the_writer(run, certs, side, version):
    async def main():
        protocol, peer = await secure(certs, side, version=version)
        transport = protocol.transport
        transport.set_write_buffer_limits(high=100_000, low=20_000)
        written = 0
        while "pause" not in protocol.calls:
            transport.write(b"x" * 50_000)
            written += 50_000
            await asyncio.sleep(0)
            assert written < 100 << 20
        await calm()
        assert transport.get_write_buffer_size() >= 0
        data = await peer.receive(written)
        assert data == b"x" * written
        await protocol.until(lambda: "resume" in protocol.calls)
        assert transport.get_write_buffer_size() <= 20_000
        assert protocol.calls == ["made"] + ["pause", "resume"] * (len(protocol.calls) // 2)
        transport.write(b"after")
        assert await peer.receive(5) == b"after"
        await drop(protocol, peer)

    run(main)


@both_versions
def test_megabytes_are_written_before_the_handshake_is_done(run, certs, version):
    """In connection_made, and by who is below: all of it arrives, in order."""

    class Writes(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            for number in range(4):
                transport.write(bytes([number]) * (MEGABYTES // 4))

    async def main():
        expected = b"".join(bytes([number]) * (MEGABYTES // 4) for number in range(4))
        for side in SIDES:
            task, peer = tls.half_secure(certs, side, Writes, version)
            await peer.handshake()
            assert await peer.receive(MEGABYTES) == expected
            _, protocol = await task
            await drop(protocol, peer)

    run(main)


@both_versions
def test_many_small_writes_arrive_in_order(run, certs, version):
    async def main():
        protocol, peer = await secure(certs, version=version)
        pieces = [b"%d," % number for number in range(3000)]
        random_ = random.Random(7)
        index = 0
        while index < len(pieces):
            count = random_.randrange(1, 60)
            for piece in pieces[index : index + count]:
                kind = random_.choice([bytes, bytearray, memoryview])
                if random_.random() < 0.2 and hasattr(protocol.transport, "writelines"):
                    protocol.transport.writelines([kind(piece)])
                else:
                    protocol.transport.write(kind(piece))
            index += count
            if random_.random() < 0.5:
                await asyncio.sleep(0)
        expected = b"".join(pieces)
        assert await peer.receive(len(expected)) == expected
        await drop(protocol, peer)

    run(main)


def test_writes_of_one_callback_answer_each_message(run, certs):
    """Ping-pong with answers of several writes: they gather, and nothing is held back."""

    class Answers(Recorder):
        def data_received(self, data):
            super().data_received(data)
            for piece in (b"one ", b"two ", b"three\n"):
                self.transport.write(piece)

    async def main():
        protocol, peer = await secure(certs, "server", Answers)
        for _ in range(100):
            await peer.send(b"?")
            assert await asyncio.wait_for(peer.receive(14), 2) == b"one two three\n"
        await drop(protocol, peer)

    run(main)


def test_writelines(run, certs):
    async def main():
        protocol, peer = await secure(certs)
        protocol.transport.writelines([b"one", bytearray(b"two"), memoryview(b"three"), b"", b"four"])
        assert await peer.receive(15) == b"onetwothreefour"
        protocol.transport.writelines(iter([b"x" * 100_000] * 5))
        assert await peer.receive(500_000) == b"x" * 500_000
        await drop(protocol, peer)

    run(main)


def test_a_mutable_buffer_may_be_changed_after_it_was_written(run, certs):
    """It is encrypted at once, as long as nothing is in the way."""

    async def main():
        protocol, peer = await secure(certs)
        data = bytearray(b"a" * 10_000)
        protocol.transport.write(data)
        data[:] = b"b" * 10_000
        assert await peer.receive(10_000) == b"a" * 10_000
        data.extend(b"no export is left")
        await drop(protocol, peer)

    run(main)


# --- transfers -----------------------------------------------------------------------------------


class Sends:
    """Random pieces with a checksum; what comes is summed as well, with random pauses of reading."""

    def start(self, seed, total):
        self.random_ = random.Random(seed)
        self.sent, self.came, self.count = hashlib.sha256(), hashlib.sha256(), 0
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.left = total

    def data_received(self, data):
        self.came.update(data)
        self.count += len(data)
        self.look_again()
        if self.random_.random() < 0.1:
            self.transport.pause_reading()
            self.loop.call_later(self.random_.random() / 1000, self.go_on)

    def go_on(self):
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_writing(self):
        self.may_write.clear()

    def resume_writing(self):
        self.may_write.set()

    async def send_all(self):
        block = self.random_.randbytes(70_000)
        while self.left:
            await self.may_write.wait()
            size = min(self.left, self.random_.choice([1, 10, 100, 1000, 16_383, 16_384, 16_385, 70_000]))
            self.transport.write(block[:size])
            self.sent.update(block[:size])
            self.left -= size
            if self.random_.random() < 0.2:
                await asyncio.sleep(0)


class SendsPlain(Sends, Recorder):
    pass


class SendsBuffered(Sends, BufferedRecorder):
    """The room that it offers is random, from one byte."""

    def get_buffer(self, sizehint):
        self.room = memoryview(bytearray(self.random_.choice([1, 2, 100, 5000, 100_000])))
        return self.room

    def buffer_updated(self, count):
        self.data_received(bytes(self.room[:count]))


@both_versions
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("makes", [(SendsPlain, SendsPlain), (SendsBuffered, SendsPlain), (SendsBuffered,) * 2])
def test_transfers_both_ways(run, certs, version, makes, seed):
    total = 1_500_000

    def make(kind, seed):
        def make():
            protocol = kind()
            protocol.start(seed, total)
            return protocol

        return make

    async def main():
        here, there = tcp_pair()
        server, client = certs.shared(version)
        (_, one), (_, other) = await asyncio.gather(
            opening(make(makes[0], seed), here, client, "client"),
            opening(make(makes[1], seed + 100), there, server, "server"),
        )
        for protocol in (one, other):
            protocol.transport.set_write_buffer_limits(high=50_000)
        await asyncio.gather(one.send_all(), other.send_all())
        await one.until(lambda: one.count == total)
        await other.until(lambda: other.count == total)
        assert one.came.digest() == other.sent.digest() and other.came.digest() == one.sent.digest()
        await drop_both(one, other)

    run(main)


@both_versions
def test_streams_transfer_both_ways(run, certs, version):
    async def main():
        server_context, client_context = certs.shared(version)
        random_ = random.Random(3)
        data = random_.randbytes(3_000_000)

        over = asyncio.Event()

        async def echo(reader, writer):
            while piece := await reader.read(random_.randrange(1, 100_000)):
                writer.write(piece)
                await writer.drain()
                if random_.random() < 0.05:
                    await asyncio.sleep(0.001)
            writer.close()
            over.set()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context, limit=5000)

        async def send():
            index = 0
            while index < len(data):
                size = random_.randrange(1, 50_000)
                writer.write(data[index : index + size])
                index += size
                await writer.drain()

        sending = asyncio.ensure_future(send())
        got = bytearray()
        while len(got) < len(data):
            got += await reader.read(random_.randrange(1, 60_000))
        await sending
        assert got == data
        writer.close()
        await writer.wait_closed()
        await over.wait()
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize("call", ["readline", "readuntil", "readexactly", "read", "iteration"])
def test_reads_of_a_stream(run, certs, call):
    lines = [b"line %d\n" % number for number in range(500)]

    async def main():
        server_context, client_context = certs.shared()

        over = asyncio.Event()

        async def send(reader, writer):
            for line in lines:
                writer.write(line)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            over.set()

        server = await asyncio.start_server(send, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
        got = []
        if call == "iteration":
            got = [line async for line in reader]
        elif call == "read":
            got = (await reader.read()).splitlines(keepends=True)
        else:
            for line in lines:
                got.append(await getattr(reader, call)(*((len(line),) if call == "readexactly" else ())))
            assert await reader.read(1) == b"" and reader.at_eof()
        assert got == lines
        writer.close()
        await writer.wait_closed()
        await over.wait()
        server.close()
        await server.wait_closed()

    run(main)


# --- cancellation --------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio leaves sockets to the collector
def test_cancelled_connections_leave_nothing(run, certs):
    """At each turn of create_connection: descriptors, tasks and timers are soon those of before."""

    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = certs.shared()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()

        def left():
            timers = [timer for timer in loop._scheduled if timer is not None and not timer.cancelled()]
            return len(open_files()), asyncio.all_tasks(), len(timers)

        await quiet(loop)
        before, cancelled = left(), 0
        for count in range(30):
            task = asyncio.ensure_future(loop.create_connection(Recorder, *address, ssl=client_context))
            await turns(count)
            task.cancel()
            kind, result = await outcome(task)
            if kind == "is":
                await drop(result[1])
            else:
                cancelled += 1
            del task, result
            for _ in range(2000):
                if left() == before:
                    break
                await asyncio.sleep(0.002)
            assert left() == before, count
        assert cancelled >= 3
        server.close()
        await turns(10)

    run(main)


@pytest.mark.parametrize("what", ["read", "drain", "wait_closed"])
def test_a_cancelled_await_of_a_stream(run, certs, what):
    async def main():
        server_context, client_context = certs.shared()
        made = asyncio.get_running_loop().create_future()

        async def keep(reader, writer):
            made.set_result((reader, writer))

        server = await asyncio.start_server(keep, "127.0.0.1", 0, ssl=server_context)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
        far_reader, far_writer = await made
        if what == "read":
            task = asyncio.ensure_future(reader.read(10))
        elif what == "drain":
            writer.write(bytes(MEGABYTES))
            writer.write(bytes(1 << 20))  # more than its limit: what is below is full
            task = asyncio.ensure_future(writer.drain())
        else:
            far_writer.transport.pause_reading()
            writer.close()
            task = asyncio.ensure_future(writer.wait_closed())
        await turns(5)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if what == "drain":
            assert len(await far_reader.readexactly(MEGABYTES + (1 << 20)))
        if what == "read":
            far_writer.write(b"still alive")
            assert await reader.readexactly(11) == b"still alive"
        for one in (writer, far_writer):
            one.transport.abort()
        await turns(10)
        server.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio drops what a small buffer has not taken when the peer's end is seen
def test_a_small_buffer_gets_all_that_came_before_the_end(run, certs):
    class Small(asyncio.BufferedProtocol):
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()
            self.buffer = memoryview(bytearray(100))
            self.received = b""

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, count):
            self.received += self.buffer[:count]

        def connection_lost(self, error):
            self.lost.set_result(error)

    async def main():
        task, peer = half_secure(certs, "client", Small)
        await peer.handshake()
        _, protocol = await task
        await peer.send_raw(peer.encrypted(bytes(5000)))
        peer.close()
        assert await protocol.lost is None
        assert protocol.received == bytes(5000)

    run(main)
