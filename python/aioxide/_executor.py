"""Blocking calls in threads: the default executor and its end.

Counterpart: the executor methods of `asyncio.BaseEventLoop`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from ._part import LoopPart

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Executors"]

_T = TypeVar("_T")


def _set_unless_cancelled(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Executors(LoopPart):
    """The part of the loop that hands calls to threads."""

    # Neither async nor lazy: the call is submitted at once.
    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Call `func(*args)` in the executor, or in the default one for None.

        Same as `loop.run_in_executor`. RuntimeError when the loop is closed or its default executor
        shut down; in debug mode TypeError for a coroutine function. Cancelling the future does not
        stop a call that runs.
        """
        self._check_closed()
        self._flush_held()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            executor = self._default_executor
            self._check_default_executor()
            if executor is None:
                executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override]
        """Use this pool for `run_in_executor(None, ...)`. Same as `loop.set_default_executor`.

        TypeError unless it is a ThreadPoolExecutor (3.10: DeprecationWarning).
        """
        if not isinstance(executor, ThreadPoolExecutor):
            if sys.version_info >= (3, 11):
                raise TypeError("executor must be ThreadPoolExecutor instance")
            warnings.warn(
                "Using the default executor that is not an instance of "
                "ThreadPoolExecutor is deprecated and will be prohibited in Python 3.9",
                DeprecationWarning,
                2,
            )
        self._default_executor = executor

    if sys.version_info >= (3, 12):

        async def shutdown_default_executor(self, timeout: float | None = None) -> None:
            """Refuse new calls and join the default executor's threads.

            Same as `loop.shutdown_default_executor`. Waits up to `timeout` seconds, for ever with
            None; a RuntimeWarning tells that threads were left running.
            """
            self._executor_shutdown_called = True
            executor = self._default_executor
            if executor is None:
                return
            future = self.create_future()
            thread = threading.Thread(target=self._do_shutdown, args=(future,))
            thread.start()
            try:
                async with asyncio.timeout(timeout):
                    await future
            except TimeoutError:
                warnings.warn(
                    f"The executor did not finishing joining its threads within {timeout} seconds.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                executor.shutdown(wait=False)
            else:
                thread.join()

    else:

        async def shutdown_default_executor(self) -> None:
            """Refuse new calls and join the default executor's threads.

            Same as `loop.shutdown_default_executor`.
            """
            self._executor_shutdown_called = True
            if self._default_executor is None:
                return
            future = self.create_future()
            thread = threading.Thread(target=self._do_shutdown, args=(future,))
            thread.start()
            try:
                await future
            finally:
                thread.join()

    def _do_shutdown(self, future: asyncio.Future[None]) -> None:
        """Body of the thread that waits for the executor's threads."""
        try:
            if self._default_executor is not None:
                self._default_executor.shutdown(wait=True)
        except Exception as error:
            self._tell(future, error)
        else:
            self._tell(future, None)

    def _tell(self, future: asyncio.Future[None], error: Exception | None) -> None:
        if self.is_closed():
            return
        try:
            self.call_soon_threadsafe(_set_unless_cancelled, future, error)
        except RuntimeError:  # closed just now
            if not self.is_closed():
                raise

    def _check_default_executor(self) -> None:
        if self._executor_shutdown_called:
            raise RuntimeError("Executor shutdown has been called")
