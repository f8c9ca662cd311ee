"""A future by hand: a box for a result that arrives later, and a way to wait for it."""

import asyncio


def on_done(future):
    print("callback sees:", future.result())


async def wait_for_it(name, future):
    print(name, "waits")
    print(name, "got", await future)


async def main():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    future.add_done_callback(on_done)
    loop.call_later(0.05, future.set_result, "the answer")
    print("done at first:", future.done())
    await asyncio.gather(wait_for_it("anna", future), wait_for_it("bob", future))
    print("done at last:", future.done())

    # A result is set once; an exception or a cancellation is an outcome like any other.
    try:
        future.set_result("another")
    except asyncio.InvalidStateError as error:
        print("set twice:", error)
    broken = loop.create_future()
    broken.set_exception(ValueError("no luck"))
    try:
        await broken
    except ValueError as error:
        print("raised:", error)
    abandoned = loop.create_future()
    abandoned.cancel()
    print("cancelled:", abandoned.cancelled())


asyncio.run(main())
