"""Native coroutines (`loop.sock_recv(...)` makes one) are coroutines: everything that holds for one of `async def`.

The stock side runs the same body on asyncio's own coroutine, so what is asserted is the language's behaviour.
"""

import asyncio
import collections.abc
import gc
import inspect
import socket
import sys
import time
import warnings
import weakref

import aioxide
import pytest


@pytest.fixture
def pair():
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    yield here, there
    here.close()
    there.close()


def coroutine(pair, count=10):
    return asyncio.get_running_loop().sock_recv(pair[0], count)


def test_it_is_recognised_as_a_coroutine(run, pair):
    async def main():
        made = coroutine(pair)
        assert asyncio.iscoroutine(made)
        assert inspect.isawaitable(made)
        assert isinstance(made, collections.abc.Coroutine)
        assert made.__name__ == "sock_recv"
        assert made.__qualname__.endswith(".sock_recv")
        assert weakref.ref(made)() is made
        made.close()

    run(main)


def test_driven_by_hand(run, pair):
    async def main():
        made = coroutine(pair)
        assert not made.cr_running
        with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
            made.send(1)
        waited_for = made.send(None)
        assert asyncio.isfuture(waited_for) and waited_for._asyncio_future_blocking
        if sys.version_info >= (3, 11):
            assert inspect.getcoroutinestate(made) == inspect.CORO_SUSPENDED
        waited_for.cancel()
        with pytest.raises(asyncio.CancelledError):
            made.throw(asyncio.CancelledError())
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            made.send(None)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await made
        assert made.close() is None

        pair[1].send(b"x")
        made = coroutine(pair)
        with pytest.raises(StopIteration) as stop:
            made.send(None)
        assert stop.value.value == b"x"

    run(main)


def test_thrown_into_before_the_start(run, pair):
    async def main():
        made = coroutine(pair)
        with pytest.raises(ZeroDivisionError):
            made.throw(ZeroDivisionError)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            made.throw(ZeroDivisionError)
        made = coroutine(pair)
        with pytest.raises(
            TypeError, match="exceptions must be classes or instances deriving from BaseException, not int"
        ):
            made.throw(1)
        made.close()

    run(main)


@pytest.mark.aioxide_only
def test_what_is_thrown_in_comes_out_and_the_watch_ends(run, pair):
    async def main():
        made = coroutine(pair)
        made.send(None)
        with pytest.raises(ZeroDivisionError, match="here"):
            made.throw(ZeroDivisionError("here"))
        assert not asyncio.get_running_loop().remove_reader(pair[0])

    run(main)


@pytest.mark.aioxide_only
def test_closing_one_that_waits_ends_its_watch(run, pair):
    async def main():
        made = coroutine(pair)
        made.send(None)
        assert made.close() is None and made.close() is None
        assert not asyncio.get_running_loop().remove_reader(pair[0])

    run(main)


@pytest.mark.aioxide_only
def test_dropping_one_that_waits_ends_its_watch(run, pair):
    async def main():
        made = coroutine(pair)
        made.send(None)
        del made
        gc.collect()
        assert not asyncio.get_running_loop().remove_reader(pair[0])

    run(main)


def test_in_everything_that_takes_a_coroutine(run, pair):
    here, there = pair

    async def main():
        there.send(b"0123456789")
        loop = asyncio.get_running_loop()
        assert await coroutine(pair, 1) == b"0"
        assert await asyncio.create_task(coroutine(pair, 1)) == b"1"
        assert await asyncio.wait_for(coroutine(pair, 1), 5) == b"2"
        assert await asyncio.gather(coroutine(pair, 1), coroutine(pair, 1)) == [b"3", b"4"]
        assert await asyncio.shield(coroutine(pair, 1)) == b"5"
        assert [await done for done in asyncio.as_completed([coroutine(pair, 1)])] == [b"6"]
        future = asyncio.run_coroutine_threadsafe(coroutine(pair, 1), loop)
        assert await asyncio.wrap_future(future) == b"7"
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(coroutine(pair, 1))
            assert task.result() == b"8"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(coroutine((there, here)), 0.01)

    run(main)


@pytest.mark.parametrize("of", ["native", "stock"])
def test_waiting_in_a_task_of_either_kind(new_loop, pair, of):
    task_class = {"native": aioxide.Task, "stock": asyncio.tasks._CTask}[of]
    loop = new_loop()
    try:

        async def main():
            task = task_class(coroutine(pair), loop=loop)
            await asyncio.sleep(0)
            pair[1].send(b"late")
            assert await task == b"late"
            task = task_class(coroutine(pair), loop=loop)
            await asyncio.sleep(0)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not loop.remove_reader(pair[0])

        loop.run_until_complete(main())
    finally:
        loop.close()


def test_one_that_nobody_awaits_is_warned_of(run, pair):
    async def main():
        with pytest.warns(RuntimeWarning, match=r"^coroutine '\w+\.sock_recv' was never awaited"):
            coroutine(pair)
            gc.collect()

    run(main)


def test_debug_mode_tells_where_it_was_made(new_loop, pair):
    async def main():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made = coroutine(pair)
            assert made.cr_origin[0][0] == __file__
            assert [function for _, _, function in made.cr_origin[:2]] == ["coroutine", "main"]
            del made
            gc.collect()
        (warning,) = caught
        assert "was never awaited\nCoroutine created at (most recent call last)" in str(warning.message)

    loop = new_loop()
    try:
        loop.set_debug(True)
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_a_cycle_through_one_that_waits_is_collected(run, pair):
    class Buffer(bytearray):
        pass

    async def main():
        loop = asyncio.get_running_loop()
        buffer = Buffer(10)
        made = loop.sock_recv_into(pair[0], buffer)
        buffer.cycle = made
        made.send(None)
        loop.remove_reader(pair[0])  # the loop's own reference to what it waits for
        gone = weakref.ref(buffer)
        del made, buffer
        gc.collect()
        assert gone() is None

    run(main)


def test_resumed_from_inside_itself(run):
    """A socket of one's own, whose method comes back to the coroutine that calls it."""

    class Meddling(socket.socket):
        def recv(self, count):
            with pytest.raises(ValueError, match="coroutine already executing"):
                made[0].send(None)
            with pytest.raises(ValueError, match="coroutine already executing"):
                made[0].close()
            assert made[0].cr_running
            return b"came back"

    made = []

    async def main():
        with Meddling() as sock:
            sock.setblocking(False)
            made.append(asyncio.get_running_loop().sock_recv(sock, 10))
            assert await made[0] == b"came back"

    run(main)
    made.clear()


def test_a_stop_iteration_does_not_end_it(run):
    """PEP 479"""

    class Stopping(socket.socket):
        def recv(self, count):
            raise StopIteration("not an end")

    async def main():
        with Stopping() as sock:
            sock.setblocking(False)
            with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as raised:
                await asyncio.get_running_loop().sock_recv(sock, 10)
            assert isinstance(raised.value.__cause__, StopIteration)

    run(main)


def test_awaiting_what_python_overrides(new_loop, pair):
    """`sock_connect` awaits the loop's own `getaddrinfo`, and passes exceptions both ways."""
    base = type(new_loop())
    steps = []

    class Loop(base):
        async def getaddrinfo(self, host, port, **options):
            steps.append((host, port))
            try:
                await asyncio.sleep(3600)
            finally:
                steps.append("unwound")

    loop = Loop()
    try:
        with socket.socket() as sock:
            sock.setblocking(False)

            async def main():
                task = asyncio.ensure_future(loop.sock_connect(sock, ("a.name", 80)))
                while not steps:
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                made = loop.sock_connect(sock, ("b.name", 80))
                made.send(None)
                made.close()

            loop.run_until_complete(main())
    finally:
        loop.close()
    assert steps == [("a.name", 80), "unwound", ("b.name", 80), "unwound"]


@pytest.mark.aioxide_only
def test_its_class_makes_no_instances(run, pair):
    async def main():
        made = coroutine(pair)
        with pytest.raises(TypeError, match=r"cannot create 'aioxide\._native\.Coroutine' instances"):
            type(made)()
        made.close()

    run(main)


@pytest.mark.aioxide_only
def test_a_registration_left_behind_does_not_spin(run, pair):
    """The descriptor stays registered after a wait; what arrives then is reported once at most."""
    here, there = pair

    async def main():
        loop = asyncio.get_running_loop()
        there.send(b"x")
        assert await loop.sock_recv(here, 10) == b"x"
        waiting = asyncio.ensure_future(loop.sock_recv(here, 10))
        await asyncio.sleep(0.01)
        there.send(b"y")
        assert await waiting == b"y"
        there.send(b"nobody waits")
        started = time.thread_time()
        await asyncio.sleep(0.2)
        assert time.thread_time() - started < 0.02
        assert await loop.sock_recv(here, 100) == b"nobody waits"

    run(main)


def test_a_number_that_was_closed_and_used_again(run):
    """The registration that a wait left behind is another file's by now."""

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(5):
            here, there = socket.socketpair()
            with here, there:
                here.setblocking(False)
                waiting = asyncio.ensure_future(loop.sock_recv(here, 10))
                await asyncio.sleep(0)
                there.send(b"x")
                assert await asyncio.wait_for(waiting, 5) == b"x"

    run(main)


@pytest.mark.aioxide_only
def test_one_that_is_never_resumed_does_not_spin(run, pair):
    here, there = pair

    async def main():
        made = asyncio.get_running_loop().sock_recv(here, 10)
        made.send(None)
        there.send(b"x")
        started = time.thread_time()
        await asyncio.sleep(0.2)
        assert time.thread_time() - started < 0.02
        with pytest.raises(StopIteration) as stop:
            made.send(None)
        assert stop.value.value == b"x"

    run(main)


def test_an_ended_one_holds_nothing(run, pair):
    class Buffer(bytearray):
        pass

    async def main():
        pair[1].send(b"x")
        buffer = Buffer(10)
        made = asyncio.get_running_loop().sock_recv_into(pair[0], buffer)
        assert await made == 1
        gone = weakref.ref(buffer)
        del buffer
        assert gone() is None

    run(main)
