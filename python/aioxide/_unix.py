"""Unix stream sockets: `create_unix_connection` and `create_unix_server`.

Counterpart: the methods of `asyncio.unix_events._UnixSelectorEventLoop` of these names, and its
`_stop_serving`. A socket that was made here is closed on every way out that gives no transport or server.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from ._connect import check_tls_timeouts, refuse_keyword
from ._part import LoopPart
from ._server import Server

if TYPE_CHECKING:
    import asyncio
    from os import PathLike
    from typing import TypeAlias

    from ._part import ProtocolFactory

    Path: TypeAlias = str | bytes | PathLike[str] | PathLike[bytes]

__all__ = ["UnixSockets", "is_abstract", "remove_stale_socket"]


def is_abstract(path: str | bytes) -> bool:
    """True for a name in Linux's abstract name space, which is no file. IndexError for an empty path."""
    return path[0] in (0, "\x00")


def remove_stale_socket(path: str | bytes, kind: str = "UNIX socket") -> None:
    """Make room for a bind(2): what is there already may be the socket of a server that is gone."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # The directory may permit to make sockets, and no more.
        logger.error("Unable to check or remove stale %s %r: %r", kind, path, error)


class UnixSockets(LoopPart):
    """The part of the loop for connections and servers of AF_UNIX."""

    if TYPE_CHECKING:
        #: Inode of the path of each listening socket that is to be removed with its server.
        _unix_server_sockets: dict[socket.socket, int]

        def _start_serving(self, *args: Any, **kwargs: Any) -> None: ...
        def _stop_listening(self, sock: socket.socket) -> None: ...

    async def create_unix_connection(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        path: Path | None = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a Unix stream socket, or make a transport of a connected one.

        Same as `loop.create_unix_connection` (`ssl_shutdown_timeout` is of 3.11). `path` may begin
        with a NUL: an abstract name. Raises OSError when it does not connect, ValueError for
        arguments that exclude each other. Cancelling closes the socket.
        """
        self._flush_held()
        name = "EventLoop.create_unix_connection"
        refuse_keyword(name, "ssl_shutdown_timeout", ssl_shutdown_timeout is not None, (3, 11))
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
        elif server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_tls_timeouts(bool(ssl), ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is None:
            _check_unix_socket(sock, "no path and sock were specified")
        elif sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        else:
            path = os.fspath(path)
        if sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)  # type: ignore[arg-type]  # typeshed has no bytes
            except BaseException:
                sock.close()
                raise
        if ssl:
            return await self._create_tls_transport(
                sock, protocol_factory, ssl, server_hostname, False, ssl_handshake_timeout, ssl_shutdown_timeout
            )
        return await self._create_connection_transport(sock, protocol_factory)

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        path: Path | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = True,
    ) -> Server:
        """Listen on a path, or on a bound Unix stream socket, and accept connections.

        Same as `loop.create_unix_server` (`ssl_shutdown_timeout` is of 3.11, `cleanup_socket` of
        3.13). A socket that is left at the path is removed first. Raises OSError when the path
        cannot be bound, ValueError for arguments that exclude each other. From 3.13 on the path is
        removed when the server is closed, unless `cleanup_socket` is false or another file is there.
        """
        self._flush_held()
        name = "EventLoop.create_unix_server"
        refuse_keyword(name, "ssl_shutdown_timeout", ssl_shutdown_timeout is not None, (3, 11))
        refuse_keyword(name, "cleanup_socket", not cleanup_socket, (3, 13))
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_tls_timeouts(bool(ssl), ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is None:
            _check_unix_socket(sock, "path was not specified, and no sock specified")
        elif sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        else:
            path = os.fspath(path)
        is_ours = sock is None
        if sock is None:
            sock = _bind(path)  # type: ignore[arg-type]  # os.fspath() has made it a str or bytes
        server = None
        try:
            if cleanup_socket and sys.version_info >= (3, 13):
                self._remember_path(sock)
            sock.setblocking(False)
            server = Server(self, [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout)
            if start_serving:
                await server.start_serving()
        except BaseException:
            if is_ours:  # else it is the caller's
                if server is None:
                    self._stop_serving(sock)
                else:
                    server.close()
            raise
        return server

    def _remember_path(self, sock: socket.socket) -> None:
        path = sock.getsockname()
        if is_abstract(path):
            return
        try:
            self._unix_server_sockets[sock] = os.stat(path).st_ino
        except FileNotFoundError:
            pass

    def _stop_serving(self, sock: socket.socket) -> None:
        """Stop accepting, close the listening socket, and remove its path if that is still its own."""
        inode = self._unix_server_sockets.pop(sock, None)
        path = None if inode is None else sock.getsockname()
        self._stop_listening(sock)
        if path is None:
            return
        try:
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)


def _check_unix_socket(sock: socket.socket | None, if_none: str) -> None:
    """ValueError unless it is a Unix stream socket."""
    if sock is None:
        raise ValueError(if_none)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def _bind(path: str | bytes) -> socket.socket:
    """A stream socket bound to the path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not is_abstract(path):
            remove_stale_socket(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock
