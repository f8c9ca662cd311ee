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
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GET_PYTHON = ROOT.parent / "shared" / "pythons" / "get-python.sh"
TARGET = ROOT / "target" / "soundness"
VENV = TARGET / "venv"
GROUPS = "tasks,futures,loop,runners,sync,timeouts,context"
MODEL_CASES = 20_000
VALGRIND_CASES = 20
#: These run programs that import third-party packages.
NEED_PACKAGES = {"test_apps", "test_tour"}
#: Under the names that tests import.
IMPORTED_AS = {"beautifulsoup4": "bs4", "python-multipart": "multipart"}


class Unsound(Exception):
    """A step found something; the text says what, in a line."""


class Unavailable(Exception):
    """A step cannot be made here; the text says why, in a line."""


def say(text):
    print(f"soundness: [{time.monotonic() - BEGAN:4.0f} s] {text}", flush=True)


def refuse(text):
    print(f"soundness: {text}", file=sys.stderr)
    raise SystemExit(2)


def run(command, *, env=None, quiet=False):
    """Run a command in the root; its output goes through, or is shown only if it fails."""
    command = [str(word) for word in command]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
        stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None,
    )  # fmt: skip
    if done.returncode:
        if quiet:
            print(done.stdout[-6000:], flush=True)
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise Unsound(f"`{' '.join(command[:4])} ...` ended with {how}")
    return done.stdout


# --- the interpreter -----------------------------------------------------------------------------------


def is_debug(python):
    probe = "import sys, sysconfig; sys.exit(not (hasattr(sys, 'gettotalrefcount') and sysconfig.get_config_var('Py_DEBUG')))"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def debug_python():
    if options.python:
        if not is_debug(options.python):
            refuse(f"{options.python} is no interpreter built --with-pydebug")
        return options.python
    python = options.prefix / "bin" / "python3.13"
    if is_debug(python):
        say(f"using the debug interpreter in {options.prefix}")
        return python
    if not GET_PYTHON.exists():
        refuse(f"no {GET_PYTHON}: give a --with-pydebug interpreter with --python PATH")
    say(f"building a debug interpreter in {options.prefix} (some minutes)")
    options.prefix.parent.mkdir(parents=True, exist_ok=True)
    command = [GET_PYTHON, "3.13", "--method", "source", "--suite", "trixie", "--prefix", options.prefix]
    try:
        run(command, env={"CONFIGURE_ARGS": "--with-pydebug"})
    except Unsound as error:
        refuse(f"no debug interpreter: {error}")
    if not is_debug(python):
        refuse(f"{python} is no interpreter built --with-pydebug")
    return python


def make_venv(python):
    """An environment of the debug interpreter, with the pure-Python packages that the tests need."""
    ready = VENV / ".ready"
    wanted = [line for line in requirements() if line.startswith("pytest")]
    mark = "\n".join([os.path.realpath(python), *wanted])
    if not ready.exists() or ready.read_text() != mark:
        run([python, "-m", "venv", "--clear", VENV], quiet=True)
        run([venv_python(), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], quiet=True)
        ready.write_text(mark)


def requirements():
    return re.findall(r"^[A-Za-z0-9_.-]+==\S+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)


def venv_python():
    return VENV / "bin" / "python"


# --- the steps -----------------------------------------------------------------------------------------


def build():
    """The package is copied, so that the tree's own extension, of whatever profile, stays as it is."""
    run(
        ["cargo", "build", "-q", "--locked", "-p", "aioxide-python", "--target-dir", TARGET / "cargo"],
        env={"PYO3_PYTHON": str(venv_python())},
    )
    suffix = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    suffix = run([venv_python(), "-c", suffix], quiet=True).strip()
    package = TARGET / "python" / "aioxide"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "aioxide", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(TARGET / "cargo" / "debug" / "lib_native.so", package / f"_native{suffix}")
    where = run([venv_python(), "-c", "import aioxide._native as n; print(n.__file__)"], env=environment(), quiet=True)
    if not where.startswith(str(package)):
        raise Unsound(f"the tests would import {where.strip()}")


def environment():
    return {"PYTHONPATH": str(TARGET / "python"), "PYTHONDONTWRITEBYTECODE": "1"}


def unit():
    foreign = {name.partition("==")[0].lower() for name in requirements() if not name.startswith(("pytest", "maturin"))}
    foreign = re.compile(r"\b(" + "|".join(IMPORTED_AS.get(name, name) for name in sorted(foreign)) + r")\b")
    folders = [ROOT / "tests" / "unit", ROOT / "tests" / "integration"]
    files = sorted(file for folder in folders for file in folder.glob("test_*.py"))
    skipped = [file for file in files if foreign.search(file.read_text()) or file.stem in NEED_PACKAGES]
    say(f"{len(files) - len(skipped)} files; without {', '.join(file.name for file in skipped) or 'exception'}")
    run(
        [venv_python(), "-m", "pytest", "--timeout=300", *(f for f in files if f not in skipped)],
        env=environment(),
    )


def conformance():
    command = [
        venv_python(),
        "tests/conformance/run.py",
        "-j",
        options.jobs,
        "--timeout",
        120,
        "--groups",
        GROUPS,
    ]
    run(command, env=environment())


def refleaks():
    for mode in ([], ["--debug"]):
        run([venv_python(), "tests/soundness/refleaks.py", *mode], env=environment())


def loom():
    run(["make", "--no-print-directory", "loom"])


def models():
    command = [
        "cargo",
        "test",
        "-q",
        "--locked",
        "-p",
        "aioxide-core",
        "--release",
        "--target-dir",
        TARGET / "cargo",
    ]
    run([*command, "--", "model"], env={"AIOXIDE_PROPTEST_CASES": str(MODEL_CASES)})


def memory():
    cargo = ["cargo", "test", "-q", "--locked", "-p", "aioxide-core", "--target-dir", TARGET / "cargo"]
    env = {"AIOXIDE_PROPTEST_CASES": str(VALGRIND_CASES)}
    if subprocess.run(["cargo", "miri", "--version"], cwd=ROOT, capture_output=True).returncode == 0:
        # No kernel under miri: what needs descriptors cannot run there.
        run(["cargo", "miri", "test", "-p", "aioxide-core", "--", "model", "watermarks"], env=env)
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
        run(command, env=env, quiet=True)


STEPS = {
    "build": build,
    "unit": unit,
    "conformance": conformance,
    "refleaks": refleaks,
    "loom": loom,
    "models": models,
    "memory": memory,
}
NEED_PYTHON = {"build", "unit", "conformance", "refleaks"}


def main():
    global options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", metavar="PATH", help="an existing interpreter built --with-pydebug")
    parser.add_argument(
        "--prefix", type=Path, default=ROOT / "target" / "python-debug" / "3.13", metavar="DIR",
        help="where to make one (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", metavar="A,B", default="", help=f"only these of {', '.join(STEPS)}")
    parser.add_argument("-j", dest="jobs", type=int, default=2, metavar="N", help="test modules at a time")
    options = parser.parse_args()
    # A background job starts with SIGINT ignored, which its children inherit; the tests of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options.prefix = options.prefix.absolute()
    chosen = [name for name in options.only.split(",") if name] or list(STEPS)
    for name in chosen:
        if name not in STEPS:
            refuse(f"no step {name!r}; there are {', '.join(STEPS)}")
    if platform.system() != "Linux":
        refuse("this runs on Linux only")
    if not shutil.which("cargo"):
        refuse("cargo is not installed (see https://rustup.rs)")
    if NEED_PYTHON & set(chosen):
        try:
            make_venv(debug_python())
        except Unsound as error:
            refuse(f"no environment for the tests: {error}")
        if "build" not in chosen:
            chosen.insert(0, "build")

    results = {}
    for name in chosen:
        began = time.monotonic()
        say(f"{name} ...")
        try:
            STEPS[name]()
            verdict = "sound"
        except Unsound as error:
            verdict = f"UNSOUND: {error}"
        except Unavailable as error:
            verdict = f"not available: {error}"
        results[name] = (verdict, time.monotonic() - began)
        say(f"{name}: {verdict}")
        if name == "build" and verdict != "sound":
            break
    print("\nsoundness, summary:")
    for name, (verdict, seconds) in results.items():
        print(f"  {name:<12} {seconds:6.0f} s  {verdict}")
    failed = [name for name, (verdict, _) in results.items() if verdict.startswith("UNSOUND")]
    print(f"soundness: {'FAILED: ' + ', '.join(failed) if failed else 'all sound'}")
    return 1 if failed else 0


BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
