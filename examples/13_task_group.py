# requires: 3.11
"""TaskGroup and asyncio.timeout: tasks that live and die with a block of code."""

import asyncio


async def step(name, seconds, log):
    try:
        await asyncio.sleep(seconds)
        log.append(f"{name} done")
    except asyncio.CancelledError:
        log.append(f"{name} cancelled")
        raise


async def fail(seconds):
    await asyncio.sleep(seconds)
    raise ValueError("one of the group failed")


async def main():
    log = []
    async with asyncio.TaskGroup() as group:
        group.create_task(step("first", 0.01, log))
        group.create_task(step("second", 0.05, log))
    print("the block ends when all are done:", log)

    log.clear()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(step("sibling", 3600, log))
            group.create_task(fail(0.01))
    except Exception as failures:  # an ExceptionGroup; `except* ValueError` would pick from it
        print("the group raised:", failures.exceptions)
    print("and cancelled the rest:", log)

    log.clear()
    try:
        async with asyncio.timeout(0.05):
            async with asyncio.TaskGroup() as group:
                group.create_task(step("endless", 3600, log))
    except TimeoutError:
        print("timed out:", log)


asyncio.run(main())
