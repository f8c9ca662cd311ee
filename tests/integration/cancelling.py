"""Cancels an awaitable at each of its suspension points, in three ways, and looks at what is left."""

import asyncio
import contextlib
import gc
import os
import time
import types

from peers import PATIENCE_S, turns

MOMENTS = ("parked", "woken", "twice")


@types.coroutine
def cancelled_at(point, awaitable, moment):
    """Await, and be cancelled at suspension number `point` (from 1); the result and the number of suspensions.

    "parked": while it waits. "woken": when what it waited for has happened, as a task that is cancelled between its
    wake-up and its step. "twice": while it waits, and again at the next suspension, in its clean-up if it has one.
    """
    coroutine = awaitable.__await__()
    count = 0
    error = None
    while True:
        try:
            waited = coroutine.send(None) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value, count
        error = None
        count += 1
        if (count == point and moment != "woken") or (count == point + 1 and moment == "twice"):
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        try:
            yield waited
        except BaseException as thrown:
            error = thrown
        else:
            if count == point and moment == "woken":
                error = asyncio.CancelledError()


def open_files():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return {number: name for number, name in found.items() if not name.startswith("/proc/")}


async def quiet(loop):
    """Let everything happen that would happen by itself, threads of the resolver included."""
    await turns(10)
    await asyncio.sleep(0.002)
    await turns(10)
    gc.collect()


async def at_every_point(make, undo, most=60, least=1, is_patient=False):
    """Cancel `make()` at each of its suspension points, in each way; how many there are.

    After each the descriptors, tasks and timers are those of before: at once, or, with `is_patient`, once a child that
    was killed has ended.
    """
    loop = asyncio.get_running_loop()
    # Pools start at the first use; what they hold is not the call's.
    await undo(await make())
    await quiet(loop)
    points = 0
    for moment in MOMENTS:
        for point in range(1, most):
            files, tasks = open_files(), asyncio.all_tasks()

            async def call(point=point, moment=moment):
                return await cancelled_at(point, make(), moment)

            task = asyncio.ensure_future(call())
            await asyncio.wait([task], timeout=PATIENCE_S)
            assert task.done(), f"cancelled at {point} ({moment}) it does not end"
            over = False
            if not task.cancelled():
                result, count = task.result()
                over = count < point
                await undo(result)
                result = None
            points = max(points, point - over)
            del task, call
            await quiet(loop)
            deadline = time.monotonic() + 5
            while asyncio.all_tasks() != tasks and is_patient and time.monotonic() < deadline:
                await quiet(loop)
            assert asyncio.all_tasks() == tasks, (point, moment)
            timers = [timer for timer in loop._scheduled if timer is not None and not timer.cancelled()]
            # The limit of the test itself may be one.
            assert len(timers) <= 1, (point, moment, timers)
            deadline = time.monotonic() + 5
            while open_files() != files and time.monotonic() < deadline:
                await quiet(loop)
            assert open_files() == files, (point, moment)
            if over:
                break
        else:
            raise AssertionError(f"more than {most} points")
    assert points >= least
    return points
