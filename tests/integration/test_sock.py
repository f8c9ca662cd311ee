"""The `sock_*` methods on plain sockets."""

import asyncio
import socket
import sys

import pytest
from peers import connect, turns

recvfrom = pytest.mark.skipif(sys.version_info < (3, 11), reason="of 3.11")


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    yield here, there
    here.close()
    there.close()


def loop_of():
    return asyncio.get_running_loop()


def start(awaitable):
    return asyncio.ensure_future(awaitable)


def test_receiving_what_is_there_and_what_comes(run, pair):
    here, there = pair

    async def main():
        there.send(b"ready")
        assert await loop_of().sock_recv(here, 3) == b"rea"
        assert await loop_of().sock_recv(here, 10) == b"dy"
        waiting = start(loop_of().sock_recv(here, 10))
        await turns(3)
        assert not waiting.done()
        there.send(b"late")
        assert await waiting == b"late"
        there.close()
        assert await loop_of().sock_recv(here, 10) == b""

    run(main)


def test_receiving_into_a_buffer(run, pair):
    here, there = pair

    async def main():
        buffer = bytearray(4)
        waiting = start(loop_of().sock_recv_into(here, buffer))
        await turns(3)
        there.send(b"abcdef")
        assert await waiting == 4 and buffer == b"abcd"
        assert await loop_of().sock_recv_into(here, memoryview(buffer)[2:]) == 2
        assert buffer == b"abef"

    run(main)


def test_sending_more_than_the_kernel_takes(run, pair):
    here, there = pair
    data = bytes(range(256)) * 20_000

    async def main():
        for view in (data, bytearray(data), memoryview(data)):
            sending = start(loop_of().sock_sendall(here, view))
            received = bytearray()
            while len(received) < len(data):
                received += await loop_of().sock_recv(there, 1 << 20)
            assert await sending is None
            assert received == data
        await loop_of().sock_sendall(here, b"")

    run(main)


@pytest.mark.aioxide_only  # asyncio counts elements where it should count bytes, and sends too little
def test_sending_a_view_of_elements_sends_all_of_its_bytes(run, pair):
    here, there = pair

    async def main():
        loop = loop_of()
        while True:  # until the kernel takes a part only
            try:
                here.send(bytes(4096))
            except BlockingIOError:
                break
        data = memoryview(bytes(range(256)) * 4000).cast("I")
        sending = start(loop.sock_sendall(here, data))
        received = bytearray()
        while not received.endswith(data) or not sending.done():
            received += await loop.sock_recv(there, 1 << 20)
        await sending

    run(main)


def test_both_directions_at_once(run, pair):
    here, there = pair
    size = 3_000_000

    async def receive(sock):
        count = 0
        while count < size:
            count += len(await loop_of().sock_recv(sock, 65536))
        return count

    async def main():
        counts = await asyncio.gather(
            loop_of().sock_sendall(here, bytes(size)),
            loop_of().sock_sendall(there, bytes(size)),
            receive(here),
            receive(there),
        )
        assert counts == [None, None, size, size]

    run(main)


def test_connecting_and_accepting(run):
    async def main():
        loop = loop_of()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = start(loop.sock_accept(listener))
            await turns(2)
            assert await loop.sock_connect(client, listener.getsockname()) is None
            connection, address = await accepting
            assert address == client.getsockname()
            assert connection.gettimeout() == 0
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(connection, 1) == b"x"
            connection.close()

    run(main)


def test_connecting_resolves_a_name(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setblocking(False)
            await loop_of().sock_connect(client, ("localhost", listener.getsockname()[1]))
            assert client.getpeername() == listener.getsockname()

    run(main)


def test_a_refused_connection(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError) as caught:
                await loop_of().sock_connect(client, address)
            assert str(caught.value) == f"[Errno 111] Connect call failed {address}"

    run(main)


@recvfrom
def test_datagrams(run):
    async def main():
        loop = loop_of()
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for sock in (one, two):
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
            waiting = start(loop.sock_recvfrom(two, 100))
            await turns(2)
            assert await loop.sock_sendto(one, b"hello", two.getsockname()) == 5
            assert await waiting == (b"hello", one.getsockname())
            buffer = bytearray(10)
            await loop.sock_sendto(one, b"again", two.getsockname())
            assert await loop.sock_recvfrom_into(two, buffer) == (5, one.getsockname())
            assert buffer[:5] == b"again"
            await loop.sock_sendto(one, b"third", two.getsockname())
            assert await loop.sock_recvfrom_into(two, buffer, 2) == (2, one.getsockname())

    run(main)


CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, bytes(1 << 24)),
}
if sys.version_info >= (3, 11):
    CALLS["sock_recvfrom"] = lambda loop, sock: loop.sock_recvfrom(sock, 10)
    CALLS["sock_recvfrom_into"] = lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1))


def waiting_socket(name, pair):
    return socket.create_server(("127.0.0.1", 0)) if name == "sock_accept" else pair[0]


@pytest.mark.parametrize("name", CALLS)
def test_a_cancelled_call_watches_no_more(run, pair, name):
    async def main():
        sock = waiting_socket(name, pair)
        sock.setblocking(False)
        for count in (1, 2, 3):
            waiting = start(CALLS[name](loop_of(), sock))
            await turns(count)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await turns(1)
            assert loop_of().remove_reader(sock) is False
            assert loop_of().remove_writer(sock) is False
        sock.close()

    run(main)


@pytest.mark.aioxide_only
def test_a_blocking_socket_does_not_block_the_loop(run, pair):
    here, there = pair

    async def main():
        here.setblocking(True)
        waiting = start(loop_of().sock_recv(here, 10))
        await turns(3)
        assert not waiting.done()
        there.send(b"late")
        assert await waiting == b"late"
        here.setblocking(True)
        sending = start(loop_of().sock_sendall(here, bytes(4_000_000)))
        await turns(3)
        assert not sending.done()
        sending.cancel()

    run(main)


@pytest.mark.parametrize("name", [*CALLS, "sock_connect"])
def test_a_blocking_socket_is_refused_in_debug_mode(run, pair, name):
    calls = {**CALLS, "sock_connect": lambda loop, sock: loop.sock_connect(sock, "nowhere")}

    async def main():
        loop_of().set_debug(True)
        pair[0].setblocking(True)
        with pytest.raises(ValueError, match=r"^the socket must be non-blocking$"):
            await calls[name](loop_of(), pair[0])

    run(main)


@pytest.mark.parametrize("name", [*CALLS, "sock_connect"])
def test_a_closed_socket_is_an_error(run, pair, name):
    calls = {**CALLS, "sock_connect": lambda loop, sock: loop.sock_connect(sock, "nowhere")}

    async def main():
        pair[0].close()
        with pytest.raises(OSError) as caught:
            await calls[name](loop_of(), pair[0])
        assert str(caught.value) == "[Errno 9] Bad file descriptor"

    run(main)


def test_a_transports_descriptor_is_not_for_calls(run):
    import os

    async def main():
        protocol, peer = await connect()
        number = protocol.transport.get_extra_info("socket").fileno()
        sock = socket.socket(fileno=number)
        try:
            protocol.transport.pause_reading()
            with pytest.raises(RuntimeError, match=rf"^File descriptor {number} is used by transport <"):
                await loop_of().sock_recv(sock, 1)
        finally:
            assert sock.detach() == number
        assert os.fstat(number)
        protocol.transport.abort()
        await protocol.lost
        peer.close()

    run(main)


@pytest.mark.parametrize("name", [*CALLS, "sock_connect"])
def test_tls_sockets_are_refused(run, name):
    ssl = pytest.importorskip("ssl")
    calls = {**CALLS, "sock_connect": lambda loop, sock: loop.sock_connect(sock, "nowhere")}

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        refused = pytest.raises(TypeError, match=r"^Socket cannot be of type SSLSocket$")
        with context.wrap_socket(socket.socket()) as sock, refused:
            await calls[name](loop_of(), sock)

    run(main)


def test_wrong_types_are_the_sockets_own_errors(run, pair):
    async def main():
        loop = loop_of()
        with pytest.raises(TypeError):
            await loop.sock_recv(pair[0], "many")
        with pytest.raises(TypeError):
            await loop.sock_recv_into(pair[0], b"constant")
        with pytest.raises(TypeError):
            await loop.sock_sendall(pair[0], "text")
        with pytest.raises((TypeError, AttributeError)):
            await loop.sock_recv("no socket", 1)
        with pytest.raises(ValueError, match="negative buffersize in recv"):
            await loop.sock_recv(pair[0], -1)

    run(main)


def test_a_new_call_takes_the_place_of_the_one_that_waits(run, pair):
    here, there = pair

    async def main():
        first = start(loop_of().sock_recv(here, 10))
        await turns(2)
        second = start(loop_of().sock_recv(here, 10))
        await turns(2)
        there.send(b"x")
        assert await second == b"x"
        await turns(2)
        assert not first.done()
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()

    run(main)


@pytest.mark.aioxide_only
def test_a_cancellation_when_data_has_arrived_loses_nothing(run, pair):
    here, there = pair

    async def main():
        for count in range(1, 6):
            waiting = start(loop_of().sock_recv(here, 10))
            await turns(2)
            there.send(b"data")
            woken = loop_of().create_future()
            loop_of().call_later(0, woken.set_result, None)
            await turns(count)
            waiting.cancel()
            try:
                data = await waiting
            except asyncio.CancelledError:
                data = await loop_of().sock_recv(here, 10)
            assert data == b"data"
            await woken

    run(main)
