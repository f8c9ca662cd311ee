"""The memory rows: what an idle connection and a waiting task hold.

Each sample has a process of its own, and is a difference: reading after the objects have been made, minus reading before, divided by
their number. Some are made before the first reading, so that what a loop makes once (buffers, pools, tables) does not count.

"in use" is what malloc has handed out and not got back, headers and rounding included, counted by glibc (mallinfo2(3), all arenas). The
worker runs with PYTHONMALLOC=malloc, so that Python's objects are in that count too, to the byte, and each loop's native memory as well
(uvloop and rloop, like aioxide, take it from malloc). "resident" is the process's anonymous memory as the kernel sees it
(/proc/self/smaps_rollup), with Python's usual allocator: what a user pays, pages half used included.
The kernel's socket buffers are in neither.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from benches.row import Load, Row
from benches.rows_network import BACKLOG, Stop

CONNECTIONS = 2000
TASKS = 10_000
FIRST = 50  # made before the first reading

Reading = Callable[[], int]


class Mallinfo2(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]  # noqa: RUF012


def in_use() -> int:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        raise RuntimeError("this libc has no mallinfo2(3); glibc 2.33 and newer do") from None
    mallinfo2.restype = Mallinfo2
    gc.collect()
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident() -> int:
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup does not tell the anonymous memory")


async def idle_connections(reading: Reading, sock: socket.socket, stop: Stop) -> float:
    """Bytes per accepted connection that has neither sent nor received. The load connects in two goes; a byte tells it to go on."""
    loop = asyncio.get_running_loop()
    made = 0
    talk: asyncio.Transport | None = None
    some_made: asyncio.Future[None] = loop.create_future()
    all_made: asyncio.Future[None] = loop.create_future()

    class Idle(asyncio.Protocol):
        __slots__ = ("transport",)  # as little as a protocol can be, and the same on each loop

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal made, talk
            self.transport = cast(asyncio.Transport, transport)
            talk = talk or self.transport
            made += 1
            if made == FIRST:
                some_made.set_result(None)
            elif made == FIRST + CONNECTIONS:
                all_made.set_result(None)

    server = await loop.create_server(Idle, sock=sock, backlog=BACKLOG)
    await some_made
    assert talk
    before = reading()
    talk.write(b"-")
    await all_made
    after = reading()
    talk.write(b"-")
    await stop
    server.close()
    return (after - before) / CONNECTIONS


async def pending_tasks() -> float:
    """Bytes per task that awaits a future of its own: task, coroutine with its frame, future, and what the loop keeps for them."""
    loop = asyncio.get_running_loop()

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    def start(number: int) -> tuple[list[asyncio.Future[None]], list[asyncio.Task[None]]]:
        futures = [loop.create_future() for _ in range(number)]
        return futures, [asyncio.create_task(wait(future)) for future in futures]

    few = start(FIRST)
    await asyncio.sleep(0)
    before = in_use()
    many = start(TASKS)
    await asyncio.sleep(0)
    after = in_use()
    for futures, _ in (few, many):
        for future in futures:
            future.set_result(None)
    for _, tasks in (few, many):
        await asyncio.gather(*tasks)
    return (after - before) / TASKS


HOLD = Load("hold", FIRST + CONNECTIONS, answer=FIRST)


def memory(key: str, title: str, run: Callable[..., Any], **details: Any) -> Row:
    return Row(key, title, "memory", run, "memory", unit="bytes", most_rounds=3, **details)


ROWS = [
    memory(
        "connection",
        "idle connection, in use",
        partial(idle_connections, in_use),
        load=HOLD,
        below=893,
        malloc="malloc",
    ),
    memory("connection-rss", "idle connection, resident", partial(idle_connections, resident), load=HOLD),
    memory("task", "waiting task, in use", pending_tasks, below=1115, malloc="malloc"),
]
