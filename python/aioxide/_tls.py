"""TLS: `start_tls`, and transports with TLS for connections that are made or accepted.

Counterpart: `BaseEventLoop.start_tls` and `BaseSelectorEventLoop._make_ssl_transport`. The handshake, the data and the
shutdown are native (`io/tls`); here are the checks of the arguments, once per connection.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import constants
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from . import _native
from ._part import LoopPart, stdlib_mentions

try:
    import ssl
except ImportError:  # an interpreter without OpenSSL
    ssl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import socket
    from contextvars import Context

    from ._part import ProtocolFactory

__all__ = ["Tls", "build_info"]

#: 3.15, and then patch releases: what a server's stream has received goes to TLS.
_MOVES_STREAM_BYTES = stdlib_mentions(asyncio.BaseEventLoop.start_tls, "stream_reader")

_HANDSHAKE_TIMEOUT_S = constants.SSL_HANDSHAKE_TIMEOUT
#: 3.10 waits for the peer without end.
_SHUTDOWN_TIMEOUT_S = getattr(constants, "SSL_SHUTDOWN_TIMEOUT", 30.0)


def build_info() -> dict[str, Any]:
    """How this build works in this process.

    * `version`: of aioxide
    * `tls`: "direct" if OpenSSL is called directly for TLS data, "fallback" if by the methods of `ssl`, "none" if the
      interpreter has no `ssl`
    * `tls_reason`: why it is not "direct", else None
    * `openssl`: `ssl.OPENSSL_VERSION`, or None

    `AIOXIDE_TLS=fallback` in the environment refuses the direct engine.
    """
    info: dict[str, Any] = {"version": _native.__version__, "tls": "none", "tls_reason": None, "openssl": None}
    if ssl is None:
        info["tls_reason"] = "the interpreter has no ssl module"
        return info
    reason = _native.tls_fallback_reason()
    info.update(tls="fallback" if reason else "direct", tls_reason=reason, openssl=ssl.OPENSSL_VERSION)
    return info


class Tls(LoopPart):
    """The part of the loop that makes transports with TLS."""

    if TYPE_CHECKING:

        def _make_tls(
            self,
            protocol: asyncio.BaseProtocol,
            sslcontext: ssl.SSLContext,
            waiter: asyncio.Future[None] | None,
            server_side: bool,
            server_hostname: str | None,
            tells_made: bool,
            handshake_timeout: float,
            shutdown_timeout: float,
        ) -> _native.SSLTransport: ...

    async def start_tls(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Upgrade a connection to TLS; the new transport, to be used in the place of the old one.

        Same as `loop.start_tls` (`ssl_shutdown_timeout` is of 3.11). Timeouts are in seconds. The protocol keeps
        its state and gets no second `connection_made`. Raises what the handshake raises, ConnectionAbortedError if it
        takes too long; then, and when cancelled, the transport is closed.
        """
        self._flush_held()
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if ssl_shutdown_timeout is not None and sys.version_info < (3, 11):
            raise TypeError("EventLoop.start_tls() got an unexpected keyword argument 'ssl_shutdown_timeout'")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = self._prepare_tls(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            tells_made=False,
        )
        # Nothing shall come before TLS is told of the transport.
        transport.pause_reading()  # type: ignore[attr-defined]
        if server_side and _MOVES_STREAM_BYTES and isinstance(protocol, asyncio.StreamReaderProtocol):
            reader = getattr(protocol, "_stream_reader", None)
            if reader is not None and reader._buffer:
                tls._keep(reader._buffer)
                reader._buffer.clear()
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)  # type: ignore[attr-defined]
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return tls

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: object = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> asyncio.Transport:
        """A transport with TLS for a connected socket; `waiter` gets the outcome of the handshake."""
        tls = self._prepare_tls(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if context is None:
            self._make_socket_transport(rawsock, tls, extra=extra, server=server)
        else:
            self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
        return tls

    def _prepare_tls(
        self,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        server_side: bool,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        *,
        tells_made: bool = True,
    ) -> _native.SSLTransport:
        """Same as `SSLProtocol(...)`: ValueError for a timeout that is not positive, or a server without a context."""
        if ssl is None:
            raise RuntimeError("stdlib ssl module not available")
        handshake_timeout = _positive("ssl_handshake_timeout", handshake_timeout, _HANDSHAKE_TIMEOUT_S)
        shutdown_timeout = _positive("ssl_shutdown_timeout", shutdown_timeout, _SHUTDOWN_TIMEOUT_S)
        if not sslcontext:
            sslcontext = _default_context(server_side, server_hostname)
        if server_side or not server_hostname:
            server_hostname = None
        return self._make_tls(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            tells_made,
            handshake_timeout,
            shutdown_timeout,
        )

    async def _create_tls_transport(
        self,
        sock: socket.socket,
        protocol_factory: ProtocolFactory,
        sslcontext: ssl.SSLContext | bool,
        server_hostname: str | None,
        server_side: bool,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Same as `_create_connection_transport` with TLS: the socket is the transport's from here on."""
        try:
            sock.setblocking(False)
            # 3.15: before the factory may change it.
            callback_context = copy_context() if sys.version_info >= (3, 15) else None
            protocol = protocol_factory()
            waiter = self.create_future()
            keywords: dict[str, Any] = {
                "server_side": server_side,
                "server_hostname": server_hostname,
                "ssl_handshake_timeout": handshake_timeout,
            }
            if sys.version_info >= (3, 11):
                keywords["ssl_shutdown_timeout"] = shutdown_timeout
            if sys.version_info >= (3, 15):
                keywords["context"] = callback_context
            context = None if isinstance(sslcontext, bool) else sslcontext
            transport = self._make_ssl_transport(sock, protocol, context, waiter, **keywords)
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol


def flow_limits(high: float | None, low: float | None, default: float) -> tuple[float, float]:
    """Both limits of flow control, of which one or none is given. ValueError unless high >= low >= 0."""
    if high is None:
        high = default if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


def _positive(name: str, seconds: float | None, default: float) -> float:
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def _default_context(server_side: bool, server_hostname: str | None) -> ssl.SSLContext:
    """What `ssl=True` means."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context
