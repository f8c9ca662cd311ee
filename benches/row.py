"""A row: one thing that is measured on every loop.

A row is a plain description, the same object in the driver (which prints it) and in the workers (which run it); only its key
travels between the processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    key: str  # stable: -k, the JSON and the docs refer to it
    title: str  # what the table and the plot show
    group: str  # "scheduler" (run() is timed) or "network" (run() serves, a load process times it)
    run: Callable[..., Awaitable[Any]]
    ops: int = 1  # scheduler: operations done by one repeat
    size: int = 0  # network: bytes in a message
    goal: float | None = None  # how many times faster than uvloop aioxide wants to be here, on CPython 3.13
    since: tuple[int, int] = (3, 10)  # first Python that has the feature
