"""What runs when the last reference to a task goes, just before the loop would wait, is never lost."""

from __future__ import annotations

import asyncio

import pytest


async def giving(value):
    await asyncio.sleep(0)
    return value


class OnDeath:
    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


@pytest.mark.timeout(20)
def test_an_exception_handler_may_stop_the_loop_for_an_unretrieved_exception(new_loop):
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: loop.stop())

    async def fail():
        await asyncio.sleep(0)
        raise ValueError

    loop.create_task(fail())
    loop.run_forever()


@pytest.mark.timeout(20)
def test_a_callback_queued_by_a_destructor_runs(new_loop):
    loop = new_loop()
    loop.create_task(giving(OnDeath(lambda: loop.call_soon(loop.stop))))
    loop.run_forever()


@pytest.mark.timeout(20)
def test_a_timer_made_by_a_destructor_fires(new_loop):
    loop = new_loop()
    loop.create_task(giving(OnDeath(lambda: loop.call_later(0.01, loop.stop))))
    loop.run_forever()


@pytest.mark.timeout(20)
def test_a_future_finished_by_a_destructor_wakes_its_waiter(new_loop):
    loop = new_loop()
    future = loop.create_future()

    async def main():
        asyncio.ensure_future(giving(OnDeath(lambda: future.set_result(1))))
        return await future

    assert loop.run_until_complete(main()) == 1


@pytest.mark.timeout(20)
def test_a_stop_from_the_end_of_a_run_does_not_stop_the_next_one(new_loop):
    loop = new_loop()
    loop.set_exception_handler(lambda loop, context: loop.stop())

    async def fail():
        raise ValueError

    loop.call_soon(loop.stop)
    loop.create_task(fail())
    loop.run_forever()
    assert loop.run_until_complete(giving(1)) == 1


@pytest.mark.timeout(20)
def test_a_repr_that_raises_does_no_harm_in_debug_mode(new_loop):
    loop = new_loop()
    loop.set_debug(True)

    class Unspeakable:
        def __repr__(self):
            raise ZeroDivisionError

    seen = []

    def callback(argument):
        seen.append(argument)
        loop.stop()

    loop.call_soon(callback, Unspeakable())
    loop.run_forever()
    assert len(seen) == 1
