"""What programs make of the loop, of Task and of Future: classes of their own."""

import asyncio

import pytest


def test_a_hash_that_needs_attributes(new_loop):
    class Named(type(new_loop())):
        def __init__(self):
            super().__init__()
            self.name = "mine"

        def __hash__(self):
            return hash(self.name)

    loop = Named()
    try:

        async def main():
            return asyncio.current_task() in asyncio.all_tasks()

        assert loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("kind", ["Task", "Future"])
def test_a_class_that_the_program_put_in_the_place_of_asyncios(new_loop, monkeypatch, kind):
    class OwnTask(asyncio.tasks._PyTask):
        pass

    class OwnFuture(asyncio.futures._PyFuture):
        pass

    loop = new_loop()
    try:

        async def main():
            if kind == "Task":
                task = loop.create_task(asyncio.sleep(0, 5), name="a name")
                assert type(task) is OwnTask and task.get_name() == "a name"
                assert await task == 5
            else:
                future = loop.create_future()
                loop.call_soon(future.set_result, 6)
                assert type(future) is OwnFuture
                assert await future == 6

        if kind == "Task":
            monkeypatch.setattr(asyncio.tasks, "Task", OwnTask)
        else:
            monkeypatch.setattr(asyncio.futures, "Future", OwnFuture)
        loop.run_until_complete(main())
    finally:
        loop.close()
