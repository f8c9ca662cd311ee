"""Native tasks in `asyncio.all_tasks()`, up to Python 3.13.

These versions keep all tasks in one `weakref.WeakSet`, which costs 100 to 330 ns for each task's life. Native tasks are
in a native set instead, and the WeakSet *object* (which `asyncio`, its C module and everybody who imported it share) gets
a class that shows both. No function is replaced, and stock tasks behave as before. From 3.14 on the interpreter's own
registry takes native tasks, and nothing is done here.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from typing import Any

from . import _native

__all__ = ["show_native_tasks"]


class _TaskSet(weakref.WeakSet[Any]):
    """The stock set of tasks, and the native ones."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield from _native._pending_tasks()

    def __len__(self) -> int:
        return super().__len__() + len(_native._pending_tasks())

    def __contains__(self, task: object) -> bool:
        return super().__contains__(task) or any(task is t for t in _native._pending_tasks())


def show_native_tasks() -> None:
    """Make `asyncio.all_tasks()` see native tasks. Called once, when the package is imported."""
    if sys.version_info >= (3, 14):
        return
    import asyncio.tasks

    name = "_scheduled_tasks" if sys.version_info >= (3, 12) else "_all_tasks"
    stock = getattr(asyncio.tasks, name)
    if type(stock) is weakref.WeakSet:
        stock.__class__ = _TaskSet
