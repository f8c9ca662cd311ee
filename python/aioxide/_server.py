"""Servers: `create_server` and the object it returns.

Counterpart: `asyncio.base_events.Server` and `BaseEventLoop.create_server`. Accepting is native; the
transports it makes call `_attach` and `_detach`.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import socket
import sys
from asyncio import base_events, trsock
from asyncio.log import logger
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

from ._connect import bind_error, check_stream_socket, check_tls_timeouts, refuse_keyword
from ._not_yet import TLS, not_yet
from ._part import LoopPart, stdlib_mentions
from ._sock import check_ssl_socket

if TYPE_CHECKING:
    from ._part import AddressInfo, ProtocolFactory

    class _ServingLoop(Protocol):
        """What a server needs of its loop."""

        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        def _stop_serving(self, sock: socket.socket) -> None: ...
        def create_future(self) -> asyncio.Future[Any]: ...


__all__ = ["Server", "Serving"]

# Patch releases differ here.
_CLOSES_CLIENTS = stdlib_mentions(base_events.Server.serve_forever, "close_clients")
_SKIPS_UNAVAILABLE = stdlib_mentions(base_events.BaseEventLoop.create_server, "EADDRNOTAVAIL")


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
        if sys.version_info >= (3, 13):
            # Weak: a transport that was dropped unclosed must get its ResourceWarning.
            self._clients: WeakSet[asyncio.Transport] = WeakSet()
        else:
            self._active_count = 0
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

        def close_clients(self) -> None:
            """Close all connections, sending what is buffered."""
            for transport in self._clients.copy():
                transport.close()

        def abort_clients(self) -> None:
            """Close all connections at once; what is buffered is lost."""
            for transport in self._clients.copy():
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
        assert self._sockets is not None
        for sock in self._sockets:
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

    # For the transports.

    if sys.version_info >= (3, 13):

        def _attach(self, transport: asyncio.Transport) -> None:
            assert self._sockets is not None
            self._clients.add(transport)

        def _detach(self, transport: asyncio.Transport) -> None:
            self._clients.discard(transport)
            self._wakeup_if_done()

        def _has_clients(self) -> bool:
            return bool(self._clients)

    else:
        # asyncio's are called without the transport here.

        def _attach(self, transport: asyncio.Transport | None = None) -> None:
            assert self._sockets is not None
            self._active_count += 1

        def _detach(self, transport: asyncio.Transport | None = None) -> None:
            assert self._active_count > 0
            self._active_count -= 1
            self._wakeup_if_done()

        def _has_clients(self) -> bool:
            return self._active_count > 0

    def _wakeup_if_done(self) -> None:
        if self._sockets is None and not self._has_clients():
            self._wakeup()

    def _wakeup(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


class Serving(LoopPart):
    """The part of the loop that makes servers."""

    if TYPE_CHECKING:

        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        def _stop_serving(self, sock: socket.socket) -> None: ...

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        host: str | Iterable[str | None] | None = None,
        port: str | int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen on TCP addresses, or on a bound stream socket, and accept connections.

        Same as `loop.create_server` (`ssl_shutdown_timeout` is of 3.11, `keep_alive` of 3.13).
        `host` may be several names; '' and None are all interfaces. Raises OSError when an address
        cannot be bound, ValueError for arguments that exclude each other.
        """
        name = "EventLoop.create_server"
        refuse_keyword(name, "ssl_shutdown_timeout", ssl_shutdown_timeout is not None, (3, 11))
        refuse_keyword(name, "keep_alive", keep_alive, (3, 13))
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(ssl is not None, ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        if host is None and port is None:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            check_stream_socket(sock)
        elif sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        if ssl is not None:
            raise not_yet(TLS)
        if sock is not None:
            sockets = [sock]
        else:
            infos = await self._resolve_hosts(host, port, family, flags)
            if reuse_address is None:
                reuse_address = True
            sockets = self._bind_all(infos, reuse_address, reuse_port, keep_alive)
        for listener in sockets:
            listener.setblocking(False)
        server = Server(self, sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout)
        if start_serving:
            try:
                await server.start_serving()
            except BaseException:
                if sock is None:  # else it is the caller's
                    server.close()
                raise
        if self._debug:
            logger.info("%r is serving", server)
        return server

    async def _resolve_hosts(
        self, host: Any, port: Any, family: int, flags: int
    ) -> list[AddressInfo]:
        """All addresses of all hosts, each once."""
        hosts: Iterable[Any]
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not isinstance(host, Iterable):
            hosts = [host]
        else:
            hosts = host
        answers = await asyncio.gather(
            *(self._create_server_getaddrinfo(one, port, family, flags) for one in hosts)
        )
        return list(dict.fromkeys(info for infos in answers for info in infos))

    async def _create_server_getaddrinfo(
        self, host: Any, port: Any, family: int, flags: int
    ) -> Iterable[AddressInfo]:
        infos = await self._ensure_resolved(
            (host, port), family=family, type=socket.SOCK_STREAM, flags=flags, loop=self
        )
        if not infos:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return infos

    def _bind_all(
        self,
        infos: Sequence[AddressInfo],
        reuse_address: bool,
        reuse_port: bool | None,
        keep_alive: bool | None,
    ) -> list[socket.socket]:
        """A bound socket for each address, or none at all and OSError."""
        sockets: list[socket.socket] = []
        try:
            for family, type_, proto, _, address in infos:
                try:
                    sock = socket.socket(family, type_, proto)
                except OSError:  # the kernel does not have the family
                    if self._debug:
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            family,
                            type_,
                            proto,
                            exc_info=True,
                        )
                    continue
                sockets.append(sock)
                _set_listener_options(sock, reuse_address, reuse_port, keep_alive)
                try:
                    sock.bind(address)
                except OSError as error:
                    failure = bind_error(error, address)
                    # bpo-30945: IPv6 may be there in name only.
                    if error.errno != errno.EADDRNOTAVAIL or not _SKIPS_UNAVAILABLE:
                        raise failure from None
                    sockets.pop().close()
                    if self._debug:
                        logger.warning(failure.strerror)
            if not sockets and _SKIPS_UNAVAILABLE:
                addresses = [info[4] for info in infos]
                raise OSError(f"could not bind on any address out of {addresses!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets


def _set_listener_options(
    sock: socket.socket,
    reuse_address: bool,
    reuse_port: bool | None,
    keep_alive: bool | None,
) -> None:
    is_ipv6 = sock.family == socket.AF_INET6
    if reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    # Linux 6.12.9 refuses it for other families.
    if reuse_port and (is_ipv6 or sock.family == socket.AF_INET):
        _set_reuse_port(sock)
    if keep_alive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    if is_ipv6:
        # One socket per family: Linux would listen on both with this one.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)


def _set_reuse_port(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, "
            "SO_REUSEPORT defined but not implemented."
        )
