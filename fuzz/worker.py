"""A process that carries out sequences, one line of JSON for each request and each answer.

It may crash or hang: `workers` sees its end and starts another one. What a hanging one was doing it writes on stderr.
"""

import asyncio
import faulthandler
import gc
import importlib
import json
import sys

from . import compare, sequences, world
from .operations import OPERATIONS


def loop_class(name):
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "aioxide":
        return importlib.import_module("aioxide").EventLoop
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main():
    settings = json.loads(sys.stdin.readline())
    theirs, ours = map(loop_class, settings["loops"])
    answers = sys.stdout

    def answer(**what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    def verdict(steps):
        faulthandler.dump_traceback_later(settings["limit"], exit=True)
        try:
            return compare.differences(world.account(theirs, steps, OPERATIONS), world.account(ours, steps, OPERATIONS))
        finally:
            faulthandler.cancel_dump_traceback_later()

    world.LATE_S = settings["late"]
    faulthandler.enable()
    world.order_sets()
    # Modules and caches come at the first use, and stay.
    for name in (theirs, ours):
        world.account(name, sequences.draw(0, settings["features"]), OPERATIONS)
    gc.collect()
    gc.freeze()
    answer(ready=sys.version)
    for line in sys.stdin:
        request = json.loads(line)
        if "seed" in request:
            steps = sequences.draw(request["seed"], settings["features"], settings["length"])
            if request.get("show"):
                answer(steps=steps)
                continue
        else:
            steps = request["steps"]
        answer(differences=verdict(steps))


if __name__ == "__main__":
    main()
