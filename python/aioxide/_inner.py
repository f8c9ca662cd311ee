"""Inner names of asyncio's selector loop that programs and test-suites look at.

Counterpart: attributes of `asyncio.BaseSelectorEventLoop` without a promise. What is here is a view
of native state, made when it is asked for: changing it changes nothing.
"""

from __future__ import annotations

import os
import selectors
from typing import TYPE_CHECKING, Any

from ._part import LoopPart

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Inner"]


class SelectorView:
    """What the loop watches, in the words of `selectors.BaseSelector`."""

    def __init__(self, watched: dict[int, selectors.SelectorKey]) -> None:
        self._watched = watched

    def get_map(self) -> dict[int, selectors.SelectorKey]:
        """Descriptor to key. A key's data is (reader, writer): handles, or the transport or listener itself."""
        return self._watched

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """The key of a descriptor or file object; KeyError if it is not watched."""
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        try:
            return self._watched[number]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None


class WakeEnd:
    """One end of the pipe that wakes the loop, where asyncio has a socket."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; the loop owns it."""
        return self._number

    def send(self, data: bytes) -> int:
        """Write into the pipe: the loop wakes up."""
        return os.write(self._number, data)


class shown:  # used like property
    """A property that an attribute set on the loop hides: programs put mocks in these places."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __get__(self, loop: Any, owner: object = None) -> Any:
        return self if loop is None else self._make(loop)


class Inner(LoopPart):
    """The part of the loop that shows its inside."""

    #: Descriptors of the loop's own that the selector knows.
    _internal_fds = 1

    @shown
    def _selector(self) -> SelectorView | None:
        if self.is_closed():
            return None
        found = {}
        for number, file, reader, writer in self._watched():
            events = (selectors.EVENT_READ if reader is not None else 0) | (
                selectors.EVENT_WRITE if writer is not None else 0
            )
            fileobj = number if file is None else file
            found[number] = selectors.SelectorKey(fileobj, number, events, (reader, writer))
        return SelectorView(found)

    @shown
    def _transports(self) -> dict[int, asyncio.Transport]:
        return {transport._sock_fd: transport for transport in self._transports_of(None)}  # type: ignore[attr-defined]

    @shown
    def _ssock(self) -> WakeEnd | None:
        return None if self.is_closed() else WakeEnd(self._wake_pipe[0])

    @shown
    def _csock(self) -> WakeEnd | None:
        return None if self.is_closed() else WakeEnd(self._wake_pipe[1])

    def _write_to_self(self) -> None:
        if (end := self._csock) is not None:
            end.send(b"\0")
