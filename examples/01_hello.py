"""Hello: a coroutine that says something, sleeps without blocking, and goes on.

`asyncio.run` makes an event loop, runs one coroutine to its end and closes the loop.
`await asyncio.sleep` gives the loop back while time passes.
"""

import asyncio


async def main():
    print("Hello ...")
    await asyncio.sleep(0.1)
    print("... world!")


asyncio.run(main())
