"""CPU-bound work in other processes, while this one keeps answering.

A thread would not help: pure Python computation holds the GIL.
"""

import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def count_primes(below):
    sieve = bytearray([1]) * below
    sieve[:2] = b"\0\0"
    for number in range(2, int(below**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return os.getpid(), sum(sieve)


async def beat(state):
    while True:
        await asyncio.sleep(0.005)
        state["beats"] += 1


async def main():
    loop, state = asyncio.get_running_loop(), {"beats": 0}
    beating = asyncio.create_task(beat(state))
    # spawn: a fresh process, rather than a copy of one that runs a loop and threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        limits = [100_000, 200_000, 300_000, 400_000]
        answers = await asyncio.gather(*(loop.run_in_executor(pool, count_primes, limit) for limit in limits))
    for limit, (_, primes) in zip(limits, answers):
        print(f"{primes} primes below {limit}")
    print("in other processes:", all(pid != os.getpid() for pid, _ in answers))
    print("the loop went on meanwhile:", state["beats"] >= 5)
    beating.cancel()


# A spawned process imports this file again and must not start a program of its own.
if __name__ == "__main__":
    asyncio.run(main())
