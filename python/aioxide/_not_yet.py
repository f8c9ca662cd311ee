"""What a later release brings: TLS. Until then whatever asks for it gets NotImplementedError."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, NoReturn

from ._part import LoopPart

__all__ = ["NotYet", "not_yet"]

TLS = "TLS is"


def not_yet(feature: str) -> NotImplementedError:
    """The exception for a feature, given with its verb."""
    return NotImplementedError(f"aioxide: {feature} not implemented yet")


class NotYet(LoopPart):
    """The method that only says what is missing."""

    @functools.wraps(asyncio.AbstractEventLoop.start_tls, assigned=())
    async def start_tls(self, *args: Any, **kwargs: Any) -> NoReturn:  # type: ignore[override]
        """Raise NotImplementedError: TLS is not implemented yet."""
        raise not_yet(TLS)
