"""An exception that nobody retrieves: it is reported, and the loop lives on.

asyncio reports it when the task is destroyed; by default that is a line in the log. A handler
of one's own gets the same report as a dict.
"""

import asyncio
import gc


def report(loop, context):
    message = context["message"].split(" at ")[0]  # without the path of this file
    print(f"handler: {message}: {context['exception']!r}")


async def fail():
    raise ValueError("nobody listens")


def broken_callback():
    raise LookupError("raised in a callback")


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    print("the task is done:", task.done())
    del task
    gc.collect()  # the report comes when the last reference goes; do not leave that to chance

    # A callback has nobody to raise to either.
    loop.call_soon(broken_callback)
    await asyncio.sleep(0.01)
    print("the loop lives on")


asyncio.run(main())
