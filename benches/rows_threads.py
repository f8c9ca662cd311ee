"""The rows with another thread in them. The CPU time of all threads counts: to hand work over is most of the work."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from benches.row import Row

BATCH = 100


@contextmanager
def caller_thread(call: Callable[[asyncio.Future[None]], None]) -> Iterator[SimpleQueue[asyncio.Future[None] | None]]:
    """A thread that calls `call` with each future put into the queue."""
    orders: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    def obey() -> None:
        while (future := orders.get()) is not None:
            call(future)

    thread = threading.Thread(target=obey)
    thread.start()
    try:
        yield orders
    finally:
        orders.put(None)
        thread.join()


async def threadsafe_wakeup(repeats: int) -> None:
    """The loop sleeps, another thread wakes it: to the thread by a queue, back by call_soon_threadsafe."""
    loop = asyncio.get_running_loop()
    with caller_thread(lambda future: loop.call_soon_threadsafe(future.set_result, None)) as orders:  # type: ignore[arg-type]
        for _ in range(repeats):
            future = loop.create_future()
            orders.put(future)
            await future


async def threadsafe_batch(repeats: int) -> None:
    """A hundred calls in a row: the loop need be woken once."""
    loop = asyncio.get_running_loop()

    def nothing() -> None:
        pass

    def call(future: asyncio.Future[None]) -> None:
        for _ in range(BATCH - 1):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(future.set_result, None)

    with caller_thread(call) as orders:
        for _ in range(repeats):
            future = loop.create_future()
            orders.put(future)
            await future


def nothing() -> None:
    pass


async def executor_one_by_one(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        await loop.run_in_executor(None, nothing)


async def executor_ten_at_once(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        await asyncio.gather(*[loop.run_in_executor(None, nothing) for _ in range(10)])


async def resolve_literal(repeats: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(repeats):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


ROWS = [
    Row("threadsafe", "call_soon_threadsafe wakes the loop", "threads", threadsafe_wakeup, "process", goal=1.5),
    Row(
        "threadsafe-batch",
        "call_soon_threadsafe, 100 in a row",
        "threads",
        threadsafe_batch,
        "process",
        ops=BATCH,
        goal=1.5,
    ),
    Row("executor", "run_in_executor", "threads", executor_one_by_one, "process", goal=1.5),
    Row("executor-x10", "run_in_executor, 10 at once", "threads", executor_ten_at_once, "process", ops=10, goal=1.5),
    Row("getaddrinfo", "getaddrinfo of an address", "threads", resolve_literal, "process"),
]
