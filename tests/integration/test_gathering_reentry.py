"""Code that runs in the middle of a write, and writes itself: no byte may come to another peer, or out of order."""

import asyncio
import resource
import socket
import sys

import pytest
from gathering import in_callback, warm
from peers import Recorder, close, connect, receive_exactly, reset

pytestmark = pytest.mark.usefixtures("no_leaks")


async def warm_connection():
    protocol, peer = await connect()
    await warm(protocol, peer)
    return protocol, peer


@pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ in Python is of 3.12 (PEP 688)")
def test_a_buffer_that_writes_elsewhere_when_it_is_looked_at(run):
    async def main():
        (two, peer_two), (three, peer_three) = await warm_connection(), await warm_connection()

        class Meddling(bytearray):
            done = False

            def __buffer__(self, flags):
                if not self.done:
                    self.done = True
                    three.transport.write(b"first-three ")
                    three.transport.write(b"second-three")
                return super().__buffer__(flags)

        await in_callback(two.transport.write, Meddling(b"for-two"))
        assert receive_exactly(peer_two, 7) == b"for-two"
        assert receive_exactly(peer_three, 24) == b"first-three second-three"
        for protocol, peer in [(two, peer_two), (three, peer_three)]:
            await close(protocol, peer)

    run(main)


def test_a_flush_that_fails_and_runs_code_that_writes_elsewhere(new_loop):
    """The send of what another transport holds fails; its end goes through the loop's own call_soon."""

    class Loop(type(new_loop())):
        hook = None

        def call_soon(self, *args, **options):
            if self.hook is not None:
                hook, self.hook = self.hook, None
                hook()
            return super().call_soon(*args, **options)

    loop = Loop()

    async def main():
        one, peer_one = await warm_connection()
        two, peer_two = await warm_connection()
        three, peer_three = await warm_connection()
        one.transport.pause_reading()
        reset(peer_one)
        await asyncio.sleep(0.02)

        def write_all():
            one.transport.write(b"1")
            one.transport.write(b"1")
            loop.hook = lambda: (three.transport.write(b"three "), three.transport.write(b"more"))
            two.transport.write(b"for-two")

        await in_callback(write_all)
        loop.hook = None
        assert receive_exactly(peer_two, 7) == b"for-two"
        assert receive_exactly(peer_three, 10) == b"three more"
        await one.lost
        for protocol, peer in [(two, peer_two), (three, peer_three)]:
            await close(protocol, peer)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="joined first up to 3.11")
@pytest.mark.parametrize("large", [False, True], ids=["room", "no-room"])
def test_lines_that_write_while_they_are_made(run, large):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await warm_connection()
        if large:
            sock = protocol.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        last = b"A" * (2_000_000 if large else 1)

        def lines():
            yield b"1"
            protocol.transport.write(b"x")
            protocol.transport.write(b"y")
            yield last

        await in_callback(lambda: (protocol.transport.write(b"0"), protocol.transport.writelines(lines())))
        peer.setblocking(False)
        received = bytearray()
        while len(received) < 4 + len(last):
            received += await loop.sock_recv(peer, 1 << 20)
        assert received[:4] == b"0xy1" and received[4:] == last
        peer.setblocking(True)
        await close(protocol, peer)

    run(main)


def test_what_is_done_to_the_socket_comes_after_what_was_written(run):
    async def main():
        protocol, peer = await warm_connection()
        sock = protocol.transport.get_extra_info("socket")

        def write_and_shut_down():
            protocol.transport.write(b"good")
            protocol.transport.write(b"bye")
            sock.shutdown(socket.SHUT_WR)

        await in_callback(write_and_shut_down)
        assert receive_exactly(peer, 7) == b"goodbye"
        assert peer.recv(10) == b""
        assert isinstance(sock, asyncio.trsock.TransportSocket) and repr(sock).startswith(
            "<asyncio.TransportSocket fd="
        )
        await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only
def test_an_exit_out_of_resume_writing_leaves_no_spin(new_loop):
    """asyncio spins, and logs an AssertionError at each turn."""

    class Exits(Recorder):
        def resume_writing(self):
            super().resume_writing()
            raise SystemExit(1)

    loop = new_loop()

    async def begin():
        protocol, peer = await connect(Exits)
        protocol.transport.write(bytes(8_000_000))
        peer.setblocking(False)
        return protocol, peer

    async def read_all(peer):
        left = 8_000_000
        while left:
            left -= len(await loop.sock_recv(peer, 1 << 20))

    async def idle():
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(0.3)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    try:
        protocol, peer = loop.run_until_complete(begin())
        reading = loop.create_task(read_all(peer))
        with pytest.raises(SystemExit):
            loop.run_until_complete(reading)
        loop.run_until_complete(reading)
        assert loop.run_until_complete(idle()) < 0.1
        peer.setblocking(True)
        loop.run_until_complete(close(protocol, peer))
    finally:
        loop.close()
