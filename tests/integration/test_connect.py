"""`create_connection`: addresses, happy eyeballs, errors, and what a cancellation leaves behind: nothing."""

import asyncio
import contextlib
import socket
import sys

import pytest
from peers import Recorder, close, tcp_pair, turns


@contextlib.contextmanager
def listening(host="127.0.0.1", backlog=16):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.settimeout(10)
        yield listener


def free_port():
    """Of an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def silent():
    """An address that never answers: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        # SYNs are dropped once the queue holds more than the backlog.
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address


def resolve_to(loop, addresses):
    """Let a name mean these addresses."""

    async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
        return [
            (
                socket.AF_INET6 if ":" in a[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                a,
            )
            for a in addresses
        ]

    loop.getaddrinfo = getaddrinfo


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_connects(run, host):
    async def main():
        with listening(host) as listener:
            port = listener.getsockname()[1]
            transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, host, port)
            peer, address = listener.accept()
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("peername") == listener.getsockname()
            assert protocol.calls == ["made"]
            await close(protocol, peer)

    run(main)


def test_a_name_is_resolved_and_a_port_may_be_text(run):
    async def main():
        with listening() as listener:
            port = str(listener.getsockname()[1])
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(Recorder, "localhost", port, family=socket.AF_INET)
            peer, _ = listener.accept()
            await close(protocol, peer)

    run(main)


def test_a_connected_socket_becomes_the_transports(run):
    async def main():
        loop = asyncio.get_running_loop()
        for method in (loop.create_connection, loop.connect_accepted_socket):
            here, there = tcp_pair()
            here.setblocking(True)
            transport, protocol = await method(Recorder, sock=here)
            assert transport.get_extra_info("socket").gettimeout() == 0
            await close(protocol, there)
            assert here.fileno() == -1

    run(main)


def test_a_refused_connection_says_where(run):
    async def main():
        port = free_port()
        with pytest.raises(ConnectionRefusedError) as caught:
            await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", port)
        assert str(caught.value) == f"[Errno 111] Connect call failed ('127.0.0.1', {port})"

    run(main)


@pytest.mark.parametrize("delay", [None, 0.25])
def test_the_errors_of_all_addresses_are_told(run, delay):
    async def main():
        loop = asyncio.get_running_loop()
        ports = [free_port(), free_port()]
        resolve_to(loop, [("127.0.0.1", port) for port in ports])
        texts = [f"[Errno 111] Connect call failed ('127.0.0.1', {port})" for port in ports]
        with pytest.raises(OSError) as caught:
            await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay)
        assert str(caught.value) == f"Multiple exceptions: {', '.join(texts)}"
        if sys.version_info >= (3, 12):
            with pytest.raises(ExceptionGroup) as group:
                await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay, all_errors=True)
            assert [str(error) for error in group.value.exceptions] == texts
            assert group.value.message == "create_connection failed"

    run(main)


@pytest.mark.parametrize("delay", [None, 0.25])
def test_the_next_address_is_tried_when_one_fails(run, delay):
    async def main():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            resolve_to(loop, [("127.0.0.1", free_port()), ("127.0.0.1", free_port()), listener.getsockname()])
            transport, protocol = await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay)
            assert transport.get_extra_info("peername") == listener.getsockname()
            peer, _ = listener.accept()
            await close(protocol, peer)

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves the loser to the garbage collector
def test_an_address_that_does_not_answer_is_overtaken(run):
    async def main():
        loop = asyncio.get_running_loop()
        with silent() as nowhere, listening() as listener:
            resolve_to(loop, [nowhere, listener.getsockname()])
            transport, protocol = await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=0.01)
            assert transport.get_extra_info("peername") == listener.getsockname()
            peer, _ = listener.accept()
            await close(protocol, peer)

    run(main)


def test_families_take_turns(run):
    async def main():
        loop = asyncio.get_running_loop()
        tried = []
        v6 = [("::1", 1, 0, 0), ("::1", 2, 0, 0), ("::1", 3, 0, 0)]
        v4 = [("127.0.0.1", 1), ("127.0.0.1", 2)]
        resolve_to(loop, v6 + v4)

        async def sock_connect(sock, address):
            tried.append(address)
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        for options, expected in [
            ({}, v6 + v4),
            ({"interleave": 1}, [v6[0], v4[0], v6[1], v4[1], v6[2]]),
            ({"interleave": 2}, [v6[0], v6[1], v4[0], v6[2], v4[1]]),
            ({"happy_eyeballs_delay": 10}, [v6[0], v4[0], v6[1], v4[1], v6[2]]),
        ]:
            tried.clear()
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(Recorder, "name", 1, **options)
            assert tried == expected, options

    run(main)


def test_a_local_address(run):
    async def main():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            transport, protocol = await loop.create_connection(
                Recorder, *listener.getsockname(), local_addr=("127.0.0.2", 0)
            )
            peer, address = listener.accept()
            assert address[0] == "127.0.0.2" and transport.get_extra_info("sockname") == address
            await close(protocol, peer)
            with pytest.raises(OSError) as caught:
                await loop.create_connection(Recorder, *listener.getsockname(), local_addr=listener.getsockname())
        assert "error while attempting to bind on address ('127.0.0.1', " in str(caught.value)

    run(main)


@pytest.mark.parametrize(
    ("options", "exception", "message"),
    [
        ({}, ValueError, "host and port was not specified and no sock specified"),
        ({"port": 1, "server_hostname": "h"}, ValueError, "server_hostname is only meaningful with ssl"),
        ({"port": 1, "ssl": True}, ValueError, "You must set server_hostname when using ssl without a host"),
        ({"port": 1, "ssl_handshake_timeout": 1}, ValueError, "ssl_handshake_timeout is only meaningful"),
        ({"port": 1, "sock": "tcp"}, ValueError, "host/port and sock can not be specified at the same time"),
        ({"sock": "udp"}, ValueError, "A Stream Socket was expected, got <socket.socket "),
        ({"host": "127.0.0.1", "port": 70000}, OverflowError, ""),
        ({"host": "256.0.0.1", "port": 1}, socket.gaierror, ""),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(run, options, exception, message):
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

    async def main():
        sock = options.get("sock") and socket.socket(type=kinds[options["sock"]])
        given = {**options, "sock": sock} if sock else options
        with pytest.raises(exception) as caught:
            await asyncio.get_running_loop().create_connection(Recorder, **given)
        assert message in str(caught.value)
        if sock:
            sock.close()

    run(main)


def test_an_empty_answer_of_the_resolver_is_an_error(run):
    async def main():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [])
        with pytest.raises(OSError, match=r"^getaddrinfo\(\) returned empty list$"):
            await loop.create_connection(Recorder, "name", 1)

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves the socket to the garbage collector
def test_a_factory_that_raises_costs_the_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(lambda: 1 / 0, *listener.getsockname())
            peer, _ = listener.accept()
            assert peer.recv(1) == b""
            peer.close()

    run(main)


def test_connection_made_that_raises_does_not_keep_the_caller_waiting(run, reports):
    class Fails(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async def main():
        here, there = tcp_pair()
        _, protocol = await asyncio.get_running_loop().create_connection(Fails, sock=here)
        ((message, exception),) = reports.take()
        assert message.startswith("Exception in callback ") and exception is ZeroDivisionError
        there.sendall(b"x")  # and the connection lives
        await protocol.until_received(1)
        await close(protocol, there)

    run(main)


async def cancel_after_each_turn(connect, most):
    """Cancel `connect()` after 0, 1, 2, ... turns, until it is done before. How often it was cancelled."""
    for count in range(most):
        task = asyncio.ensure_future(connect())
        await turns(count)
        if task.done():
            _, protocol = task.result()
            await close(protocol)
            return count
        task.cancel()
        try:
            _, protocol = await task
        except asyncio.CancelledError:
            pass
        else:
            await close(protocol)
        await turns(5)
    raise AssertionError("it never connected")


@pytest.mark.aioxide_only  # asyncio leaves sockets to the garbage collector
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.25}, {"happy_eyeballs_delay": 0}])
def test_a_cancellation_at_any_moment_leaves_nothing(run, options):
    async def main():
        loop = asyncio.get_running_loop()
        with listening(backlog=1000) as listener:
            resolve_to(loop, [("127.0.0.1", free_port()), listener.getsockname(), listener.getsockname()])
            cancelled = await cancel_after_each_turn(
                lambda: loop.create_connection(Recorder, "name", 1, **options), 500
            )
            assert cancelled >= 3

    run(main)


@pytest.mark.aioxide_only
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.001}])
def test_a_cancellation_while_nobody_answers_leaves_nothing(run, options):
    async def main():
        loop = asyncio.get_running_loop()
        with silent() as nowhere, silent() as nowhere_else:
            resolve_to(loop, [nowhere, nowhere_else])
            for count in (0, 1, 2, 5, 20, 200):
                task = asyncio.ensure_future(loop.create_connection(Recorder, "name", 1, **options))
                await turns(count)
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.create_connection(Recorder, "name", 1, **options), 0.01)

    run(main)


def test_a_cancellation_during_name_resolution(run):
    async def main():
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        async def getaddrinfo(*args, **kwargs):
            started.set()
            await loop.create_future()

        loop.getaddrinfo = getaddrinfo
        task = asyncio.ensure_future(loop.create_connection(Recorder, "name", 1))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
