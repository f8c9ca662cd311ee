"""The network's rows: servers that run in the worker, on the loop being measured; `load.py` is their client.

A body serves on the listening socket it is given until `stop` is done, by when all clients have left. It measures nothing: the load
process reads this process's CPU clock from outside, so no measuring code runs on the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from benches.row import Load, Row

KIB = 1024
ROOM = 128 * KIB  # of a BufferedProtocol: what a kernel hands out at once fits

BACKLOG = 4096  # clients that come all at once are not kept waiting for SYN to be sent again

Stop = asyncio.Future[None]


def listen(network: str = "tcp") -> socket.socket:
    """A listening socket, or one that is bound, for a row's body.

    TCP as asyncio's own create_server(host, port) does it: it sets TCP_NODELAY only on what says that it is TCP.

    socket.create_server leaves the protocol at 0, and then asyncio leaves Nagle's algorithm on: with two writes to an answer that
    measures the peer's delayed acknowledgement, 40 ms.
    """
    if network == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * KIB)  # or less; a request of each client fits
        sock.bind(("127.0.0.1", 0))
        return sock
    if network == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("")  # the kernel chooses an abstract name
        sock.listen(BACKLOG)
        return sock
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(BACKLOG)
    return sock


def port_of(sock: socket.socket) -> int | str:
    """What a load process connects to; goes through JSON."""
    if sock.family == socket.AF_UNIX:
        return cast(bytes, sock.getsockname()).decode("latin-1")
    return int(sock.getsockname()[1])


async def protocol_server(factory: Callable[[], Any], sock: socket.socket, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        server = await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
    else:
        server = await loop.create_server(factory, sock=sock, backlog=BACKLOG)
    await stop
    server.close()


async def streams_server(handle: Callable[..., Any], sock: socket.socket, stop: Stop) -> None:
    if sock.family == socket.AF_UNIX:
        server = await asyncio.start_unix_server(handle, sock=sock, backlog=BACKLOG)
    else:
        server = await asyncio.start_server(handle, sock=sock, backlog=BACKLOG)
    await stop
    server.close()


async def datagram_server(factory: Callable[[], Any], sock: socket.socket, stop: Stop) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(factory, sock=sock)
    await stop
    transport.close()


# -- echo ------------------------------------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # no isinstance: uvloop's is none


class Echo(Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.room = memoryview(bytearray(ROOM))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        # A copy, as any correct program has to make one: asyncio and uvloop keep what the kernel did not take, and the room is reused.
        self.transport.write(bytes(self.room[:nbytes]))


async def streams_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * KIB):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def echo_load(size: int, connections: int = 100, network: str = "tcp") -> Load:
    return Load(connections=connections, request="".join(chr(i % 256) for i in range(size)), network=network)


# -- connections that come and go ------------------------------------------------------------------------------------------------------


class AnswerAndClose(Connection):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


class Order(Connection):
    """The load's order to a body that is a client: the port to connect to, and, by the end of what it sends: enough."""

    def __init__(self) -> None:
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.enough = False

    def data_received(self, data: bytes) -> None:
        self.port.set_result(int(data))

    def eof_received(self) -> bool:
        self.enough = True
        return True  # the connection's end tells the load that nobody is going to connect any more


class Visit(Connection):
    """Closes at the first byte. It waits for that so that client and server keep step: a client that only connects and closes outruns
    the server, till SYNs are dropped."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def connect_and_close(sock: socket.socket, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    order = Order()
    server = await loop.create_server(lambda: order, sock=sock)
    port = await order.port
    while not order.enough:
        _, visit = await loop.create_connection(Visit, "127.0.0.1", port)
        await visit.lost
    order.transport.close()
    await stop
    server.close()


# -- several writes --------------------------------------------------------------------------------------------------------------------

REQUEST = "GET /plain HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
BODY = b"Hello, world!"
RESPONSE = HEAD + BODY
PIPELINED = 16
FAN_IN = 16
PART = b"x" * 64


class Requests(Connection):
    """Cuts what arrives into requests, as an HTTP parser would."""

    def __init__(self) -> None:
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *requests, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for _ in requests:
            self.request_received()

    def request_received(self) -> None:
        raise NotImplementedError


class OneWriteEach(Requests):
    def request_received(self) -> None:
        self.transport.write(RESPONSE)


class HeadThenBody(Requests):
    def request_received(self) -> None:
        self.transport.write(HEAD)
        self.transport.write(BODY)


class FanIn(Connection):
    """A request wakes 16 tasks, and each writes its part: a connection that many share, as to a broker or in HTTP/2."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self.turns = [loop.create_future() for _ in range(FAN_IN)]
        self.tasks = [asyncio.create_task(self.work(i)) for i in range(FAN_IN)]

    async def work(self, i: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self.turns[i]
            self.turns[i] = loop.create_future()
            self.transport.write(PART)

    def data_received(self, data: bytes) -> None:
        for turn in self.turns:
            turn.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()


def served(key: str, title: str, run: Callable[..., Any], load: Load, group: str = "network", **details: Any) -> Row:
    return Row(key, title, group, run, way="served", load=load, **details)


def echo(key: str, title: str, size: int, goal: float | None, connections: int = 100, network: str = "tcp") -> Row:
    if network == "udp":
        run = partial(datagram_server, DatagramEcho)
    elif "streams" in key:
        run = partial(streams_server, streams_echo)
    else:
        run = partial(protocol_server, BufferedEcho if key.startswith("buffered") else Echo)
    return served(key, title, run, echo_load(size, connections, network), goal=goal)


ROWS = [
    echo("echo-64", "Protocol echo, 64 B", 64, 1.1),
    echo("echo-1k", "Protocol echo, 1 KiB", KIB, 1.1),
    echo("echo-10k", "Protocol echo, 10 KiB", 10 * KIB, 1.1),
    echo("echo-100k", "Protocol echo, 100 KiB", 100 * KIB, 1.05),
    echo("echo-1k-x1", "Protocol echo, 1 KiB, 1 connection", KIB, 1.1, connections=1),
    echo("echo-1k-x1000", "Protocol echo, 1 KiB, 1000 connections", KIB, 1.1, connections=1000),
    echo("buffered-64", "BufferedProtocol echo, 64 B", 64, 1.1),
    echo("buffered-1k", "BufferedProtocol echo, 1 KiB", KIB, 1.1),
    echo("buffered-10k", "BufferedProtocol echo, 10 KiB", 10 * KIB, 1.1),
    echo("buffered-100k", "BufferedProtocol echo, 100 KiB", 100 * KIB, 1.05),
    echo("streams-1k", "streams echo, 1 KiB", KIB, 1.2),
    echo("streams-10k", "streams echo, 10 KiB", 10 * KIB, None),
    echo("streams-100k", "streams echo, 100 KiB", 100 * KIB, None),
    echo("unix-64", "Protocol echo over a Unix socket, 64 B", 64, 1.15, network="unix"),
    echo("unix-1k", "Protocol echo over a Unix socket, 1 KiB", KIB, 1.15, network="unix"),
    echo("unix-streams-1k", "streams echo over a Unix socket, 1 KiB", KIB, 1.2, network="unix"),
    echo("udp-64", "UDP echo, 64 B", 64, 1.4, network="udp"),
    echo("udp-1k", "UDP echo, 1 KiB", KIB, None, network="udp"),
    served("accept", "accept, answer, close", partial(protocol_server, AnswerAndClose), Load("connect", 1, "x" * 64)),
    served("connect", "create_connection, 1 byte, close", connect_and_close, Load("accept", 1), goal=1.05),
]

SEVERAL_WRITES = [
    served(
        "pipelined",
        "16 pipelined requests, a write each",
        partial(protocol_server, OneWriteEach),
        Load(connections=20, request=REQUEST * PIPELINED, answer=len(RESPONSE) * PIPELINED),
        "several writes",
        ops=PIPELINED,
        goal=4,
    ),
    served(
        "two-writes",
        "1 request, head and body written",
        partial(protocol_server, HeadThenBody),
        Load(connections=20, request=REQUEST, answer=len(RESPONSE)),
        "several writes",
    ),
    served(
        "fan-in",
        "16 tasks, one connection, per write",
        partial(protocol_server, FanIn),
        Load(connections=20, request="x" * 64, answer=FAN_IN * len(PART)),
        "several writes",
        ops=FAN_IN,
    ),
]
