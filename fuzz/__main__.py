"""Run random sequences of public calls on asyncio and on aioxide, and stop at the first that differs.

A failing sequence is made small, printed, and written to a file that --replay takes. Exit status 0: no difference;
1: one was found; 2: wrong usage.

  python -m fuzz                        100 000 steps from a random seed
  python -m fuzz --seed 7               the same sequences each time
  python -m fuzz --seed 7 --minutes 10  as long as that, from that seed on
  python -m fuzz --self-check           asyncio against itself: the fuzzer must be silent
  python -m fuzz --replay FILE          one sequence again, with all that differs

AIOXIDE_TLS=fallback in the environment has aioxide's TLS use its other engine. `python -m fuzz.records` is for records.
"""

import argparse
import json
import os
import pathlib
import queue
import random
import sys
import threading
import time

from .operations import AIOXIDE_HAS
from .sequences import draw
from .shrink import shrink
from .workers import Worker


def parse(arguments):
    parser = argparse.ArgumentParser("fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seed", type=int, help="of the first sequence; the next ones count on from it (default: random)")
    add("--steps", type=int, default=100_000, help="stop after so many public calls (default: %(default)s)")
    add("--minutes", type=float, help="stop after this time instead")
    add("--jobs", type=int, default=2, help="worker processes (default: %(default)s)")
    add("--length", type=int, default=60, help="steps of a sequence at most (default: %(default)s)")
    add("--limit", type=float, default=20, help="seconds after which a sequence hangs (default: %(default)s)")
    add("--late", type=float, default=3, help="seconds after which an awaited event is lost (default: %(default)s)")
    add("--shrink", type=float, default=30, help="seconds to make a failure small (default: %(default)s)")
    add("--python", default=sys.executable, help="the interpreter of the workers (default: this one)")
    add("--features", help=f"comma-separated, of {', '.join(AIOXIDE_HAS)}, or 'all' (default: what aioxide has)")
    add("--self-check", action="store_true", help="asyncio against asyncio, with all features")
    add("--loop", default="aioxide", help="the loop to be tried: aioxide, asyncio or module:class")
    add("--keep-going", action="store_true", help="print each failure, unshrunk, and go on")
    add("--replay", type=pathlib.Path, metavar="FILE", help="a file with one sequence")
    add("--save", type=pathlib.Path, default=pathlib.Path("fuzz-failures"), help="the folder for failing sequences")
    options = parser.parse_args(arguments)
    if options.self_check:
        options.loop = "asyncio"
    known = set(AIOXIDE_HAS)
    if options.features is None:
        options.features = {f for f in known if AIOXIDE_HAS[f]} if options.loop == "aioxide" else known
    else:
        options.features = known if options.features == "all" else set(options.features.split(","))
    if options.features - known:
        parser.error(f"unknown: {', '.join(sorted(options.features - known))}")
    return options


def make_worker(options):
    settings = {
        "loops": ["asyncio", options.loop],
        "features": sorted(options.features),
        "length": options.length,
        "limit": options.limit,
        "late": options.late,
    }
    return Worker(settings, options.python)


class Hunt:
    """Workers that take seeds in order until there is a failure, or enough is begun: which ones depends on nothing else."""

    def __init__(self, options):
        self.options = options
        self.seed = random.randrange(1 << 32) if options.seed is None else options.seed
        self.deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
        self.steps = self.sequences = 0
        self.failures = queue.Queue()
        self._next = self.seed
        self._lock = threading.Lock()
        self._over = False

    def run(self):
        threads = [threading.Thread(target=self._work) for _ in range(self.options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _take(self):
        with self._lock:
            enough = self.steps >= self.options.steps if self.deadline is None else time.monotonic() > self.deadline
            if enough or self._over:
                return None
            seed, self._next = self._next, self._next + 1
            self.steps += len(draw(seed, self.options.features, self.options.length))
            self.sequences += 1
            return seed

    def _work(self):
        worker = make_worker(self.options)
        try:
            while (seed := self._take()) is not None:
                answer = worker.ask(seed=seed)
                if answer["differences"]:
                    self._over = not self.options.keep_going
                    self.failures.put((seed, answer["differences"]))
        except BaseException:
            self._over = True
            raise
        finally:
            worker.stop()


def show(lines, most=60):
    for line in lines[:most]:
        print(f"  {line}")
    if len(lines) > most:
        print(f"  and {len(lines) - most} lines more")


def replay(options):
    steps = json.loads(options.replay.read_text())
    worker = make_worker(options)
    lines = worker.differences(steps)
    worker.stop()
    show(lines, 1000)
    print("it differs" if lines else "no difference")
    return 1 if lines else 0


def report(options, seed, lines):
    """Make it small, keep it, and show it."""
    worker = make_worker(options)
    steps = worker.ask(seed=seed, show=True)["steps"]
    print(f"seed {seed}: a sequence of {len(steps)} steps differs")
    # A race between threads may need several attempts.
    again = next(filter(None, (worker.differences(steps) for _ in range(10))), None)
    if again is None:
        print("but not when it was repeated ten times; this is what was seen:")
        show(lines)
    else:
        steps = shrink(steps, worker.differences, options.shrink)
        lines = worker.differences(steps)
        print(f"as small as it gets, {len(steps)} steps (- asyncio, + {options.loop}):")
        for step in steps:
            print(f"    {json.dumps(step)}")
        show(lines or again)
    worker.stop()
    options.save.mkdir(parents=True, exist_ok=True)
    file = options.save / f"{seed}.json"
    file.write_text("[\n" + ",\n".join(json.dumps(step) for step in steps) + "\n]\n")
    engine = "AIOXIDE_TLS=fallback " if os.environ.get("AIOXIDE_TLS") == "fallback" else ""
    print(f"again: {engine}python -m fuzz --loop {options.loop} --replay {file}")


def main(arguments=None):
    options = parse(arguments)
    if options.replay is not None:
        return replay(options)
    hunt = Hunt(options)
    print(f"fuzz: seed {hunt.seed}, asyncio against {options.loop}: {', '.join(sorted(options.features))}", flush=True)
    start = time.monotonic()
    hunt.run()
    print(f"fuzz: {hunt.steps} steps in {hunt.sequences} sequences, {time.monotonic() - start:.0f} s")
    failed = not hunt.failures.empty()
    while not hunt.failures.empty():
        seed, lines = hunt.failures.get()
        if options.keep_going:
            print(f"seed {seed}:")
            show(lines, 20)
        else:
            report(options, seed, lines)
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
