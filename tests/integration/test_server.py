"""Servers: `create_server`, accepting, and the ways to end."""

import asyncio
import errno
import re
import socket
import subprocess
import sys

import pytest
from peers import PATIENCE_S, Recorder, turns


class Served:
    """A protocol factory that keeps what it makes."""

    def __init__(self, make=Recorder):
        self.make = make
        self.protocols = []
        self.arrived = asyncio.Event()

    def __call__(self):
        protocol = self.make()
        self.protocols.append(protocol)
        self.arrived.set()
        return protocol

    async def next(self):
        await self.arrived.wait()
        self.arrived.clear()
        protocol = self.protocols[-1]
        await protocol.until(lambda: protocol.transport is not None)
        return protocol


async def serve(make=Recorder, host="127.0.0.1", port=0, **options):
    served = Served(make)
    server = await asyncio.get_running_loop().create_server(served, host, port, **options)
    return server, served


def dial(server, index=0):
    return socket.create_connection(server.sockets[index].getsockname()[:2], PATIENCE_S)


def test_a_server_accepts_and_its_connections_outlive_it(run):
    async def main():
        server, served = await serve()
        assert isinstance(server, asyncio.AbstractServer) and server.is_serving()
        assert server.get_loop() is asyncio.get_running_loop()
        (listener,) = server.sockets
        assert isinstance(listener, asyncio.trsock.TransportSocket)
        assert repr(server) == f"<Server sockets=({listener!r},)>"
        peer = dial(server)
        protocol = await served.next()
        assert protocol.transport.get_extra_info("peername") == peer.getsockname()
        assert protocol.transport.get_extra_info("sockname") == listener.getsockname()
        server.close()
        assert not server.is_serving() and server.sockets == ()
        server.close()
        peer.sendall(b"still there")
        await protocol.until_received(11)
        peer.close()
        assert await protocol.lost is None
        await server.wait_closed()

    run(main)


def test_a_closed_server_refuses(run):
    async def main():
        server, _ = await serve()
        address = server.sockets[0].getsockname()
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE_S)

    run(main)


def test_wait_closed_waits_for_the_last_connection(run):
    async def main():
        server, served = await serve()
        peer = dial(server)
        protocol = await served.next()
        waiting = asyncio.ensure_future(server.wait_closed())
        await turns(2)
        assert not waiting.done()  # not closed
        server.close()
        await turns(2)
        assert not waiting.done()
        peer.close()
        await protocol.lost
        await waiting
        await server.wait_closed()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="of 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_a_server_ends_its_connections(run, method):
    async def main():
        server, served = await serve()
        peers = []
        for _ in range(3):
            peers.append(dial(server))
            await served.next()
        server.close()
        getattr(server, method)()
        await asyncio.wait_for(server.wait_closed(), 10)
        for peer in peers:
            assert peer.recv(1) == b""
            peer.close()
        for protocol in served.protocols:
            assert await protocol.lost is None

    run(main)


def test_a_server_may_start_later(run):
    async def main():
        server, served = await serve(start_serving=False)
        assert not server.is_serving()
        address = server.sockets[0].getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE_S)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        peer = dial(server)
        protocol = await served.next()
        peer.close()
        await protocol.lost
        server.close()

    run(main)


def test_serve_forever_serves_until_it_is_cancelled(run):
    async def main():
        server, served = await serve(start_serving=False)
        serving = asyncio.ensure_future(server.serve_forever())
        await turns(2)
        assert server.is_serving()
        with pytest.raises(RuntimeError, match=r"^server <Server .*> is already being awaited on serve_forever\(\)$"):
            await server.serve_forever()
        peer = dial(server)
        protocol = await served.next()
        peer.close()
        await protocol.lost
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match=r"^server <Server .*> is closed$"):
            await server.serve_forever()

    run(main)


def test_close_ends_serve_forever(run):
    async def main():
        server, _ = await serve()
        serving = asyncio.ensure_future(server.serve_forever())
        await turns(2)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main)


def test_a_server_is_a_context_manager(run):
    async def main():
        server, _ = await serve()
        async with server as same:
            assert same is server
        assert not server.is_serving()

    run(main)


def test_a_server_of_a_socket(run):
    async def main():
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        served = Served()
        server = await loop.create_server(served, sock=sock)
        peer = dial(server)
        protocol = await served.next()
        peer.close()
        await protocol.lost
        server.close()
        assert sock.fileno() == -1

    run(main)


def test_ipv6(run):
    async def main():
        server, served = await serve(host="::1")
        assert server.sockets[0].family == socket.AF_INET6
        assert server.sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        peer = dial(server)
        protocol = await served.next()
        assert protocol.transport.get_extra_info("peername") == peer.getsockname()
        assert len(protocol.transport.get_extra_info("sockname")) == 4
        peer.close()
        await protocol.lost
        server.close()

    run(main)


def test_all_interfaces_are_both_families_on_one_port(run):
    async def main():
        for host in (None, ""):
            server, served = await serve(host=host)
            families = {sock.family for sock in server.sockets}
            assert families == {socket.AF_INET, socket.AF_INET6}
            for sock in server.sockets:
                address = ("::1" if sock.family == socket.AF_INET6 else "127.0.0.1", sock.getsockname()[1])
                peer = socket.create_connection(address, PATIENCE_S)
                protocol = await served.next()
                peer.close()
                await protocol.lost
            server.close()

    run(main)


def test_several_hosts(run):
    async def main():
        server, served = await serve(host=["127.0.0.1", "127.0.0.2", "127.0.0.1"])
        assert sorted(sock.getsockname()[0] for sock in server.sockets) == ["127.0.0.1", "127.0.0.2"]
        for index in (0, 1):
            peer = dial(server, index)
            protocol = await served.next()
            peer.close()
            await protocol.lost
        server.close()

    run(main)


def test_reuse_port_lets_two_servers_share_an_address(run):
    async def main():
        one, served_by_one = await serve(reuse_port=True)
        port = one.sockets[0].getsockname()[1]
        two, served_by_two = await serve(port=port, reuse_port=True)
        assert one.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        arrived = [asyncio.ensure_future(served.next()) for served in (served_by_one, served_by_two)]
        peer = dial(two)
        await asyncio.wait(arrived, return_when=asyncio.FIRST_COMPLETED)
        peer.close()
        for served in (served_by_one, served_by_two):
            for protocol in served.protocols:
                await protocol.lost
        for waiting in arrived:
            waiting.cancel()
        await asyncio.gather(*arrived, return_exceptions=True)
        one.close()
        two.close()

    run(main)


def test_options_of_the_listening_socket(run):
    async def main():
        server, _ = await serve()
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        server.close()
        server, _ = await serve(reuse_address=False)
        assert not server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        server.close()
        if sys.version_info >= (3, 13):
            server, _ = await serve(keep_alive=True)
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            server.close()
        else:
            with pytest.raises(TypeError, match="unexpected keyword argument 'keep_alive'"):
                await serve(keep_alive=True)

    run(main)


def test_an_address_in_use_is_an_error_and_leaves_no_socket(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError) as caught:
                await serve(host=["127.0.0.2", "127.0.0.1"], port=port)
        assert caught.value.errno == errno.EADDRINUSE
        # Older ones leave the number out. Another process may have the port at the first address, rarely.
        pattern = (
            rf"error while attempting to bind on address \('127\.0\.0\.[12]', {port}\): "
            r"(\[errno 98\] )?address already in use"
        )
        assert re.fullmatch(pattern, caught.value.strerror)

    run(main)


@pytest.mark.parametrize(
    ("options", "exception", "message"),
    [
        ({}, ValueError, "Neither host/port nor sock were specified"),
        ({"ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
        ({"port": 0, "ssl_handshake_timeout": 1}, ValueError, "ssl_handshake_timeout is only meaningful"),
        ({"port": 0, "host": "127.0.0.1", "sock": "tcp"}, ValueError,
         "host/port and sock can not be specified at the same time"),
        ({"sock": "udp"}, ValueError, "A Stream Socket was expected, got <socket.socket "),
        ({"host": "256.0.0.1", "port": 0}, socket.gaierror, ""),
        ({"host": "127.0.0.1", "port": 65536}, OverflowError, "port must be 0-65535"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(run, options, exception, message):
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

    async def main():
        sock = options.get("sock") and socket.socket(type=kinds[options["sock"]])
        given = {**options, "sock": sock} if sock else options
        with pytest.raises(exception) as caught:
            await asyncio.get_running_loop().create_server(Recorder, **given)
        assert message in str(caught.value)
        if sock:
            sock.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves a server to the garbage collector
def test_cancelling_create_server_leaves_no_socket(run):
    async def main():
        for count in range(12):
            task = asyncio.ensure_future(serve(host=["127.0.0.1", "127.0.0.2"]))
            await turns(count)
            if task.done():
                server, _ = task.result()
                server.close()
                await server.wait_closed()
            else:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        # no_leaks counts the descriptors

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves the connection to the garbage collector
def test_a_factory_that_raises_costs_its_connection_only(run, reports):
    async def main():
        failing = [True]

        def make():
            if failing.pop():
                raise ZeroDivisionError("no protocol")
            return Recorder()

        server, served = await serve(make)
        peer = dial(server)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(peer, 1) == b""
        peer.close()
        assert reports.take() == []  # told in debug mode only
        loop.set_debug(True)
        loop.slow_callback_duration = 1e9
        failing[:] = [False, True]
        peer = dial(server)
        peer.setblocking(False)
        assert await loop.sock_recv(peer, 1) == b""
        peer.close()
        (report,) = reports.take_whole()
        assert report.message == "Error on transport creation for incoming connection"
        assert (report.exception, report.text) == (ZeroDivisionError, "no protocol")
        assert report.others == ()
        peer = dial(server)
        protocol = await served.next()
        peer.close()
        await protocol.lost
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.aioxide_only  # as above
def test_a_factory_may_close_the_server(run):
    async def main():
        server = None
        made = []

        def make():
            server.close()
            made.append(Recorder())
            return made[-1]

        server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        peers = [dial(server), dial(server)]
        for peer in peers:
            peer.setblocking(False)
        # The first has no server to be attached to; the second is reset with the backlog.
        for peer in peers:
            try:
                await asyncio.get_running_loop().sock_recv(peer, 1)
            except ConnectionResetError:
                pass
            peer.close()
        for protocol in made:
            if protocol.transport is not None:
                protocol.transport.abort()
                await protocol.lost

    run(main)


def test_a_connection_gone_before_it_is_accepted_does_no_harm(run):
    from peers import reset

    async def main():
        server, served = await serve(start_serving=False)
        server.sockets[0]._sock.listen(10)
        for _ in range(3):
            reset(dial(server))
        await server.start_serving()
        peer = dial(server)
        while True:
            protocol = await served.next()
            if protocol.transport.get_extra_info("peername") == peer.getsockname():
                break
        peer.close()
        for protocol in served.protocols:
            await protocol.lost
        server.close()

    run(main)


def test_connections_run_in_a_context_of_their_own(run):
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)

    class Counts(Recorder):
        def __init__(self):
            super().__init__()
            self.at_start = variable.get()

        def connection_made(self, transport):
            super().connection_made(transport)
            variable.set(variable.get() + 1)

    async def main():
        variable.set(10)
        server, served = await serve(Counts)
        variable.set(20)
        for _ in range(3):
            peer = dial(server)
            protocol = await served.next()
            peer.close()
            await protocol.lost
        server.close()
        assert [protocol.at_start for protocol in served.protocols] == [10, 10, 10]

    run(main)


EXHAUSTED = """
import asyncio, os, resource, socket, sys
if sys.argv[1] == "aioxide":
    import aioxide
    make = aioxide.EventLoop
else:
    make = asyncio.SelectorEventLoop
asyncio.constants.ACCEPT_RETRY_DELAY = 0.05

async def main():
    loop = asyncio.get_running_loop()
    told = []
    heard = asyncio.Event()
    def handler(loop, context):
        told.append((context["message"], type(context["exception"]).__name__, context["exception"].errno,
                     type(context["socket"]).__name__, sorted(context)))
        heard.set()
    loop.set_exception_handler(handler)
    accepted = asyncio.Event()
    class P(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            accepted.set()
        def connection_lost(self, exception):
            ended.set()
    ended = asyncio.Event()
    server = await loop.create_server(P, "127.0.0.1", 0)
    peer = socket.socket()
    peer.setblocking(False)
    used = max(map(int, os.listdir("/proc/self/fd")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fill = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        while True:
            fill.append(os.dup(0))
    except OSError:
        pass
    await loop.sock_connect(peer, server.sockets[0].getsockname())
    await heard.wait()
    before = len(told)
    for fd in fill:
        os.close(fd)
    await accepted.wait()
    peer.close()
    await ended.wait()
    server.close()
    await server.wait_closed()
    print(told[0])
    print(len(told) == before)
loop = make()
loop.run_until_complete(main())
loop.close()
"""


def test_accepting_without_descriptors_left_is_told_and_tried_again_later(loop_name):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXHAUSTED, loop_name],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    first, rest = done.stdout.splitlines()
    keys = ["exception", "message", "socket"]
    expected = ("socket.accept() out of system resource", "OSError", errno.EMFILE, "TransportSocket", keys)
    assert first == repr(expected)
    assert rest == "True"
