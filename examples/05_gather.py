"""Three counters under gather: they take turns, and each keeps its own place."""

import asyncio


async def count(name, to):
    for number in range(1, to + 1):
        print(f"{name}: {number}")
        await asyncio.sleep(0.02)  # the others run meanwhile
    return f"{name} counted to {to}"


async def main():
    # The results come in the order of the arguments, whoever finishes first.
    results = await asyncio.gather(count("A", 3), count("B", 2), count("C", 4))
    print(results)


asyncio.run(main())
