"""What a later release brings. Until then each method raises NotImplementedError naming it.

The table is the class body. The methods are coroutine functions where asyncio's are, with asyncio's
signatures.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

from ._part import LoopPart

__all__ = ["NotYet", "not_yet"]

TLS = "TLS is"
SENDFILE = "sendfile is"


def not_yet(feature: str) -> NotImplementedError:
    """The exception for a feature, given with its verb."""
    return NotImplementedError(f"aioxide: {feature} not implemented yet")


def _missing(name: str, feature: str) -> Any:
    abstract = getattr(asyncio.AbstractEventLoop, name)
    method: Any
    if inspect.iscoroutinefunction(abstract):

        @functools.wraps(abstract)
        async def method(self: LoopPart, *args: Any, **kwargs: Any) -> Any:
            raise not_yet(feature)

    else:

        @functools.wraps(abstract)
        def method(self: LoopPart, *args: Any, **kwargs: Any) -> Any:
            raise not_yet(feature)

    method.__module__ = "aioxide"
    method.__qualname__ = f"EventLoop.{name}"
    method.__doc__ = f"Raises NotImplementedError: {feature} not implemented yet."
    return method


class NotYet(LoopPart):
    """The methods that only say what is missing."""

    start_tls = _missing("start_tls", TLS)
    sendfile = _missing("sendfile", SENDFILE)
    sock_sendfile = _missing("sock_sendfile", SENDFILE)
