"""The socket of a transport, as programs get it.

Counterpart: `asyncio.trsock`. A transport may hold back what a callback has written; what changes the
connection under it must find it sent.
"""

from __future__ import annotations

from asyncio import trsock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["TransportSocket"]


class TransportSocket(trsock.TransportSocket):
    """Same as `asyncio.trsock.TransportSocket`."""

    __slots__ = ("_flush",)

    def __init__(self, sock: socket.socket, flush: Callable[[], None]) -> None:
        super().__init__(sock)
        self._flush = flush

    def shutdown(self, how: int) -> None:
        """Shut one half or both down, after what was written."""
        self._flush()
        super().shutdown(how)

    def setsockopt(self, *args: Any, **kwargs: Any) -> None:
        """Set an option, for what is written from now on."""
        self._flush()
        super().setsockopt(*args, **kwargs)

    def dup(self) -> socket.socket:
        """A socket of one's own for the same connection."""
        self._flush()
        return super().dup()
