#!/usr/bin/env python3
"""Run the interpreter's own test.test_asyncio on aioxide.

The tests are imported, unmodified, from the interpreter that runs this, which
must have them (pyenv and source builds do; Debian: libpython3-testsuite). Each
test module gets a process, in which asyncio's loop constructors make aioxide's
loops, and the task and future tests run once more on aioxide's Task and Future.
A test that does not pass is repeated alone; if the stock loop fails it alone on
this machine too, it is "unavailable here" and no failure.

Tests of features still to come are listed in pending.txt. They must fail, by a
NotImplementedError that names the feature: any other outcome is a failure.

exit status: 0 if nothing failed, 1 if something did, 2 for bad usage.
"""

import argparse
import collections
import contextlib
import json
import os
import pkgutil
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rules
import variants

HERE = Path(__file__).resolve().parent
STOCK = {
    "loop": "asyncio:new_event_loop",
    "task": "asyncio.tasks:_CTask",
    "future": "asyncio.futures:_CFuture",
}
BAD = ("fail", "error", "crash", "hang")
VERDICTS = ("passed", "failed", "skipped", "pending", "unavailable", "untouched")
LOG_TAIL = 6000
LOAD_LIMIT_S = 60


def main():
    options = parse()
    env = environment()
    target = STOCK
    if not options.stock:
        module, _, factory = options.loop.partition(":")
        factory = factory or "new_event_loop"
        target = {
            "loop": f"{module}:{factory}",
            "task": options.task or f"{module}:Task",
            "future": options.future or f"{module}:Future",
        }
        probe = f"import {module}; {module}.{factory}().close()"
        done = subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no output"])[-1]
            refuse(f"{target['loop']} makes no loop here: {why}")
    workers = Workers(env, options.timeout)

    def interrupted(signum, frame):
        workers.stop()  # they have sessions of their own
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    if options.list:
        return list_tests(options, workers, target)
    began = time.time()
    run = Run(options, workers, target)
    tests = run.all_modules()
    if options.json:
        meta = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **target,
            "seconds": round(time.time() - began, 1),
        }
        Path(options.json).write_text(json.dumps({"meta": meta, "tests": tests}, indent=1) + "\n")
    return show(tests, run.classification)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "-k",
        dest="patterns",
        action="append",
        default=[],
        metavar="PAT",
        help="only tests whose id contains PAT or matches it as a glob; repeatable",
    )
    add(
        "-m",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="only this test module, such as test_tasks; repeatable",
    )
    add("--groups", default="", metavar="A,B", help="only these rows of the table")
    add(
        "-j",
        dest="jobs",
        type=int,
        default=2,
        metavar="N",
        help="test modules at a time (default: %(default)s)",
    )
    add(
        "--timeout",
        type=float,
        default=30,
        metavar="S",
        help="seconds until a test counts as a hang (default: %(default)g)",
    )
    add("--json", metavar="FILE", help="write one record per test to FILE")
    add("--list", action="store_true", help="show the chosen tests and their groups; run none")
    add(
        "--pending",
        type=Path,
        default=HERE / "pending.txt",
        metavar="FILE",
        help="another list of pending tests",
    )
    add(
        "--loop",
        default="aioxide",
        metavar="MODULE[:FACTORY]",
        help="test another loop; 'asyncio' is the stock one, for comparison",
    )
    add("--task", metavar="MODULE:CLASS", help="its Task (default: MODULE:Task)")
    add("--future", metavar="MODULE:CLASS", help="its Future (default: MODULE:Future)")
    options = parser.parse_args()
    options.groups = [group for group in options.groups.split(",") if group]
    options.stock = options.loop.partition(":")[0] == "asyncio"

    known = rules.Classification().groups
    for group in options.groups:
        if group not in known:
            refuse(f"no group {group!r}; there are {', '.join(known)}")
    try:
        from test import test_asyncio
    except ImportError:
        refuse(f"{sys.executable} has no test.test_asyncio; use an interpreter that ships it")
    existing = sorted(m.name for m in pkgutil.iter_modules(test_asyncio.__path__) if m.name.startswith("test_"))
    for module in options.modules:
        if module not in existing:
            refuse(f"no test module {module!r} in {Path(test_asyncio.__file__).parent}")
    options.modules = options.modules or existing
    try:
        options.pending = [] if options.stock else rules.read_pending(options.pending)
    except (OSError, ValueError) as error:
        refuse(str(error))
    return options


def refuse(line):
    print(f"conformance: {line}", file=sys.stderr)
    raise SystemExit(2)


def environment():
    """Workers run in scratch directories, where relative paths would mean something else."""
    env = dict(os.environ)
    if env.get("PYTHONPATH"):
        parts = env["PYTHONPATH"].split(os.pathsep)
        env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, parts))
    return env


# --- processes -----------------------------------------------------------------------------------


class Outcome:
    """What one worker reported, and how it ended."""

    def __init__(self):
        self.plan = None  # test ids; None if it never got so far
        self.records = {}
        self.skip = None  # why the module skipped itself
        self.is_done = False
        self.current = None  # the test that was running when it ended
        self.is_hang = False
        self.fixture = ""
        self.log = ""


class Workers:
    """Starts workers and sees them to their end; used by several threads."""

    def __init__(self, env, timeout_s):
        self._env = env
        self._timeout_s = timeout_s
        self._live = set()
        self._is_stopped = threading.Event()

    def stop(self):
        self._is_stopped.set()
        for process in list(self._live):
            kill(process)

    def run(self, target, module, *, only=None, finished=(), options=None, list_only=False):
        outcome = Outcome()
        if self._is_stopped.is_set():
            return outcome
        config = {
            **target,
            "module": module,
            "only": only,
            "finished": list(finished),
            "groups": options.groups if options else [],
            "patterns": options.patterns if options else [],
            "unrunnable": [p.pattern for p in options.pending if p.unrunnable] if options else [],
            "list_only": list_only,
        }
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
            Path(scratch, "config.json").write_text(json.dumps(config))
            log_path = Path(scratch, "log")
            read_fd, write_fd = os.pipe()
            with open(log_path, "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-X", "faulthandler", str(HERE / "worker.py"),
                     "config.json", str(write_fd)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write_fd],
                    start_new_session=True, cwd=scratch, env={**self._env, "TMPDIR": scratch},
                )  # fmt: skip
            os.close(write_fd)
            self._live.add(process)
            try:
                self._follow(process, read_fd, outcome)
            finally:
                os.close(read_fd)
                kill(process)
                self._live.discard(process)
            outcome.log = log_path.read_text(errors="replace")[-LOG_TAIL:]
        if outcome.current and not outcome.is_hang:
            outcome.log += f"\n[exit status of the process: {process.returncode}]"
        return outcome

    def _follow(self, process, fd, outcome):
        """Read the worker's events until it ends or takes too long over one of them."""
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while selector.select(self._timeout_s if outcome.current else LOAD_LIMIT_S):
                chunk = os.read(fd, 65536)
                if not chunk:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(5)
                    return
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    note(outcome, json.loads(line))
        outcome.is_hang = True
        process.send_signal(signal.SIGABRT)  # faulthandler writes down where it hangs
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)


def note(outcome, event):
    kind = event.pop("event")
    if kind == "plan":
        outcome.plan = event["ids"]
    elif kind == "start":
        outcome.current = event["id"]
    elif kind == "end":
        outcome.current = None
        outcome.records[event.pop("id")] = event
    elif kind == "fixture":
        outcome.fixture = event["detail"]
    elif kind == "skip":
        outcome.skip = event["detail"]
    elif kind == "done":
        outcome.is_done = True


def kill(process):
    """End a worker and everything it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- a run ---------------------------------------------------------------------------------------


class Run:
    def __init__(self, options, workers, target):
        self.options = options
        self.workers = workers
        self.target = target
        self.classification = rules.Classification()

    def all_modules(self):
        """{test id: record}; each record has a verdict."""
        tests, modules = {}, self.options.modules
        with ThreadPoolExecutor(max(1, self.options.jobs)) as pool:
            for done, (module, records) in enumerate(zip(modules, pool.map(self.module, modules), strict=True), 1):
                tests.update(records)
                counts = collections.Counter(r["verdict"] for r in records.values())
                text = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
                print(f"[{done}/{len(modules)}] {module}: {text or 'none chosen'}",
                      file=sys.stderr, flush=True)  # fmt: skip
        return tests

    def module(self, module):
        records = self._records(module)
        for test_id, record in records.items():
            record["group"] = self.classification.group(test_id)
            self._judge(module, test_id, record)
        return records

    def _records(self, module):
        """Run a module, in a new process after each one that a test has killed."""
        records = {}
        while True:
            outcome = self.workers.run(self.target, module, finished=records, options=self.options)
            records.update(outcome.records)
            if outcome.current is not None:
                status = "hang" if outcome.is_hang else "crash"
                records[outcome.current] = broken(status, outcome.log)
                continue
            if outcome.skip is not None:
                records[f"{module}.<module>.<import>"] = broken("skip", outcome.skip)
            elif outcome.plan is None:
                records[f"{module}.<module>.<import>"] = broken("error", outcome.log)
            else:
                why = outcome.fixture or outcome.log or "never started"
                for test_id in outcome.plan:
                    records.setdefault(test_id, broken("error", why))
            return dict(sorted(records.items()))

    def _alone(self, target, module, test_id):
        outcome = self.workers.run(target, module, only=[test_id])
        if outcome.current is not None:
            return broken("hang" if outcome.is_hang else "crash", outcome.log)
        if test_id in outcome.records:
            return outcome.records[test_id]
        return broken("error", outcome.fixture or outcome.log or "never started")

    def _judge(self, module, test_id, record):
        """Give the record a verdict; a bad one first gets a second chance, and then a reference."""
        pending = next((p for p in self.options.pending if rules.matches(test_id, [p.pattern])), None)
        is_test = not test_id.endswith(".<import>")
        if pending and pending.unrunnable:
            record["verdict"] = "pending"
            return

        def is_expected():
            return pending and record["status"] in BAD and pending.explains(record["detail"])

        if record["status"] in BAD and not is_expected() and is_test:
            first = record["status"]
            record.update(self._alone(self.target, module, test_id), first_status=first)
        if record["status"] == "skip":
            record["verdict"] = "skipped"
        elif is_expected():
            record["verdict"] = "pending"
        elif record["status"] == "pass" and pending:
            record["verdict"] = "failed"
            record["detail"] = f"passes, but pending.txt has {pending.pattern!r}"
        elif record["status"] == "pass":
            is_ours = record["loops"] or variants.is_variant(test_id)
            record["verdict"] = "passed" if is_ours else "untouched"
        elif (
            is_test
            and not self.options.stock
            and not variants.is_variant(test_id)  # of our making: no excuse
            and self._alone(STOCK, module, test_id)["status"] in BAD
        ):
            record["verdict"] = "unavailable"
        else:
            record["verdict"] = "failed"
            if pending:
                record["detail"] += f"\nis pending for {pending.feature!r}, but no NotImplementedError names it"


def broken(status, detail):
    return {"status": status, "detail": detail, "loops": 0, "seconds": 0}


def list_tests(options, workers, target):
    classification = rules.Classification()
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        outcomes = pool.map(
            lambda module: workers.run(target, module, options=options, list_only=True),
            options.modules,
        )
        for module, outcome in zip(options.modules, outcomes, strict=True):
            if outcome.plan is None and outcome.skip is None:
                refuse(f"{module} cannot be imported:\n{outcome.log}")
            for test_id in outcome.plan or ():
                print(f"{classification.group(test_id):12} {test_id}")
    return 0


# --- the report ----------------------------------------------------------------------------------


def show(tests, classification):
    counts = collections.defaultdict(collections.Counter)
    for record in tests.values():
        counts[record["group"]][record["verdict"]] += 1
    for test_id, record in tests.items():
        if record["verdict"] == "failed":
            print(f"\nFAILED {test_id} ({record['status']})\n{tail(record['detail'])}")
    unavailable = [i for i, r in tests.items() if r["verdict"] == "unavailable"]
    if unavailable:
        print("\nunavailable here (asyncio's own loop fails them too):")
        print("\n".join(f"  {test_id}" for test_id in unavailable))
    alone = [i for i, r in tests.items() if "first_status" in r and r["verdict"] == "passed"]
    if alone:
        print("\npassed only when repeated alone:")
        print("\n".join(f"  {test_id}" for test_id in alone))

    print(f"\n{'group':12}" + "".join(f"{verdict:>13}" for verdict in VERDICTS))
    for group in classification.groups:
        if group in counts:
            row = "".join(f"{counts[group][verdict]:13}" for verdict in VERDICTS)
            print(f"{group:12}{row}")
    total = sum(counts.values(), collections.Counter())
    print(
        f"\nPython {platform.python_version()}: "
        f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped, "
        f"{total['pending']} pending, {total['unavailable']} unavailable here, "
        f"{total['untouched']} that make no loop"
    )
    return 1 if total["failed"] else 0


def tail(detail, lines=12):
    return "\n".join("    " + line for line in detail.strip().splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main())
