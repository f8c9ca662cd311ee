"""Bad input: sockets closed, detached or reset behind the back of a transport or a server."""

import asyncio
import os
import socket
import time

import pytest
from peers import (
    Recorder,
    close,
    connect,
    reset,
    turns,
)


def test_a_socket_closed_behind_the_transport_is_an_error_of_the_connection(run):
    async def main():
        protocol, peer = await connect()
        number = protocol.transport.get_extra_info("socket").fileno()
        protocol.transport._sock.close()
        protocol.transport.write(b"x")
        exception = await protocol.lost
        assert type(exception) is OSError and str(exception) == "[Errno 9] Bad file descriptor"
        with pytest.raises(OSError):
            os.fstat(number)
        peer.close()

    run(main)


def test_a_transport_never_touches_a_file_that_has_its_number_now(run):
    async def main():
        protocol, peer = await connect()
        number = protocol.transport.get_extra_info("socket").fileno()
        protocol.transport._sock.close()
        new, other = socket.socketpair()
        if new.fileno() != number:
            new, other = other, new
        assert new.fileno() == number
        other.sendall(b"for somebody else")
        protocol.transport.write(b"x")
        assert type(await protocol.lost) is OSError
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        assert new.recv(100) == b"for somebody else"
        assert protocol.received == b""
        for sock in (new, other, peer):
            sock.close()

    run(main)


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_connection_whose_socket_is_closed_already_ends_without_an_error(run, ending):
    async def main():
        protocol, peer = await connect()
        protocol.transport._sock.close()
        getattr(protocol.transport, ending)()
        assert await protocol.lost is None
        peer.close()

    run(main)


def test_a_detached_socket_is_not_closed(run):
    async def main():
        protocol, peer = await connect()
        number = protocol.transport._sock.detach()
        protocol.transport.close()
        assert await protocol.lost is None
        os.fstat(number)
        os.close(number)
        peer.close()

    run(main)


def test_a_reset_peer_does_not_make_a_paused_transport_spin(run):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        protocol.transport.pause_reading()
        reset(peer)
        used = time.process_time()
        woken = loop.create_future()
        loop.call_later(0.2, woken.set_result, None)
        await woken
        assert time.process_time() - used < 0.1
        assert protocol.calls == ["made"]
        protocol.transport.resume_reading()
        assert type(await protocol.lost) is ConnectionResetError

    run(main)


def test_a_reset_peer_of_a_half_closed_connection_does_not_spin(run):
    async def main():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        protocol.keeps_open = True
        peer.shutdown(socket.SHUT_WR)
        await protocol.until(lambda: "eof" in protocol.calls)
        reset(peer)
        used = time.process_time()
        woken = loop.create_future()
        loop.call_later(0.2, woken.set_result, None)
        await woken
        assert time.process_time() - used < 0.1
        await close(protocol)

    run(main)


def test_a_listening_socket_closed_behind_its_server(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        server.sockets[0]._sock.close()
        await turns(3)
        server.close()
        await server.wait_closed()

    # asyncio asks the closed socket for its number, and -1 is none.
    try:
        run(main)
    except ValueError as error:
        assert str(error) == "Invalid file descriptor: -1"
