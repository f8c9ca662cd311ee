"""The rows of `sock_*`: sockets that belong to the program, the loop only waits for them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from benches.row import Row
from benches.rows_network import KIB, Stop, echo_load, listen, served

ROOM = 64 * KIB
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, or a long run would use up the ports


async def sock_server(echo: Callable[..., Any], sock: socket.socket, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    echoes = set()

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(sock)
            connection.setblocking(False)
            echoes.add(asyncio.create_task(echo(connection)))

    accepting = asyncio.create_task(accept())
    await asyncio.wait({stop, accepting}, return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        accepting.result()  # raises: this loop cannot
    accepting.cancel()
    await asyncio.gather(*echoes)  # raises what an echo may have raised


async def recv_sendall(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        while data := await loop.sock_recv(connection, ROOM):
            await loop.sock_sendall(connection, data)


async def recv_into_sendall(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    room = memoryview(bytearray(ROOM))
    with connection:
        while received := await loop.sock_recv_into(connection, room):
            await loop.sock_sendall(connection, room[:received])


async def connect_and_accept(repeats: int) -> None:
    """Both ends on this loop: nobody else is needed."""
    loop = asyncio.get_running_loop()
    with listen() as listener:
        listener.setblocking(False)
        address = listener.getsockname()
        for _ in range(repeats):
            accepting = asyncio.ensure_future(loop.sock_accept(listener))  # rloop's is no coroutine
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                try:
                    await loop.sock_connect(client, address)
                except BaseException:
                    accepting.cancel()
                    raise
                accepted, _ = await accepting
            accepted.close()


ROWS = [
    served("sock-recv", "sock_recv, sock_sendall, 1 KiB", partial(sock_server, recv_sendall), echo_load(KIB), goal=2.2),
    served(
        "sock-recv-into",
        "sock_recv_into, sock_sendall, 1 KiB",
        partial(sock_server, recv_into_sendall),
        echo_load(KIB),
        goal=2.2,
    ),
    Row("sock-connect", "sock_connect, sock_accept, close", "network", connect_and_accept, goal=2.2),
]
