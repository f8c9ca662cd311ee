"""A contender: the driver's end of one worker process.

A loop under development crashes, hangs and lacks features; none of that may cost the run. Whatever goes wrong in a request becomes
`Failed` with one line of text, and the next request finds a fresh process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from benches.rows_network import CONNECTIONS

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60
MAX_REQUESTS = 1_000_000


class Failed(Exception):
    """The loop could not do what was asked; the text is for the reader of the table."""


def environment() -> dict[str, str]:
    """Ours, without what would switch asyncio's debug mode on."""
    return {
        k: v for k, v in os.environ.items() if k not in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC")
    }


def processors() -> tuple[set[int], set[int]]:
    """Where the server and its load may run: always on two different processors, where there are two.

    On one and the same (the scheduler puts them there when others keep the machine busy) an echo costs a third less, because the message
    stays in that processor's cache; a row that is now one case, now the other says nothing.
    """
    ours = sorted(os.sched_getaffinity(0))
    return ({ours[-1]}, {ours[-2]}) if len(ours) > 1 else (set(ours), set(ours))


class Contender:
    def __init__(self, name: str, verbose: bool = False) -> None:
        self.name = name
        self.stderr = None if verbose else subprocess.DEVNULL
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "benches.worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            cwd=ROOT,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for the driver, which then ends its workers
        )

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
            raise Failed(f"no answer within {TIMEOUT_S} s" if hung else f"the worker died (exit code {code})")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise Failed(message["error"])
        return message

    def cpu_per_request_ns(self, key: str, size: int, seconds: float) -> float:
        """One round of a network row: the worker serves, a load process of its own drives and measures it."""
        port = self.ask(do="serve", row=key)["port"]
        server = self.process
        assert server
        server_cpu, load_cpu = processors()
        os.sched_setaffinity(server.pid, server_cpu)
        arguments = map(str, (port, server.pid, size, CONNECTIONS, seconds, MAX_REQUESTS, *load_cpu))
        try:
            load = subprocess.run(
                [sys.executable, "-m", "benches.load", *arguments],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=environment(),
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.stop()
            raise Failed(f"load: not finished within {TIMEOUT_S} s") from None
        if load.returncode:
            self.stop()
            raise Failed("load: " + (load.stderr.strip().splitlines() or ["failed"])[-1])
        self.answer(server)
        os.sched_setaffinity(server.pid, os.sched_getaffinity(0))
        result = json.loads(load.stdout)
        if not result["requests"]:
            raise Failed("load: no request was answered")
        return float(result["cpu_s"]) / int(result["requests"]) * 1e9

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
