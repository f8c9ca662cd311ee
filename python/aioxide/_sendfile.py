"""Sending files: `sendfile` to a transport, `sock_sendfile` to a socket.

Counterpart: the methods of these names in `asyncio.base_events`, `asyncio.selector_events` and
`asyncio.unix_events`. Sending by the kernel is native (`io/sendfile.rs`); here are the checks, and the fallback
for what the kernel refuses: a thread reads, the loop sends.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
from asyncio import constants, transports
from asyncio.exceptions import SendfileNotAvailableError
from typing import Any, cast

from . import _native
from ._part import LoopPart, stdlib_mentions

try:
    import ssl
except ImportError:  # an interpreter without OpenSSL
    ssl = None  # type: ignore[assignment]

__all__ = ["Sendfile"]

# Of a piece that a thread reads for a transport.
_BLOCK_BYTES = 16384


#: 3.14, and then patch releases of 3.13: the file's position is set whatever is sent, before a fallback reads (unless the file
#: has no `seek`) and at the end; and the fallback writes a piece first and then waits.
_SETS_POSITION_ALWAYS = not stdlib_mentions(
    getattr(asyncio.SelectorEventLoop, "_sock_sendfile_update_filepos", None), "total_sent"
)


class Sendfile(LoopPart):
    """The part of the loop that sends files."""

    async def sendfile(
        self,
        transport: asyncio.WriteTransport,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file, or `count` bytes of it from `offset` on; how many bytes were sent.

        Same as `loop.sendfile`. What the transport has queued goes first; it does not read meanwhile, and nothing may be
        written. The file, opened in binary mode, is left behind the last byte sent, also if the call fails.

        RuntimeError for a transport that is closing or cannot send files. SendfileNotAvailableError if the kernel cannot
        send this file and `fallback` is off.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        modes = constants._SendfileMode
        mode = getattr(transport, "_sendfile_compatible", modes.UNSUPPORTED)
        if mode is modes.UNSUPPORTED:
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if mode is modes.TRY_NATIVE:
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except SendfileNotAvailableError:
                if not fallback:
                    raise
        if not fallback:
            raise RuntimeError(f"fallback is disabled and native sendfile is not supported for transport {transport!r}")
        return await self._sendfile_fallback(transport, file, offset, count)

    async def _sendfile_native(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        resume_reading = transport.is_reading()
        transport.pause_reading()
        # The transport's own until the end: whoever is cancelled while the queue drains leaves it as it was.
        drained = transport._make_empty_waiter()
        try:
            await drained
            if transport._sock is None:
                # Closed meanwhile: it only sent what was queued.
                raise ConnectionError("Connection closed by peer")
            self._set_aside(transport)
            return await self.sock_sendfile(transport._sock, file, offset, count, fallback=False)
        except OSError as error:
            if transport._sock is None and not isinstance(error, ConnectionError):
                # Closed on this side, in the middle: the socket is gone.
                raise ConnectionError("Connection closed by peer") from error
            raise
        finally:
            transport._reset_empty_waiter()
            if resume_reading:
                transport.resume_reading()
            self._take_back(transport)

    async def _sendfile_fallback(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        if hasattr(file, "seek") if _SETS_POSITION_ALWAYS else offset:
            file.seek(offset)
        block = min(count, _BLOCK_BYTES) if count else _BLOCK_BYTES
        buffer = bytearray(block)
        total = 0
        protocol = _FallbackProtocol(transport)
        try:
            while True:
                if count:
                    block = min(count - total, block)
                    if block <= 0:
                        return total
                view = memoryview(buffer)[:block]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    return total
                if _SETS_POSITION_ALWAYS:
                    transport.write(view[:read])
                    await protocol.drain()
                else:
                    await protocol.drain()
                    if transport.is_closing():
                        # Closed while this waited: the write would be lost, and yet count.
                        raise ConnectionError("Connection closed by peer")
                    transport.write(view[:read])
                total += read
        finally:
            try:
                if total > 0 and hasattr(file, "seek"):
                    file.seek(offset + total)
            finally:
                await protocol.restore()

    async def sock_sendfile(
        self, sock: socket.socket, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> int:
        """Send a file, or `count` bytes of it from `offset` on, to a stream socket; how many bytes were sent.

        Same as `loop.sock_sendfile`. The file, opened in binary mode, is left behind the last byte sent, also if the call
        fails. SendfileNotAvailableError if the kernel cannot send this file and `fallback` is off.
        """
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if ssl is not None and isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        self._check_sendfile_params(sock, file, offset, count)
        try:
            return await self._sock_sendfile_native(sock, file, offset, count)
        except SendfileNotAvailableError:
            if not fallback:
                raise
        return await self._sock_sendfile_fallback(sock, file, offset, count)

    async def _sock_sendfile_native(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        try:
            number = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise SendfileNotAvailableError("not a regular file")  # noqa: B904  as asyncio: the error is its context
        try:
            size = os.fstat(number).st_size
        except OSError:
            raise SendfileNotAvailableError("not a regular file")  # noqa: B904  as above
        size = count if count else size
        if not size:
            return 0
        return await self._sendfile(sock, number, offset, count, size, _SETS_POSITION_ALWAYS)

    async def _sock_sendfile_fallback(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        if hasattr(file, "seek") if _SETS_POSITION_ALWAYS else offset:
            file.seek(offset)
        most = constants.SENDFILE_FALLBACK_READBUFFER_SIZE
        block = min(count, most) if count else most
        buffer = bytearray(block)
        total = 0
        try:
            while True:
                if count:
                    block = min(count - total, block)
                    if block <= 0:
                        break
                view = memoryview(buffer)[:block]
                read = await self.run_in_executor(None, file.readinto, view)
                if not read:
                    break
                await self.sock_sendall(sock, view[:read])
                total += read
            return total
        finally:
            if total > 0 and hasattr(file, "seek"):
                file.seek(offset + total)

    def _check_sendfile_params(self, sock: Any, file: Any, offset: object, count: object) -> None:
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if not sock.type == socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if count is not None:
            if not isinstance(count, int):
                raise TypeError(f"count must be a positive integer (got {count!r})")
            if count <= 0:
                raise ValueError(f"count must be a positive integer (got {count!r})")
        if not isinstance(offset, int):
            raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
        if offset < 0:
            raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


class _FallbackProtocol(asyncio.Protocol):
    """In the place of a transport's protocol while the fallback sends a file: knows when writing is paused."""

    def __init__(self, transport: Any) -> None:
        kinds = (_native.SocketTransport, _native.SSLTransport, transports._FlowControlMixin)
        if not issubclass(type(transport), kinds):
            raise TypeError("transport should be _FlowControlMixin instance")
        self._transport: Any = transport
        self._protocol = transport.get_protocol()
        self._should_resume_reading = transport.is_reading()
        self._should_resume_writing = self._transport._protocol_paused
        #: While writing is paused.
        self._resumed: asyncio.Future[bool] | None = None
        transport.pause_reading()
        transport.set_protocol(self)
        if self._should_resume_writing:
            self._resumed = self._transport._loop.create_future()

    async def drain(self) -> None:
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._resumed is not None:
            await self._resumed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._resumed is not None and not self._resumed.done():
            # Whoever waits has more to send: also a peer that closes without an error is one.
            self._resumed.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._resumed is None:
            self._resumed = cast("asyncio.Future[bool]", self._transport._loop.create_future())

    def resume_writing(self) -> None:
        if self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(False)
            self._resumed = None

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> bool | None:
        raise RuntimeError("Invalid state: reading should be paused")

    async def restore(self) -> None:
        self._transport.set_protocol(self._protocol)
        if self._should_resume_reading:
            self._transport.resume_reading()
        if self._resumed is not None:
            # Nobody waits for it any more.
            self._resumed.cancel()
        if self._should_resume_writing:
            self._protocol.resume_writing()
