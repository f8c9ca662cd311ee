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
import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GET_PYTHON = ROOT.parent / "shared" / "pythons" / "get-python.sh"
TARGET = ROOT / "target" / "free-threading"
TESTS = ROOT / "tests" / "free_threading"
#: These, and what imports third-party packages, run programs that need such.
NEED_PACKAGES = {"test_apps", "test_tour", "test_benches"}
#: Not for such an interpreter, each with its reason.
DESELECTED = [
    # It counts references: an object of a thread that waits is freed when that thread runs again.
    "tests/unit/test_executor.py::test_arguments_and_result_are_let_go_of",
    # asyncio's own loop: its wake-up socket is full after 278 signals, 3.13's C handler then takes a lock (as a PyMutex, with
    # or without a GIL), and a second signal in there waits for the first for ever.
    "tests/integration/test_signals_more.py::test_a_storm_with_handlers[asyncio]",
]
PROBE = "import sys, sysconfig; sys.exit(sysconfig.get_config_var('Py_GIL_DISABLED') != 1)"


class Failed(Exception):
    """A step found something; the text says what, in a line."""


def say(text):
    print(f"free-threading: [{time.monotonic() - BEGAN:4.0f} s] {text}", flush=True)


def refuse(text):
    print(f"free-threading: {text}", file=sys.stderr)
    raise SystemExit(2)


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (options.memory << 20, options.memory << 20))


def run(command, *, limit=1200, **env):
    """In a session of its own, so that it can be ended as a whole; the conformance run ends its workers at SIGTERM."""
    command = [str(word) for word in command]
    env = {**os.environ, **ENVIRONMENT, **env}
    with subprocess.Popen(command, cwd=ROOT, env=env, preexec_fn=limit_memory, start_new_session=True) as child:
        try:
            code = child.wait(limit)
        except BaseException as error:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"`{' '.join(command[:4])} ...` did not end within {limit} s") from None
            raise
    if code:
        how = f"signal {-code}" if code < 0 else f"status {code}"
        raise Failed(f"`{' '.join(command[:4])} ...` ended with {how}")


def output(command):
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def is_free_threaded(python):
    try:
        return subprocess.run([python, "-c", PROBE], capture_output=True).returncode == 0
    except OSError:
        return False


def find_python():
    built = options.prefix / "bin" / "python3.13t"
    for python in [options.python] if options.python else ["python3.13t", built]:
        if is_free_threaded(python):
            return os.path.realpath(shutil.which(python) or python)
    if options.python:
        refuse(f"{options.python} is no free-threaded interpreter")
    if not GET_PYTHON.exists():
        refuse(f"no python3.13t, and no {GET_PYTHON}: give a free-threaded interpreter with --python PATH")
    say(f"building an interpreter in {options.prefix} (some minutes)")
    options.prefix.parent.mkdir(parents=True, exist_ok=True)
    try:
        run([GET_PYTHON, "3.13", "--free-threaded", "--prefix", options.prefix], limit=3600)
    except Failed as error:
        refuse(f"no free-threaded interpreter: {error}")
    if not is_free_threaded(built):
        refuse(f"{built} is no free-threaded interpreter")
    return built.resolve()


def make_environment(python):
    """The pure-Python packages that the tests need; those with C code have no wheels for every such interpreter."""
    ready = VENV / ".ready"
    wanted = re.findall(r"^pytest\S*==\S+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    mark = "\n".join([str(python), str(PACKAGES), *wanted])
    if not ready.exists() or ready.read_text() != mark:
        run([python, "-m", "venv", "--clear", VENV])
        run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted])
        # By a path file, and not by PYTHONPATH: some tests run an interpreter that ignores the environment.
        purelib = output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
        Path(purelib, "aioxide.pth").write_text(f"{PACKAGES}\n")
        ready.write_text(mark)


# --- the steps -----------------------------------------------------------------------------------------


def build(profile="dev"):
    """The package is copied, so that the tree's own extension stays as it is."""
    run(
        ["cargo", "build", "-q", "--locked", "-p", "aioxide-python", "--profile", profile, "--target-dir", CARGO],
        PYO3_PYTHON=str(PYTHON),
        UNSAFE_PYO3_SKIP_VERSION_CHECK="1",
    )
    suffix = output([PYTHON, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"]).strip()
    package = PACKAGES / "aioxide"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "aioxide", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    built = CARGO / ("debug" if profile == "dev" else profile) / "lib_native.so"
    shutil.copy(built, package / f"_native{suffix}")


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
    packages = re.findall(r"^([a-z-]+)==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    imported = {"beautifulsoup4": "bs4", "python-multipart": "multipart"}
    names = [imported.get(name, name) for name in packages if not name.startswith("pytest")]
    foreign = re.compile(r"\b(" + "|".join(names) + r")\b")
    files = sorted(file for folder in ("unit", "integration") for file in (ROOT / "tests" / folder).glob("test_*.py"))
    skipped = [file for file in files if foreign.search(file.read_text()) or file.stem in NEED_PACKAGES]
    say(f"{len(files) - len(skipped)} files; without {', '.join(file.name for file in skipped) or 'exception'}")
    chosen = [file for file in files if file not in skipped]
    run([PYTHON, "-m", "pytest", "-q", "--timeout=300", *(f"--deselect={test}" for test in DESELECTED), *chosen])


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
    parser.add_argument("--only", metavar="A,B", default="", help=f"only these of {', '.join(STEPS)}")
    parser.add_argument(
        "--rounds", type=int, default=6, metavar="N", help="of stress and misuse (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=5, metavar="S", help="of each (default: %(default)s)")
    parser.add_argument("-j", dest="jobs", type=int, default=2, metavar="N", help="test modules at a time")
    global options, VENV, PYTHON, CARGO, PACKAGES
    options = parser.parse_args()
    options.prefix = options.prefix.absolute()
    # A background job starts with SIGINT ignored, which its children inherit; the tests of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    chosen = options.only.split(",") if options.only else [name for name in STEPS if name != "scaling"]
    for name in chosen:
        if name not in STEPS:
            refuse(f"no step {name!r}; there are {', '.join(STEPS)}")
    if not shutil.which("cargo"):
        refuse("cargo is not installed (see https://rustup.rs)")
    python = find_python()
    version = output([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags)"]).strip()
    VENV = TARGET / version / "venv"
    PYTHON, CARGO, PACKAGES = VENV / "bin" / "python", TARGET / version / "cargo", TARGET / version / "python"
    ENVIRONMENT.update(PYTHONDONTWRITEBYTECODE="1", PYTHON_GIL="0")
    make_environment(python)
    if "build" not in chosen:
        chosen.insert(0, "build")
    verdicts = {}
    for name in chosen:
        began = time.monotonic()
        say(f"{name} ...")
        try:
            STEPS[name]()
            verdict = "passed"
        except Failed as error:
            verdict = f"FAILED: {error}"
        verdicts[name] = verdict
        say(f"{name}: {verdict} in {time.monotonic() - began:.0f} s")
        if name == "build" and verdict != "passed":
            break
    failed = [name for name, verdict in verdicts.items() if verdict != "passed"]
    say(f"Python {version}: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}")
    return bool(failed)


ENVIRONMENT = {}
BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
