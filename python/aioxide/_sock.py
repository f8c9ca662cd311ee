"""The `sock_*` methods: socket calls on plain non-blocking sockets.

Counterpart: the `sock_*` methods of `asyncio.SelectorEventLoop`. Each tries the call first. If the
socket is not ready it waits and calls again when it is its turn to run, not in the watcher's
callback as asyncio does: then a cancellation that arrives in between loses no data.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from ._part import LoopPart

try:
    from ssl import SSLSocket
except ImportError:  # an interpreter without OpenSSL
    SSLSocket = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    import asyncio

__all__ = ["Sockets", "check_ssl_socket"]

#: "Not now": the call is made again when the socket is ready.
_NOT_READY = (BlockingIOError, InterruptedError)


def check_ssl_socket(sock: socket.socket | None) -> None:
    """TypeError for an `ssl.SSLSocket`, which does its own reading and writing."""
    if SSLSocket is not None and isinstance(sock, SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Sockets(LoopPart):
    """The part of the loop that makes socket calls.

    All raise what the socket's own method raises, TypeError for an SSLSocket, in debug mode
    ValueError for a blocking socket, and RuntimeError when a transport uses the descriptor.
    """

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes. Same as `loop.sock_recv`."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv(nbytes)
            except _NOT_READY:
                await self._until_readable(sock)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into a writable buffer; returns the count. Same as `loop.sock_recv_into`."""
        self._check_socket(sock)
        while True:
            try:
                return sock.recv_into(buf)
            except _NOT_READY:
                await self._until_readable(sock)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of `data`. Same as `loop.sock_sendall`.

        After an exception or a cancellation nobody knows how much was sent.
        """
        self._check_socket(sock)
        try:
            sent = sock.send(data)
        except _NOT_READY:
            sent = 0
        with memoryview(data) as view:
            if sent == view.nbytes:
                return
            with view.cast("B") as rest:
                while sent < len(rest):
                    await self._until_writable(sock)
                    try:
                        with rest[sent:] as piece:
                            sent += sock.send(piece)
                    except _NOT_READY:
                        continue

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`, resolving it for IP sockets. Same as `loop.sock_connect`."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            infos = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = next(iter(infos))[4]
        try:
            sock.connect(address)
            return
        except _NOT_READY:  # connect(2): interrupted or not, it goes on in the background
            pass
        while True:
            await self._until_writable(sock)
            try:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, f"Connect call failed {address}")
                return
            except _NOT_READY:
                continue

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; the new socket is non-blocking. Same as `loop.sock_accept`."""
        self._check_socket(sock)
        while True:
            try:
                connection, address = sock.accept()
            except _NOT_READY:
                await self._until_readable(sock)
            else:
                connection.setblocking(False)
                return connection, address

    if sys.version_info >= (3, 11):

        async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
            """Receive one datagram and its sender. Same as `loop.sock_recvfrom`."""
            self._check_socket(sock)
            while True:
                try:
                    return sock.recvfrom(bufsize)
                except _NOT_READY:
                    await self._until_readable(sock)

        async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
            """Receive one datagram into a buffer. Same as `loop.sock_recvfrom_into`."""
            self._check_socket(sock)
            if not nbytes:
                nbytes = len(buf)
            while True:
                try:
                    return sock.recvfrom_into(buf, nbytes)
                except _NOT_READY:
                    await self._until_readable(sock)

        async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
            """Send one datagram; returns its size. Same as `loop.sock_sendto`."""
            self._check_socket(sock)
            while True:
                try:
                    return sock.sendto(data, address)
                except _NOT_READY:
                    await self._until_writable(sock)

    def _check_socket(self, sock: socket.socket) -> None:
        self._flush_held()
        check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _until_readable(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        # RuntimeError if a transport uses it; another watcher would be replaced anyway.
        self.remove_reader(fd)
        waiter: asyncio.Future[None] = self.create_future()
        watcher = self._add_reader(fd, _wake, waiter)
        try:
            await waiter
        finally:
            # Cancelled means that somebody else watches the descriptor by now.
            if not watcher.cancelled():
                self._remove_reader(fd)

    async def _until_writable(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        self.remove_writer(fd)  # as above
        waiter: asyncio.Future[None] = self.create_future()
        watcher = self._add_writer(fd, _wake, waiter)
        try:
            await waiter
        finally:
            if not watcher.cancelled():
                self._remove_writer(fd)
