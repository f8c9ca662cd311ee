"""The reading side of a transport: pausing, buffers, the end of the stream."""

import socket
import sys

import pytest
from peers import (
    TOO_MUCH,
    BufferedRecorder,
    Recorder,
    close,
    connect,
    receive_all,
    receive_exactly,
    turns,
)


def test_a_paused_transport_receives_nothing_until_it_is_resumed(run):
    async def main():
        protocol, peer = await connect()
        transport = protocol.transport
        assert transport.is_reading()
        for _ in range(2):
            transport.pause_reading()
            assert not transport.is_reading()
        peer.sendall(b"waits")
        await turns(200)
        assert protocol.received == b""
        for _ in range(2):
            transport.resume_reading()
            assert transport.is_reading()
        await protocol.until_received(5)
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()
        transport.pause_reading()
        await protocol.lost
        peer.close()

    run(main)


def test_pausing_in_connection_made_holds(run, is_ours):
    if sys.version_info < (3, 11) and not is_ours:
        pytest.skip("asyncio 3.10 reads all the same")

    class Paused(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

    async def main():
        protocol, peer = await connect(Paused)
        peer.sendall(b"x")
        await turns(200)
        assert protocol.received == b"" and not protocol.transport.is_reading()
        protocol.transport.resume_reading()
        await protocol.until_received(1)
        await close(protocol, peer)

    run(main)


def test_pausing_in_data_received_leaves_the_rest_in_the_socket(run):
    class OneByOne(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    async def main():
        protocol, peer = await connect(lambda: OneByOne(1))
        peer.sendall(b"abc")
        for expected in (b"a", b"ab", b"abc"):
            await protocol.until_received(len(expected))
            await turns(100)
            assert protocol.received == expected
            protocol.transport.resume_reading()
        await close(protocol, peer)

    run(main)


def test_resuming_in_connection_made_starts_once(run):
    class Restless(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()
            transport.resume_reading()

    async def main():
        protocol, peer = await connect(Restless)
        peer.sendall(b"x")
        await protocol.until_received(1)
        assert protocol.received == b"x"
        await close(protocol, peer)

    run(main)


def test_get_buffer_is_asked_without_a_size_and_filled(run):
    class Hints(BufferedRecorder):
        def get_buffer(self, sizehint):
            self.note(sizehint)
            return memoryview(self.buffer)[2:]

        def buffer_updated(self, count):
            self.received += self.buffer[2 : 2 + count]
            self.buffer = bytearray(len(self.buffer) + 1)  # it is ours again
            self.look_again()

    async def main():
        protocol, peer = await connect(lambda: Hints(4))
        peer.sendall(b"abcdef")
        await protocol.until_received(6)
        assert protocol.received == b"abcdef"
        assert set(protocol.calls) == {"made", -1}
        await close(protocol, peer)

    run(main)


def test_the_protocol_may_be_exchanged_in_data_received(run):
    class First(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.next = BufferedRecorder(10)
            self.next.transport = self.transport
            self.transport.set_protocol(self.next)

    async def main():
        protocol, peer = await connect(First)
        peer.sendall(b"one")
        await protocol.until_received(3)
        second = protocol.next
        assert protocol.transport.get_protocol() is second
        peer.sendall(b"two")
        await second.until_received(3)
        third = Recorder()
        third.transport = protocol.transport
        protocol.transport.set_protocol(third)
        peer.sendall(b"three")
        await third.until_received(5)
        peer.close()
        assert await third.lost is None
        assert third.calls == ["eof", "lost"]
        assert (protocol.calls, second.calls) == (["made"], [])

    run(main)


@pytest.mark.aioxide_only
def test_a_method_replaced_on_a_connected_protocol_is_seen_after_set_protocol(run):
    async def main():
        protocol, peer = await connect()
        seen = []
        protocol.data_received = seen.append
        peer.sendall(b"old")
        await protocol.until_received(3)
        assert seen == []
        protocol.transport.set_protocol(protocol)
        arrived = protocol.loop.create_future()
        protocol.data_received = arrived.set_result
        protocol.transport.set_protocol(protocol)
        peer.sendall(b"new")
        assert await arrived == b"new"
        await close(protocol, peer)

    run(main)


# --- the end of the stream -----------------------------------------------------------------------


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_true_answer_of_eof_received_keeps_the_sending_half(run, make):
    async def main():
        protocol, peer = await connect(make)
        protocol.keeps_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.until(lambda: "eof" in protocol.calls)
        await turns(100)
        assert protocol.calls == ["made", "eof"]  # said once
        assert not protocol.transport.is_closing()
        protocol.transport.write(b"answer")
        assert receive_exactly(peer, 6) == b"answer"
        protocol.transport.close()
        await protocol.lost
        peer.close()

    run(main)


def test_write_eof_shuts_down_the_sending_half(run):
    async def main():
        protocol, peer = await connect()
        assert protocol.transport.can_write_eof() is True
        protocol.transport.write(b"request")
        protocol.transport.write_eof()
        protocol.transport.write_eof()
        assert receive_exactly(peer, 7) == b"request" and peer.recv(1) == b""
        peer.sendall(b"response")
        await protocol.until_received(8)
        with pytest.raises(RuntimeError, match=r"^Cannot call write\(\) after write_eof\(\)$"):
            protocol.transport.write(b"x")
        method = "writelines" if sys.version_info >= (3, 12) else "write"
        with pytest.raises(RuntimeError, match=rf"^Cannot call {method}\(\) after write_eof\(\)$"):
            protocol.transport.writelines([b"x"])
        await close(protocol, peer)

    run(main)


def test_write_eof_waits_for_what_is_queued(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.write(bytes(TOO_MUCH))
        protocol.transport.write_eof()
        peer.setblocking(False)
        await receive_all(peer, TOO_MUCH)
        assert await protocol.loop.sock_recv(peer, 1) == b""
        assert not protocol.transport.is_closing()
        await close(protocol, peer)

    run(main)


def test_write_eof_on_a_closing_transport_does_nothing(run):
    async def main():
        protocol, peer = await connect()
        protocol.transport.close()
        protocol.transport.write_eof()
        assert await protocol.lost is None
        peer.close()

    run(main)
