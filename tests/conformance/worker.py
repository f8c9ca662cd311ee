"""One process: import one module of test.test_asyncio, run what is wanted of it, and report.

Usage: worker.py CONFIG.json FD. One JSON object per line goes to FD: `plan` (the tests about to
run), `start` and `end` of each, and `done`, or `skip` for a module that skips itself. Whoever
started this decides about crashes and hangs.
"""

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import unittest
from pathlib import Path

import redirect
import rules
import variants

DETAIL_LIMIT = 20_000


def main():
    config = json.loads(Path(sys.argv[1]).read_text())
    events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
    os.set_inheritable(events.fileno(), False)  # not to the children of tests

    def report(**event):
        events.write(json.dumps(event) + "\n")

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A shell's `&` and nohup leave these ignored, and signal tests then hang on any loop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)

    target = redirect.Target(config["loop"], config["task"], config["future"])
    redirect.redirect(target)
    try:
        module = importlib.import_module(f"test.test_asyncio.{config['module']}")
    except unittest.SkipTest as reason:
        report(event="skip", detail=str(reason))
        return
    variants.add_variants(module, target)
    classification = rules.Classification()
    cases = {short_id(case): case for case in flatten(unittest.defaultTestLoader.loadTestsFromModule(module))}
    chosen = [i for i in cases if is_chosen(i, config, classification)]
    if not config["list_only"]:
        # A pending test that would only wait for what is missing is counted, not run.
        for test_id in [i for i in chosen if rules.matches(i, config["unrunnable"])]:
            chosen.remove(test_id)
            report(event="end", id=test_id, status="error", detail="not run", loops=0, seconds=0)
    report(event="plan", ids=chosen)
    if not config["list_only"]:
        by_class = {}  # keep the tests of one class together, for its fixtures
        for test_id in chosen:
            by_class.setdefault(type(cases[test_id]), []).append(cases[test_id])
        suite = unittest.TestSuite(case for group in by_class.values() for case in group)
        suite.run(Result(report, target, classification))
    report(event="done")
    events.close()
    os._exit(0)  # whatever threads and children a test left behind


def is_chosen(test_id, config, classification):
    if config["only"] is not None:
        return test_id in config["only"]
    return (
        test_id not in config["finished"]
        and classification.category(test_id) == "public"
        and (not config["groups"] or classification.group(test_id) in config["groups"])
        and (
            not config["patterns"]
            or any(p in test_id for p in config["patterns"])
            or rules.matches(test_id, config["patterns"])
        )
    )


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def short_id(case):
    return ".".join(case.id().split(".")[-3:])


class Result(unittest.TestResult):
    """Reports each outcome at once, so that a crash costs one test."""

    SEVERITY = ("pass", "skip", "fail", "error")

    def __init__(self, report, target, classification):
        super().__init__()
        self._report = report
        self._target = target
        self._classification = classification

    def startTest(self, test):
        super().startTest(test)
        self._status, self._detail, self._began = "pass", "", time.monotonic()
        self._around = contextlib.ExitStack()
        if self._classification.retargets_base(short_id(test)):
            self._around.enter_context(redirect.base_event_loop_retargeted(self._target))
        self._report(event="start", id=short_id(test))

    def stopTest(self, test):
        super().stopTest(test)
        self._around.close()
        self._report(
            event="end",
            id=short_id(test),
            status=self._status,
            detail=self._detail,
            loops=self._target.made,
            seconds=round(time.monotonic() - self._began, 3),
        )
        # Not at the start: 3.10's IsolatedAsyncioTestCase makes its loop before that.
        self._target.made = 0

    def _note(self, test, status, detail):
        if not isinstance(test, unittest.TestCase):  # setUpClass or setUpModule
            self._report(event="fixture", detail=detail)
        elif self.SEVERITY.index(status) > self.SEVERITY.index(self._status):
            self._status, self._detail = status, detail

    def _note_exception(self, test, status, err):
        self._note(test, status, "".join(traceback.format_exception(*err))[-DETAIL_LIMIT:])

    def addFailure(self, test, err):
        self._note_exception(test, "fail", err)

    def addError(self, test, err):
        self._note_exception(test, "error", err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._note_exception(test, "fail", err)

    def addSkip(self, test, reason):
        self._note(test, "skip", reason)

    def addExpectedFailure(self, test, err):
        pass

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")


if __name__ == "__main__":
    main()
