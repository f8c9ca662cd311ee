"""How much more gets done by two loops in two threads than by one: `scaling.py [ROUNDS]`.

One loop and two take turns, and the best of each counts, because whatever else runs on the machine can only slow them
down. Both do the same work per loop, so on two free processors two loops would take as long as one: a ratio of 2. On a
busy machine the ratio by processor time says more: what is below 2 there is the price of sharing memory and locks.
"""

import asyncio
import sys
import threading
import time

import aioxide

SWITCHES = 300_000
ECHOES = 10_000


async def switches():
    async def work():
        for _ in range(SWITCHES // 10):
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(10)))


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Client(Echo):
    def __init__(self, done):
        self.left, self.done = ECHOES, done

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x" * 100)

    def data_received(self, data):
        self.left -= 1
        if self.left:
            self.transport.write(data)
        elif not self.done.done():
            self.done.set_result(None)


async def echo():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        done = loop.create_future()
        transport, _ = await loop.create_connection(lambda: Client(done), *server.sockets[0].getsockname())
        await done
        transport.close()


def took(n, work, new_loop):
    """Seconds for n loops in n threads, from when all are ready until the last has ended; and of processor, per loop."""
    ready = threading.Barrier(n + 1)
    used = []

    def body():
        loop = new_loop()
        ready.wait()
        began = time.thread_time()
        loop.run_until_complete(work())
        used.append(time.thread_time() - began)
        loop.close()

    threads = [threading.Thread(target=body) for _ in range(n)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, sum(used) / n


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"Python {sys.version.split()[0]}, GIL {getattr(sys, '_is_gil_enabled', lambda: True)()}")
    for name, work in (("task switches", switches), ("echoes", echo)):
        for loop_name, new_loop in (("aioxide", aioxide.new_event_loop), ("asyncio", asyncio.SelectorEventLoop)):
            took_by = {1: [], 2: []}
            for _ in range(rounds):
                for n, all_of in took_by.items():
                    all_of.append(took(n, work, new_loop))
            (wall1, cpu1), (wall2, cpu2) = (map(min, zip(*all_of)) for all_of in took_by.values())
            print(
                f"{name}, {loop_name}: one loop {wall1:.3f} s, two {wall2:.3f} s, ratio {2 * wall1 / wall2:.2f};"
                f" processor per loop {cpu1:.3f} s, {cpu2:.3f} s, ratio {2 * cpu1 / cpu2:.2f}"
            )


if __name__ == "__main__":
    main()
