"""Bad input: sockets closed, detached or reset behind the back of a transport or a server."""

import asyncio
import contextlib
import os
import socket
import time

import pytest
from differential import awaited, thread_time
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


# --- descriptors that live twice, or anew ---------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio's selector cannot take such a descriptor out of the epoll set: it spins
def test_a_watched_descriptor_that_was_closed_while_a_dup_lives_does_not_spin(run):
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        copy = os.dup(here.fileno())
        number = here.fileno()
        seen = []
        loop.add_reader(here, seen.append, 1)
        loop.remove_reader(number)
        loop.add_reader(number, seen.append, 2)
        here.close()
        there.send(b"x")
        loop.remove_reader(number)
        assert await thread_time(0.2) < 0.02
        seen.clear()
        await turns(20)
        assert seen == []
        there.close()
        os.close(copy)

    run(main)


def test_a_transports_socket_closed_while_a_dup_lives(run, is_ours):
    async def main():
        protocol, peer = await connect()
        copy = protocol.transport._sock.dup()
        protocol.transport._sock.close()
        peer.sendall(b"x")
        used = await thread_time(0.2)
        if is_ours:
            assert used < 0.02
        # Either it was told, or it can be ended.
        if not protocol.lost.done():
            protocol.transport.abort()
        error = await asyncio.wait_for(asyncio.shield(protocol.lost), 5)
        assert error is None or type(error) is OSError
        assert protocol.received == b""
        copy.settimeout(5)
        assert copy.recv(1) == b"x"
        copy.close()
        peer.close()

    if is_ours:
        run(main)
    else:
        with contextlib.suppress(ValueError, KeyError):  # it asks the closed socket for its number
            run(main)


def test_a_duplicated_socket_outlives_its_transport(run):
    async def main():
        protocol, peer = await connect()
        copy = protocol.transport.get_extra_info("socket").dup()
        await close(protocol)
        peer.sendall(b"for the copy")
        assert await thread_time(0.1) < 0.02
        copy.settimeout(5)
        assert copy.recv(100) == b"for the copy"
        assert protocol.received == b""
        copy.sendall(b"and back")
        assert peer.recv(100) == b"and back"
        copy.close()
        peer.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio's watcher stays with the number
def test_a_number_used_again_does_not_give_its_data_to_who_waited_for_the_old(run):
    async def main():
        loop = asyncio.get_running_loop()
        for reuse in ("pair", "dup"):
            old, far = socket.socketpair()
            old.setblocking(False)
            number = old.fileno()
            waiting = asyncio.ensure_future(awaited(loop.sock_recv(old, 10)))
            await turns(3)
            old.close()
            new, other = socket.socketpair()
            if new.fileno() != number:
                new, other = other, new
            assert new.fileno() == number
            if reuse == "dup":
                os.dup2(new.fileno(), 200)
                os.close(200)
            other.send(b"for the new")
            await turns(5)
            await asyncio.sleep(0.01)
            if waiting.done():
                assert isinstance(waiting.exception(), OSError)
            new.setblocking(False)
            assert await asyncio.wait_for(awaited(loop.sock_recv(new, 100)), 5) == b"for the new"
            # Ending the old call does not disturb a new one.
            second = asyncio.ensure_future(awaited(loop.sock_recv(new, 100)))
            await turns(3)
            waiting.cancel()
            await asyncio.wait([waiting])
            await turns(3)
            assert not second.done()
            other.send(b"again")
            assert await asyncio.wait_for(second, 5) == b"again"
            for sock in (far, new, other):
                sock.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio keeps the old watcher for the number
def test_a_transport_on_a_number_that_a_sock_call_waited_for(run):
    async def main():
        loop = asyncio.get_running_loop()
        old, far = socket.socketpair()
        old.setblocking(False)
        number = old.fileno()
        waiting = asyncio.ensure_future(awaited(loop.sock_recv(old, 10)))
        await turns(3)
        old.close()
        new, other = socket.socketpair()
        if new.fileno() != number:
            new, other = other, new
        _, protocol = await loop.create_connection(Recorder, sock=new)
        other.send(b"for the transport")
        await asyncio.wait_for(protocol.until_received(17), 5)
        waiting.cancel()
        await asyncio.wait([waiting])
        other.send(b", still")
        await asyncio.wait_for(protocol.until_received(24), 5)
        assert protocol.received == b"for the transport, still"
        await close(protocol)
        far.close()
        other.close()

    run(main)


def test_a_new_transport_may_have_the_number_of_one_that_is_lost(run):
    async def main():
        numbers = set()
        for size in range(1, 50):
            protocol, peer = await connect()
            numbers.add(protocol.transport._sock_fd)
            peer.sendall(bytes(size))
            await protocol.until_received(size)
            assert protocol.received == bytes(size)
            if size % 2:
                reset(peer)
                assert type(await protocol.lost) is ConnectionResetError
            else:
                await close(protocol, peer)
        assert len(numbers) < 10

    run(main)
