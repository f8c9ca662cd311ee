"""Pipes: `connect_read_pipe` and `connect_write_pipe`.

Counterpart: the methods of `asyncio.BaseEventLoop` of these names. The file object is the transport's, which
closes it, from the moment it is made; one that asyncio refuses (a regular file) stays the caller's.
"""

from __future__ import annotations

import asyncio
from asyncio.log import logger
from typing import TYPE_CHECKING, Any, TypeVar

from ._part import LoopPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._part import ProtocolFactory

__all__ = ["Pipes"]

_T = TypeVar("_T", bound=asyncio.BaseTransport)


class Pipes(LoopPart):
    """The part of the loop that makes transports of pipes."""

    async def connect_read_pipe(  # type: ignore[override]
        self, protocol_factory: ProtocolFactory, pipe: Any
    ) -> tuple[asyncio.ReadTransport, asyncio.BaseProtocol]:
        """Read from a file object: a pipe, a socket or a character device.

        Same as `loop.connect_read_pipe`. The file is made non-blocking and is the transport's.
        ValueError for a regular file. Cancelling closes the file.
        """
        return await self._connect_pipe(protocol_factory, pipe, self._make_read_pipe_transport, "Read")

    async def connect_write_pipe(  # type: ignore[override]
        self, protocol_factory: ProtocolFactory, pipe: Any
    ) -> tuple[asyncio.WriteTransport, asyncio.BaseProtocol]:
        """Write to a file object: a pipe, a socket or a character device.

        Same as `loop.connect_write_pipe`. The file is made non-blocking and is the transport's.
        ValueError for a regular file. Cancelling closes the file.
        """
        return await self._connect_pipe(protocol_factory, pipe, self._make_write_pipe_transport, "Write")

    async def _connect_pipe(
        self, protocol_factory: ProtocolFactory, pipe: Any, make: Callable[..., _T], which: str
    ) -> tuple[_T, asyncio.BaseProtocol]:
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = make(pipe, protocol, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        if self._debug:
            logger.debug("%s pipe %r connected: (%r, %r)", which, pipe.fileno(), transport, protocol)
        return transport, protocol
