#!/usr/bin/env python3
"""Look for what tests of behaviour do not see: leaked references, wrong reference counts, races, bad memory.

Steps, in this order:
  python       a --with-pydebug CPython 3.13 under target/python-debug (once, some minutes), or that of --python
  build        the extension for it, assertions on
  unit         tests/unit and tests/integration on it, but for the files that need third-party packages
  conformance  CPython's own asyncio tests on it: tasks, futures, loop, runners, sync, timeouts, context
  refleaks     tests/soundness/refleaks.py on it, without and with asyncio's debug mode
  loom         the inbox from other threads, under every schedule
  models       the core's model tests, with many more cases
  memory       the core's tests under miri, or under valgrind where that is missing

exit status: 0 if all is sound, 1 if something is not, 2 if it cannot be told.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import steps
from steps import ROOT, Unavailable, refuse, run, say

TARGET = ROOT / "target" / "soundness"
VENV = TARGET / "venv"
PYTHON = VENV / "bin" / "python"
CARGO = TARGET / "cargo"
PACKAGES = TARGET / "python"
GROUPS = "tasks,futures,loop,runners,sync,timeouts,context"
MODEL_CASES = 20_000
VALGRIND_CASES = 20
PROBE = (
    "import sys, sysconfig; sys.exit(not (hasattr(sys, 'gettotalrefcount') and sysconfig.get_config_var('Py_DEBUG')))"
)


def debug_python():
    if options.python:
        if not steps.answers(options.python, PROBE):
            refuse(f"{options.python} is no interpreter built --with-pydebug")
        return options.python
    python = options.prefix / "bin" / "python3.13"
    if steps.answers(python, PROBE):
        say(f"using the debug interpreter in {options.prefix}")
        return python
    if not steps.GET_PYTHON.exists():
        refuse(f"no {steps.GET_PYTHON}: give a --with-pydebug interpreter with --python PATH")
    arguments = ["3.13", "--method", "source", "--suite", "trixie"]
    steps.build_python(options.prefix, *arguments, CONFIGURE_ARGS="--with-pydebug")
    if not steps.answers(python, PROBE):
        refuse(f"{python} is no interpreter built --with-pydebug")
    return python


# --- the steps -----------------------------------------------------------------------------------------


def build():
    steps.build_package(PYTHON, CARGO, PACKAGES)


def unit():
    run([PYTHON, "-m", "pytest", "--timeout=300", *steps.test_files()])


def conformance():
    run([PYTHON, "tests/conformance/run.py", "-j", options.jobs, "--timeout", 120, "--groups", GROUPS])


def refleaks():
    for mode in ([], ["--debug"]):
        run([PYTHON, "tests/soundness/refleaks.py", *mode])


def loom():
    run(["make", "--no-print-directory", "loom"])


def models():
    command = ["cargo", "test", "-q", "--locked", "-p", "aioxide-core", "--release", "--target-dir", CARGO]
    run([*command, "--", "model"], AIOXIDE_PROPTEST_CASES=str(MODEL_CASES))


def memory():
    cargo = ["cargo", "test", "-q", "--locked", "-p", "aioxide-core", "--target-dir", CARGO]
    env = {"AIOXIDE_PROPTEST_CASES": str(VALGRIND_CASES)}
    if subprocess.run(["cargo", "miri", "--version"], cwd=ROOT, capture_output=True).returncode == 0:
        # No kernel under miri: what needs descriptors cannot run there.
        run(["cargo", "miri", "test", "-p", "aioxide-core", "--", "model", "watermarks"], **env)
        return
    say("no miri and no sanitizers: both need a nightly toolchain; taking valgrind")
    if not shutil.which("valgrind"):
        raise Unavailable("no valgrind either")
    listed = run([*cargo, "--no-run", "--message-format=json"], quiet=True)
    found = [json.loads(line) for line in listed.splitlines() if line.startswith("{")]
    tests = [m["executable"] for m in found if m.get("executable") and m["target"]["kind"] == ["test"]]
    if not tests:
        raise Unavailable("cargo named no test binary")
    for binary in tests:
        command = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite"]
        command += ["--errors-for-leak-kinds=definite", "--track-fds=no", binary, "--test-threads=1", "-q"]
        run(command, quiet=True, **env)


STEPS = {f.__name__: f for f in (build, unit, conformance, refleaks, loom, models, memory)}
NEED_PYTHON = {"build", "unit", "conformance", "refleaks"}


def main():
    global options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", metavar="PATH", help="an existing interpreter built --with-pydebug")
    parser.add_argument(
        "--prefix", type=Path, default=ROOT / "target" / "python-debug" / "3.13", metavar="DIR",
        help="where to make one (default: %(default)s)",
    )  # fmt: skip
    steps.add_choice(parser, STEPS)
    parser.add_argument("-j", dest="jobs", type=int, default=2, metavar="N", help="test modules at a time")
    options = parser.parse_args()
    options.prefix = options.prefix.absolute()
    chosen = steps.choose(STEPS, options.only)
    if platform.system() != "Linux":
        refuse("this runs on Linux only")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if NEED_PYTHON & set(chosen):
        steps.make_environment(VENV, debug_python(), PACKAGES)
        if "build" not in chosen:
            chosen.insert(0, "build")
    return steps.carry_out(STEPS, chosen)


if __name__ == "__main__":
    sys.exit(main())
