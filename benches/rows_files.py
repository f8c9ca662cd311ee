"""The rows of files: what the loop sends of them."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
from functools import partial

from benches.row import Row

MIB = 1 << 20


def swallow(sock: socket.socket) -> None:
    room = bytearray(MIB)
    with sock:
        while sock.recv_into(room):
            pass


async def sock_sendfile(size: int, repeats: int) -> None:
    """The reader is a thread of its own, whose time does not count."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    reader = threading.Thread(target=swallow, args=(there,))
    reader.start()
    try:
        with here, tempfile.TemporaryFile() as file:
            file.truncate(size)
            here.setblocking(False)
            for _ in range(repeats):
                if await loop.sock_sendfile(here, file, 0, size) != size:
                    raise RuntimeError("the file was not sent whole")
    finally:
        reader.join()


async def sendfile(size: int, repeats: int) -> None:
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    reader = threading.Thread(target=swallow, args=(there,))
    reader.start()
    transport = None
    try:
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=here)
            for _ in range(repeats):
                if await loop.sendfile(transport, file, 0, size) != size:
                    raise RuntimeError("the file was not sent whole")
    finally:
        if transport is None:
            here.close()
        else:
            transport.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        reader.join()


ROWS = [
    Row("sendfile", "sendfile, 100 MiB", "network", partial(sendfile, 100 * MIB)),
    Row("sock-sendfile", "sock_sendfile, 100 MiB", "network", partial(sock_sendfile, 100 * MIB)),
]
