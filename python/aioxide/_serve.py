"""Listening: `create_server`.

Counterpart: `BaseEventLoop.create_server`. Either all addresses are bound or no socket is left.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import base_events
from asyncio.log import logger
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ._connect import bind_error, check_ssl_socket, check_stream_socket, check_tls_timeouts, refuse_keyword
from ._part import LoopPart, stdlib_mentions
from ._server import Server

if TYPE_CHECKING:
    from ._part import AddressInfo, ProtocolFactory

__all__ = ["Serving", "set_reuse_port"]

#: Since some 3.12 an address that is not available is passed over.
_SKIPS_UNAVAILABLE = stdlib_mentions(base_events.BaseEventLoop.create_server, "EADDRNOTAVAIL")


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
        self._flush_held()
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
        if sock is not None:
            sockets = [sock]
        else:
            infos = await self._resolve_hosts(host, port, family, flags)
            if reuse_address is None:
                reuse_address = True
            sockets = self._bind_all(infos, reuse_address, reuse_port, keep_alive)
        for listener in sockets:
            listener.setblocking(False)
        server = Server(self, sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
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

    async def _resolve_hosts(self, host: Any, port: Any, family: int, flags: int) -> list[AddressInfo]:
        """All addresses of all hosts, each once."""
        hosts: Iterable[Any]
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not isinstance(host, Iterable):
            hosts = [host]
        else:
            hosts = host
        answers = await asyncio.gather(*(self._create_server_getaddrinfo(one, port, family, flags) for one in hosts))
        return list(dict.fromkeys(info for infos in answers for info in infos))

    async def _create_server_getaddrinfo(self, host: Any, port: Any, family: int, flags: int) -> Iterable[AddressInfo]:
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
        set_reuse_port(sock)
    if keep_alive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    if is_ipv6:
        # One socket per family: Linux would listen on both with this one.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)


def set_reuse_port(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from error
