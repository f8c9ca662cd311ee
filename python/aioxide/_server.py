"""What `create_server` returns.

Counterpart: `asyncio.base_events.Server`. Accepting is native; the transports it makes call `_attach`
and `_detach`.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from asyncio import base_events, trsock
from typing import TYPE_CHECKING, Any, Protocol

from ._part import stdlib_mentions

if TYPE_CHECKING:
    import socket

    from ._part import ProtocolFactory

    class _ServingLoop(Protocol):
        """What a server needs of its loop."""

        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        def _stop_serving(self, sock: socket.socket) -> None: ...
        def _transports_of(self, server: object) -> list[asyncio.Transport]: ...
        def create_future(self) -> asyncio.Future[Any]: ...


__all__ = ["Server"]

#: Since some 3.13 a cancelled `serve_forever` closes the connections too.
_CLOSES_CLIENTS = stdlib_mentions(base_events.Server.serve_forever, "close_clients")


class Server(asyncio.AbstractServer):
    """Listening sockets and their connections. Same as `asyncio.Server`.

    Made by `loop.create_server` and `asyncio.start_server`.
    """

    def __init__(
        self,
        loop: _ServingLoop,
        sockets: list[socket.socket],
        protocol_factory: ProtocolFactory,
        ssl_context: Any,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._connection_count = 0
        self._waiters: list[asyncio.Future[None]] | None = []
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._ssl_context = ssl_context
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._serving = False
        self._serving_forever_fut: asyncio.Future[None] | None = None
        if sys.version_info >= (3, 15):
            # Connections run in copies of it.
            self._context = contextvars.copy_context()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop the server is of."""
        return self._loop  # type: ignore[return-value]

    def is_serving(self) -> bool:
        """True while the server accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[trsock.TransportSocket, ...]:
        """The listening sockets; empty when the server is closed."""
        return tuple(trsock.TransportSocket(sock) for sock in self._sockets or ())

    def close(self) -> None:
        """Stop listening and close the listening sockets; connections live on.

        Cancels a `serve_forever` that runs.
        """
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        for sock in sockets:
            self._loop._stop_serving(sock)
        self._serving = False
        forever = self._serving_forever_fut
        if forever is not None and not forever.done():
            forever.cancel()
            self._serving_forever_fut = None
        self._wakeup_if_done()

    if sys.version_info >= (3, 13):

        @property
        def _clients(self) -> list[asyncio.Transport]:
            """The connections, of which the loop knows whose they are: asyncio has a WeakSet of them here."""
            return self._loop._transports_of(self)

        def close_clients(self) -> None:
            """Close all connections, sending what is buffered."""
            for transport in self._clients:
                transport.close()

        def abort_clients(self) -> None:
            """Close all connections at once; what is buffered is lost."""
            for transport in self._clients:
                transport.abort()

    async def start_serving(self) -> None:
        """Listen and accept. Nothing happens when the server does so already."""
        self._start_serving()
        # One turn of the loop, so that the sockets are watched.
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled; then the server is closed.

        RuntimeError when it is closed or a `serve_forever` runs.
        """
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self._loop.create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            try:
                self.close()
                if sys.version_info >= (3, 13) and _CLOSES_CLIENTS:
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever_fut = None

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection gone.

        Up to 3.11 a server that is closed is not waited for, as in asyncio.
        """
        if self._waiters is None:
            return
        if sys.version_info < (3, 12) and self._sockets is None:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # For the loop.

    def _start_serving(self) -> None:
        if self._serving:
            return
        self._serving = True
        context: dict[str, Any] = {}
        if sys.version_info >= (3, 15):
            context["context"] = self._context
        for sock in self._sockets:  # type: ignore[union-attr]  # TypeError when it is closed
            sock.listen(self._backlog)
            self._loop._start_serving(
                self._protocol_factory,
                sock,
                self._ssl_context,
                self,
                self._backlog,
                self._ssl_handshake_timeout,
                self._ssl_shutdown_timeout,
                **context,
            )

    if sys.version_info < (3, 13):

        @property
        def _active_count(self) -> int:
            return self._connection_count

    # For the transports. Up to 3.12 asyncio's are called without the transport.

    def _attach(self, transport: asyncio.Transport | None = None) -> None:
        assert self._sockets is not None
        self._connection_count += 1

    def _detach(self, transport: asyncio.Transport | None = None) -> None:
        assert self._connection_count > 0
        self._connection_count -= 1
        if self._sockets is None:
            self._wakeup_if_done()

    def _wakeup_if_done(self) -> None:
        if self._sockets is None and self._connection_count == 0:
            self._wakeup()

    def _wakeup(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
