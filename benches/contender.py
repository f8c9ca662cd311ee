"""The driver's ends of its child processes: a contender is one worker with its loop; the load is there once for all.

A loop under development crashes, hangs and lacks features; none of that may cost the run. Whatever goes wrong in a request becomes
`Failed` with one line of text, and the next request finds a fresh process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benches import certificate, loops
from benches.row import Row

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60
MAPPED = "glibc.malloc.mmap_threshold=131072"  # where glibc begins in each process; given by hand it does not grow


class Failed(Exception):
    """The loop could not do what was asked; the text is for the reader of the table."""


def environment(**variables: str) -> dict[str, str]:
    """Ours, without what would switch asyncio's debug mode on or change its memory, or choose how aioxide does TLS."""
    unwanted = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONMALLOC", "AIOXIDE_TLS")
    ours = {k: v for k, v in os.environ.items() if k not in unwanted}
    return {**ours, certificate.VARIABLE: certificate.folder(), **variables}


def processors() -> tuple[set[int], set[int]]:
    """Where the workers and the load run: always on two different processors, where there are two.

    On one and the same (the scheduler puts them there when others keep the machine busy) an echo costs a third less, because the message
    stays in that processor's cache; a row that is now one case, now the other says nothing. The same holds for two threads of a worker:
    on one processor their rounds agree within 2 %, on two they may differ sevenfold.
    """
    ours = sorted(os.sched_getaffinity(0))
    return ({ours[-1]}, {ours[-2]}) if len(ours) > 1 else (set(ours), set(ours))


class Child:
    """A process that answers a JSON line with a JSON line; started when first asked."""

    def __init__(self, name: str, *arguments: str, cpus: set[int], verbose: bool = False, **variables: str) -> None:
        self.name = name
        self.arguments = arguments
        self.cpus = cpus
        self.stderr = None if verbose else subprocess.DEVNULL
        self.variables = variables
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            cwd=ROOT,
            env=environment(**self.variables),
            start_new_session=True,  # Ctrl-C is for the driver, which then ends its children
        )
        os.sched_setaffinity(process.pid, self.cpus)
        return process

    def ask(self, **request: Any) -> dict[str, Any]:
        if self.process is None:
            self.process = self.start()
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended by itself; its last line says why
        return self.answer(self.process)

    def answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout
        too_late = threading.Timer(TIMEOUT_S, process.kill)
        too_late.start()
        line = process.stdout.readline()
        hung = not too_late.is_alive()
        too_late.cancel()
        if not line:
            code = process.wait()
            self.stop()
            raise Failed(f"no answer within {TIMEOUT_S} s" if hung else f"the {self.name} died (exit code {code})")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise Failed(message["error"])
        return message

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
            self.process = None


class LoadProcess(Child):
    def __init__(self, verbose: bool = False) -> None:
        super().__init__("load", "benches.load", cpus=processors()[1], verbose=verbose)


class Contender(Child):
    def __init__(self, loop: str, verbose: bool = False, malloc: str | None = None, mapped: bool = False) -> None:
        variables = dict(loops.named(loop).environment)
        variables |= {"PYTHONMALLOC": malloc} if malloc else {}
        variables |= {"GLIBC_TUNABLES": MAPPED} if mapped else {}
        super().__init__("worker", "benches.worker", loop, cpus=processors()[0], verbose=verbose, **variables)
        self.loop = loop
        self.verbose = verbose
        self.repeats: dict[str, int] = {}

    def sample(self, row: Row, load: LoadProcess, seconds: float) -> dict[str, float]:
        """One sample of the row on this loop: a value for each of its figures."""
        if row.way == "memory":
            return {"": self.fresh(malloc=row.malloc).memory(row, load)}
        if row.load:
            figures = (
                self.fresh(mapped=True).only(row, load, seconds) if row.mapped else self.served(row, load, seconds)[0]
            )
            return {name: value / row.ops for name, value in figures.items()}
        if row.key not in self.repeats:
            self.repeats[row.key] = self.ask(do="calibrate", row=row.key)["repeats"]
        return {"": float(self.ask(do="sample", row=row.key, repeats=self.repeats[row.key])["value"])}

    def fresh(self, malloc: str | None = None, mapped: bool = False) -> Contender:
        return Contender(self.loop, self.verbose, malloc, mapped)

    def only(self, row: Row, load: LoadProcess, seconds: float) -> dict[str, float]:
        try:
            return self.served(row, load, seconds)[0]
        finally:
            self.stop()

    def memory(self, row: Row, load: LoadProcess) -> float:
        try:
            value = self.served(row, load, 0)[1] if row.load else self.ask(do="call", row=row.key)["value"]
        finally:
            self.stop()
        if value <= 0:
            raise Failed("no difference to be seen")
        return float(value)

    def served(self, row: Row, load: LoadProcess, seconds: float) -> tuple[dict[str, float], Any]:
        """The worker serves, the load process drives and measures it: what both say."""
        assert row.load
        port = self.ask(do="serve", row=row.key)["port"]
        assert self.process
        failure: Failed | None = None
        figures = {}
        try:
            figures = load.ask(port=port, pid=self.process.pid, seconds=seconds, load=asdict(row.load))["figures"]
        except Failed as exc:
            failure = exc
        try:
            stopped = self.ask(do="stop")  # a server that failed has its own story, which is the better one
        except Failed:
            self.stop()  # it may have two answers under way
            raise
        if failure or "hung" in stopped:
            self.stop()
            raise failure or Failed("the server did not end when it was told to")
        return figures, stopped["value"]
