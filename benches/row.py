"""A row: one thing that is measured on every loop.

A row is a plain description, the same object in the driver (which prints it) and in the workers (which run it); only its key
travels between the processes.

How a row is measured is its `way`, and decides what its body `run` is called with:

    thread      run(repeats)      CPU time of the loop's thread, divided by repeats * ops
    process     run(repeats)      the same, of all threads of the worker: where part of the work is another thread's
    children    run(repeats)      the same, and of the processes that it has started and waited for
    served      run(sock, stop)   a server on a listening socket until `stop` is done; the load process does what `load` says and measures
    memory      run() or run(sock, stop)   returns the bytes itself, in a process that does nothing else
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benches import loops

#: In the order of the table and the plot: what the group's figures are.
GROUPS = {
    "scheduler": "CPU time of the loop's thread per operation",
    "network": "CPU time of the server per request",
    "several writes": "CPU time of the server per request",
    "threads": "CPU time of all threads per operation",
    "processes": "CPU time of all threads per process started",
    "applications": "CPU time of the server per request",
    "tls": "CPU time of the server per request",
    "latency": "time till the answer (not CPU time)",
    "memory": "bytes",
    "tls memory": "bytes per idle connection",
}


@dataclass(frozen=True)
class Load:
    """What the load process does (`load.py` or `load_tls.py` has a function of the scenario's name); travels as JSON."""

    scenario: str = "ping_pong"
    connections: int = 100
    request: str = ""  # Latin-1
    answer: int = 0  # bytes that answer a request; 0: the request itself, an echo; -1: one HTTP response
    together: int = 1  # requests that leave in one send
    network: str = "tcp"  # or "unix", or "udp", whose messages are requests


@dataclass(frozen=True)
class Row:
    key: str  # stable: -k, the JSON and the docs refer to it
    title: str  # what the table and the plot show
    group: str  # one of GROUPS
    run: Callable[..., Awaitable[Any]]
    way: str = "thread"
    ops: int = 1  # operations in one repeat, or in one request of the load
    load: Load | None = None
    figures: tuple[str, ...] = ("",)  # what one sample yields: each makes a line of the table, `title figure`
    unit: str = "ns"
    goal: float | None = None  # how many times faster than uvloop aioxide wants to be here, on CPython 3.13
    below: float | None = None  # an absolute goal, in `unit`
    most_rounds: int | None = None  # where more would tell nothing
    malloc: str | None = None  # PYTHONMALLOC of the worker
    mapped: bool = False  # malloc maps large blocks, as glibc's does until a process has freed one
    since: tuple[int, int] = (3, 10)  # first Python that has the feature
    loops: tuple[str, ...] = loops.PLAIN  # who takes part, if the command line does not say

    @property
    def descriptors(self) -> int:
        """How many a process needs for it."""
        return (self.load.connections if self.load else 0) + 64
