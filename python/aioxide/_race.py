"""Happy Eyeballs: connection attempts with staggered starts. RFC 8305 section 5.

Counterpart: `asyncio.staggered`. Here a socket has one owner at every moment: an attempt that connects
after the race is over is closed, not left to the garbage collector, and no task outlives the race.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any, TypeAlias

    Attempt: TypeAlias = "asyncio.Task[socket.socket]"

__all__ = ["race"]


async def race(
    loop: asyncio.AbstractEventLoop,
    attempts: Iterable[Callable[[], Coroutine[Any, Any, socket.socket]]],
    delay: float,
) -> socket.socket | None:
    """The first socket that connects, or None.

    An attempt starts when the one before has failed or `delay` seconds after it started. Raises
    what an attempt raises that is no Exception, and CancelledError; then no socket is left open.
    """
    running: list[Attempt] = []  # in order of start: the earlier attempt wins a tie
    winner = None
    try:
        winner = await _run(loop, attempts, delay, running)
        return winner
    finally:
        try:
            await _abandon(running)
        except BaseException:
            if winner is not None:
                winner.close()
            raise


async def _run(
    loop: asyncio.AbstractEventLoop,
    attempts: Iterable[Callable[[], Coroutine[Any, Any, socket.socket]]],
    delay: float,
    running: list[Attempt],
) -> socket.socket | None:
    for attempt in attempts:
        newest = loop.create_task(attempt())
        running.append(newest)
        deadline = loop.time() + delay
        while True:
            winner = _take_winner(running)
            if winner is not None:
                return winner
            left = deadline - loop.time()
            if newest.done() or left <= 0:
                break
            await asyncio.wait(running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    while running:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        winner = _take_winner(running)
        if winner is not None:
            return winner
    return None


def _take_winner(running: list[Attempt]) -> socket.socket | None:
    """Drop the attempts that failed; take out one that connected."""
    for task in list(running):
        if not task.done():
            continue
        running.remove(task)
        if task.cancelled() or isinstance(task.exception(), Exception):
            continue
        return task.result()
    return None


async def _abandon(running: list[Attempt]) -> None:
    """Cancel the attempts that are left, see them end, and close what still connected."""
    for task in running:
        task.cancel()
    cancelled = None
    while pending := [task for task in running if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in running:
        if not task.cancelled() and task.exception() is None:
            task.result().close()
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            del cancelled  # its traceback holds this frame
