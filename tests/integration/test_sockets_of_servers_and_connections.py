"""Options of sockets, sockets that are given, and what debug mode logs: against asyncio's own."""

import asyncio
import errno
import logging
import re
import socket
import sys
import time

import pytest
from addresses import free_port, info, listening
from differential import describe, outcome, plain, same
from peers import PATIENCE_S, Recorder, close, reset, tcp_pair, turns

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- sock= and TCP_NODELAY -----------------------------------------------------------------------


def nodelay(transport):
    return bool(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_nagles_algorithm_is_off_by_asyncios_rule(proto, method):
    """asyncio looks at `sock.proto`, which is 0 for `socket.socket()`."""

    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
            sock.connect(listener.getsockname())
            peer, _ = listener.accept()
            transport, protocol = await getattr(loop, method)(Recorder, sock=sock)
            seen = nodelay(transport)
            await close(protocol, peer)
            return seen

    assert same(scenario) is (proto == socket.IPPROTO_TCP)


@pytest.mark.parametrize("proto", [None, 0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_nagles_algorithm_is_off_for_accepted_connections_by_asyncios_rule(proto, host):
    """A connection has its listener's `proto`; one that create_server makes has TCP's."""

    async def scenario():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result((self, nodelay(transport)))

        if proto is None:
            server = await loop.create_server(Told, host, 0)
        else:
            listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, proto)
            listener.bind((host, 0))
            server = await loop.create_server(Told, sock=listener)
        peer = socket.create_connection(server.sockets[0].getsockname()[:2], PATIENCE_S)
        protocol, seen = await made
        sock = protocol.transport.get_extra_info("socket")
        kind = sock.family, sock.type, sock.proto
        await close(protocol, peer)
        server.close()
        await server.wait_closed()
        return seen, kind

    same(scenario)


def test_a_socket_that_is_not_connected_becomes_a_transport_that_is_lost():
    async def scenario():
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        seen = [transport.get_extra_info("peername"), plain(repr(transport.get_extra_info("sockname")))]
        transport.write(b"x")
        error = describe(await protocol.lost)
        return seen, error, protocol.calls

    same(scenario)


def test_a_duplicate_of_the_socket_stays_usable(run):
    async def main():
        here, there = tcp_pair()
        copy = here.dup()
        _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        protocol.transport.write(b"one")
        await close(protocol)
        copy.setblocking(True)
        copy.sendall(b"two")
        copy.close()
        assert there.makefile("rb").read() == b"onetwo"
        there.close()

    run(main)


# --- listening sockets ---------------------------------------------------------------------------

OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reuse_address": True},
        {"reuse_address": False},
        {"reuse_port": True},
        {"reuse_port": False},
        {"keep_alive": True},
        {"keep_alive": False},
        {"start_serving": False},
        {"family": socket.AF_INET},
        {"family": socket.AF_INET6},
        {"backlog": 1},
        {"backlog": 0},
        {"backlog": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None, "", ["127.0.0.1", "::1"]], ids=str)
def test_options_of_listening_sockets(options, host):
    if "keep_alive" in options and sys.version_info < (3, 13):
        pytest.skip("keep_alive is of 3.13")

    async def scenario():
        loop = asyncio.get_running_loop()
        kind, server = await outcome(loop.create_server(Recorder, host, 0, **options))
        if kind == "raises":
            return server
        seen = []
        for sock in server.sockets:
            only = sock.family == socket.AF_INET6 and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            flags = [bool(sock.getsockopt(*option)) for option in OPTIONS]
            blocks = sock.gettimeout() != 0
            seen.append((sock.family, sock.type, sock.proto, flags, bool(only), blocks, sock.get_inheritable()))
        serves = server.is_serving()
        server.close()
        await server.wait_closed()
        return sorted(seen, key=repr), serves

    same(scenario)


def test_an_address_in_use_has_asyncios_error():
    with listening() as taken:
        address = taken.getsockname()

        async def scenario():
            loop = asyncio.get_running_loop()
            seen = []
            for options in ({}, {"reuse_address": False}, {"reuse_port": True}):
                seen.append(await outcome(loop.create_server(Recorder, *address, **options)))
            return seen

        for kind, error in same(scenario):
            assert kind == "raises" and error[1] == errno.EADDRINUSE


def test_a_server_of_a_socket_that_listens_already(run):
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        peer = socket.create_connection(listener.getsockname(), PATIENCE_S)  # before the server is there
        made = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result(self)

        server = await loop.create_server(Told, sock=listener, start_serving=False)
        await turns(5)
        assert not made.done() and not server.is_serving()
        await server.start_serving()
        protocol = await made
        await close(protocol, peer)
        server.close()
        await server.wait_closed()

    run(main)


# --- debug mode ----------------------------------------------------------------------------------


def lines(caplog):
    found = [(r.levelname, plain(r.getMessage())) for r in caplog.records if r.name == "asyncio"]
    caplog.clear()
    return [line for line in found if not line[1].startswith(("Executing ", "Using selector"))]


def test_debug_mode_logs_the_same_lines(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 1e9
        caplog.clear()
        seen = []
        served = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                served.set_result(self)

            def __repr__(self):
                return "<protocol>"

        server = await loop.create_server(Told, "127.0.0.1", 0)
        seen.append(("server", lines(caplog)))

        class Quiet(Recorder):
            def __repr__(self):
                return "<client>"

        transport, client = await loop.create_connection(Quiet, *server.sockets[0].getsockname())
        protocol = await served
        await turns(5)
        seen.append(("connected", sorted(lines(caplog))))
        transport.pause_reading()
        transport.resume_reading()
        seen.append(("paused", lines(caplog)))
        transport.write_eof()
        await protocol.until(lambda: "eof" in protocol.calls)
        await protocol.lost
        await client.lost
        await turns(5)
        seen.append(("ended", sorted(lines(caplog))))
        server.close()
        await server.wait_closed()
        seen.append(("closed", lines(caplog)))
        here, there = tcp_pair()
        _, accepted = await loop.connect_accepted_socket(Quiet, here)
        seen.append(("accepted", lines(caplog)))
        reset(there)
        await accepted.lost
        seen.append(("reset", lines(caplog)))
        seen.append(await outcome(loop.create_connection(Quiet, "127.0.0.1", free_port())))
        seen.append(("refused", lines(caplog)))
        return seen

    same(scenario)


def test_debug_mode_logs_name_resolution(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "asyncio")

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        time.sleep(0.001)
        return [info(("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        caplog.clear()
        seen = []
        for slow in (1e9, 0):
            loop.slow_callback_duration = slow
            await loop.getaddrinfo("name", 1)
            await loop.getaddrinfo("name", 80, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=6, flags=1)
            seen.append([line for line in lines(caplog) if "ddress info" in line[1]])
        loop.slow_callback_duration = 1e9
        return seen

    same(scenario)


def test_closing_a_loop_in_debug_mode_is_logged(new_loop, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop = new_loop()
    loop.set_debug(True)
    caplog.clear()
    loop.close()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert re.match(r"Close <\w*EventLoop running=False closed=", caplog.records[0].getMessage())
