"""Blocking calls in threads: the default executor and its end.

Counterpart: the executor methods of `asyncio.BaseEventLoop`. `run_in_executor` itself is native, and so
is what a thread of `ThreadPool` does; here is what runs once per thread, executor or loop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor, thread
from typing import Any

from . import _native
from ._part import LoopPart

__all__ = ["Executors", "ThreadPool"]

#: Of its private names, the same in all versions, typeshed knows some.
stock: Any = thread


class ThreadPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose threads run native code between the calls.

    `submit`, `map` and `shutdown` are the stock ones. A loop puts its own calls straight into the queue,
    as long as nobody has replaced `submit`.
    """

    _work_queue: Any
    _threads: set[threading.Thread]
    _max_workers: int

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "") -> None:
        super().__init__(max_workers, thread_name_prefix)
        # 3.14 calls `item.run(context)`. Without an initializer one context is as good as another.
        make_context = getattr(self, "_create_worker_context", None)
        self._work_queue = _native.WorkQueue(make_context and make_context())

    def __del__(self) -> None:
        # Threads know the queue only, not the executor: they leave when nobody can submit any more.
        queue = getattr(self, "_work_queue", None)  # none if `__init__` has failed
        if type(queue) is _native.WorkQueue:
            queue.put(None)

    def _adjust_thread_count(self) -> None:
        """The stock `submit` calls it, with the global lock held, after it has queued an item."""
        if self._work_queue.announce(self._max_workers):
            try:
                self._start_thread()
            except BaseException:
                self._work_queue.not_started()
                raise

    def _add_thread(self) -> None:
        """Start a thread that the queue has announced. The loop calls it before it queues a call."""
        with self._shutdown_lock, stock._global_shutdown_lock:
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if stock._shutdown:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            self._start_thread()

    def _start_thread(self) -> None:
        # Only a fork ends threads before the executor does.
        self._threads.difference_update([old for old in self._threads if not old.is_alive()])
        name = f"{self._thread_name_prefix}_{len(self._threads)}"
        thread = threading.Thread(name=name, target=self._work_queue.work)
        thread.start()
        self._threads.add(thread)
        # At exit the interpreter puts None into these queues and joins the threads.
        stock._threads_queues[thread] = self._work_queue


def _set_unless_cancelled(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Executors(LoopPart):
    """The part of the loop that hands calls to threads."""

    def _make_default_executor(self) -> ThreadPoolExecutor:
        """`run_in_executor` calls it when it is first used."""
        self._default_executor = ThreadPool(thread_name_prefix="asyncio")
        return self._default_executor

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
            if self._default_executor is None and self._dns_executor is None:
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
                self._shut_down(wait=False)
            else:
                thread.join()

    else:

        async def shutdown_default_executor(self) -> None:
            """Refuse new calls and join the default executor's threads.

            Same as `loop.shutdown_default_executor`.
            """
            self._executor_shutdown_called = True
            if self._default_executor is None and self._dns_executor is None:
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
            self._shut_down(wait=True)
        except Exception as error:
            self._tell(future, error)
        else:
            self._tell(future, None)

    def _shut_down(self, *, wait: bool) -> None:
        try:
            if self._default_executor is not None:
                self._default_executor.shutdown(wait=wait)
        finally:
            if self._dns_executor is not None:
                self._dns_executor.shutdown(wait=wait)

    def _close_executors(self) -> None:
        """Of `close()`: let the threads end when they can, and wait for none."""
        default, self._default_executor = self._default_executor, None
        dns, self._dns_executor = self._dns_executor, None
        try:
            if default is not None:
                default.shutdown(wait=False)
        finally:
            if dns is not None:
                dns.shutdown(wait=False)

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
