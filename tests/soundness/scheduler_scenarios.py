"""Scenarios of the refleak hunt: loops, futures, tasks, callbacks, timers, threads."""

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import warnings
import weakref

from scenario import Loop, open_loop, run, scenario, turn

VAR = contextvars.ContextVar("VAR")

# --- loops -------------------------------------------------------------------------------------------


@scenario
def loop_created_and_closed():
    with Loop():
        pass


@scenario
def loop_abandoned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = open_loop()
        loop.me = loop
        loop.call_soon(loop.stop)
        loop.call_later(60, loop.stop)
        del loop
        gc.collect()


@scenario
def loop_with_attributes_and_factories():
    async def noop():
        await asyncio.sleep(0)

    with Loop() as loop:
        loop.something = loop
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        loop.run_until_complete(loop.create_task(noop(), name="given"))
        loop.call_soon = loop.call_soon
        loop.run_until_complete(noop())
        del loop.call_soon
        loop.time = lambda: 1.0
        loop.call_later(0, loop.stop)
        loop.run_forever()
        del loop.time


# --- futures -----------------------------------------------------------------------------------------


@scenario
def future_awaited():
    async def main():
        loop = asyncio.get_running_loop()
        for value in (None, object(), StopAsyncIteration()):
            future = loop.create_future()
            loop.call_soon(future.set_result, value)
            assert await future is value
            assert await future is value

    run(main)


@scenario
def future_failed():
    async def main():
        loop = asyncio.get_running_loop()
        for error in (ValueError("planted"), KeyError, StopIteration()):
            future = loop.create_future()
            try:
                future.set_exception(error)
            except TypeError:
                continue
            try:
                await future
            except Exception as e:
                e.__traceback__ = None
            future.exception()

    run(main)


@scenario
def future_cancelled():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.add_done_callback(lambda future: None)
        loop.call_soon(future.cancel, "planted")
        try:
            await future
        except asyncio.CancelledError:
            pass

    run(main)


@scenario
def future_callbacks():
    async def main():
        future = asyncio.get_running_loop().create_future()
        called = []
        for _ in range(3):
            future.add_done_callback(called.append)
        future.add_done_callback(called.append, context=contextvars.copy_context())
        future.remove_done_callback(called.append)
        future.add_done_callback(called.append)
        assert len(future._callbacks) == 1
        future.set_result(future)
        future.add_done_callback(called.append)
        await asyncio.sleep(0)
        assert len(called) == 2
        repr(future)

    run(main)


@scenario
def future_misused():
    with Loop() as loop:
        future = loop.create_future()
        for wrong in (future.result, future.exception, lambda: future.set_exception(1), lambda: list(future)):
            try:
                wrong()
            except Exception:
                pass
        iterator = iter(future)
        iterator.close()
        future.set_result(1)
        try:
            future.set_result(2)
        except asyncio.InvalidStateError:
            pass
        type(future).__new__(type(future))


@scenario
def future_never_retrieved():
    with Loop() as loop:
        future = loop.create_future()
        future.set_exception(ValueError("planted"))
        del future
        gc.collect()


# --- tasks -------------------------------------------------------------------------------------------


@scenario
def tasks():
    async def work(i):
        await asyncio.sleep(0)
        return i

    async def main():
        assert await asyncio.gather(*(work(i) for i in range(20))) == list(range(20))
        task = asyncio.create_task(work(1), name="named")
        task.get_name(), repr(task), task.get_stack(), asyncio.all_tasks(), asyncio.current_task()
        await task

    run(main)


@scenario
def tasks_failed():
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("planted")

    async def main():
        await asyncio.gather(*(fail() for _ in range(5)), return_exceptions=True)
        try:
            await fail()
        except ValueError:
            pass

    run(main)


@scenario
def tasks_cancelled():
    async def wait(future):
        try:
            await future
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise

    async def main():
        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(wait(loop.create_future())) for _ in range(3)]
        unstarted = loop.create_task(wait(loop.create_future()))
        unstarted.cancel("planted")
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, unstarted, return_exceptions=True)

    run(main)


@scenario
def tasks_that_yield_nonsense():
    class Nonsense:
        def __await__(self):
            yield object()

    async def main():
        loop = asyncio.get_running_loop()

        async def wait(awaitable):
            await awaitable

        async def wait_for_itself():
            await asyncio.current_task()

        with contextlib.closing(open_loop()) as other:
            for coro in (wait(Nonsense()), wait(other.create_future()), wait_for_itself()):
                try:
                    await loop.create_task(coro)
                except RuntimeError:
                    pass

    run(main)


@scenario
def task_never_retrieved():
    async def fail():
        raise ValueError("planted")

    with Loop() as loop:
        loop.create_task(fail())
        turn(loop)
        turn(loop)
        gc.collect()


@scenario
def task_destroyed_pending():
    async def wait(loop):
        await loop.create_future()

    with Loop() as loop:
        loop.create_task(wait(loop))
        turn(loop)
        turn(loop)
        gc.collect()


@scenario
def task_not_a_coroutine():
    with Loop() as loop:
        for wrong in (1, None, loop.create_future()):
            try:
                loop.create_task(wrong)
            except TypeError:
                pass


@scenario
def tasks_and_futures_of_c():
    import _asyncio

    async def wait(future):
        return await future

    async def main():
        loop = asyncio.get_running_loop()
        c_future, future = _asyncio.Future(loop=loop), loop.create_future()
        waiting = [_asyncio.Task(wait(future), loop=loop), loop.create_task(wait(c_future))]
        await asyncio.sleep(0)
        c_future.set_result(1)
        future.set_result(2)
        assert await asyncio.gather(*waiting) == [2, 1]

    run(main)


@scenario
def eager_tasks():
    if sys.version_info < (3, 12):
        return

    async def at_once():
        return 1

    async def later():
        await asyncio.sleep(0)
        return 2

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        assert await asyncio.gather(at_once(), later()) == [1, 2]
        asyncio.get_running_loop().set_task_factory(None)

    run(main)


@scenario
def timeouts_groups_shields_and_queues():
    async def main():
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.0001)
        except asyncio.TimeoutError:
            pass
        await asyncio.shield(asyncio.sleep(0))
        queue = asyncio.Queue(1)
        producer = asyncio.create_task(queue.put(1))
        assert await queue.get() == 1
        await producer
        lock = asyncio.Lock()
        async with lock:
            waiter = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0)
        await waiter
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        for one in asyncio.as_completed([asyncio.sleep(0), asyncio.sleep(0.0001)]):
            await one
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))

    run(main)


@scenario
def contexts():
    async def main():
        VAR.set(object())
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        loop.call_soon(VAR.set, 1, context=context)
        loop.call_later(0, VAR.set, 2, context=context)
        await asyncio.sleep(0.0001)
        if sys.version_info >= (3, 11):
            await asyncio.create_task(asyncio.sleep(0), context=context)

    run(main)


@scenario
def exits():
    async def exit_(error):
        raise error

    for error in (KeyboardInterrupt, SystemExit):
        with Loop() as loop:
            try:
                loop.run_until_complete(exit_(error()))
            except BaseException as e:
                assert type(e) is error
            loop.call_soon(print, error()).cancel()

            def raise_(error=error):
                raise error

            loop.call_soon(raise_)
            try:
                loop.run_forever()
            except BaseException as e:
                assert type(e) is error
            turn(loop)


# --- callbacks and timers ------------------------------------------------------------------------------


@scenario
def call_soon():
    with Loop() as loop:
        handles = [loop.call_soon(lambda *args: None, *range(n)) for n in range(6)]
        loop.call_soon(print, "never").cancel()
        loop.call_soon(lambda: None, context=contextvars.copy_context())
        repr(handles[2]), handles[0].cancelled(), weakref.ref(handles[1])
        turn(loop)


@scenario
def call_soon_misused():
    with Loop() as loop:
        for wrong in (
            lambda: loop.call_soon(),
            lambda: loop.call_later(1),
            lambda: loop.call_later(None, print),
            lambda: loop.call_at("x", print),
            lambda: loop.call_soon(print, context=1),
            lambda: loop.call_soon(print, nonsense=1),
        ):
            try:
                wrong()
            except (TypeError, RuntimeError):
                pass
        try:
            turn(loop)
        except (TypeError, RuntimeError):
            pass
    try:
        loop.call_soon(print)
    except RuntimeError:
        pass


@scenario
def callback_raises():
    def fail(*args):
        raise ValueError("planted")

    def handler(loop, context):
        repr(context["handle"]) if "handle" in context else None
        raise ValueError("planted too")

    with Loop() as loop:
        loop.call_soon(fail)
        loop.call_later(0, fail, 1)
        loop.call_soon_threadsafe(fail)
        future = loop.create_future()
        future.add_done_callback(fail)
        future.set_result(1)
        turn(loop)
        loop.set_exception_handler(handler)
        loop.call_soon(fail)
        turn(loop)


@scenario
def timers():
    with Loop() as loop:
        for i in range(20):
            loop.call_later(0, lambda *args: None, i)
            loop.call_later(60, lambda *args: None, i)
            loop.call_at(loop.time() + 60, lambda *args: None).cancel()
        kept = loop.call_later(60, lambda: kept)
        loop.call_later(0.0001, loop.stop)
        loop.run_forever()


@scenario
def timers_swept():
    with Loop() as loop:
        for _ in range(300):
            loop.call_later(60, print).cancel()
        turn(loop)


@scenario
def pending_work_at_close():
    async def wait():
        await asyncio.sleep(60)

    with Loop() as loop:
        future = loop.create_future()
        future.add_done_callback(print)
        loop.kept = [loop.call_soon(print, future), loop.call_later(60, print, future), future]
        coro = wait()
        task = loop.create_task(coro)
        task._log_destroy_pending = False
        loop.close()
    coro.close()


@scenario
def other_threads():
    with Loop() as loop:
        threads = [
            threading.Thread(target=lambda: [loop.call_soon_threadsafe(lambda *a: None, i) for i in range(20)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        turn(loop)
        for thread in threads:
            thread.join()
        turn(loop)
        turn(loop)


@scenario
def executor():
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, int, "1") == 1
        try:
            await loop.run_in_executor(None, int, "x")
        except ValueError:
            pass
        await asyncio.to_thread(int)

    run(main)


@scenario
def async_generators():
    async def numbers():
        try:
            for i in range(3):
                await asyncio.sleep(0)
                yield i
        finally:
            await asyncio.sleep(0)

    async def main():
        assert [i async for i in numbers()] == [0, 1, 2]
        async for _ in numbers():
            break
        left = numbers()
        await left.__anext__()
        del left
        gc.collect()
        await asyncio.sleep(0)
        asyncio.get_running_loop().kept = numbers()
        await asyncio.get_running_loop().kept.__anext__()

    run(main)
