"""Futures: what CPython's suite does not ask. Each body runs on asyncio's loop and on aioxide's."""

import _asyncio
import asyncio
import concurrent.futures
import contextvars
import copy
import gc
import inspect
import pickle
import sys
import threading
import weakref
from unittest import mock

import aioxide
import pytest

VAR = contextvars.ContextVar("VAR", default="unset")


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


# --- identity ----------------------------------------------------------------------------------------


def test_a_native_future_is_asyncios(new_loop):
    loop = new_loop()
    future = loop.create_future()
    assert isinstance(future, asyncio.Future) and isinstance(future, _asyncio.Future)
    assert asyncio.isfuture(future) and asyncio.ensure_future(future) is future
    assert not asyncio.iscoroutine(future) and not inspect.iscoroutinefunction(future)
    assert not hasattr(future, "send")
    assert future.get_loop() is loop and future._loop is loop


def test_a_future_of_our_class_works_on_any_loop(new_loop):
    loop = new_loop()
    future = aioxide.Future(loop=loop)
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(future) == 1


def test_the_class_can_be_subscribed():
    assert repr(aioxide.Future[int]).startswith("aioxide")
    assert aioxide.Future[int].__origin__ is aioxide.Future


def test_a_future_is_neither_copied_nor_pickled(new_loop):
    future = new_loop().create_future()
    with pytest.raises(TypeError):
        copy.copy(future)
    with pytest.raises(TypeError):
        pickle.dumps(future)


# --- weak references, __dict__, subclasses -----------------------------------------------------------------


def test_a_weak_reference_sees_the_end(new_loop):
    future = new_loop().create_future()
    called = []
    reference = weakref.ref(future, called.append)
    assert reference() is future
    del future
    assert reference() is None and called == [reference]


def test_a_future_that_waits_in_the_queue_is_alive(new_loop):
    loop = new_loop()
    future = loop.create_future()
    seen = []
    future.add_done_callback(seen.append)
    future.set_result(1)
    reference = weakref.ref(future)
    del future
    turn(loop)
    assert seen == [reference()]


@pytest.mark.parametrize("base", [aioxide.Future, asyncio.Future], ids=["ours", "asyncios"])
def test_a_subclass_has_a_dict_and_its_destructor_runs_once(new_loop, base):
    destroyed = []

    class Sub(base):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.mine = [1]

        def __del__(self):
            destroyed.append(self.mine)

    future = Sub(loop=new_loop())
    future.other = 2
    assert (future.mine, future.other) == ([1], 2) and isinstance(future, asyncio.Future)
    reference = weakref.ref(future)
    del future
    assert destroyed == [[1]] and reference() is None


def test_a_destructor_may_bring_its_future_back(new_loop):
    back = []

    class Sub(aioxide.Future):
        def __del__(self):
            back.append(self)

    loop = new_loop()
    future = Sub(loop=loop)
    future.extra = 1
    del future
    gc.collect()
    (future,) = back
    loop.call_soon(future.set_result, 2)
    assert loop.run_until_complete(future) == 2 and future.extra == 1
    back.clear()
    reference = weakref.ref(future)
    del future
    assert reference() is None and back == []


def test_a_subclass_with_a_finalizer_overridden_reports_through_super(new_loop, reports):
    class Sub(aioxide.Future):
        def __del__(self):
            super().__del__()

    future = Sub(loop=new_loop())
    future.set_exception(ValueError("planted"))
    del future
    gc.collect()
    assert reports.take() == [("Sub exception was never retrieved", ValueError)]


def test_methods_overridden_in_a_subclass_are_used_by_a_waiting_task(new_loop):
    calls = []

    class Sub(aioxide.Future):
        def add_done_callback(self, fn, *, context=None):
            calls.append("add_done_callback")
            super().add_done_callback(fn, context=context)

        def result(self):
            calls.append("result")
            return super().result()

        def cancel(self, msg=None):
            calls.append("cancel")
            return super().cancel(msg)

    async def wait(future):
        return await future

    loop = new_loop()
    future = Sub(loop=loop)
    loop.call_later(0.001, future.set_result, 3)
    assert loop.run_until_complete(wait(future)) == 3
    assert calls[0] == "add_done_callback" and "result" in calls
    future = Sub(loop=loop)
    task = loop.create_task(wait(future))
    turn(loop)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert "cancel" in calls


# --- never initialised, initialised twice ------------------------------------------------------------------


def test_a_future_that_was_never_initialised_raises_and_is_freed():
    future = aioxide.Future.__new__(aioxide.Future)
    for call in (future.get_loop, future.cancel, lambda: future.set_result(1), lambda: iter(future)):
        with pytest.raises(RuntimeError):
            call()
    for call in (future.result, future.exception):
        with pytest.raises(asyncio.InvalidStateError):
            call()
    assert future.done() is False and future.cancelled() is False
    reference = weakref.ref(future)
    del future, call
    assert reference() is None


def test_initialising_again_starts_anew(new_loop):
    loop = new_loop()
    future = aioxide.Future(loop=loop)
    future.set_result(1)
    future.__init__(loop=loop)
    assert not future.done()
    loop.call_soon(future.set_result, 2)
    assert loop.run_until_complete(future) == 2


# --- reports -----------------------------------------------------------------------------------------------


def test_an_exception_that_nobody_retrieved_is_reported_when_the_future_goes(new_loop, reports):
    future = new_loop().create_future()
    future.set_exception(ValueError("planted"))
    assert reports == []
    del future
    (report,) = reports.take_whole()
    assert report.message == "Future exception was never retrieved"
    assert (report.exception, report.text, report.others) == (ValueError, "planted", ("future",))


@pytest.mark.parametrize(
    "retrieve",
    [
        lambda future: future.exception(),
        lambda future: pytest.raises(ValueError, future.result),
        lambda future: setattr(future, "_log_traceback", False),
    ],
    ids=["exception", "result", "_log_traceback"],
)
def test_nothing_is_reported_once_the_exception_was_looked_at(new_loop, reports, retrieve):
    future = new_loop().create_future()
    future.set_exception(ValueError("planted"))
    retrieve(future)
    del future
    gc.collect()
    assert reports == []


@pytest.mark.parametrize("is_debug", [False, True], ids=["", "debug"])
def test_in_debug_mode_the_report_says_where_the_future_was_made(new_loop, reports, is_debug):
    loop = new_loop()
    loop.set_debug(is_debug)
    future = loop.create_future()
    future.set_exception(ValueError("planted"))
    if is_debug:
        assert any(__file__ == frame.filename for frame in future._source_traceback)
    del future
    gc.collect()
    (report,) = reports.take_whole()
    assert ("source_traceback" in report.others) is is_debug


def test_a_report_during_a_pending_exception_keeps_that_exception(new_loop, reports):
    loop = new_loop()

    def work():
        future = loop.create_future()
        future.set_exception(ValueError("planted"))
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()
    gc.collect()
    assert reports.take() == [("Future exception was never retrieved", ValueError)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_report_whose_handler_fails_does_no_harm(new_loop):
    loop = new_loop()
    loop.call_exception_handler = mock.Mock(side_effect=KeyError("handler"))
    future = loop.create_future()
    future.set_exception(ValueError("planted"))
    del future
    gc.collect()
    assert loop.call_exception_handler.call_count == 1
    loop.call_exception_handler.reset_mock()
    del loop.call_exception_handler


# --- callbacks -----------------------------------------------------------------------------------------------


def test_callbacks_run_in_their_contexts_in_order(new_loop):
    loop, seen = new_loop(), []
    future = loop.create_future()
    for i in range(4):
        context = contextvars.copy_context()
        context.run(VAR.set, i)
        future.add_done_callback(lambda _, i=i: seen.append((i, VAR.get())), context=context)
    future.add_done_callback(lambda _: seen.append(("own", VAR.get())))
    future.set_result(None)
    assert seen == []
    turn(loop)
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3), ("own", "unset")]


def test_a_callback_that_raises_is_reported_in_its_context_and_the_others_run(new_loop, reports):
    loop, seen, contexts = new_loop(), [], []

    def handler(loop, context):
        contexts.append(VAR.get())
        reports(loop, context)

    def fail(_):
        raise ValueError("planted")

    loop.set_exception_handler(handler)
    future = loop.create_future()
    context = contextvars.copy_context()
    context.run(VAR.set, "callback's")
    future.add_done_callback(fail, context=context)
    future.add_done_callback(lambda _: seen.append(1))
    future.set_result(None)
    turn(loop)
    assert seen == [1]
    ((message, exception),) = reports.take()
    assert message.startswith("Exception in callback ") and ".fail(" in message and exception is ValueError
    # 3.12 and later run the handler in the context of the handle.
    assert contexts == ["callback's" if sys.version_info >= (3, 12) else "unset"]


def test_callbacks_may_add_and_remove_callbacks_while_they_are_compared(new_loop):
    future = new_loop().create_future()

    class Odd:
        def __call__(self, _):
            pass

        def __eq__(self, other):
            future.remove_done_callback(print)
            future.add_done_callback(print)
            return False

        __hash__ = None

    future.add_done_callback(Odd())
    future.add_done_callback(print)
    future.add_done_callback(Odd())
    try:
        future.remove_done_callback(len)
    except RecursionError:
        pass
    future.cancel()


def test_a_callback_that_was_removed_does_not_run(new_loop):
    loop, seen = new_loop(), []
    future = loop.create_future()
    for _ in range(3):
        future.add_done_callback(seen.append)
    future.add_done_callback(print)
    future.remove_done_callback(print)
    assert future.remove_done_callback(seen.append) == 3
    assert future.remove_done_callback(seen.append) == 0
    future.set_result(1)
    turn(loop)
    assert seen == []


def test_a_callback_that_finishes_other_futures_nests_nothing(new_loop):
    loop = new_loop()
    futures = [loop.create_future() for _ in range(5000)]
    for one, other in zip(futures, futures[1:]):
        one.add_done_callback(lambda one, other=other: other.set_result(one.result() + 1))
    loop.call_soon(futures[0].set_result, 0)
    assert loop.run_until_complete(futures[-1]) == 4999


def test_call_soon_of_the_loop_is_honoured(new_loop):
    loop = new_loop()
    future = loop.create_future()
    future.add_done_callback(print)
    loop.call_soon = mock.Mock()
    future.set_result(1)
    loop.call_soon.assert_called_once_with(print, future, context=mock.ANY)
    future.add_done_callback(len)
    assert loop.call_soon.call_args.args == (len, future)
    loop.call_soon.reset_mock()
    del loop.call_soon


def test_call_soon_of_a_subclass_of_the_loop_is_honoured(new_loop):
    class Recording(type(new_loop())):
        calls = ()

        def call_soon(self, callback, *args, context=None):
            self.calls += (callback,)
            return super().call_soon(callback, *args, context=context)

    loop = Recording()
    try:
        future = loop.create_future()
        future.add_done_callback(len)
        future.remove_done_callback(len)
        future.add_done_callback(repr)
        future.set_result(1)
        assert loop.calls == (repr,)
        turn(loop)
    finally:
        loop.close()


def test_a_future_whose_loop_is_closed_cannot_schedule(new_loop):
    loop = new_loop()
    future = loop.create_future()
    future.add_done_callback(print)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        future.set_result(1)
    assert future.result() == 1


# --- the outcome ---------------------------------------------------------------------------------------------


def test_each_waiter_gets_the_exception_with_a_traceback_of_its_own(new_loop):
    async def wait(future):
        await future

    async def lengths(future):
        found = []
        for _ in range(3):
            try:
                await wait(future)
            except ValueError as e:
                n, tb = 0, e.__traceback__
                while tb:
                    n, tb = n + 1, tb.tb_next
                found.append(n)
        return found

    loop = new_loop()
    future = loop.create_future()
    loop.call_soon(future.set_exception, ValueError("planted"))
    found = loop.run_until_complete(lengths(future))
    if sys.version_info >= (3, 11):
        assert len(set(found[1:])) == 1


def test_setting_an_outcome_from_an_exceptions_constructor_is_refused(new_loop):
    future = new_loop().create_future()

    class Sly(Exception):
        def __init__(self):
            future.set_result("mine")

    try:
        future.set_exception(Sly)
    except asyncio.InvalidStateError:
        pass
    assert future.done()
    try:
        assert future.result() == "mine"
    except Sly:
        pass


@pytest.mark.parametrize("make", ["future", "task"])
def test_awaiting_by_hand(new_loop, make):
    loop = new_loop()
    try:
        future = loop.create_future()
        awaited = future if make == "future" else loop.create_task(asyncio.wait_for(future, None))
        iterator = awaited.__await__()
        assert iterator is not awaited
        assert iterator.send(None) is awaited
        with pytest.raises(ZeroDivisionError):
            iterator.throw(ZeroDivisionError())
        iterator.close()
        future.set_result(5)
        assert loop.run_until_complete(awaited) == 5
        with pytest.raises(StopIteration) as stop:
            awaited.__await__().send(None)
        assert stop.value.value == 5
        assert not asyncio.iscoroutine(awaited)
    finally:
        loop.close()


def test_iterating_by_hand(new_loop):
    future = new_loop().create_future()
    iterator = iter(future)
    assert iterator.send(None) is future and future._asyncio_future_blocking
    with pytest.raises(RuntimeError, match="await wasn't used with future"):
        iterator.send(None)
    future.set_result(7)
    with pytest.raises(StopIteration) as stopped:
        next(iter(future))
    assert stopped.value.value == 7
    with pytest.raises(ValueError):
        iter(future).throw(ValueError())
    iterator.close()
    if isinstance(future, aioxide.Future):  # CPython 3.14.8's own iterator crashes the interpreter here
        with pytest.raises(StopIteration):
            next(iterator)


@pytest.mark.parametrize(
    "value", [None, 0, (), (1, 2), StopIteration(3), ValueError(), asyncio.CancelledError()], ids=repr
)
def test_every_value_can_be_a_result(new_loop, value):
    async def wait(future):
        return await future

    loop = new_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, value)
    assert loop.run_until_complete(wait(future)) is value
    assert loop.run_until_complete(wait(future)) is value


# --- other threads -------------------------------------------------------------------------------------------


def test_a_result_from_another_thread_wakes_the_loop(new_loop):
    loop = new_loop()
    future = loop.create_future()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, 1))
    loop.call_soon(thread.start)
    assert loop.run_until_complete(future) == 1
    thread.join()


def test_a_concurrent_future_is_wrapped(new_loop):
    loop = new_loop()
    theirs = concurrent.futures.Future()
    ours = asyncio.wrap_future(theirs, loop=loop)
    thread = threading.Thread(target=theirs.set_result, args=(2,))
    loop.call_soon(thread.start)
    assert loop.run_until_complete(ours) == 2
    thread.join()


def test_run_coroutine_threadsafe_and_its_cancellation(new_loop):
    loop, started = new_loop(), threading.Event()

    async def work(x):
        started.set()
        if x is None:
            await asyncio.sleep(60)
        return x

    def outside():
        assert asyncio.run_coroutine_threadsafe(work(3), loop).result(20) == 3
        started.clear()
        waiting = asyncio.run_coroutine_threadsafe(work(None), loop)
        started.wait(20)
        waiting.cancel()
        # Behind the cancellation, which is itself a callback from this thread.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=outside)
    thread.start()
    loop.run_forever()
    thread.join()
    assert not asyncio.all_tasks(loop)
