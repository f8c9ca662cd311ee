#!/usr/bin/env python3
"""Build and test on an interpreter without a GIL.

Steps, in this order:
  build        the extension for it, assertions on
  smoke        tests/free_threading/smoke.py: importing aioxide leaves the GIL off
  stress       loops in many threads, and what asyncio allows between them: --rounds seeds of --seconds
  misuse       the same of what asyncio forbids: no crash, no deadlock, no internal error
  unit         tests/unit and tests/integration, but for the files that need third-party packages
  conformance  CPython's own asyncio tests
  scaling      (only if asked for) one loop, and two in two threads: how much more gets done

The interpreter is --python, or python3.13t where there is one, or built by ../shared/pythons/get-python.sh in --prefix
(some minutes, once). It has its own environment and target folder. PyO3's declarations support free-threading from 3.14
on; those for 3.13t are complete for what is used here, and the version check is off.

What goes wrong between threads may ask for memory or time without end: no process that is started here gets more address
space than --memory, and no step more than its limit in seconds.

exit status: 0 if all passed, 1 if something did not, 2 if it cannot be told.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

import steps
from steps import ROOT, refuse, say

TARGET = ROOT / "target" / "free-threading"
TESTS = ROOT / "tests" / "free_threading"
#: Not for such an interpreter, each with its reason.
DESELECTED = [
    # It counts references: an object of a thread that waits is freed when that thread runs again.
    "tests/unit/test_executor.py::test_arguments_and_result_are_let_go_of",
    # asyncio's own loop: its wake-up socket is full after 278 signals, 3.13's C handler then takes a lock (as a PyMutex, with
    # or without a GIL), and a second signal in there waits for the first for ever.
    "tests/integration/test_signals_more.py::test_a_storm_with_handlers[asyncio]",
]
PROBE = "import sys, sysconfig; sys.exit(sysconfig.get_config_var('Py_GIL_DISABLED') != 1)"


def run(command, limit=1200):
    steps.run(command, limit=limit, memory=options.memory)


def is_free_threaded(python):
    return steps.answers(python, PROBE)


def find_python():
    built = options.prefix / "bin" / "python3.13t"
    for python in [options.python] if options.python else ["python3.13t", built]:
        if is_free_threaded(python):
            return os.path.realpath(shutil.which(python) or python)
    if options.python:
        refuse(f"{options.python} is no free-threaded interpreter")
    if not steps.GET_PYTHON.exists():
        refuse(f"no python3.13t, and no {steps.GET_PYTHON}: give a free-threaded interpreter with --python PATH")
    steps.build_python(options.prefix, "3.13", "--free-threaded")
    if not is_free_threaded(built):
        refuse(f"{built} is no free-threaded interpreter")
    return built.resolve()


# --- the steps -----------------------------------------------------------------------------------------


def build(profile="dev"):
    steps.build_package(PYTHON, CARGO, PACKAGES, profile, UNSAFE_PYO3_SKIP_VERSION_CHECK="1")


def smoke():
    run([PYTHON, TESTS / "smoke.py"], limit=60)


def stress():
    for seed in range(1, options.rounds + 1):
        run(
            [PYTHON, "-X", "faulthandler", TESTS / "stress.py", options.seconds, 2 + seed % 4, seed],
            limit=options.seconds + 120,
        )


def misuse():
    for seed in range(1, options.rounds + 1):
        run([PYTHON, TESTS / "misuse.py", options.seconds, 2 + seed % 4, seed], limit=options.seconds + 120)


def unit():
    deselected = [f"--deselect={test}" for test in DESELECTED]
    run([PYTHON, "-m", "pytest", "-q", "--timeout=300", *deselected, *steps.test_files()])


def conformance():
    run([PYTHON, "tests/conformance/run.py", "-j", options.jobs])


def scaling():
    build("release")
    run([PYTHON, TESTS / "scaling.py"])


STEPS = {f.__name__: f for f in (build, smoke, stress, misuse, unit, conformance, scaling)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", metavar="PATH", help="a free-threaded interpreter (default: python3.13t)")
    parser.add_argument(
        "--prefix", type=Path, default=ROOT / "target" / "python-free-threaded" / "3.13", metavar="DIR",
        help="where a built interpreter is (default: target/python-free-threaded/3.13)",
    )  # fmt: skip
    parser.add_argument("--memory", type=int, default=6000, metavar="MIB", help="of a process (default: %(default)s)")
    steps.add_choice(parser, STEPS)
    parser.add_argument(
        "--rounds", type=int, default=6, metavar="N", help="of stress and misuse (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="of each (default: %(default)s)")
    parser.add_argument("-j", dest="jobs", type=int, default=2, metavar="N", help="test modules at a time")
    global options, PYTHON, CARGO, PACKAGES
    options = parser.parse_args()
    options.prefix = options.prefix.absolute()
    chosen = steps.choose(STEPS, options.only, omitted={"scaling"})
    python = find_python()
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", PYTHON_GIL="0")
    version = steps.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags)"], quiet=True)
    target = TARGET / version.strip()
    PYTHON, CARGO, PACKAGES = target / "venv" / "bin" / "python", target / "cargo", target / "python"
    steps.make_environment(target / "venv", python, PACKAGES)
    if "build" not in chosen:
        chosen.insert(0, "build")
    say(f"Python {version.strip()}")
    return steps.carry_out(STEPS, chosen)


if __name__ == "__main__":
    sys.exit(main())
