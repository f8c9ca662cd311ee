"""Many threads call `call_soon_threadsafe`: each thread's calls run in their order, and none is lost, at close neither."""

import asyncio
import threading
import time

import pytest

THREADS = 8
CALLS = 1000


def storm(loop, call, threads=THREADS, calls=CALLS):
    """Threads that call `call(thread, number)` from elsewhere; one function that waits for them."""

    def body(thread):
        for number in range(calls):
            call(thread, number)

    started = [threading.Thread(target=body, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    return started


@pytest.mark.parametrize("load", ["idle", "busy", "tasks"])
def test_every_thread_keeps_its_order_and_nothing_is_lost(new_loop, load):
    loop = new_loop()
    seen = {thread: [] for thread in range(THREADS)}
    left = THREADS * CALLS

    async def main():
        nonlocal left
        over = loop.create_future()

        def arrive(thread, number):
            nonlocal left
            seen[thread].append(number)
            left -= 1
            if left == 0:
                over.set_result(None)

        async def arrive_in_task(thread, number):
            arrive(thread, number)

        def call(thread, number):
            if load == "tasks":
                asyncio.run_coroutine_threadsafe(arrive_in_task(thread, number), loop)
            else:
                loop.call_soon_threadsafe(arrive, thread, number)

        spinning = loop.create_task(spin()) if load == "busy" else None
        threads = storm(loop, call)
        await asyncio.wait_for(over, 30)
        for thread in threads:
            thread.join(20)
        if spinning:
            spinning.cancel()

    async def spin():
        while True:
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == {thread: list(range(CALLS)) for thread in range(THREADS)}


def test_the_order_holds_between_a_thread_and_the_loop_itself(run):
    """What a thread has sent before the loop's own thread calls comes first."""

    async def main():
        loop = asyncio.get_running_loop()
        order = []
        for number in range(200):
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(order.append, (number, "thread")))
            thread.start()
            thread.join()
            loop.call_soon(order.append, (number, "loop"))
            if number % 3 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return order

    assert run(main) == [(number, who) for number in range(200) for who in ("thread", "loop")]


#: Of a thread in the race with close: bounded, since threads that never pause outrun any loop.
MOST_CALLS = 1500


@pytest.mark.parametrize("moment", ["while running", "after stop", "at close"])
@pytest.mark.parametrize("attempt", range(6))
def test_each_call_runs_or_is_refused_or_was_dropped_by_close(new_loop, moment, attempt):
    """What was accepted before the last turn has run, in order; later calls are dropped by close(), or refused for ever."""
    loop = new_loop()
    ran = {thread: [] for thread in range(THREADS)}
    accepted = {thread: [] for thread in range(THREADS)}
    refused = {thread: [] for thread in range(THREADS)}
    wrong = []
    begun = threading.Barrier(THREADS + 1)

    def arrive(thread, number):
        ran[thread].append(number)

    def body(thread):
        begun.wait(20)
        for number in range(MOST_CALLS):
            try:
                loop.call_soon_threadsafe(arrive, thread, number)
            except RuntimeError as error:
                if str(error) != "Event loop is closed":
                    wrong.append(error)
                refused[thread].append(number)
                if len(refused[thread]) > 20:
                    return
            else:
                accepted[thread].append(number)
            if number % 8 == 0:
                time.sleep(0.0001)

    def join():
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    threads = [threading.Thread(target=body, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    begun.wait(20)
    if moment == "while running":
        loop.run_until_complete(asyncio.sleep(0.01))
        join()
    elif moment == "after stop":
        loop.call_soon(loop.stop)
        loop.run_forever()
        join()
    else:
        loop.run_until_complete(asyncio.sleep(0.002 * attempt))
    # All that was accepted by now runs in one more turn.
    marks = {thread: len(numbers) for thread, numbers in accepted.items()}
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    join()
    assert wrong == []
    for thread in range(THREADS):
        # In order, without a gap; a prefix of what was accepted, at least as long as what was accepted before the last turn.
        assert ran[thread] == accepted[thread][: len(ran[thread])]
        assert len(ran[thread]) >= marks[thread]
        # Once refused, always refused.
        assert not refused[thread] or not accepted[thread] or refused[thread][0] > accepted[thread][-1]
    if moment != "at close":
        assert ran == accepted


def test_a_sleeping_loop_is_woken_by_each_first_call(run):
    """Threads that wait for an answer each time: a wake-up that is lost would hang."""

    async def main():
        loop = asyncio.get_running_loop()
        done = []

        def body(thread):
            for _ in range(300):
                answered = threading.Event()
                loop.call_soon_threadsafe(answered.set)
                if not answered.wait(10):
                    return
            done.append(thread)

        threads = [threading.Thread(target=body, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.01)
        return sorted(done)

    assert run(main) == [0, 1, 2, 3]


def test_handles_are_cancelled_from_other_threads(run):
    """Of a call and its cancel from the same thread, before the loop has come to it, none runs."""

    async def main():
        loop = asyncio.get_running_loop()
        ran = []

        def body():
            for number in range(500):
                loop.call_soon_threadsafe(ran.append, number).cancel()

        threads = [threading.Thread(target=body) for _ in range(4)]
        held = threading.Event()

        def hold():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            held.set()

        loop.call_soon(hold)
        await asyncio.sleep(0.01)
        return ran, held.is_set()

    assert run(main) == ([], True)
