"""asyncio on a native event loop: `run`, `Runner`, the loop, and the switches.

Counterpart: the top level of `asyncio`. Importing this package patches nothing; `install()` and
`python -m aioxide` are the explicit switches. On a system without a native loop the import still
works, and whatever would need the loop raises RuntimeError with one clear line.
"""

from __future__ import annotations

# asyncio first: when `_asyncio` (which `_native` derives from) is imported before it,
# `asyncio.Task` and `asyncio.Future` stay the pure-Python ones.
import asyncio as _asyncio_first  # noqa: F401
import sys as _sys
import typing as _typing

from ._install import install, uninstall
from ._policy import EventLoop, EventLoopPolicy, new_event_loop
from ._policy import missing_class as _missing_class
from ._runners import Runner, run
from ._tls import build_info

if _typing.TYPE_CHECKING or _sys.platform == "linux":
    from ._native import Future, Handle, Task, TimerHandle, __version__
    from ._tasks import show_native_tasks as _show_native_tasks

    _show_native_tasks()
else:
    from importlib import metadata as _metadata

    Future = _missing_class("Future")
    Handle = _missing_class("Handle")
    Task = _missing_class("Task")
    TimerHandle = _missing_class("TimerHandle")
    try:
        __version__ = _metadata.version("aioxide")
    except _metadata.PackageNotFoundError:  # a source tree
        __version__ = "unknown"

__all__ = [
    "EventLoop",
    "EventLoopPolicy",
    "Future",
    "Handle",
    "Runner",
    "Task",
    "TimerHandle",
    "__version__",
    "build_info",
    "install",
    "new_event_loop",
    "run",
    "uninstall",
]
