"""Runs the scenarios of debug mode, and prints as JSON what each has told, in order.

    python debug_child.py asyncio|aioxide WAY [SCENARIO...]

WAY says how debug mode is switched on, if the interpreter's options or the environment have not done it.
"""

import asyncio
import gc
import json
import logging
import os
import re
import sys
import warnings

import debugging_callbacks  # noqa: F401  its scenarios
from debugging import SCENARIOS, SLOW_S, Seen, clock, turns
from debugging_reports import LISTENER

# --- running ---------------------------------------------------------------------------------------------------------


async def observe(loop, only):
    found = {}
    logger = logging.getLogger("asyncio")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    loop.slow_callback_duration = SLOW_S
    loop.time = clock
    for function in SCENARIOS:
        if only and function.__name__ not in only:
            continue
        seen = Seen()
        seen.accept = re.compile("")
        logger.addHandler(seen)
        # No loop but this one matters to a scenario, and no garbage but its own.
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = seen.warning
            await function(loop, seen)
            await turns()
            gc.collect()
        logger.removeHandler(seen)
        found[function.__name__] = [
            line for line in seen.lines if line[0] not in ("log", "warning") or seen.accept.match(line[2])
        ]
    return found


def main():
    name, way, *only = sys.argv[1:]
    only = [word for word in only if word != "signals"]
    warnings.simplefilter("ignore", DeprecationWarning)
    if name == "aioxide":
        import aioxide

        make, run, runner = aioxide.EventLoop, aioxide.run, aioxide.Runner
    else:
        make, run, runner = asyncio.SelectorEventLoop, asyncio.run, getattr(asyncio, "Runner", None)

    async def observe_running():
        return await observe(asyncio.get_running_loop(), only)

    async def observe_switched():
        loop = asyncio.get_running_loop()
        assert not loop.get_debug()
        loop.set_debug(True)
        await asyncio.sleep(0)
        return await observe(loop, only)

    if way == "run":
        found = run(observe_running(), debug=True)
    elif way == "run-off":
        found = run(observe_running(), debug=False)
    elif way == "runner":
        with runner(debug=True) as context:
            found = context.run(observe_running())
    else:
        loop = make()
        if way == "before":
            loop.set_debug(True)
        found = loop.run_until_complete(observe_switched() if way == "while" else observe_running())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    LISTENER.close()
    json.dump(found, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
