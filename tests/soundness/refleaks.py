#!/usr/bin/env python3
"""Hunt for leaked references, memory blocks and descriptors.

    refleaks.py [--loop aioxide|asyncio] [--debug] [NAME ...]

Each scenario makes a loop, works and closes it, ten times per run; some runs warm caches up, then the growth of
`sys.gettotalrefcount()` (a --with-pydebug interpreter only), `sys.getallocatedblocks()` and the number of open
descriptors is taken over each of the measured runs. Growth in every one of them is a leak, as in `regrtest -R`.

Planted leaks come first: a hunt that does not find them is blind, and fails.
exit status: 0 if nothing leaks, 1 if something does, 2 for bad usage.
"""

import argparse
import gc
import logging
import os
import sys
import threading
import time
import warnings

sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import datagram_scenarios  # noqa: F401
import network_scenarios  # noqa: F401
import pipe_scenarios  # noqa: F401
import process_scenarios  # noqa: F401
import scheduler_scenarios  # noqa: F401
import tls_scenarios  # noqa: F401
from scenario import SCENARIOS, Settings

WARM_UP, MEASURED, REPEATS = 4, 5, 10
PLANTED = {}


def planted(function):
    PLANTED[function.__name__] = function
    return function


# --- planted: the hunt must find these -------------------------------------------------------------

BAG = []


@planted
def planted_object():
    BAG.append(object())


@planted
def planted_descriptor():
    BAG.append(os.dup(0))


# --- the hunt ----------------------------------------------------------------------------------------------


COUNTERS = ("references", "blocks", "descriptors")


def clear_caches():
    # What belongs to no loop and grows by itself.
    import linecache

    linecache.clearcache()
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    threading._dangling.clear() if hasattr(threading, "_dangling") else None
    gc.collect()
    gc.collect()


def count():
    clear_caches()
    return (
        getattr(sys, "gettotalrefcount", lambda: 0)(),
        sys.getallocatedblocks(),
        len(os.listdir("/proc/self/fd")),
    )


def deltas(work):
    """Growth of each counter in each measured run."""
    before = [count() for _ in range(2)][1]
    found = []
    # Made beforehand, and small numbers are not allocated: the table itself is nothing new.
    table = [[0] * (WARM_UP + MEASURED) for _ in COUNTERS]
    for run in range(WARM_UP + MEASURED):
        for _ in range(REPEATS):
            work()
        after = count()
        for counter in range(len(COUNTERS)):
            table[counter][run] = after[counter] - before[counter]
        before = after
    return {what: grown[WARM_UP:] for what, grown in zip(COUNTERS, table)}


def leaks(work):
    """The counters that grow in every run; a second look tells a leak from a cache that fills late."""
    grown = {}
    for _ in range(2):
        grown = {what: each for what, each in deltas(work).items() if all(d >= 1 for d in each)}
        if not grown:
            break
    return grown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=["aioxide", "asyncio"], default="aioxide")
    parser.add_argument("--debug", action="store_true", help="with asyncio's debug mode on")
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios, by a part of their names")
    options = parser.parse_args()
    Settings.loop, Settings.debug = options.loop, options.debug
    chosen = {n: f for n, f in SCENARIOS.items() if not options.names or any(part in n for part in options.names)}
    if not chosen:
        parser.error("no such scenario")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    counted = "references, " if hasattr(sys, "gettotalrefcount") else ""
    mode = ", debug mode" if Settings.debug else ""
    print(
        f"refleaks: {len(chosen)} scenarios on {Settings.loop}{mode}: {counted}blocks and descriptors",
        flush=True,
    )

    blind = [name for name, work in PLANTED.items() if not leaks(work)]
    for descriptor in BAG:
        if isinstance(descriptor, int):
            os.close(descriptor)
    BAG.clear()
    if blind:
        print(f"refleaks: planted leaks were not found: {', '.join(blind)}")
        return 1
    began, leaking = time.monotonic(), []
    for i, (name, work) in enumerate(chosen.items(), 1):
        try:
            grown = leaks(work)
        except Exception as error:
            grown = {"did not run": repr(error)}
        if grown:
            leaking.append(name)
            print(f"  LEAK {name}: " + "; ".join(f"{what} {each}" for what, each in grown.items()), flush=True)
        elif i % 10 == 0 or i == len(chosen):
            print(f"  {i}/{len(chosen)} scenarios ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"refleaks: {len(chosen) - len(leaking)} of {len(chosen)} scenarios leak nothing")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
