"""Where loops come from: the factory, and asyncio's policy around it.

Counterpart: `asyncio.new_event_loop` and `asyncio.DefaultEventLoopPolicy`. This is the one place
that knows on which systems there is a native loop; nothing ever falls back to another loop.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import sys
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["EventLoop", "EventLoopPolicy", "missing_class", "new_event_loop", "unsupported"]


def unsupported() -> str | None:
    """Why this system has no native loop, in one line; None where there is one."""
    if sys.platform == "linux":
        return None
    return f"aioxide supports Linux for now; this is {sys.platform}"


def missing_class(name: str, *bases: type) -> type[Any]:
    """A class for systems without a native one: it can be imported and named, never made."""

    def __new__(cls: type, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(unsupported())

    return type(name, bases, {"__new__": __new__, "__module__": "aioxide"})


if TYPE_CHECKING or sys.platform == "linux":
    from ._loop import EventLoop
else:
    EventLoop = missing_class("EventLoop", asyncio.AbstractEventLoop)


def new_event_loop() -> EventLoop:
    """Make a native event loop; it is not set as the thread's current one.

    Same as `asyncio.new_event_loop()`, and fit for every `loop_factory=` parameter. Any thread.
    Raises RuntimeError on a system without a native loop.
    """
    return EventLoop()


if TYPE_CHECKING or sys.version_info < (3, 14):
    _StockPolicy = asyncio.DefaultEventLoopPolicy
else:
    # Policies are deprecated since 3.14: the public names warn, this one does not.
    _StockPolicy = asyncio.events._BaseDefaultEventLoopPolicy


class EventLoopPolicy(_StockPolicy):
    """asyncio's default policy, making native loops.

    For programs and libraries that ask for a policy; policies are deprecated since Python 3.14,
    where `aioxide.run` and `loop_factory=aioxide.new_event_loop` serve better.
    """

    @staticmethod
    def _loop_factory() -> EventLoop:
        return new_event_loop()
