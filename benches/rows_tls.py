"""The TLS rows: what rows_network, rows_apps and rows_memory measure, with TLS 1.3 and an ECDSA certificate.

The contexts are made once per sample and have everything a user's have who changes nothing; `certificate.py` makes them, `load_tls.py`
is the other end.

A floor is what OpenSSL, the kernel and the protocol's own Python take for the same messages, without a loop's work: a bare loop in C around
SSL_read and SSL_write over shared buffers, which makes a bytes object, calls data_received, and has a transport with a write method.
It was measured once, in rounds with uvloop, and stands here as its share of what uvloop takes, with the OpenSSL it holds for; so it moves with
the machine on which uvloop is measured again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

from benches import certificate, loops
from benches.load_tls import GO_TLS, HELLO_PLAIN
from benches.row import Load, Row
from benches.rows_apps import GET
from benches.rows_memory import FIRST, resident
from benches.rows_network import (
    BACKLOG,
    KIB,
    AnswerAndClose,
    BufferedEcho,
    Connection,
    Echo,
    Order,
    Stop,
    echo_load,
    streams_echo,
)


class Floor(NamedTuple):
    share: float  # of what uvloop takes in the row
    row: str  # key
    openssl: str = "OpenSSL 3.0"  # how ssl.OPENSSL_VERSION begins


ECHO_64 = Floor(0.60, "tls-echo-64")
ECHO_1K = Floor(0.61, "tls-echo-1k")

#: By the key of the row that is judged. A stream's floor is the Protocol's and what the standard library's StreamReader and StreamWriter
#: take in Python, which was measured without TLS.
FLOORS = {
    "tls-echo-64": ECHO_64,
    "tls-echo-1k": ECHO_1K,
    "tls-echo-10k": Floor(0.655, "tls-echo-10k"),
    "tls-echo-100k": Floor(0.72, "tls-echo-100k"),
    "tls-mapped-64": ECHO_64,
    "tls-mapped-1k": ECHO_1K,
    "tls-streams-1k": Floor(0.56, "tls-streams-1k"),
    "tls-streams-10k": Floor(0.55, "tls-streams-10k"),
    "tls-streams-100k": Floor(0.77, "tls-streams-100k"),
    "tls-accept": Floor(0.74, "tls-accept"),
}


async def protocol_server(factory: Callable[[], Any], sock: socket.socket, stop: Stop) -> None:
    context = certificate.context(server_side=True)
    server = await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=BACKLOG, ssl=context)
    await stop
    server.close()


async def streams_server(handle: Callable[..., Any], sock: socket.socket, stop: Stop) -> None:
    context = certificate.context(server_side=True)
    server = await asyncio.start_server(handle, sock=sock, backlog=BACKLOG, ssl=context)
    await stop
    server.close()


# -- several writes --------------------------------------------------------------------------------------------------------------------

PARTS = [b"%d" % i * 128 for i in range(8)]


class EightWrites(Connection):
    def data_received(self, data: bytes) -> None:
        for part in PARTS:
            self.transport.write(part)


async def writelines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(64 * KIB):
            writer.writelines(PARTS)
            await writer.drain()
    finally:
        writer.close()


EIGHT = Load("tls_ping_pong", 100, "x" * 64, answer=sum(map(len, PARTS)))


# -- connections that come and go ------------------------------------------------------------------------------------------------------

MESSAGE = "x" * 64


class Upgraded(AnswerAndClose):
    """The message may come with the handshake's end, before who awaits start_tls has the transport."""

    early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.early:
            super().data_received(self.early)

    def data_received(self, data: bytes) -> None:
        if hasattr(self, "transport"):
            super().data_received(data)
        else:
            self.early += data


async def upgrading_server(sock: socket.socket, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    context = certificate.context(server_side=True)
    tasks: set[asyncio.Task[None]] = set()

    class Plain(Connection):
        def data_received(self, data: bytes) -> None:
            if data != HELLO_PLAIN:
                raise ValueError(data)
            self.transport.write(GO_TLS)
            task = loop.create_task(self.upgrade())  # takes its first step before anything more is read
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def upgrade(self) -> None:
            protocol = Upgraded()
            transport = await loop.start_tls(self.transport, protocol, context, server_side=True)
            assert transport
            protocol.connection_made(transport)

    server = await loop.create_server(Plain, sock=sock, backlog=BACKLOG)
    await stop
    server.close()


class Visit(Connection):
    """Sends, and closes when all has come back."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = len(MESSAGE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.write(MESSAGE.encode())

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if not self.missing:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def connect_and_close(sock: socket.socket, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    context = certificate.context(server_side=False)
    order = Order()
    server = await loop.create_server(lambda: order, sock=sock)
    port = await order.port
    while not order.enough:
        _, visit = await loop.create_connection(Visit, "127.0.0.1", port, ssl=context, server_hostname=certificate.HOST)
        await visit.lost
    order.transport.close()
    await stop
    server.close()


# -- applications ----------------------------------------------------------------------------------------------------------------------


async def aiohttp_server(sock: socket.socket, stop: Stop) -> None:
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock, ssl_context=certificate.context(server_side=True)).start()
    await stop
    await runner.cleanup()


ASKING = 20


async def aiohttp_client(sock: socket.socket, stop: Stop) -> None:
    import aiohttp

    order = Order()
    server = await asyncio.get_running_loop().create_server(lambda: order, sock=sock)
    port = await order.port
    connector = aiohttp.TCPConnector(limit=ASKING, ssl=certificate.context(server_side=False))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask() -> None:
            while not order.enough:
                async with session.get(f"https://127.0.0.1:{port}/", server_hostname=certificate.HOST) as response:
                    await response.json()

        await asyncio.gather(*(ask() for _ in range(ASKING)))
    order.transport.close()
    await stop
    server.close()


# -- memory ----------------------------------------------------------------------------------------------------------------------------

CONNECTIONS = 1000


async def idle_connections(size: int, sock: socket.socket, stop: Stop) -> float:
    """Resident bytes per connection that has had an echo of that size. The load connects in two goes; a byte tells it to go on."""
    loop = asyncio.get_running_loop()
    done = 0
    talk: asyncio.Transport | None = None
    some_done: asyncio.Future[None] = loop.create_future()
    all_done: asyncio.Future[None] = loop.create_future()

    class Echo(asyncio.Protocol):
        __slots__ = ("missing", "transport")

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal talk
            self.transport = cast(asyncio.Transport, transport)
            self.missing = size
            talk = talk or self.transport

        def data_received(self, data: bytes) -> None:
            nonlocal done
            self.transport.write(data)
            self.missing -= len(data)
            if not self.missing:
                done += 1
                if done == FIRST:
                    some_done.set_result(None)
                elif done == FIRST + CONNECTIONS:
                    all_done.set_result(None)

    context = certificate.context(server_side=True)
    server = await loop.create_server(Echo, sock=sock, backlog=BACKLOG, ssl=context)
    await some_done
    assert talk
    before = resident()
    talk.write(b"-")
    await all_done
    after = resident()
    talk.write(b"-")
    await stop
    server.close()
    return (after - before) / CONNECTIONS


# -- the rows --------------------------------------------------------------------------------------------------------------------------


def served(key: str, title: str, run: Callable[..., Any], load: Load, **details: Any) -> Row:
    return Row(f"tls-{key}", title, "tls", run, way="served", load=load, loops=loops.TLS, **details)


def echo(key: str, title: str, size: int, goal: float | None = None, mapped: bool = False) -> Row:
    if key.startswith("streams"):
        run = partial(streams_server, streams_echo)
    else:
        run = partial(protocol_server, BufferedEcho if key.startswith("buffered") else Echo)
    load = Load("tls_ping_pong", 10 if size > 10 * KIB else 100, echo_load(size).request)
    return served(key, title, run, load, goal=goal, mapped=mapped)


def idle(key: str, title: str, size: int) -> Row:
    load = Load("tls_hold", FIRST + CONNECTIONS, echo_load(size).request, answer=FIRST)
    run = partial(idle_connections, size)
    return Row(
        f"tls-{key}",
        title,
        "tls memory",
        run,
        "memory",
        load=load,
        unit="bytes",
        most_rounds=3,
        goal=1,
        loops=loops.TLS,
    )


ROWS = [
    echo("mapped-64", "TLS Protocol echo, 64 B, mapping malloc", 64, 3.3, mapped=True),
    echo("mapped-1k", "TLS Protocol echo, 1 KiB, mapping malloc", KIB, 3.3, mapped=True),
    echo("echo-64", "TLS Protocol echo, 64 B", 64),
    echo("echo-1k", "TLS Protocol echo, 1 KiB", KIB),
    echo("echo-10k", "TLS Protocol echo, 10 KiB", 10 * KIB),
    echo("echo-100k", "TLS Protocol echo, 100 KiB", 100 * KIB),
    echo("buffered-1k", "TLS BufferedProtocol echo, 1 KiB", KIB),
    echo("buffered-10k", "TLS BufferedProtocol echo, 10 KiB", 10 * KIB),
    echo("streams-1k", "TLS streams echo, 1 KiB", KIB),
    echo("streams-10k", "TLS streams echo, 10 KiB", 10 * KIB),
    echo("streams-100k", "TLS streams echo, 100 KiB", 100 * KIB),
    served("writes-8", "TLS, 8 writes of 128 B in a callback", partial(protocol_server, EightWrites), EIGHT),
    served("writelines-8", "TLS streams, writelines of 8 x 128 B", partial(streams_server, writelines), EIGHT),
    served(
        "accept",
        "TLS accept, answer, close",
        partial(protocol_server, AnswerAndClose),
        Load("tls_connect", 1, MESSAGE),
        goal=1,
    ),
    served(
        "connect",
        "TLS create_connection, echo, close",
        connect_and_close,
        Load("tls_accept", 1, MESSAGE),
        goal=1,
    ),
    served("start-tls", "accept, start_tls, answer, close", upgrading_server, Load("tls_upgrade", 1, MESSAGE), goal=1),
    served("aiohttp", "aiohttp over HTTPS: hello in JSON", aiohttp_server, Load("tls_ping_pong", 50, GET, answer=-1)),
    served("aiohttp-client", "aiohttp's client over HTTPS", aiohttp_client, Load("tls_answer", ASKING)),
]

MEMORY = [
    idle("idle-1k", "idle after an echo of 1 KiB, resident", KIB),
    idle("idle-40k", "idle after an echo of 40 KB, resident", 40_000),
]
