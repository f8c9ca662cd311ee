"""Coroutines: calling one only makes an object; awaiting runs it, one after the other."""

import asyncio
import inspect


async def double(number):
    print(f"  doubling {number}")
    await asyncio.sleep(0.01)
    return number * 2


async def main():
    coroutine = double(1)
    print("double(1) is a coroutine:", inspect.iscoroutine(coroutine))
    print("nothing has run yet:", inspect.getcoroutinestate(coroutine))
    print("awaited:", await coroutine)
    print("afterwards:", inspect.getcoroutinestate(coroutine))

    # A coroutine may await others like functions calling functions.
    print("chained:", await double(await double(10)))

    try:
        await coroutine
    except RuntimeError as error:
        print("a second time:", error)


asyncio.run(main())
