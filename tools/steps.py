"""What the tools that check in steps share: how a step is told, run and judged, and the environment it runs in.

A tool is a table of steps, functions without arguments, which are carried out in order. A step ends well, raises `Failed`,
or raises `Unavailable`.
"""

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
#: Builds interpreters, where it is at hand.
GET_PYTHON = ROOT.parent / "shared" / "pythons" / "get-python.sh"
#: These test programs that need third-party packages; as do those that import such.
NEED_PACKAGES = {"test_apps", "test_tour", "test_benches"}
#: Packages under the names that tests import.
IMPORTED_AS = {"beautifulsoup4": "bs4", "python-multipart": "multipart"}

NAME = Path(sys.argv[0]).stem.replace("_", "-")
BEGAN = time.monotonic()


class Failed(Exception):
    """A step found something; the text says what, in a line."""


class Unavailable(Exception):
    """A step cannot be made here; the text says why, in a line."""


def say(text):
    print(f"{NAME}: [{time.monotonic() - BEGAN:4.0f} s] {text}", flush=True)


def refuse(text):
    """It cannot be told."""
    print(f"{NAME}: {text}", file=sys.stderr)
    raise SystemExit(2)


# --- commands ------------------------------------------------------------------------------------------


def run(command, *, limit=None, memory=None, quiet=False, **env):
    """Run a command in the root, for `limit` seconds and in `memory` MiB at most; its output goes through, or is given back,
    and shown only if it fails.

    It is in a session of its own, so that it can be ended as a whole; the conformance run ends its workers at SIGTERM.
    """
    command = [str(word) for word in command]

    def limit_memory():
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        most = memory << 20 if most == resource.RLIM_INFINITY else min(memory << 20, most)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if quiet else {}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **env}, text=True, start_new_session=True,
        preexec_fn=limit_memory if memory else None, **pipe,
    ) as child:  # fmt: skip
        try:
            text, _ = child.communicate(timeout=limit)
        except BaseException as error:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"`{' '.join(command[:4])} ...` did not end within {limit} s") from None
            raise
    if child.returncode:
        if quiet:
            print(text[-6000:], flush=True)
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        raise Failed(f"`{' '.join(command[:4])} ...` ended with {how}")
    return text


def answers(python, probe):
    """Is there such an interpreter, and does it end the probe with status 0?"""
    try:
        return subprocess.run([python, "-c", probe], capture_output=True).returncode == 0
    except OSError:
        return False


def build_python(prefix, *arguments, **env):
    say(f"building an interpreter in {prefix} (some minutes)")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    try:
        run([GET_PYTHON, *arguments, "--prefix", prefix], limit=3600, **env)
    except Failed as error:
        refuse(f"no such interpreter: {error}")


# --- the environment of an interpreter ------------------------------------------------------------------


def requirements():
    return re.findall(r"^[A-Za-z0-9_.-]+==\S+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)


def make_environment(venv, python, packages):
    """A virtual environment with the pure-Python packages that the tests need, which imports aioxide from `packages`."""
    ready, inner = venv / ".ready", venv / "bin" / "python"
    wanted = [line for line in requirements() if line.startswith("pytest")]
    mark = "\n".join([os.path.realpath(python), str(packages), *wanted])
    if ready.exists() and ready.read_text() == mark:
        return
    try:
        run([python, "-m", "venv", "--clear", venv], quiet=True)
        run([inner, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], quiet=True)
        # By a path file, and not by PYTHONPATH: some tests run an interpreter that ignores the environment.
        purelib = run([inner, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], quiet=True).strip()
    except Failed as error:
        refuse(f"no environment for the tests: {error}")
    Path(purelib, "aioxide.pth").write_text(f"{packages}\n")
    ready.write_text(mark)


def build_package(python, cargo, packages, profile="dev", **env):
    """aioxide for that interpreter, in `packages`: a copy, so that the tree's own extension, of whatever profile, stays."""
    run(
        ["cargo", "build", "-q", "--locked", "-p", "aioxide-python", "--profile", profile, "--target-dir", cargo],
        PYO3_PYTHON=str(python), **env,
    )  # fmt: skip
    suffix = run([python, "-c", "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"], quiet=True).strip()
    package = packages / "aioxide"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "aioxide", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(cargo / ("debug" if profile == "dev" else profile) / "lib_native.so", package / f"_native{suffix}")
    where = run([python, "-c", "import aioxide._native as n; print(n.__file__)"], quiet=True)
    if not where.startswith(str(package)):
        raise Failed(f"the tests would import {where.strip()}")


def test_files():
    """Unit and integration tests, but for those that need third-party packages."""
    names = [line.partition("==")[0].lower() for line in requirements()]
    names = [IMPORTED_AS.get(name, name) for name in names if not name.startswith(("pytest", "maturin"))]
    foreign = re.compile(r"\b(" + "|".join(names) + r")\b")
    files = sorted(file for folder in ("unit", "integration") for file in (ROOT / "tests" / folder).glob("test_*.py"))
    skipped = [file for file in files if foreign.search(file.read_text()) or file.stem in NEED_PACKAGES]
    say(f"{len(files) - len(skipped)} files; without {', '.join(file.name for file in skipped) or 'exception'}")
    return [file for file in files if file not in skipped]


# --- the steps -----------------------------------------------------------------------------------------


def add_choice(parser, steps):
    parser.add_argument("--only", metavar="A,B", default="", help=f"only these of {', '.join(steps)}")


def choose(steps, only, omitted=()):
    """The names of the steps to be made."""
    chosen = [name for name in only.split(",") if name] or [name for name in steps if name not in omitted]
    for name in chosen:
        if name not in steps:
            refuse(f"no step {name!r}; there are {', '.join(steps)}")
    if not shutil.which("cargo"):
        refuse("cargo is not installed (see https://rustup.rs)")
    return chosen


def carry_out(steps, chosen):
    """Make the steps, without what comes after a build that fails; the exit status."""
    # A background job starts with SIGINT ignored, which its children inherit; the tests of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results = {}
    for name in chosen:
        began = time.monotonic()
        say(f"{name} ...")
        try:
            steps[name]()
            verdict = "passed"
        except Failed as error:
            verdict = f"FAILED: {error}"
        except Unavailable as error:
            verdict = f"not available: {error}"
        results[name] = verdict, time.monotonic() - began
        say(f"{name}: {verdict}")
        if name == "build" and verdict != "passed":
            break
    print(f"\n{NAME}, summary:")
    for name, (verdict, seconds) in results.items():
        print(f"  {name:<12} {seconds:6.0f} s  {verdict}")
    failed = [name for name, (verdict, _) in results.items() if verdict.startswith("FAILED")]
    print(f"{NAME}: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}")
    return bool(failed)
