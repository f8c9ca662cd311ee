"""Connections: `create_connection` and `connect_accepted_socket`.

Counterpart: the methods of `asyncio.BaseEventLoop` of these names. A socket that was made here or
handed over is closed on every way out that gives no transport.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio import base_events
from asyncio.log import logger
from functools import partial
from typing import TYPE_CHECKING, Any

from ._part import LoopPart, stdlib_mentions
from ._race import race
from ._resolve import interleave as interleave_families
from ._trsock import TransportSocket

try:
    from ssl import SSLSocket
except ImportError:  # an interpreter without OpenSSL
    SSLSocket = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._part import AddressInfo, ProtocolFactory

__all__ = [
    "Connecting",
    "bind_error",
    "check_ssl_socket",
    "check_stream_socket",
    "check_tls_timeouts",
    "refuse_keyword",
]

#: Since some 3.12 the text of a failed bind(2) has the error number too.
_BIND_ERROR_IS_WHOLE = not stdlib_mentions(getattr(base_events.BaseEventLoop, "_connect_sock", None), "strerror")


def bind_error(error: OSError, address: Any) -> OSError:
    """The error of a failed bind(2), with asyncio's text."""
    reason = str(error) if _BIND_ERROR_IS_WHOLE else str(error.strerror)
    return OSError(error.errno, f"error while attempting to bind on address {address!r}: {reason.lower()}")


def check_stream_socket(sock: socket.socket) -> None:
    """ValueError unless the socket is a stream; AF_UNIX will do too."""
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A Stream Socket was expected, got {sock!r}")


def check_ssl_socket(sock: socket.socket | None) -> None:
    """TypeError for an `ssl.SSLSocket`, which does its own reading and writing."""
    if SSLSocket is not None and isinstance(sock, SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


def check_tls_timeouts(has_tls: bool, handshake: float | None, shutdown: float | None) -> None:
    """ValueError for a TLS timeout without TLS."""
    if handshake is not None and not has_tls:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown is not None and not has_tls:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def refuse_keyword(method: str, name: str, value: object, since: tuple[int, int]) -> None:
    """TypeError for a keyword that this Python version's method does not have."""
    if value and sys.version_info < since:
        raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")


class Connecting(LoopPart):
    """The part of the loop that makes transports of sockets."""

    async def create_connection(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        host: str | None = None,
        port: str | int | None = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a TCP server, or make a transport of a connected stream socket.

        Same as `loop.create_connection` (`ssl_shutdown_timeout` is of 3.11, `all_errors` of 3.12).
        `happy_eyeballs_delay` is in seconds, RFC 8305 recommends 0.25; without it the addresses are
        tried one after the other. Raises OSError when none connects, ValueError for arguments that
        exclude each other. Cancelling closes the socket.
        """
        self._flush_held()
        if sys.version_info < (3, 12):
            name = "EventLoop.create_connection"
            refuse_keyword(name, "ssl_shutdown_timeout", ssl_shutdown_timeout is not None, (3, 11))
            refuse_keyword(name, "all_errors", all_errors, (3, 12))
        _check_server_hostname(ssl, host, server_hostname)
        check_tls_timeouts(bool(ssl), ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        if host is None and port is None:
            if sock is None:
                raise ValueError("host and port was not specified and no sock specified")
            check_stream_socket(sock)
        elif sock is not None:
            raise ValueError("host/port and sock can not be specified at the same time")
        if sock is None:
            infos = await self._ensure_resolved(
                (host, port), family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            local_infos = None
            if local_addr is not None:
                local_infos = await self._ensure_resolved(
                    local_addr, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
                )
                if not local_infos:
                    raise OSError("getaddrinfo() returned empty list")
            if happy_eyeballs_delay is not None and interleave is None:
                interleave = 1
            if interleave:
                infos = interleave_families(infos, interleave)
            sock = await self._connect_any(infos, local_infos, happy_eyeballs_delay, all_errors)
        if ssl:
            # An empty name is the program's wish: no SNI, no check of the name.
            name_to_check = host if server_hostname is None else server_hostname
            transport, protocol = await self._create_tls_transport(
                sock, protocol_factory, ssl, name_to_check, False, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        else:
            transport, protocol = await self._create_connection_transport(sock, protocol_factory)
        if self._debug:
            logger.debug(
                "%r connected to %s:%r: (%r, %r)",
                transport.get_extra_info("socket"),
                host,
                port,
                transport,
                protocol,
            )
        return transport, protocol

    async def connect_accepted_socket(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        sock: socket.socket,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Make a transport of a connection that was accepted elsewhere.

        Same as `loop.connect_accepted_socket` (`ssl_shutdown_timeout` is of 3.11). The socket is
        the transport's from here on.
        """
        name = "EventLoop.connect_accepted_socket"
        refuse_keyword(name, "ssl_shutdown_timeout", ssl_shutdown_timeout is not None, (3, 11))
        check_stream_socket(sock)
        check_tls_timeouts(bool(ssl), ssl_handshake_timeout, ssl_shutdown_timeout)
        check_ssl_socket(sock)
        if ssl:
            transport, protocol = await self._create_tls_transport(
                sock, protocol_factory, ssl, "", True, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        else:
            transport, protocol = await self._create_connection_transport(sock, protocol_factory)
        if self._debug:
            logger.debug("%r handled: (%r, %r)", transport.get_extra_info("socket"), transport, protocol)
        return transport, protocol

    def _make_transport_socket(self, sock: socket.socket) -> TransportSocket:
        return TransportSocket(sock, self._flush_held)

    async def _connect_any(
        self,
        infos: Iterable[AddressInfo],
        local_infos: Iterable[AddressInfo] | None,
        delay: float | None,
        all_errors: bool,
    ) -> socket.socket:
        """A socket connected to one of the addresses. Raises an OSError that tells of all."""
        errors: list[list[OSError]] = []  # by attempt
        try:
            if delay is not None:
                sock = await race(
                    self,
                    (partial(self._connect_sock, errors, info, local_infos) for info in infos),
                    delay,
                )
                if sock is not None:
                    return sock
            else:
                for info in infos:
                    try:
                        return await self._connect_sock(errors, info, local_infos)
                    except OSError:  # it is listed; contextlib.suppress() would cost as much as a system call
                        pass
            raise _connect_error([error for some in errors for error in some], all_errors)
        finally:
            del errors  # their tracebacks hold this frame

    def _bind_to_one(
        self, sock: socket.socket, family: int, local_infos: Iterable[AddressInfo], errors: list[OSError]
    ) -> None:
        """Bind to the first local address that works; errors on the way are listed."""
        for local_family, _, _, _, address in local_infos:
            if local_family != family:
                continue
            try:
                sock.bind(address)
                return
            except OSError as error:
                errors.append(bind_error(error, address))
        if errors:
            raise errors.pop()
        raise OSError(f"no matching local address with {family=} found")


def _check_server_hostname(ssl: Any, host: str | None, server_hostname: str | None) -> None:
    if server_hostname is not None and not ssl:
        raise ValueError("server_hostname is only meaningful with ssl")
    if server_hostname is None and ssl and not host:
        raise ValueError("You must set server_hostname when using ssl without a host")


def _connect_error(errors: list[OSError], all_errors: bool) -> Exception:
    """One exception for all that went wrong."""
    if not errors:  # every attempt was cancelled by somebody else
        return TimeoutError("create_connection failed")
    if sys.version_info >= (3, 11) and all_errors:
        return ExceptionGroup("create_connection failed", errors)  # noqa: F821
    texts = [str(error) for error in errors]
    if texts.count(texts[0]) == len(texts):
        return errors[0]
    return OSError("Multiple exceptions: {}".format(", ".join(texts)))
