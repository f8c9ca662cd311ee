"""The default executor as an object, executors of the program's own, and what programs patch."""

import asyncio
import concurrent.futures
import unittest.mock

import pytest
from blocking import LIMIT_S, Gate, thread_name

MOST_THREADS = concurrent.futures.ThreadPoolExecutor()._max_workers


def test_the_default_executor_is_a_thread_pool_executor(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert loop._default_executor is None
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        assert executor._thread_name_prefix == "asyncio"
        assert executor._shutdown is False
        assert executor._work_queue.qsize() == 0
        assert executor._work_queue.empty()
        future = executor.submit(divmod, 7, 2)
        assert type(future) is concurrent.futures.Future
        assert future.result(LIMIT_S) == (3, 1)
        assert isinstance(executor.submit(int, "x").exception(LIMIT_S), ValueError)
        assert list(executor.map(abs, [-1, -2], timeout=LIMIT_S)) == [1, 2]
        assert await loop.run_in_executor(executor, abs, -3) == 3
        return {thread.name for thread in executor._threads} <= {f"asyncio_{i}" for i in range(MOST_THREADS)}

    assert run(main)


def test_calls_and_submitted_items_begin_in_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        loop._default_executor._max_workers = 1
        gate, order = Gate(), []
        blocked = loop.run_in_executor(None, gate)
        gate.wait_until_entered()
        futures = [loop.run_in_executor(None, order.append, 1)]
        submitted = loop._default_executor.submit(order.append, 2)
        futures.append(loop.run_in_executor(None, order.append, 3))
        assert loop._default_executor._work_queue.qsize() == 3
        gate.may_go.set()
        await asyncio.gather(blocked, asyncio.wrap_future(submitted), *futures)
        return order

    assert run(main) == [1, 2, 3]


def test_an_executor_of_the_programs_own_is_asked_by_submit(run):
    class Inline(concurrent.futures.Executor):
        def submit(self, function, /, *args, **kwargs):
            future = concurrent.futures.Future()
            future.set_result((function(*args), "inline"))
            return future

    async def main():
        loop = asyncio.get_running_loop()
        given = await loop.run_in_executor(Inline(), abs, -1)
        loop._default_executor = Inline()
        default = await loop.run_in_executor(None, abs, -2)
        mock = loop._default_executor = unittest.mock.Mock()
        mock.submit.return_value = concurrent.futures.Future()
        mock.submit.return_value.set_result("mocked")
        mocked = await loop.run_in_executor(None, abs, -3)
        mock.submit.assert_called_once_with(abs, -3)
        loop._default_executor = None
        return given, default, mocked

    assert run(main) == ((1, "inline"), (2, "inline"), "mocked")


def test_a_default_executor_that_was_set_is_used(run):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, "mine"))
        return await loop.run_in_executor(None, thread_name)

    assert run(main) == "mine_0"


@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_submit_that_a_program_has_wrapped_sees_every_call(run, monkeypatch, where):
    seen = []
    stock = concurrent.futures.ThreadPoolExecutor.submit

    def traced(self, function, /, *args, **kwargs):
        seen.append(function)
        return stock(self, function, *args, **kwargs)

    async def main():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        if where == "class":
            monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", traced)
        else:
            executor = loop._default_executor
            executor.submit = lambda *args: traced(executor, *args)
        try:
            return await loop.run_in_executor(None, abs, -1)
        finally:
            loop._default_executor.__dict__.pop("submit", None)

    assert run(main) == 1
    assert seen == [abs]


def test_create_future_and_call_soon_threadsafe_may_be_replaced(run):
    async def main():
        loop = asyncio.get_running_loop()
        made, sent = [], []
        create_future, call_soon_threadsafe = loop.create_future, loop.call_soon_threadsafe

        def create():
            made.append(create_future())
            return made[-1]

        def send(*args, **kwargs):
            sent.append(args)
            return call_soon_threadsafe(*args, **kwargs)

        loop.create_future = create
        future = loop.run_in_executor(None, int)
        assert made == [future]
        await future
        del loop.create_future
        loop.call_soon_threadsafe = send
        await loop.run_in_executor(None, int)
        del loop.call_soon_threadsafe
        assert len(sent) == 1
        return await loop.run_in_executor(None, int)

    assert run(main) == 0
