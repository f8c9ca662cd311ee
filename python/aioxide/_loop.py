"""The event loop: `_native.Loop` and the parts that are Python.

Counterpart: `asyncio.SelectorEventLoop`. Scheduling, running, watching descriptors, transports and
accepting are native; here is what runs once per program, loop or connection. No code of asyncio's
own loops runs, and `asyncio.BaseEventLoop` is no base.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from asyncio import constants, coroutines

# anyio recognises the root task by this very function among its callbacks.
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from asyncio.log import logger
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from . import _native
from ._connect import Connecting
from ._datagram import Datagrams
from ._executor import Executors
from ._inner import Inner
from ._pipes import Pipes
from ._processes import Processes
from ._reports import Reports
from ._resolve import Resolving
from ._sendfile import Sendfile
from ._serve import Serving
from ._signals import Signals
from ._tls import Tls
from ._unix import UnixSockets

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Generator

__all__ = ["EventLoop"]

_T = TypeVar("_T")

# 3.14 deprecates the public name, which warns.
_is_coroutine_function = getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction


class EventLoop(  # type: ignore[misc]  # typeshed's overloads
    _native.Loop,
    Executors,
    Resolving,
    Connecting,
    Serving,
    Processes,
    Pipes,
    Sendfile,
    Signals,
    UnixSockets,
    Datagrams,
    Reports,
    Inner,
    Tls,
    asyncio.AbstractEventLoop,
):
    """asyncio's event loop, native.

    Same as `asyncio.SelectorEventLoop`. A loop belongs to the thread that runs it; other threads
    may only call `call_soon_threadsafe`. Close it, or it warns.
    """

    # In slots, so that the instance's dict stays unmade until somebody sets an attribute: with one, each look-up of
    # `loop.call_soon` in Python code searches it first (3.11 and later cannot specialise the access).
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_asyncgens",
        "_asyncgens_shutdown_called",
        "_child_watcher",
        "_children",
        "_coroutine_origin_depth",
        "_default_executor",
        "_dns_executor",
        "_dns_threads",
        "_exception_handler",
        "_executor_shutdown_called",
        "_unix_server_sockets",
        "slow_callback_duration",
    )

    def __init__(self) -> None:
        super().__init__()
        self.slow_callback_duration = 0.1
        self._exception_handler = None
        self._default_executor = None
        self._dns_executor = None
        self._dns_threads = None
        self._executor_shutdown_called = False
        self._asyncgens = WeakSet()
        self._asyncgens_shutdown_called = False
        self._coroutine_origin_depth: int | None = None
        self._child_watcher = None
        self._children = WeakSet()
        self._unix_server_sockets = {}
        self.set_debug(coroutines._is_debug_mode())  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self.is_closed():
            return
        _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
        if not self.is_running():
            self.close()

    # Running and closing.

    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T:
        """Run until the future or coroutine is done; its result, or what it raised.

        Same as `loop.run_until_complete`. RuntimeError when the loop is closed, when a loop runs in
        this thread, or when `stop()` came first.
        """
        self._check_closed()
        self._check_running()
        is_new = not asyncio.isfuture(future)
        waited: Any = asyncio.ensure_future(future, loop=self)  # type: ignore[arg-type]
        if is_new:
            # Who stops the loop early gets an exception; a report would say it twice.
            waited._log_destroy_pending = False
        waited.add_done_callback(_run_until_complete_cb)
        try:
            self.run_forever()
        except BaseException:
            if is_new and waited.done() and not waited.cancelled():
                waited.exception()  # it is this one; nobody else can retrieve it
            raise
        finally:
            waited.remove_done_callback(_run_until_complete_cb)
        if not waited.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        result: _T = waited.result()
        return result

    def close(self) -> None:
        """Drop all that is scheduled and let go of descriptors and threads.

        Same as `loop.close`: RuntimeError when the loop runs, nothing when it is closed. Does not
        wait for the executor's threads.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        try:
            # Now: a signal must not be written into a pipe that is closed.
            self._remove_signal_handlers()
        finally:
            self._close_for_good()

    def _close_for_good(self) -> None:
        if self.is_closed():
            return
        if self._debug:
            logger.debug("Close %r", self)
        children = self._running_children()
        self._close()
        self._executor_shutdown_called = True
        self._close_executors()
        self._leave_children(children)

    # Asynchronous generators.

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that are alive. Same as `loop.shutdown_asyncgens`."""
        self._asyncgens_shutdown_called = True
        closing = list(self._asyncgens)
        if not closing:
            return
        self._asyncgens.clear()
        results = await asyncio.gather(*(generator.aclose() for generator in closing), return_exceptions=True)
        for generator, result in zip(closing, results):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {
                        "message": f"an error occurred during closing of asynchronous generator {generator!r}",
                        "exception": result,
                        "asyncgen": generator,
                    }
                )

    def _asyncgen_firstiter_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        """The native run installs it by `sys.set_asyncgen_hooks`."""
        if self._asyncgens_shutdown_called:
            warnings.warn(
                f"asynchronous generator {generator!r} was scheduled after loop.shutdown_asyncgens() call",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        self._asyncgens.add(generator)

    def _asyncgen_finalizer_hook(self, generator: AsyncGenerator[Any, Any]) -> None:
        """The garbage collector may call it in any thread."""
        self._asyncgens.discard(generator)
        if not self.is_closed():
            self.call_soon_threadsafe(self.create_task, generator.aclose())

    # Debug mode.

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:
        """Switch "Coroutine created at" on or off. The native run calls it at its start and end."""
        if bool(enabled) == (self._coroutine_origin_depth is not None):
            return
        if self._coroutine_origin_depth is None:
            self._coroutine_origin_depth = sys.get_coroutine_origin_tracking_depth()
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        else:
            sys.set_coroutine_origin_tracking_depth(self._coroutine_origin_depth)
            self._coroutine_origin_depth = None

    def _check_callback(self, callback: object, method: str) -> None:
        """TypeError unless it can be called as a callback. In debug mode only."""
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")


def _name_as_one_class() -> None:
    """The public methods of the parts are `EventLoop`'s in error messages and reprs: the parts are nobody's business."""
    for part in EventLoop.__mro__:
        if not part.__module__.startswith("aioxide."):
            continue
        for name, method in vars(part).items():
            if isinstance(method, FunctionType) and not name.startswith("_"):
                method.__qualname__ = f"EventLoop.{name}"
                method.__module__ = "aioxide"


_name_as_one_class()
