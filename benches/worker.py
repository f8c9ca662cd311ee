"""A worker: one process that runs rows on one loop, as long as the driver asks.

    python -m benches.worker LOOP          LOOP is a module with new_event_loop(), or a name of `loops.py`

One JSON line per request on stdin, one JSON line per answer on stdout:

    {"do": "describe"}                               {"version": ..., "loop": type, "task": type}
    {"do": "calibrate", "row": key}                  {"repeats": n}
    {"do": "sample", "row": key, "repeats": n}       {"value": CPU time per operation, ns}
    {"do": "serve", "row": key}                      {"port": a number, or the name of a Unix socket}
    {"do": "stop"}                                   {"value": what the row returned}, or {"hung": true}; only after "serve"
    {"do": "call", "row": key}                       {"value": what the row returned}

Any answer may be {"error": text} instead. Each sample gets a fresh loop, run by run_until_complete as asyncio.run does; the process is
kept, so that bytecode stays specialised and imports are paid once. Every answer that comes from a loop checks, on the running loop, that it
is the one asked for: a benchmark that measures asyncio under another name is worse than none.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from benches import loops
from benches.row import Row
from benches.rows import ROWS
from benches.rows_network import listen, port_of

SAMPLE_S = 0.030
PROBE_S = 0.005

STOPPING_S = 1
CLOSING_S = 0.01  # the clients have gone: time for a loop to see it


def time_with_children() -> float:
    """CPU time of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS = {"process": time.process_time, "children": time_with_children}

BY_KEY = {row.key: row for row in ROWS}
T = TypeVar("T")


def settle_malloc() -> None:
    """Bring glibc's malloc into the state of a program that has been running for a while.

    asyncio and rloop read into a fresh 256 KiB object and shrink it. A young process gets that from mmap(2) and gives it back by munmap(2)
    for each message, at four times the price of an echo; once any larger block has been freed, M_MMAP_THRESHOLD has grown
    (mallopt(3), "dynamic") and the heap serves it. Which of the two is measured must not depend on the rows that happened to run
    before, and real programs have freed a megabyte: so free one here. (With TLS most rivals do the same with what they decrypt. `Row.mapped` shows
    them where the threshold does not grow.)
    """
    bytes(1 << 20)


class Worker:
    def __init__(self, name: str) -> None:
        self.loop = loops.named(name)
        self.loop.load()

    def run(self, job: Callable[[], Awaitable[T]]) -> T:
        async def main() -> T:
            self.loop.check(asyncio.get_running_loop())
            return await job()

        loop = self.loop.new_event_loop()
        try:
            return loop.run_until_complete(main())
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def cpu_seconds(self, row: Row, repeats: int) -> float:
        async def job() -> float:
            gc.collect()  # each sample pays for its own garbage; collection itself stays on, as in a user's program
            clock = CLOCKS.get(row.way, time.thread_time)
            before = clock()
            await row.run(repeats)
            return clock() - before

        return self.run(job)

    def describe(self) -> dict[str, Any]:
        async def job() -> dict[str, Any]:
            return {"loop": loops.describe(asyncio.get_running_loop()), "task": loops.type_name(asyncio.current_task())}

        return {"version": self.version(), **self.run(job)}

    def version(self) -> str:
        package = self.loop.patched_by or self.loop.module
        if package == "asyncio":
            return sys.version.split()[0]
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return str(getattr(sys.modules[package], "__version__", "unknown"))

    def calibrate(self, row: Row) -> dict[str, Any]:
        repeats = 1
        while (seconds := self.cpu_seconds(row, repeats)) < PROBE_S:
            repeats *= 2
        return {"repeats": max(1, round(repeats * SAMPLE_S / seconds))}

    def sample(self, row: Row, repeats: int) -> dict[str, Any]:
        return {"value": self.cpu_seconds(row, repeats) / (repeats * row.ops) * 1e9}

    def serve(self, row: Row, answer: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Serve until the next line on stdin."""

        async def job() -> dict[str, Any]:
            loop = asyncio.get_running_loop()
            stop = loop.create_future()

            def told() -> None:
                os.read(stdin, 4096)
                if not stop.done():
                    stop.set_result(None)

            loop.add_reader(stdin, told)
            serving = asyncio.ensure_future(row.run(sock, stop))
            try:
                await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait({serving}, timeout=STOPPING_S)
                if serving.done():
                    return {"value": serving.result()}
                serving.cancel()
                return {"value": None, "hung": True}
            finally:
                loop.remove_reader(stdin)
                os.set_blocking(stdin, True)  # libuv makes what it watches non-blocking
                await asyncio.sleep(CLOSING_S)

        stdin = (
            sys.stdin.fileno()
        )  # nobody writes a second line before the first is answered: sys.stdin has read no further
        with listen(row.load.network if row.load else "tcp") as sock:
            answer({"port": port_of(sock)})
            return self.run(job)

    def handle(self, request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        if request["do"] == "describe":
            return self.describe()
        row = BY_KEY[request["row"]]
        if request["do"] == "calibrate":
            return self.calibrate(row)
        if request["do"] == "sample":
            return self.sample(row, request["repeats"])
        if request["do"] == "serve":
            return self.serve(row, answer)
        if request["do"] == "call":
            return {"value": self.run(row.run)}
        raise ValueError(f"unknown request {request['do']!r}")


def main(name: str) -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a loop may print must not get among the answers

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    settle_malloc()
    try:
        worker = Worker(name)
    except ModuleNotFoundError as exc:
        loop = loops.named(name)
        why = {loop.module: "not installed", loop.patched_by: f"{loop.patched_by} is not installed"}.get(exc.name)
        return answer({"error": why or str(exc)})
    except (ImportError, AttributeError) as exc:
        return answer({"error": str(exc)})
    for line in sys.stdin:
        try:
            answer(worker.handle(json.loads(line), answer))
        except Exception as exc:  # a row that fails is a result too; the driver shows it
            answer({"error": f"{type(exc).__name__}: {exc}"})


if __name__ == "__main__":
    main(sys.argv[1])
