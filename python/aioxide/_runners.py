"""`run` and `Runner`: asyncio's own, with a native loop by default.

Counterpart: `asyncio.runners`. On 3.11+ `Runner` derives from asyncio's, so signals, contexts and
the shutdown sequence are that version's. 3.10 has no Runner; there this file holds one with 3.11's
documented behaviour.

asyncio's Runner makes its loop the thread's current one only when no factory was given. Ours must
do that too when it uses its default, hence `_CurrentLoop`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ._policy import new_event_loop

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["Runner", "run"]

_T = TypeVar("_T")
_LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class _CurrentLoop:
    """A loop factory whose loop is the thread's current one until `release()`."""

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> asyncio.AbstractEventLoop:
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        self._is_set = True
        return loop

    def release(self) -> None:
        if self._is_set:
            self._is_set = False
            asyncio.set_event_loop(None)


if sys.version_info >= (3, 11):

    class Runner(asyncio.Runner):  # type: ignore[misc]  # final for type checkers only
        """Run coroutines one after the other on one native loop.

        Same as `asyncio.Runner`, but for the default of `loop_factory`, which is
        `aioxide.new_event_loop`. Ctrl-C cancels the running coroutine.
        """

        def __init__(self, *, debug: bool | None = None, loop_factory: _LoopFactory | None = None) -> None:
            self._current = _CurrentLoop()
            super().__init__(debug=debug, loop_factory=loop_factory or self._current)

        def close(self) -> None:
            """Cancel what still runs, finalise the loop and close it."""
            try:
                super().close()
            finally:
                self._current.release()

else:
    import signal
    import threading
    from asyncio.runners import _cancel_all_tasks  # type: ignore[attr-defined]

    class _InContext(Coroutine[Any, Any, _T]):
        """A coroutine each of whose steps runs in `context`.

        3.10's tasks always run in a copy of the current context; what one `Runner.run()` sets in
        its context the next one must see.
        """

        def __init__(self, coro: Coroutine[Any, Any, _T], context: Context) -> None:
            self._coro = coro
            self._context = context
            # For repr(task) and the "never awaited" texts.
            self.__name__ = getattr(coro, "__name__", type(coro).__name__)
            self.__qualname__ = getattr(coro, "__qualname__", self.__name__)

        def send(self, value: Any) -> Any:
            return self._context.run(self._coro.send, value)

        def throw(self, *exc: Any) -> Any:
            return self._context.run(self._coro.throw, *exc)

        def close(self) -> None:
            self._context.run(self._coro.close)

        def __await__(self) -> Generator[Any, Any, _T]:
            return self._coro.__await__()

    class Runner:
        """Run coroutines one after the other on one native loop.

        Same as `asyncio.Runner` of Python 3.11, but for the default of `loop_factory`, which is
        `aioxide.new_event_loop`. Ctrl-C cancels the running coroutine.
        """

        def __init__(self, *, debug: bool | None = None, loop_factory: _LoopFactory | None = None) -> None:
            self._current = _CurrentLoop()
            self._factory = loop_factory or self._current
            self._debug = debug
            self._loop: asyncio.AbstractEventLoop | None = None
            self._context: Context | None = None
            self._is_closed = False
            self._interrupts = 0

        def __enter__(self) -> Runner:
            self.get_loop()
            return self

        def __exit__(
            self,
            exc_type: type[BaseException] | None,
            exc_val: BaseException | None,
            exc_tb: TracebackType | None,
        ) -> None:
            self.close()

        def close(self) -> None:
            """Cancel what still runs, finalise the loop and close it."""
            if self._is_closed or self._loop is None:
                return
            loop, self._loop, self._is_closed = self._loop, None, True
            try:
                _cancel_all_tasks(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                self._current.release()
                loop.close()

        def get_loop(self) -> asyncio.AbstractEventLoop:
            """The runner's loop, made at the first call."""
            if self._is_closed:
                raise RuntimeError("Runner is closed")
            if self._loop is None:
                self._loop = self._factory()
                if self._debug is not None:
                    self._loop.set_debug(self._debug)
                self._context = copy_context()
            return self._loop

        def run(self, coro: Coroutine[Any, Any, _T], *, context: Context | None = None) -> _T:
            """Run a coroutine in `context`, or the runner's own, and return its result."""
            _check_coroutine(coro)
            _check_not_running("Runner.run()")
            self.get_loop()
            context = context or self._context
            assert context is not None
            return self._complete(_InContext(coro, context))

        def _complete(self, coro: Coroutine[Any, Any, _T]) -> _T:
            loop = self.get_loop()
            task = loop.create_task(coro)
            handler = partial(self._on_sigint, task)
            if is_ours := self._takes_sigint(handler):
                self._interrupts = 0
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                if is_ours and self._interrupts:
                    raise KeyboardInterrupt  # noqa: B904  as asyncio: the CancelledError is its context
                raise
            finally:
                if is_ours and signal.getsignal(signal.SIGINT) is handler:
                    signal.signal(signal.SIGINT, signal.default_int_handler)

        @staticmethod
        def _takes_sigint(handler: Callable[[int, FrameType | None], None]) -> bool:
            """Set the handler, unless the program has one of its own or signals go elsewhere."""
            if threading.current_thread() is not threading.main_thread():
                return False
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                return False
            try:
                signal.signal(signal.SIGINT, handler)
            except ValueError:  # an embedding program keeps signals from Python
                return False
            return True

        def _on_sigint(self, task: asyncio.Task[Any], signum: int, frame: FrameType | None) -> None:
            self._interrupts += 1
            if self._interrupts > 1 or task.done():
                raise KeyboardInterrupt
            task.cancel()
            # The loop may be in a long wait: wake it.
            self.get_loop().call_soon_threadsafe(lambda: None)

    def _check_coroutine(main: object) -> None:
        if not asyncio.iscoroutine(main):
            raise ValueError(f"a coroutine was expected, got {main!r}")


def _check_not_running(what: str) -> None:
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{what} cannot be called from a running event loop")


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    loop_factory: _LoopFactory | None = None,
) -> _T:
    """Run a coroutine on a new native loop, close the loop, and return the result.

    Same as `asyncio.run()` of the running Python version, with `loop_factory` on all of them.
    Raises RuntimeError when a loop is running in this thread, and what `main` raises. Ctrl-C
    cancels `main`, lets it clean up, and raises KeyboardInterrupt.
    """
    _check_not_running("asyncio.run()")
    with Runner(debug=debug, loop_factory=loop_factory) as runner:
        if sys.version_info >= (3, 11):
            return runner.run(main)
        else:
            # One run only: the task's own copy of the context does.
            _check_coroutine(main)
            return runner._complete(main)
