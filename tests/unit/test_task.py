"""Tasks: what CPython's suite does not ask. Each body runs on asyncio's loop and on aioxide's."""

import _asyncio
import asyncio
import contextvars
import gc
import sys
import threading
import types
import weakref
from unittest import mock

import aioxide
import pytest

VAR = contextvars.ContextVar("VAR", default="unset")
TASKS = {"loops": None, "c": _asyncio.Task, "native": aioxide.Task}

needs_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")


@pytest.fixture(params=TASKS)
def make_task(request):
    """Makes a task: as the loop does, by asyncio's C class, or by ours; whosever the loop is."""
    cls = TASKS[request.param]
    if cls is None:
        return lambda loop, coro, **kwargs: loop.create_task(coro, **kwargs)
    return lambda loop, coro, **kwargs: cls(coro, loop=loop, **kwargs)


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


async def give(x=None):
    await asyncio.sleep(0)
    return x


async def wait(awaitable):
    return await awaitable


# --- any task on any loop ------------------------------------------------------------------------------


def test_every_kind_of_task_works_on_every_loop(new_loop, make_task):
    loop = new_loop()

    async def main():
        me = asyncio.current_task()
        assert me in asyncio.all_tasks() and isinstance(me, asyncio.Task)
        children = [make_task(loop, give(i)) for i in range(3)]
        future = loop.create_future()
        children.append(make_task(loop, wait(future)))
        children.append(make_task(loop, wait(children[0])))
        assert asyncio.all_tasks() == {me, *children}
        loop.call_later(0, future.set_result, 3)
        assert await asyncio.gather(*children) == [0, 1, 2, 3, 0]
        assert asyncio.current_task() is me and asyncio.all_tasks() == {me}

    loop.run_until_complete(make_task(loop, main()))


def test_every_kind_of_task_awaits_every_kind(new_loop, make_task):
    loop = new_loop()
    for other in TASKS.values():
        make = other or (lambda coro, loop: loop.create_task(coro))
        assert loop.run_until_complete(make_task(loop, wait(make(give(1), loop=loop)))) == 1
        task = make_task(loop, wait(make(give(1), loop=loop)))
        turn(loop)
        task.cancel("planted")
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    for future in (aioxide.Future(loop=loop), _asyncio.Future(loop=loop), loop.create_future()):
        loop.call_soon(future.set_exception, KeyError("planted"))
        with pytest.raises(KeyError):
            loop.run_until_complete(make_task(loop, wait(future)))


def test_contexts_of_every_kind_of_task_are_separate(new_loop, make_task):
    loop, seen = new_loop(), []

    async def work(i):
        VAR.set(i)
        await asyncio.sleep(0)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        seen.append((i, VAR.get()))

    loop.run_until_complete(wait_all([make_task(loop, work(i)) for i in range(3)]))
    assert seen == [(i, i) for i in range(3)] and VAR.get() == "unset"


async def wait_all(tasks):
    await asyncio.gather(*tasks)


@needs_3_11
def test_two_tasks_may_share_a_context(new_loop, make_task):
    loop = new_loop()
    context = contextvars.copy_context()

    async def set_(x):
        VAR.set(x)
        await asyncio.sleep(0)
        return VAR.get()

    first, second = (make_task(loop, set_(x), context=context) for x in "ab")
    loop.run_until_complete(wait_all([first, second]))
    assert [first.result(), second.result(), context[VAR]] == ["b", "b", "b"]


# --- who is running --------------------------------------------------------------------------------------


def test_a_callback_has_no_current_task(new_loop, make_task):
    loop, seen = new_loop(), []

    def look(*args):
        seen.append(asyncio.current_task(loop))

    async def main():
        future = loop.create_future()
        future.add_done_callback(look)
        future.set_result(None)
        loop.call_soon(look)
        loop.call_later(0, look)
        loop.call_soon_threadsafe(look)
        me = asyncio.current_task()
        for _ in range(3):
            await asyncio.sleep(0)
            assert asyncio.current_task() is me
        await asyncio.sleep(0.001)

    task = make_task(loop, main())
    task.add_done_callback(look)
    loop.run_until_complete(task)
    turn(loop)
    assert seen == [None] * 5


def test_nobody_is_current_once_the_loop_has_stopped(new_loop, make_task):
    loop = new_loop()
    loop.run_until_complete(make_task(loop, give()))
    assert asyncio.current_task(loop) is None

    async def stop():
        loop.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    task = make_task(loop, stop())
    loop.run_forever()
    assert asyncio.current_task(loop) is None
    loop.run_until_complete(task)


def test_another_thread_sees_the_tasks_and_who_runs(new_loop, make_task):
    loop, seen = new_loop(), []

    def look():
        seen.append((asyncio.current_task(loop), asyncio.all_tasks(loop)))

    async def main():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    task, other = make_task(loop, main()), make_task(loop, asyncio.sleep(0))
    loop.run_until_complete(wait_all([task, other]))
    (current, tasks) = seen[0]
    assert current is task and {task, other} <= tasks


def test_tasks_are_listed_by_other_threads_while_they_come_and_go(new_loop):
    loop, failures, stop = new_loop(), [], threading.Event()

    def look():
        while not stop.is_set():
            try:
                for task in asyncio.all_tasks(loop):
                    task.done()
            except RuntimeError as e:
                # asyncio gives up after a thousand tries
                if "Set changed size" not in str(e) and "another loop" not in str(e):
                    failures.append(e)
            except BaseException as e:
                failures.append(e)

    async def main():
        for _ in range(200):
            await asyncio.gather(*(give(i) for i in range(10)))

    thread = threading.Thread(target=look)
    thread.start()
    loop.run_until_complete(main())
    stop.set()
    thread.join()
    assert failures == []


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="3.14 has one current task per thread")
def test_a_nested_step_restores_the_current_task(new_loop):
    loop = new_loop()
    other = asyncio.SelectorEventLoop()

    async def main():
        me = asyncio.current_task()
        asyncio._set_running_loop(None)
        try:
            assert other.run_until_complete(give(1)) == 1
        finally:
            asyncio._set_running_loop(loop)
        assert asyncio.current_task() is me

    try:
        loop.run_until_complete(main())
    finally:
        other.close()


# --- names -------------------------------------------------------------------------------------------------


def test_default_names_are_unique_across_threads(new_loop):
    names = []

    def work():
        loop = new_loop()
        tasks = [loop.create_task(give()) for _ in range(50)]
        names.extend(task.get_name() for task in tasks)
        loop.run_until_complete(wait_all(tasks))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == len(set(names)) == 200
    assert all(name.startswith("Task-") for name in names)


def test_default_names_rise_in_the_order_of_creation_and_not_of_asking(new_loop):
    loop = new_loop()
    first, second = loop.create_task(give()), loop.create_task(give())
    numbers = [int(task.get_name().removeprefix("Task-")) for task in (second, first)]
    assert numbers[0] == numbers[1] + 1
    loop.run_until_complete(wait_all([first, second]))


@pytest.mark.parametrize("name", ["", "x", 7, None, object])
def test_a_name_is_made_a_str(new_loop, make_task, name):
    loop = new_loop()
    task = make_task(loop, give(), name=name)
    assert task.get_name() == str(name) if name is not None else task.get_name().startswith("Task-")
    task.set_name(8)
    assert task.get_name() == "8"
    loop.run_until_complete(task)


# --- exits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_step_leaves_the_loop_usable(new_loop, make_task, error):
    loop, ran = new_loop(), []

    async def exits():
        await asyncio.sleep(0)
        raise error("planted")

    task = make_task(loop, exits())
    loop.call_later(0.001, ran.append, "timer")
    with pytest.raises(error, match="planted"):
        loop.run_forever()
    assert not loop.is_running() and asyncio._get_running_loop() is None
    assert asyncio.current_task(loop) is None
    assert isinstance(task.exception(), error)
    assert loop.run_until_complete(give(1)) == 1
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert ran == ["timer"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("schedule", ["call_soon", "call_later", "done_callback", "threadsafe"])
def test_an_exit_in_a_callback_leaves_the_loop_usable(new_loop, error, schedule):
    loop, ran = new_loop(), []

    def exits(*args):
        raise error("planted")

    if schedule == "call_soon":
        loop.call_soon(exits)
    elif schedule == "call_later":
        loop.call_later(0, exits)
    elif schedule == "threadsafe":
        loop.call_soon_threadsafe(exits)
    else:
        future = loop.create_future()
        future.add_done_callback(exits)
        future.set_result(None)
    loop.call_soon(ran.append, "behind it")
    with pytest.raises(error, match="planted"):
        loop.run_forever()
    assert not loop.is_running() and asyncio._get_running_loop() is None
    turn(loop)
    assert ran == ["behind it"]
    assert loop.run_until_complete(give(1)) == 1


# --- what is destroyed -------------------------------------------------------------------------------------------


def test_a_pending_task_that_is_destroyed_is_reported(new_loop, reports, make_task):
    loop = new_loop()

    async def forever():
        await loop.create_future()

    make_task(loop, forever())
    turn(loop)
    turn(loop)
    gc.collect()
    (report,) = reports.take_whole()
    assert (report.message, report.exception) == ("Task was destroyed but it is pending!", None)
    assert report.others == ("task",)
    assert asyncio.all_tasks(loop) == set()


def test_an_exception_that_nobody_retrieved_is_reported(new_loop, reports, make_task):
    loop = new_loop()

    async def fail():
        raise ValueError("planted")

    make_task(loop, fail())
    turn(loop)
    turn(loop)
    gc.collect()
    assert reports.take() == [("Task exception was never retrieved", ValueError)]


def test_a_task_in_the_queue_is_not_destroyed(new_loop, make_task):
    loop = new_loop()
    reference = weakref.ref(make_task(loop, give()))
    gc.collect()
    assert reference() is not None
    turn(loop)
    gc.collect()
    assert reference() is not None
    turn(loop)
    turn(loop)
    gc.collect()
    assert reference() is None


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_subclass_with_a_destructor_that_says_nothing_is_destroyed_pending(new_loop):
    destroyed = []

    class Sub(aioxide.Task):
        def __del__(self):
            destroyed.append(self)  # comes back
            self.again = True

    loop = new_loop()

    async def forever():
        await loop.create_future()

    task = Sub(forever(), loop=loop)
    turn(loop)
    turn(loop)
    del task
    gc.collect()
    assert len(destroyed) == 1 and not destroyed[0].done() and destroyed[0].again
    destroyed.clear()
    gc.collect()
    assert asyncio.all_tasks(loop) == set()
    assert loop.run_until_complete(give(1)) == 1


def test_a_task_may_drop_the_last_reference_to_itself(new_loop, make_task):
    loop = new_loop()
    tasks = {}

    async def deletes_itself():
        del tasks["it"]
        gc.collect()
        await asyncio.sleep(0)
        future = loop.create_future()
        loop.call_soon(future.set_result, 1)
        await future
        gc.collect()
        return asyncio.current_task()

    tasks["it"] = make_task(loop, deletes_itself())
    reference = weakref.ref(tasks["it"])
    for _ in range(6):
        turn(loop)
    gc.collect()
    assert reference() is None and tasks == {}


def test_a_task_cancels_and_finishes_itself(new_loop, make_task):
    loop = new_loop()

    async def cancels_itself():
        asyncio.current_task().cancel("self")
        return 1

    task = make_task(loop, cancels_itself())
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert task.cancelled()


def test_a_coroutine_that_closes_itself_is_an_error_of_its_own(new_loop, make_task):
    loop = new_loop()

    async def closes():
        asyncio.current_task().get_coro().close()

    with pytest.raises(ValueError, match="already executing"):
        loop.run_until_complete(make_task(loop, closes()))


def test_a_coroutine_that_was_closed_or_stepped_by_others_ends_its_task(new_loop, make_task):
    loop = new_loop()
    coro = give()
    task = make_task(loop, coro)
    coro.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        loop.run_until_complete(task)


# --- mocks ---------------------------------------------------------------------------------------------------------


def test_call_soon_of_the_loop_is_honoured_by_tasks(new_loop, make_task):
    loop = new_loop()
    real, calls = loop.call_soon, []

    def call_soon(callback, *args, context=None):
        calls.append(callback)
        return real(callback, *args, context=context)

    loop.call_soon = mock.Mock(side_effect=call_soon)
    future = loop.create_future()

    async def main():
        await asyncio.sleep(0)
        await future

    task = make_task(loop, main())
    assert len(calls) == 1  # the first step
    turn(loop)
    assert len(calls) == 3  # turn's stop, and the step after sleep(0)
    turn(loop)
    future.set_result(None)
    assert len(calls) == 5  # turn's stop, and the wake-up
    loop.run_until_complete(task)
    assert loop.call_soon.call_args.kwargs.keys() <= {"context"}
    loop.call_soon.reset_mock()
    del loop.call_soon, real


@pytest.mark.parametrize("bad", [object(), 1, "text"])
def test_a_bad_yield_is_an_error_in_the_task(new_loop, make_task, bad):
    @types.coroutine
    def yields():
        yield bad

    loop = new_loop()

    async def main():
        try:
            await yields()
        except RuntimeError as e:
            return str(e)

    assert loop.run_until_complete(make_task(loop, main())) == f"Task got bad yield: {bad!r}"


class Hostile:
    """A future that is none, and fails in every way."""

    def __init__(self, loop, fails):
        self._loop, self.fails = loop, fails

    def get_loop(self):
        return self._loop

    @property
    def _asyncio_future_blocking(self):
        if self.fails == "get":
            raise KeyError("get")
        return True

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, value):
        if self.fails == "set":
            raise KeyError("set")

    def add_done_callback(self, callback, *, context=None):
        raise KeyError("add")

    def __await__(self):
        yield self


@pytest.mark.parametrize("fails", ["get", "set", "add"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_hostile_future_does_not_end_the_loop(new_loop, reports, make_task, fails):
    loop = new_loop()
    task = make_task(loop, wait(Hostile(loop, fails)))
    for _ in range(4):
        turn(loop)
    assert loop.run_until_complete(give(1)) == 1
    # The step failed outside the coroutine: nothing will ever wake the task.
    assert not task.done()
    task._log_destroy_pending = False
    task.get_coro().close()
    del task
    gc.collect()
    assert asyncio.all_tasks(loop) == set()
    assert [exception for _, exception in reports.take()] == [KeyError]
