"""Tasks that start at once, of our class and of C's. Each body runs on asyncio's loop and on aioxide's."""

import _asyncio
import asyncio
import gc
import sys

import aioxide
import pytest

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")


@pytest.mark.parametrize("cls", [aioxide.Task, _asyncio.Task], ids=["native", "c"])
def test_eager_tasks_of_both_kinds_mix(new_loop, cls):
    loop = new_loop()
    loop.set_task_factory(asyncio.create_eager_task_factory(cls))
    order = []

    async def child(i):
        order.append(("starts", i))
        if i % 2:
            await asyncio.sleep(0)
        order.append(("ends", i))
        return i

    async def main():
        me = asyncio.current_task()
        tasks = [asyncio.create_task(child(i), name=f"child {i}") for i in range(3)]
        assert [task.get_name() for task in tasks] == ["child 0", "child 1", "child 2"]
        assert asyncio.current_task() is me
        assert [task.done() for task in tasks] == [True, False, True]
        assert order == [
            ("starts", 0),
            ("ends", 0),
            ("starts", 1),
            ("starts", 2),
            ("ends", 2),
        ]
        assert asyncio.all_tasks() == {me, tasks[1]}
        assert await asyncio.gather(*tasks) == [0, 1, 2]

    loop.run_until_complete(main())


def test_an_eager_task_that_fails_at_once_is_reported_if_nobody_asks(new_loop, reports):
    loop = new_loop()

    async def fail():
        raise ValueError("planted")

    async def main():
        task = aioxide.Task(fail(), loop=loop, eager_start=True)
        assert task.done() and task.get_coro() is None
        del task
        gc.collect()

    loop.run_until_complete(main())
    assert reports.take() == [("Task exception was never retrieved", ValueError)]


def test_eager_tasks_nest(new_loop):
    loop = new_loop()

    async def nested(n):
        if n == 0:
            await asyncio.sleep(0)
            return 0
        return 1 + await aioxide.Task(nested(n - 1), loop=loop, eager_start=True)

    assert loop.run_until_complete(nested(30)) == 30


def test_a_keyboard_interrupt_in_an_eager_start_comes_out_of_it(new_loop, reports):
    loop = new_loop()

    async def interrupted():
        raise KeyboardInterrupt

    async def main():
        me = asyncio.current_task()
        with pytest.raises(KeyboardInterrupt):
            aioxide.Task(interrupted(), loop=loop, eager_start=True)
        assert asyncio.current_task() is me
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    gc.collect()
    assert reports.take() == [("Task exception was never retrieved", KeyboardInterrupt)]
