"""Transports of connected sockets: what a protocol is told, and what reaches the peer."""

import asyncio
import contextvars
import gc
import hashlib
import random
import re
import socket
import sys
import warnings
import weakref

import pytest
from peers import (
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

# --- from connection_made to connection_lost -----------------------------------------------------


def test_a_connection_is_made_receives_ends_and_is_lost(run):
    async def main():
        protocol, peer = await connect()
        assert protocol.calls == ["made"]
        assert isinstance(protocol.transport, asyncio.Transport)
        assert protocol.transport.get_protocol() is protocol
        peer.sendall(b"hello")
        await protocol.until_received(5)
        peer.close()
        assert await protocol.lost is None
        assert protocol.received == b"hello"
        assert protocol.calls == ["made", "eof", "lost"]
        assert protocol.transport.is_closing()

    run(main)


def test_data_is_bytes(run):
    class Types(Recorder):
        def data_received(self, data):
            self.note(type(data))

    async def main():
        protocol, peer = await connect(Types)
        for size in (1, 100_000):
            peer.sendall(bytes(size))
            await protocol.until(lambda: bytes in protocol.calls)
            assert set(protocol.calls) == {"made", bytes}
            protocol.calls[:] = ["made"]
        await close(protocol, peer)

    run(main)


def test_connection_made_comes_before_the_waiting_caller_and_before_data(run):
    async def main():
        here, there = tcp_pair()
        there.sendall(b"early")
        _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        assert protocol.calls == ["made"]
        await protocol.until_received(5)
        await close(protocol, there)

    run(main)


def test_close_sends_what_is_queued(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        protocol.transport.close()
        assert protocol.transport.is_closing() and protocol.transport.get_write_buffer_size() > 0
        peer.setblocking(False)
        await receive_all(peer, TOO_MUCH)
        assert await protocol.loop.sock_recv(peer, 1) == b""
        assert await protocol.lost is None
        peer.close()

    run(main)


def test_abort_drops_what_is_queued(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        protocol.transport.abort()
        assert protocol.transport.get_write_buffer_size() == 0
        assert not protocol.lost.done()  # never from inside the call
        assert await protocol.lost is None
        count = 0
        while piece := peer.recv(1 << 20):
            count += len(piece)
        assert count < TOO_MUCH
        peer.close()

    run(main)


def test_abort_after_close_ends_the_waiting_for_the_queue(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        protocol.transport.close()
        protocol.transport.abort()
        assert await protocol.lost is None
        assert protocol.calls.count("lost") == 1
        peer.close()

    run(main)


def test_closing_twice_is_closing_once(run):
    async def main():
        protocol, peer = await connect()
        for _ in range(3):
            protocol.transport.close()
            protocol.transport.abort()
        await protocol.lost
        protocol.transport.close()
        protocol.transport.abort()
        await turns(3)
        assert protocol.calls == ["made", "lost"]
        peer.close()

    run(main)


def test_nothing_is_received_after_close(run):
    async def main():
        protocol, peer = await connect()
        peer.sendall(b"late")
        protocol.transport.close()
        await protocol.lost
        assert protocol.received == b""
        peer.close()

    run(main)


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_connection_may_end_in_connection_made(run, ending):
    class Short(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, ending)()

    async def main():
        protocol, peer = await connect(Short)
        assert await protocol.lost is None
        assert protocol.calls == ["made", "lost"]
        assert peer.recv(1) == b""
        peer.close()

    run(main)


def test_writing_in_connection_made_arrives(run):
    class Eager(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"first")

    async def main():
        protocol, peer = await connect(Eager)
        assert receive_exactly(peer, 5) == b"first"
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_reset_is_told_to_connection_lost(run, make):
    async def main():
        protocol, peer = await connect(make)
        reset(peer)
        exception = await protocol.lost
        assert type(exception) is ConnectionResetError
        assert str(exception) == "[Errno 104] Connection reset by peer"
        assert protocol.calls == ["made", "lost"]

    run(main)


def test_a_write_to_a_reset_connection_is_told_to_connection_lost_only(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.pause_reading()
        reset(peer)
        protocol.transport.write(b"x")
        assert protocol.transport.is_closing()
        assert type(await protocol.lost) is ConnectionResetError
        assert protocol.calls == ["made", "lost"]

    run(main)


def test_a_lost_transport_lets_go_of_everything(run):
    class Plain(asyncio.Protocol):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        transport, protocol = await loop.create_connection(Plain, sock=here)
        known = weakref.ref(protocol)
        there.close()
        protocol.connection_lost = loop.create_future().set_result
        await protocol.connection_lost.__self__
        await turns(1)
        del protocol
        gc.collect()
        assert known() is None
        assert transport.get_protocol() is None
        assert "closed" in repr(transport)

    run(main)


def test_an_unclosed_transport_warns_and_closes_its_socket(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.pause_reading()  # the loop holds it no more
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            protocol.transport = None
            gc.collect()
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        assert any(re.match(r"unclosed transport <\w*SocketTransport fd=\d+ read=idle", text) for text in texts)
        assert peer.recv(1) == b""
        peer.close()

    run(main)


# --- writing -------------------------------------------------------------------------------------


def test_everything_bytes_like_can_be_written(run):
    import array

    async def main():
        protocol, peer = await connect()
        write = protocol.transport.write
        for data in (
            b"ab",
            bytearray(b"cd"),
            memoryview(b"ef"),
            memoryview(b"xxghxx")[2:4],
            memoryview(array.array("H", [0x6A69])),
            b"",
            bytearray(),
            memoryview(b""),
            type("Bytes", (bytes,), {})(b"kl"),
        ):
            write(data)
        assert receive_exactly(peer, 12) == b"abcdefgh" + (0x6A69).to_bytes(2, sys.byteorder) + b"kl"
        await close(protocol, peer)

    run(main)


def test_writelines_takes_any_list_of_buffers(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.writelines([b"ab", bytearray(b"cd"), b"", memoryview(b"ef")])
        protocol.transport.writelines([])
        protocol.transport.writelines([b""])
        protocol.transport.writelines(piece for piece in (b"gh", b"ij"))
        protocol.transport.writelines([b"%04d" % i for i in range(3000)])
        expected = b"abcdefghij" + b"".join(b"%04d" % i for i in range(3000))
        peer.setblocking(False)
        assert await receive_all(peer, len(expected)) == expected
        assert protocol.transport.get_write_buffer_size() == 0
        await close(protocol, peer)

    run(main)


def test_writelines_queues_behind_what_waits(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        protocol.transport.writelines([b"one", b"two"])
        protocol.transport.write(b"three")
        peer.setblocking(False)
        data = await receive_all(peer, TOO_MUCH + 11)
        assert data[TOO_MUCH:] == b"onetwothree"
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_a_mutable_buffer_belongs_to_the_caller_again_after_write(run):
    async def main():
        protocol, peer = await connect()
        data = bytearray(TOO_MUCH)
        protocol.transport.write(data)
        data[:] = b"\1" * TOO_MUCH
        data.append(1)  # no view of it is held
        peer.setblocking(False)
        assert not any(await receive_all(peer, TOO_MUCH))
        await close(protocol, peer)

    run(main)


def test_messages_are_sent_without_delay(run):
    async def main():
        protocol, peer = await connect()
        sock = protocol.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await close(protocol, peer)

    run(main)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_large_transfers_both_ways_arrive_whole(run, make, seed):
    size = 4_000_000

    class Hashing(make):
        def __init__(self, *args):
            super().__init__(*args)
            self.sum = hashlib.blake2b()
            self.count = 0
            self.paused = False

        def data_received(self, data):
            self.sum.update(data)
            self.count += len(data)
            self.look_again()

        def pause_writing(self):
            self.paused = True

        def resume_writing(self):
            self.paused = False
            self.look_again()

    async def send(protocol, seed):
        chance = random.Random(seed)
        data = chance.randbytes(size)
        at = 0
        while at < size:
            end = min(size, at + chance.choice([1, 10, 1000, 70_000, 300_000]))
            piece = chance.choice([bytes, bytearray, memoryview])(data[at:end])
            if chance.random() < 0.3:
                middle = (end - at) // 2
                protocol.transport.writelines([piece[:middle], piece[middle:]])
            else:
                protocol.transport.write(piece)
            at = end
            await protocol.until(lambda: not protocol.paused)
        return hashlib.blake2b(data).digest()

    async def main():
        loop = asyncio.get_running_loop()
        ends = [(await loop.create_connection(Hashing, sock=s))[1] for s in tcp_pair()]
        sums = await asyncio.gather(*(send(end, (seed, i)[i] + 100 * i) for i, end in enumerate(ends)))
        for end in ends:
            await end.until(lambda end=end: end.count >= size)
        assert [end.sum.digest() for end in ends] == sums[::-1]
        for end in ends:
            await close(end)

    run(main)


def test_two_hundred_connections_at_once(run):
    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        loop = asyncio.get_running_loop()
        served = []

        def make():
            served.append(Echo())
            return served[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, backlog=256)
        address = server.sockets[0].getsockname()
        made = await asyncio.gather(*(loop.create_connection(Recorder, *address) for _ in range(200)))
        clients = [protocol for _, protocol in made]
        for i, client in enumerate(clients):
            client.transport.write(b"%03d" % i * 100)
        for i, client in enumerate(clients):
            await client.until_received(300)
            assert client.received == b"%03d" % i * 100
            client.transport.close()
        for protocol in clients + served:
            assert await protocol.lost is None
        assert len(served) == 200
        server.close()
        await server.wait_closed()

    run(main)


# --- around it -----------------------------------------------------------------------------------


def test_extra_info(run):
    async def main():
        here, there = tcp_pair()
        name, peer_name, number = here.getsockname(), here.getpeername(), here.fileno()
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        ask = transport.get_extra_info
        assert ask("sockname") == name and ask("peername") == peer_name
        sock = ask("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket) and sock.fileno() == number
        assert ask("nothing") is None and ask("nothing", 1) == 1 and ask("nothing", default=2) == 2
        assert ask("sslcontext") is None
        with pytest.raises(TypeError):
            ask()
        await close(protocol, there)
        assert ask("peername") == peer_name

    run(main)


def test_unix_sockets_that_are_connected_will_do(run):
    async def main():
        here, there = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        assert transport.get_extra_info("peername") == ""
        there.sendall(b"x")
        await protocol.until_received(1)
        await close(protocol, there)

    run(main)


def test_repr_tells_the_state(run):
    async def main():
        protocol, peer = await connect()
        transport = protocol.transport
        number = transport.get_extra_info("socket").fileno()
        name = type(transport).__name__
        await turns(1)
        assert repr(transport) == f"<{name} fd={number} read=polling write=<idle, bufsize=0>>"
        transport.pause_reading()
        transport.write(bytes(TOO_MUCH))
        size = transport.get_write_buffer_size()
        assert repr(transport) == f"<{name} fd={number} read=idle write=<polling, bufsize={size}>>"
        transport.abort()
        assert repr(transport) == f"<{name} closing fd={number} read=idle write=<idle, bufsize=0>>"
        await protocol.lost
        await turns(1)
        assert repr(transport) == f"<{name} closed fd={number}>"
        peer.close()

    run(main)


def test_callbacks_run_in_the_context_in_which_the_transport_was_made(run):
    where = contextvars.ContextVar("where", default="nowhere")

    class Contexts(Recorder):
        def note(self, call):
            super().note((call, where.get()))

        def data_received(self, data):
            self.note("data")

    async def main():
        where.set("making")
        protocol, peer = await connect(Contexts)
        where.set("later")
        peer.sendall(b"x")
        await protocol.until(lambda: len(protocol.calls) == 2)
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()
        peer.sendall(b"x")
        await protocol.until(lambda: len(protocol.calls) == 3)
        protocol.transport.close()
        await protocol.lost
        peer.close()
        return protocol.calls

    if sys.version_info < (3, 15):
        expected = [("made", "making"), ("data", "making"), ("data", "later"), ("lost", "later")]
        assert run(main) == expected


def test_transports_of_other_classes_cannot_be_made_by_hand(run, is_ours):
    async def main():
        protocol, peer = await connect()
        with pytest.raises(TypeError):
            type(protocol.transport)()
        await close(protocol, peer)

    run(main)


def test_streams_talk_over_it(run):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for word in (b"one\n", b"x" * 50_000 + b"\n"):
            writer.write(word)
            await writer.drain()
            assert await reader.readline() == word.upper()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)


def test_a_connection_lost_that_raises_after_the_last_write_is_reported(run, reports):
    """close() waits for what is queued; then connection_lost runs inside of the writer."""

    class Raising(Recorder):
        def connection_lost(self, exception):
            super().connection_lost(exception)
            raise ZeroDivisionError("in connection_lost")

    async def main():
        protocol, peer = await connect(Raising)
        protocol.transport.write(b"x" * 8_000_000)
        assert protocol.transport.get_write_buffer_size() > 0
        protocol.transport.close()
        received = await asyncio.to_thread(read_all, peer)
        await protocol.until(lambda: "lost" in " ".join(map(str, protocol.calls)))
        await asyncio.sleep(0)
        peer.close()
        return received

    assert run(main) == 8_000_000
    assert [exception for _, exception in reports.take()] == [ZeroDivisionError]


def read_all(peer):
    count = 0
    while data := peer.recv(1 << 20):
        count += len(data)
    return count
