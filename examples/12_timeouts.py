"""Timeouts: give up on something that takes too long; it is cancelled and can clean up."""

import asyncio


async def work(name, seconds):
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        print(f"  {name} is cancelled and cleans up")
        raise
    return f"{name} is done"


async def main():
    print(await asyncio.wait_for(work("quick", 0.01), timeout=5))
    try:
        await asyncio.wait_for(work("slow", 3600), timeout=0.05)
    except asyncio.TimeoutError:  # the builtin TimeoutError, but for Python 3.10
        print("slow took too long")

    # shield() keeps the work alive when only the waiting is given up.
    task = asyncio.create_task(work("shielded", 0.2))
    try:
        await asyncio.wait_for(asyncio.shield(task), timeout=0.05)
    except asyncio.TimeoutError:
        print("given up waiting, still running:", not task.done())
    print(await task)

    # wait() neither raises nor cancels: it tells who made it.
    tasks = [asyncio.create_task(work(f"job {n}", n * 3600)) for n in range(3)]
    done, pending = await asyncio.wait(tasks, timeout=0.05)
    print("in time:", len(done), "still pending:", len(pending))
    for task in tasks:
        task.cancel()  # does nothing to one that is done
    await asyncio.gather(*tasks, return_exceptions=True)
    print("cancelled:", *(task.cancelled() for task in tasks))


asyncio.run(main())
