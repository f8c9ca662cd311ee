"""The network's rows: echo servers that run in the worker, on the loop being measured; `load.py` is their client.

A body serves until the last client has gone. It listens on a socket of its own making, tells the port through `announce`, and measures
nothing: the load process reads this process's CPU clock from outside, so no measuring code runs on the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from benches.row import Row

CONNECTIONS = 100
DEADLINE_S = 60  # nobody waits for a load process that died

Announce = Callable[[int], None]


class Clients:
    """Counts the clients that have left; `gone` is done when all have."""

    def __init__(self) -> None:
        self.left = CONNECTIONS
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def leave(self) -> None:
        self.left -= 1
        if not self.left and not self.gone.done():
            self.gone.set_result(None)


class Echo(asyncio.Protocol):
    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # no isinstance: uvloop's is none

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients.leave()


def listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=2 * CONNECTIONS)


async def serve_until_all_left(server: asyncio.AbstractServer, port: int, clients: Clients, announce: Announce) -> None:
    announce(port)
    await asyncio.wait_for(clients.gone, DEADLINE_S)
    server.close()
    await asyncio.sleep(0)  # let the last connections close before the loop does


async def protocol_echo(announce: Announce) -> None:
    clients, sock = Clients(), listen()
    port = sock.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(lambda: Echo(clients), sock=sock)
    await serve_until_all_left(server, port, clients, announce)


async def streams_echo(announce: Announce) -> None:
    clients, sock = Clients(), listen()
    port = sock.getsockname()[1]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            clients.leave()

    server = await asyncio.start_server(echo, sock=sock)
    await serve_until_all_left(server, port, clients, announce)


ROWS = [
    Row("echo-1k", "Protocol echo, 1 KiB", "network", protocol_echo, size=1024, goal=1),
    Row("streams-1k", "streams echo, 1 KiB", "network", streams_echo, size=1024),
    Row("echo-10k", "Protocol echo, 10 KiB", "network", protocol_echo, size=10 * 1024),
]
