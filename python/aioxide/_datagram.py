"""Datagrams: `create_datagram_endpoint`.

Counterpart: `asyncio.BaseEventLoop.create_datagram_endpoint`. A socket that was made here or handed over is
closed on every way out that gives no transport.
"""

from __future__ import annotations

import socket
import sys
import warnings
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from ._part import LoopPart
from ._serve import set_reuse_port
from ._unix import is_abstract, remove_stale_socket

if sys.version_info < (3, 11):
    from asyncio.base_events import _unset as _UNSET  # the default of `reuse_address`, which 3.11 has removed
else:
    _UNSET: Any = object()

if TYPE_CHECKING:
    import asyncio
    from typing import TypeAlias

    from ._part import ProtocolFactory

    #: (family, protocol) and (local address, remote address).
    Pair: TypeAlias = tuple[tuple[int, int], tuple[Any, Any]]

__all__ = ["Datagrams"]

#: Up to 3.12 only SOCK_DGRAM is taken, since then all but streams.
_TAKES_ALL_BUT_STREAMS = sys.version_info >= (3, 13)


class Datagrams(LoopPart):
    """The part of the loop that makes datagram transports."""

    if TYPE_CHECKING:

        def _make_datagram_transport(
            self,
            sock: socket.socket,
            protocol: asyncio.BaseProtocol,
            address: Any = None,
            waiter: asyncio.Future[None] | None = None,
            extra: dict[str, Any] | None = None,
        ) -> asyncio.DatagramTransport: ...

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_address: Any = _UNSET,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, asyncio.BaseProtocol]:
        """Make a transport of a new datagram socket, or of one that is given.

        Same as `loop.create_datagram_endpoint` (`reuse_address` is of 3.10 only). With `remote_addr`
        datagrams go there and come from there; with `local_addr` the socket is bound. Addresses of
        AF_UNIX are paths. Raises OSError when an address cannot be bound or does not resolve,
        ValueError for arguments that exclude each other.
        """
        self._flush_held()
        if reuse_address is not _UNSET and sys.version_info >= (3, 11):
            raise TypeError("EventLoop.create_datagram_endpoint() got an unexpected keyword argument 'reuse_address'")
        if sock is not None:
            options = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            _check_given(sock, options, reuse_address)
            sock.setblocking(False)
            remote_address = None
        else:
            pairs = await self._resolve_pairs(local_addr, remote_addr, family, proto, flags)
            _check_reuse_address(reuse_address)
            sock, remote_address = await self._open_any(pairs, local_addr, remote_addr, reuse_port, allow_broadcast)
        transport: asyncio.DatagramTransport | None = None
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self._make_datagram_transport(sock, protocol, remote_address, waiter)
            if self._debug:
                _log(local_addr, remote_addr, transport, protocol)
            await waiter
        except BaseException:
            if transport is None:
                sock.close()
            else:
                transport.close()
            raise
        return transport, protocol

    async def _resolve_pairs(
        self, local_addr: Any, remote_addr: Any, family: int, proto: int, flags: int
    ) -> list[Pair]:
        """What to try: for each family and protocol the addresses of both ends."""
        if not (local_addr or remote_addr):
            if family == 0:
                raise ValueError("unexpected address family")
            return [((family, proto), (None, None))]
        if family == socket.AF_UNIX:
            for address in (local_addr, remote_addr):
                if address is not None and not isinstance(address, str):
                    raise TypeError("string is expected")
            if local_addr and not is_abstract(local_addr):
                remove_stale_socket(local_addr)
            return [((family, proto), (local_addr, remote_addr))]
        ends: dict[tuple[int, int], list[Any]] = {}
        for index, address in enumerate((local_addr, remote_addr)):
            if address is None:
                continue
            _check_pair(address)
            infos = await self._ensure_resolved(
                address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for its_family, _, its_proto, _, resolved in infos:
                ends.setdefault((its_family, its_proto), [None, None])[index] = resolved
        pairs: list[Pair] = [
            (key, (local, remote))
            for key, (local, remote) in ends.items()
            if not ((local_addr and local is None) or (remote_addr and remote is None))
        ]
        if not pairs:
            raise ValueError("can not get address information")
        return pairs

    async def _open_any(
        self,
        pairs: list[Pair],
        local_addr: Any,
        remote_addr: Any,
        reuse_port: bool | None,
        allow_broadcast: bool | None,
    ) -> tuple[socket.socket, Any]:
        """A socket bound and connected as one of the pairs says, and its only destination. The first error counts."""
        first: OSError | None = None
        try:
            for (family, proto), (local, remote) in pairs:
                sock = None
                try:
                    sock = socket.socket(family=family, type=socket.SOCK_DGRAM, proto=proto)
                    if reuse_port:
                        set_reuse_port(sock)
                    if allow_broadcast:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.setblocking(False)
                    if local_addr:
                        sock.bind(local)
                    if not remote_addr:
                        return sock, None
                    if not allow_broadcast:
                        await self.sock_connect(sock, remote)
                    return sock, remote
                except OSError as error:
                    if sock is not None:
                        sock.close()
                    first = first or error
                except BaseException:
                    if sock is not None:
                        sock.close()
                    raise
            assert first is not None
            raise first
        finally:
            del first  # its traceback holds this frame


def _check_given(sock: socket.socket, options: dict[str, Any], reuse_address: Any) -> None:
    """ValueError unless it is a datagram socket and given alone."""
    if _TAKES_ALL_BUT_STREAMS:
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
    elif sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"A UDP Socket was expected, got {sock!r}")
    if not any(options.values()):
        return
    if sys.version_info < (3, 11):
        # 3.10 shows its marker too.
        shown = dict(list(options.items())[:5])
        shown["reuse_address"] = reuse_address
        options = {**shown, **options}
    problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
    raise ValueError(f"socket modifier keyword arguments can not be used when sock is specified. ({problems})")


def _check_pair(address: Any) -> None:
    if isinstance(address, tuple) and len(address) == 2:
        return
    if sys.version_info < (3, 11):
        raise AssertionError("2-tuple is expected")
    raise TypeError("2-tuple is expected")


def _check_reuse_address(reuse_address: Any) -> None:
    """bpo-37228. Of 3.10 only."""
    if reuse_address is _UNSET:
        return
    if reuse_address:
        raise ValueError(
            "Passing `reuse_address=True` is no longer supported, as the usage of SO_REUSEPORT in UDP poses a "
            "significant security concern."
        )
    warnings.warn(
        "The *reuse_address* parameter has been deprecated as of 3.5.10 and is scheduled for removal in 3.11.",
        DeprecationWarning,
        stacklevel=3,
    )


def _log(local_addr: Any, remote_addr: Any, transport: object, protocol: object) -> None:
    if local_addr:
        logger.info(
            "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)",
            local_addr,
            remote_addr,
            transport,
            protocol,
        )
    else:
        logger.debug("Datagram endpoint remote_addr=%r created: (%r, %r)", remote_addr, transport, protocol)
