"""An event loop by hand: what `asyncio.run` does for you, piece by piece.

A loop is a queue of callbacks that are ready now, and a heap of those that are due later.
"""

import asyncio


def tick(loop, number):
    print("tick", number)
    if number == 3:
        # stop() ends the loop after this turn; what is scheduled now belongs to the next one.
        loop.stop()
        loop.call_soon(print, "nothing is lost: said in the first turn of the next run")
    else:
        loop.call_later(0.02, tick, loop, number + 1)


loop = asyncio.new_event_loop()
try:
    loop.call_soon(print, "first in, first out")
    loop.call_soon(print, "second")
    loop.call_later(0.2, print, "never printed: the loop has stopped by then")
    loop.call_later(0.01, print, "later, but before the first tick")
    cancelled = loop.call_later(0.01, print, "never printed: cancelled")
    cancelled.cancel()
    loop.call_later(0.05, tick, loop, 1)
    print("running:", loop.is_running())
    loop.run_forever()
    print("stopped, but not closed:", not loop.is_closed())
    loop.run_until_complete(asyncio.sleep(0))
finally:
    loop.close()
print("closed:", loop.is_closed())
