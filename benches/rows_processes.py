"""The rows that start processes, by what a child costs its parent, and by what the kernel does for both.

A child is almost all kernel: fork or vfork, exec, the dynamic linker, exit. So each is measured twice: the CPU time of the parent alone, all
threads, kernel included; and with that of the children it has waited for, which is the same program for every loop, but
depends on how the child is started (a copied address space costs its first writes, a shared one nothing).
"""

from __future__ import annotations

import asyncio
import shutil

from benches.row import Row

#: By its path: to look it up is the program's business.
TRUE = shutil.which("true") or "/bin/true"


async def start_and_wait() -> None:
    process = await asyncio.create_subprocess_exec(TRUE)
    assert await process.wait() == 0


async def one_by_one(repeats: int) -> None:
    for _ in range(repeats):
        await start_and_wait()


async def ten_at_once(repeats: int) -> None:
    for _ in range(repeats):
        await asyncio.gather(*(start_and_wait() for _ in range(10)))


async def with_pipe(repeats: int) -> None:
    for _ in range(repeats):
        process = await asyncio.create_subprocess_exec(TRUE, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert output == b"" and process.returncode == 0


ROWS = [
    Row("spawn", "start a process, wait", "processes", one_by_one, "process", goal=1.2),
    Row("spawn-children", "start a process, wait: with it", "processes", one_by_one, "children"),
    Row("spawn-pipe", "start a process, communicate", "processes", with_pipe, "process", goal=1.2),
    Row("spawn-pipe-children", "start a process, communicate: with it", "processes", with_pipe, "children"),
    Row("spawn-x10", "start and wait, 10 at once", "processes", ten_at_once, "process", ops=10, goal=1.2),
]
