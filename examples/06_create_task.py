"""create_task: start something in the background, go on, and collect it later."""

import asyncio


async def brew(drink, seconds):
    print(f"  brewing {drink}")
    await asyncio.sleep(seconds)
    print(f"  {drink} is ready")
    return drink


async def forever():
    try:
        while True:
            await asyncio.sleep(3600)
    finally:
        print("  background task cleans up")


async def main():
    # Keep a reference: the loop itself only holds tasks weakly.
    tea = asyncio.create_task(brew("tea", 0.05), name="tea")
    coffee = asyncio.create_task(brew("coffee", 0.1), name="coffee")
    print("both created, none started")
    await asyncio.sleep(0)
    print("both started, none done:", not tea.done() and not coffee.done())
    print("collected:", await tea, "and", await coffee)
    print("names:", tea.get_name(), coffee.get_name())

    background = asyncio.create_task(forever())
    await asyncio.sleep(0)
    background.cancel()
    try:
        await background
    except asyncio.CancelledError:
        print("cancelled:", background.cancelled())


asyncio.run(main())
