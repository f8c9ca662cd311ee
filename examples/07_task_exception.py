"""An exception in a task: it stays there until somebody awaits the task."""

import asyncio


async def divide(a, b):
    await asyncio.sleep(0.01)
    return a / b


async def main():
    task = asyncio.create_task(divide(1, 0))
    await asyncio.wait([task])  # waits, but does not raise
    print("failed in silence:", task.done())
    try:
        await task
    except ZeroDivisionError as error:
        print("caught where it is awaited:", error)
    print("still to be looked at:", repr(task.exception()))

    # gather raises the first one, or hands them all back like results.
    results = await asyncio.gather(divide(6, 3), divide(6, 0), divide(6, 2), return_exceptions=True)
    for result in results:
        print("gathered:", repr(result))


asyncio.run(main())
