"""The scheduler's rows: tasks, futures, callbacks, timers, and the stdlib's primitives on top of them.

Each body does `repeats` times the same thing and nothing else; the worker divides by repeats * ops. Bodies use asyncio's public names
as a user's program does, never a loop's private ones, so that every loop runs the same bytecode. No row touches a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benches.row import Row

ROWS: list[Row] = []

BATCH = 100
TIMERS_AT_ONCE = 500

Body = Callable[[int], Awaitable[None]]


def row(key: str, title: str, **details: Any) -> Callable[[Body], Body]:
    def register(body: Body) -> Body:
        ROWS.append(Row(key, title, "scheduler", body, **details))
        return body

    return register


async def noop() -> None:
    pass


@row("sleep0", "sleep(0)", goal=5)
async def sleep0(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.sleep(0)


@row("sleep0-x10", "sleep(0), 10 tasks", ops=10)
async def sleep0_ten_tasks(repeats: int) -> None:
    await asyncio.gather(*(sleep0(repeats) for _ in range(10)))


@row("future", "future woken by call_soon", goal=6)
async def future_wakeup(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        fut = loop.create_future()
        loop.call_soon(fut.set_result, None)
        await fut


@row("future-done", "create, resolve, await a future")
async def future_done(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        fut = loop.create_future()
        fut.set_result(None)
        await fut


@row("create-task", "await create_task(noop())", goal=7)
async def create_task_and_await(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.create_task(noop())


@row("gather", "gather of 100, per task", ops=BATCH, goal=3)
async def gather(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.gather(*[noop() for _ in range(BATCH)])


@row("taskgroup", "TaskGroup of 100, per task", ops=BATCH, since=(3, 11))
async def taskgroup(repeats: int) -> None:
    for _ in range(repeats):
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined, unused-ignore]
            for _ in range(BATCH):
                group.create_task(noop())


@row("call-soon", "call_soon chain", goal=7)
async def call_soon_chain(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = repeats

    def again() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(again)
        else:
            done.set_result(None)

    loop.call_soon(again)
    await done


@row("timer-cancel", "call_later(10).cancel()", ops=BATCH, goal=3)
async def timer_schedule_and_cancel(repeats: int) -> None:
    # The sleep(0) gives each loop its turn to drop the cancelled timers: that is part of the price.
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        for _ in range(BATCH):
            loop.call_later(10, noop).cancel()
        await asyncio.sleep(0)


@row("timer-fire", "call_later(1 ms) fires", ops=TIMERS_AT_ONCE)
async def timer_fire(repeats: int) -> None:
    # Not call_later(0): uvloop makes a call_soon of it. Waiting for the deadline costs no CPU time, so it is not measured.
    for _ in range(repeats):
        await fire_many()


async def fire_many() -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = TIMERS_AT_ONCE

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    for _ in range(TIMERS_AT_ONCE):
        loop.call_later(0.001, fire)
    await done


@row("queue", "Queue(1) ping-pong, per round trip")
async def queue_ping_pong(repeats: int) -> None:
    there: asyncio.Queue[int] = asyncio.Queue(1)
    back: asyncio.Queue[int] = asyncio.Queue(1)

    async def partner() -> None:
        for _ in range(repeats):
            await back.put(await there.get())

    task = asyncio.create_task(partner())
    for i in range(repeats):
        await there.put(i)
        await back.get()
    await task


@row("event", "Event ping-pong, per round trip")
async def event_ping_pong(repeats: int) -> None:
    there, back = asyncio.Event(), asyncio.Event()

    async def partner() -> None:
        for _ in range(repeats):
            await there.wait()
            there.clear()
            back.set()

    task = asyncio.create_task(partner())
    for _ in range(repeats):
        there.set()
        await back.wait()
        back.clear()
    await task


@row("lock", "Lock, 4 contenders, per acquire", ops=4)
async def lock_contended(repeats: int) -> None:
    lock = asyncio.Lock()

    async def contender() -> None:
        for _ in range(repeats):
            async with lock:
                await asyncio.sleep(0)  # without a switch inside, nobody would ever find it locked

    await asyncio.gather(*(contender() for _ in range(4)))


@row("wait-for", "wait_for(sleep(0), 10)")
async def wait_for(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.wait_for(asyncio.sleep(0), 10)
