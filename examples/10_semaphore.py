"""Semaphore: many tasks, but only so many at once in one place."""

import asyncio

LIMIT = 3


class Gate:
    """Counts how many are inside at the same time."""

    def __init__(self):
        self.inside = 0
        self.most = 0

    def __enter__(self):
        self.inside += 1
        self.most = max(self.most, self.inside)

    def __exit__(self, *exception):
        self.inside -= 1


async def download(number, semaphore, gate):
    async with semaphore:
        with gate:
            await asyncio.sleep(0.01)
    return number


async def main():
    semaphore, gate = asyncio.Semaphore(LIMIT), Gate()
    numbers = await asyncio.gather(*(download(n, semaphore, gate) for n in range(12)))
    print("downloaded:", *numbers)
    print(f"at most {gate.most} at once")

    bounded = asyncio.BoundedSemaphore(1)
    try:
        bounded.release()
    except ValueError as error:
        print("released too often:", error)


asyncio.run(main())
