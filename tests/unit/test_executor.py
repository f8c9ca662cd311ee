"""`run_in_executor` with the default executor: outcomes, cancellation, threads, many at once.

The executor as an object is in `test_executor_object.py`; how threads end (shutdown, fork, exit of the
interpreter) in `test_executor_ends.py`.
"""

import asyncio
import asyncio.futures
import collections
import concurrent.futures
import concurrent.futures.thread
import contextvars
import gc
import os
import random
import sys
import threading
import time
import traceback
import unittest.mock
import weakref

import aioxide
import pytest
from blocking import LIMIT_S, Gate, thread_name

MOST_THREADS = concurrent.futures.ThreadPoolExecutor()._max_workers


class Fills:
    """Keeps all threads of the loop's default executor busy, inside the `async with` block."""

    def __init__(self, loop):
        self.loop = loop

    async def __aenter__(self):
        self.gates = [Gate() for _ in range(MOST_THREADS)]
        self.futures = [self.loop.run_in_executor(None, gate) for gate in self.gates]
        for gate in self.gates:
            gate.wait_until_entered()

    async def __aexit__(self, *exc_info):
        for gate in self.gates:
            gate.may_go.set()
        await asyncio.gather(*self.futures)


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio's thread may not be idle yet when the loop hears of the result
def test_calls_one_after_the_other_run_in_one_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        names = {await loop.run_in_executor(None, thread_name) for _ in range(50)}
        return names, await asyncio.to_thread(thread_name), len(loop._default_executor._threads)

    assert run(main) == ({"asyncio_0"}, "asyncio_0", 1)


def test_threads_are_started_while_none_is_idle_and_there_are_fewer_than_the_limit(run):
    async def main():
        loop = asyncio.get_running_loop()
        gates = [Gate(i) for i in range(MOST_THREADS + 2)]
        counts = []
        futures = []
        for gate in gates:
            futures.append(loop.run_in_executor(None, gate))
            counts.append(len(loop._default_executor._threads))
        names = sorted(thread.name for thread in loop._default_executor._threads)
        for gate in gates:
            gate.may_go.set()
        assert await asyncio.gather(*futures) == list(range(MOST_THREADS + 2))
        return counts, names, loop._default_executor._max_workers

    counts, names, limit = run(main)
    assert counts == [min(i + 1, MOST_THREADS) for i in range(MOST_THREADS + 2)]
    assert names == sorted(f"asyncio_{i}" for i in range(MOST_THREADS))
    assert limit == MOST_THREADS


def test_the_limit_is_read_when_a_thread_is_wanted(run):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        loop._default_executor._max_workers = 1
        first, second = Gate(), Gate()
        futures = [loop.run_in_executor(None, gate) for gate in (first, second)]
        first.wait_until_entered()
        assert len(loop._default_executor._threads) == 1
        loop._default_executor._max_workers = 2
        futures.append(loop.run_in_executor(None, int))
        second.wait_until_entered()
        first.may_go.set()
        second.may_go.set()
        await asyncio.gather(*futures)
        return len(loop._default_executor._threads)

    assert run(main) == 2


def test_its_threads_are_ordinary_ones(run):
    async def main():
        loop = asyncio.get_running_loop()
        thread = await loop.run_in_executor(None, threading.current_thread)
        assert thread in threading.enumerate()
        assert loop._default_executor._threads == {thread}
        return type(thread), thread.daemon, thread.is_alive()

    assert run(main) == (threading.Thread, False, True)


def test_thread_locals_stay_with_the_thread(run):
    local = threading.local()

    def count():
        local.calls = getattr(local, "calls", 0) + 1
        return local.calls

    async def main():
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(None, count) for _ in range(3)]

    assert run(main) == [1, 2, 3]


def test_profilers_see_the_threads(run):
    seen = []

    def called_in_a_thread():
        return 1

    def profile(frame, event, argument):
        if event == "call":
            seen.append((frame.f_code.co_name, thread_name()))

    async def main():
        threading.setprofile(profile)
        try:
            await asyncio.get_running_loop().run_in_executor(None, called_in_a_thread)
        finally:
            threading.setprofile(None)

    run(main)
    assert ("called_in_a_thread", "asyncio_0") in seen


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_nothing_behind(run, monkeypatch):
    async def main():
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", unittest.mock.Mock(side_effect=RuntimeError("no thread")))
            with pytest.raises(RuntimeError, match=r"^no thread$"):
                loop.run_in_executor(None, int)
        return await loop.run_in_executor(None, thread_name)

    assert run(main) == "asyncio_0"


# --- arguments ------------------------------------------------------------------------------------


def test_arguments_are_passed_on(run):
    async def main():
        loop = asyncio.get_running_loop()
        many = await loop.run_in_executor(None, lambda *args: args, *range(9))
        one = await loop.run_in_executor(executor=None, func=int)
        return many, one

    assert run(main) == (tuple(range(9)), 0)


@pytest.mark.parametrize("args", [(), (None,)])
def test_a_missing_argument_is_a_type_error(new_loop, args):
    with pytest.raises(TypeError, match=r"missing .* required positional argument.*'func'"):
        new_loop().run_in_executor(*args)


def test_what_cannot_be_called_fails_in_the_thread(run):
    async def main():
        with pytest.raises(TypeError, match="'str' object is not callable"):
            await asyncio.get_running_loop().run_in_executor(None, "no function")

    run(main)


def test_debug_mode_refuses_coroutines_and_what_cannot_be_called(run):
    async def coroutine_function():
        pass

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with pytest.raises(TypeError, match=r"^coroutines cannot be used with run_in_executor\(\)$"):
            loop.run_in_executor(None, coroutine_function)
        with pytest.raises(TypeError, match=r"^a callable object was expected by run_in_executor\(\), got 'x'$"):
            loop.run_in_executor(None, "x")
        return await loop.run_in_executor(None, int)

    assert run(main) == 0


def test_only_to_thread_copies_the_context(run):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        variable.set("set")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, variable.get), await asyncio.to_thread(variable.get)

    plain, copied = run(main)
    # A free-threaded interpreter lets threads inherit the context.
    assert plain == ("set" if getattr(sys.flags, "thread_inherit_context", 0) else "unset")
    assert copied == "set"


def test_arguments_and_result_are_let_go_of(run):
    class Thing:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        argument = Thing()
        result = await loop.run_in_executor(None, lambda thing: Thing(), argument)
        references = [weakref.ref(argument), weakref.ref(result)]
        del argument, result
        # asyncio's thread drops its work item a moment after it has set the result.
        deadline = time.monotonic() + LIMIT_S
        while any(r() for r in references) and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        return [r() for r in references]

    gc.disable()
    try:
        assert run(main) == [None, None]
    finally:
        gc.enable()


# --- outcomes -------------------------------------------------------------------------------------


def test_the_future_is_the_loops_and_pending_until_the_loop_is_told(run, is_ours):
    async def main():
        loop = asyncio.get_running_loop()
        order, may_begin, ended = [], threading.Event(), threading.Event()

        def call():
            may_begin.wait(LIMIT_S)
            loop.call_soon_threadsafe(order.append, "sent by the call")
            ended.set()

        future = loop.run_in_executor(None, call)
        # A call that has ended by the time asyncio chains the futures is told of at once, from 3.14 on.
        may_begin.set()
        future.add_done_callback(lambda _: order.append("done"))
        assert ended.wait(LIMIT_S)
        time.sleep(0.05)  # it returns meanwhile
        assert not future.done()
        loop.call_soon(order.append, "queued after it")
        await future
        assert future.get_loop() is loop
        assert type(future) is (aioxide._native.Future if is_ours else asyncio.Future)
        return order

    assert run(main) == ["sent by the call", "queued after it", "done"]


class OwnError(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x"), ValueError),
        (KeyboardInterrupt("x"), KeyboardInterrupt),
        (SystemExit("x"), SystemExit),
        (GeneratorExit("x"), GeneratorExit),
        (OwnError("x"), OwnError),
        (asyncio.CancelledError("x"), asyncio.CancelledError),
        (concurrent.futures.CancelledError("x"), asyncio.CancelledError),
        (concurrent.futures.InvalidStateError("x"), asyncio.InvalidStateError),
        (concurrent.futures.TimeoutError("x"), asyncio.TimeoutError),
        (asyncio.TimeoutError("x"), asyncio.TimeoutError),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_whatever_the_function_raises_is_the_futures_exception(run, error, expected):
    def fail():
        raise error

    async def main():
        future = asyncio.get_running_loop().run_in_executor(None, fail)
        await asyncio.wait([future])
        assert not future.cancelled()
        return future.exception()

    found = run(main)
    assert type(found) is expected
    assert found.args == ("x",)


def test_stop_iteration_is_refused_as_the_version_does(run, reports):
    def fail():
        raise StopIteration("x")

    async def main():
        future = asyncio.get_running_loop().run_in_executor(None, fail)
        await asyncio.wait([future], timeout=0.2)
        return type(future.exception()) if future.done() else None

    is_wrapped = sys.version_info >= (3, 12, 2) or (3, 11, 8) <= sys.version_info < (3, 12)
    if is_wrapped:
        assert run(main) is RuntimeError
    else:
        assert run(main) is None
        assert [kind for _, kind in reports.take()] == [TypeError]


def test_a_keyboard_interrupt_of_the_function_ends_the_loop_that_awaits_it(new_loop):
    def fail():
        raise KeyboardInterrupt

    async def main():
        await asyncio.get_running_loop().run_in_executor(None, fail)

    with pytest.raises(KeyboardInterrupt):
        new_loop().run_until_complete(main())


def test_the_traceback_leads_into_the_function(run):
    def inner():
        return 1 // 0

    def outer():
        return inner()

    async def main():
        with pytest.raises(ZeroDivisionError) as caught:
            await asyncio.get_running_loop().run_in_executor(None, outer)
        return [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    names = run(main)
    assert names[0] == "main"
    assert names[-2:] == ["outer", "inner"]


def test_an_exception_that_nobody_retrieves_is_reported(run, reports):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, int, "x")
        await asyncio.wait([future])

    run(main)
    gc.collect()
    assert reports.take() == [("Future exception was never retrieved", ValueError)]


def test_a_future_that_somebody_else_has_completed_is_reported(run, reports):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        future = loop.run_in_executor(None, gate)
        gate.wait_until_entered()
        future.set_result("not from the call")
        gate.may_go.set()
        while not reports:
            await asyncio.sleep(0.001)
        return future.result()

    assert run(main) == "not from the call"
    ((message, kind),) = reports.take()
    assert message.startswith("Exception in callback ")
    assert kind is AssertionError


# --- cancellation ---------------------------------------------------------------------------------


def test_a_call_cancelled_before_it_runs_does_not_run(run):
    async def main():
        loop = asyncio.get_running_loop()
        ran = []
        async with Fills(loop):
            kept = loop.run_in_executor(None, ran.append, "kept")
            cancelled = loop.run_in_executor(None, ran.append, "cancelled")
            assert cancelled.cancel()
            await asyncio.sleep(0)
            assert cancelled.cancelled()
        await kept
        return ran

    assert run(main) == ["kept"]


def test_the_result_of_a_call_cancelled_while_it_runs_is_dropped(run):
    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate("late")
        future = loop.run_in_executor(None, gate)
        gate.wait_until_entered()
        assert future.cancel()
        gate.may_go.set()
        # The same thread: what it had before is through.
        await loop.run_in_executor(None, int)
        await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await future

    run(main)


def test_an_exception_after_the_cancellation_is_dropped_too(run):
    def fail(gate):
        gate()
        raise ValueError

    async def main():
        loop = asyncio.get_running_loop()
        gate = Gate()
        future = loop.run_in_executor(None, fail, gate)
        gate.wait_until_entered()
        future.cancel()
        gate.may_go.set()
        await loop.run_in_executor(None, int)
        return future.cancelled()

    assert run(main) is True


def test_a_task_that_waits_is_cancelled_at_once(run):
    async def main():
        gate = Gate()
        task = asyncio.create_task(asyncio.to_thread(gate))
        while not gate.entered.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.may_go.set()

    run(main)


# --- the gate of nativeness -------------------------------------------------------------------------

#: Files of which no frame may run for a call.
PYTHON_OF_EXECUTORS = {
    os.path.realpath(module.__file__)
    for module in (asyncio.futures, concurrent.futures.thread, concurrent.futures._base, threading)
}
PACKAGE = os.path.dirname(os.path.realpath(aioxide.__file__)) + os.sep


def frames_of_calls(run, n):
    """`file:function` of the frames that n calls run in the loop's thread and in the pool's."""
    calls = collections.Counter()

    def profile(frame, event, argument):
        if event == "call":
            calls[frame.f_code] += 1

    def call():
        pass

    async def main():
        loop = asyncio.get_running_loop()
        threading.setprofile(profile)
        await loop.run_in_executor(None, int)
        calls.clear()
        sys.setprofile(profile)
        try:
            for _ in range(n):
                await loop.run_in_executor(None, call)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return calls[call.__code__]

    gc.collect()
    assert run(main) == n, "the gate sees the pool's thread"
    paths = {code: os.path.realpath(code.co_filename) for code in calls}
    return {
        f"{os.path.basename(path)}:{code.co_name}": calls[code]
        for code, path in paths.items()
        if path in PYTHON_OF_EXECUTORS or path.startswith(PACKAGE)
    }


def test_a_thousand_calls_run_no_frame_of_futures_or_of_ours(run, is_ours):
    found = frames_of_calls(run, 1000)
    if is_ours:
        assert found == {}
    else:
        assert found["futures.py:wrap_future"] == 1000, "the gate would see it"


# --- many at once -----------------------------------------------------------------------------------


def test_a_storm_of_calls_from_several_loops_loses_nothing(new_loop):
    """1000 calls on each of three loops in threads of their own, a fifth of them cancelled at some point."""
    chance = random.Random(7)
    plans = [[chance.random() for _ in range(1000)] for _ in range(3)]

    def work(number, ran):
        ran.append(number)
        if number % 10 == 0:
            raise ValueError(number)
        return number

    async def storm(plan):
        loop = asyncio.get_running_loop()
        ran, futures = [], []
        for number, fate in enumerate(plan):
            futures.append(loop.run_in_executor(None, work, number, ran))
            if fate < 0.1:
                futures[-1].cancel()
            elif fate < 0.2:
                futures[chance.randrange(len(futures))].cancel()
            elif fate < 0.3:
                await asyncio.sleep(0)
        outcomes = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), LIMIT_S)
        assert len(ran) == len(set(ran)), "nothing runs twice"
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, asyncio.CancelledError):
                continue
            assert number in ran
            if number % 10 == 0:
                assert isinstance(outcome, ValueError) and outcome.args == (number,)
            else:
                assert outcome == number
        return sum(not isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)

    loops = [new_loop() for _ in plans]
    completed = [None] * len(plans)

    def run_loop(i):
        completed[i] = loops[i].run_until_complete(storm(plans[i]))

    threads = [threading.Thread(target=run_loop, args=(i,)) for i in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LIMIT_S)
    assert all(count is not None and 700 < count < 1000 for count in completed)
