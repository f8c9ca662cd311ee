"""A blocking call stalls the whole loop; asyncio.to_thread is the cure."""

import asyncio
import threading
import time


class Heart:
    """Beats every 5 ms as long as the loop gets to run."""

    def __init__(self):
        self.beats = 0

    async def beat(self):
        while True:
            await asyncio.sleep(0.005)
            self.beats += 1


def blocking(seconds):
    time.sleep(seconds)  # stands for a slow library, a database driver, a big computation
    return threading.current_thread() is threading.main_thread()


async def main():
    heart = Heart()
    beating = asyncio.create_task(heart.beat())
    await asyncio.sleep(0.02)

    before = heart.beats
    on_main_thread = blocking(0.2)
    print("called directly, on the loop's thread:", on_main_thread)
    print("  heartbeats meanwhile:", heart.beats - before)

    before = heart.beats
    on_main_thread = await asyncio.to_thread(blocking, 0.2)
    print("by to_thread, on the loop's thread:", on_main_thread)
    print("  at least 5 heartbeats meanwhile:", heart.beats - before >= 5)

    start = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(blocking, 0.2) for _ in range(5)))
    print("five threads take less time than five calls:", time.monotonic() - start < 5 * 0.2)

    beating.cancel()


asyncio.run(main())
