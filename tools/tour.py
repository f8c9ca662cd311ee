"""Run every example on aioxide and on asyncio: the output must be the same.

    python tools/tour.py [-k PATTERN]

Each example is an unmodified asyncio program, run as `python -m aioxide FILE` and as `python FILE`.
One line per example shows the types of the loops that really ran. The exit code is 1 if an output
differs, if anything is written to stderr, or if a loop has the wrong type.

How the type of the loop is found, without touching the example: the run gets a folder with PROBE
as `sitecustomize.py` on its PYTHONPATH. It sets a profile function, which the interpreter calls at
each call of a function; as soon as one happens while a loop is running in the main thread, the
probe asks asyncio for the running loop, notes its type and removes itself until that loop is gone
and another one may follow. So the answer is what the program itself would get inside a coroutine
or a callback, and the example is not slowed down. Patching `asyncio.run` or `_set_running_loop`
would miss a loop that goes another way; looking for loops at exit comes too late, they are gone.
"""

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
RUN_TIMEOUT_S = 25
STOCK_BASE = "asyncio.base_events.BaseEventLoop"

PROBE = """
import os
import sys
import weakref

# Not for the children of the example: they would report loops of their own.
_report = os.environ.pop("AIOXIDE_TOUR_REPORT", None)
_seen = []


def _watch(gone=None):
    sys.setprofile(_profile)


def _profile(frame, event, argument):
    # Also called while modules are imported, asyncio among them: no import here. And not by way of
    # _asyncio, whose function crashes in 3.12 as long as that module is only half initialised.
    events = sys.modules.get("asyncio.events")
    loop = getattr(events, "_get_running_loop", lambda: None)()
    if loop is not None:
        sys.setprofile(None)
        with open(_report, "a", encoding="utf-8") as file:
            print(*(f"{c.__module__}.{c.__qualname__}" for c in type(loop).__mro__), file=file)
        _seen.append(weakref.ref(loop, _watch))


if _report is not None:
    _watch()
"""


@dataclass(frozen=True)
class Example:
    path: Path

    @property
    def name(self):
        return self.path.name

    @property
    def is_test(self):
        return self.name.startswith("test_")

    def missing(self):
        """What this interpreter lacks of the line `# requires: 3.11, aiohttp`, or None."""
        first_line = self.path.read_text(encoding="utf-8").partition("\n")[0]
        if not first_line.startswith("# requires:"):
            return None
        for need in first_line.partition(":")[2].replace(",", " ").split():
            if need[0].isdigit():
                if sys.version_info < tuple(map(int, need.split("."))):
                    return f"Python {need}"
            elif importlib.util.find_spec(need) is None and shutil.which(need) is None:
                return need
        return None

    def arguments(self):
        """What comes after `python` or `python -m aioxide`."""
        file = str(self.path.relative_to(ROOT))
        if not self.is_test:
            return [file]
        # Unset, the last option is a warning in some versions of pytest-asyncio.
        option = "asyncio_default_fixture_loop_scope=function"
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", option, file]


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str
    loops: tuple  # for each type of loop that ran: its name and those of its bases, nearest first
    seconds: float

    @property
    def loop_type(self):
        return " and ".join(names[0] for names in self.loops) or "no loop"

    @property
    def is_native(self):
        return bool(self.loops) and all(
            names[0].startswith("aioxide.") and STOCK_BASE not in names for names in self.loops
        )

    @property
    def is_stock(self):
        return bool(self.loops) and all(names[0].startswith("asyncio.") and STOCK_BASE in names for names in self.loops)


def examples(pattern=""):
    """The numbered files, in the order of their numbers; a test's name starts with test_."""
    numbered = [p for p in EXAMPLES.glob("*.py") if re.match(r"(test_)?\d\d_", p.name)]
    numbered.sort(key=lambda path: path.name.removeprefix("test_"))
    return [Example(path) for path in numbered if pattern.lower() in path.name.lower()]


def run(example, launcher=()):
    """Run it with `python`, or with `python -m aioxide` if the launcher is ("-m", "aioxide")."""
    # A coroutine never awaited, a socket never closed: shown, so that stderr is not empty.
    warnings = ["-W", "always::ResourceWarning", "-W", "always::RuntimeWarning"]
    command = [sys.executable, *warnings, *launcher, *example.arguments()]
    with tempfile.TemporaryDirectory(prefix="aioxide-tour-") as folder:
        Path(folder, "sitecustomize.py").write_text(PROBE, encoding="utf-8")
        report = Path(folder, "report")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIOXIDE_TOUR_REPORT": str(report),
        }
        start = time.monotonic()
        returncode, stdout, stderr = execute(command, environment)
        seconds = time.monotonic() - start
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    # dict.fromkeys: without duplicates, in order.
    loops = tuple(tuple(line.split()) for line in dict.fromkeys(lines))
    return Outcome(returncode, stdout, stderr, loops, seconds)


def execute(command, environment):
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A group of its own: the workers of a process pool must not survive it.
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        stderr += f"\nno end after {RUN_TIMEOUT_S} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, stdout, stderr


def run_on_both(example):
    return run(example, ("-m", "aioxide")), run(example)


def comparable(example, stdout):
    """The output, without what legitimately differs between two runs: pytest's timing."""
    return re.sub(r" in [\d.]+s\b.*", "", stdout) if example.is_test else stdout


def problems(example, native, stock):
    """What is wrong with the two outcomes, in words; an empty list if nothing is."""
    found = []
    for name, outcome in (("aioxide", native), ("asyncio", stock)):
        last = (outcome.stderr or outcome.stdout).strip().rpartition("\n")[2]
        if outcome.returncode:
            found.append(f"on {name}: exit code {outcome.returncode}: {last}")
        elif outcome.stderr:
            found.append(f"on {name}: on stderr: {last}")
        elif not outcome.stdout:
            found.append(f"on {name}: no output")
    if found:
        return found
    if not native.is_native:
        found.append(f"on aioxide: the loop is {native.loop_type}")
    if not stock.is_stock:
        found.append(f"on asyncio: the loop is {stock.loop_type}")
    ours, theirs = comparable(example, native.stdout), comparable(example, stock.stdout)
    if ours != theirs:
        found.append(f"the outputs differ: {first_difference(ours, theirs)}")
    return found


def first_difference(ours, theirs):
    ours, theirs = ([*text.splitlines(), "(the end)"] for text in (ours, theirs))
    for number, (our, their) in enumerate(zip(ours, theirs), start=1):
        if our != their:
            return f"line {number}: aioxide {our!r}, asyncio {their!r}"
    return "in the end of a line"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="tour", description=__doc__.partition("\n")[0])
    parser.add_argument("-k", metavar="PATTERN", default="", help="only examples with PATTERN in the name")
    pattern = parser.parse_args(argv).k
    chosen = examples(pattern)
    if not chosen:
        print(f"tour: no example has {pattern!r} in its name", file=sys.stderr)
        return 2
    if importlib.util.find_spec("aioxide") is None:
        print("tour: this Python has no aioxide; try: make tour", file=sys.stderr)
        return 2

    wrong = skipped = 0
    start = time.monotonic()
    for example in chosen:
        print(f"{example.name:<26}", end="", flush=True)
        if missing := example.missing():
            skipped += 1
            print(f"skipped: needs {missing}")
            continue
        native, stock = run_on_both(example)
        found = problems(example, native, stock)
        wrong += bool(found)
        print(f"{native.loop_type:<20} {stock.loop_type:<42} {'WRONG' if found else 'same'}")
        for problem in found:
            print(f"    {problem}")
    same = len(chosen) - wrong - skipped
    seconds = time.monotonic() - start
    print(f"{same} same, {wrong} wrong, {skipped} skipped in {seconds:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
