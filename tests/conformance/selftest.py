#!/usr/bin/env python3
"""Check run.py itself on loops that are stock, crash, hang, or lack a feature.

Takes about half a minute; needs no aioxide.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASK = ["--task", "asyncio.tasks:_CTask", "--future", "asyncio.futures:_CFuture"]
EVENTS = "test_events.SelectEventLoopTests.{}".format


class Sound(asyncio.SelectorEventLoop):
    pass


class Crashing(asyncio.SelectorEventLoop):
    def call_at(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hanging(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *args, **kwargs):
        time.sleep(3600)


class Incomplete(asyncio.SelectorEventLoop):
    def add_signal_handler(self, *args):
        raise NotImplementedError("signal handlers are not there yet")


class Nameless(asyncio.tasks._PyTask):
    def get_name(self):
        return ""


def run(loop, *arguments, pending=""):
    """(exit status, {test id: record}, output)"""
    with tempfile.TemporaryDirectory() as scratch:
        result, listed = Path(scratch, "result.json"), Path(scratch, "pending.txt")
        listed.write_text(pending)
        done = subprocess.run(
            [sys.executable, HERE / "run.py", "--json", result, "--loop", loop, "--timeout", "5",
             "--pending", listed, *arguments],
            env=dict(os.environ, PYTHONPATH=str(HERE)), capture_output=True, text=True,
        )  # fmt: skip
        tests = json.loads(result.read_text())["tests"] if result.exists() else {}
        return done.returncode, tests, done.stdout + done.stderr


def verdicts(tests):
    return {record["verdict"] for record in tests.values()}


def main():
    few = ["-m", "test_events", "-k", EVENTS("test_call_*"), *TASK]
    status, stock, text = run("asyncio", *few)
    assert status == 0 and verdicts(stock) == {"passed"}, text
    assert "0 failed" in text.splitlines()[-1] or "0 failed" in text, text

    status, sound, text = run("selftest:Sound", *few)
    assert status == 0 and verdicts(sound) == {"passed"}, text
    assert sound.keys() == stock.keys()

    status, tests, text = run("selftest:Crashing", *few)
    assert status == 1 and tests.keys() == stock.keys(), text
    crashed = tests[EVENTS("test_call_later")]
    assert crashed["status"] == "crash" and "Segmentation fault" in crashed["detail"], crashed
    assert tests[EVENTS("test_call_soon")]["verdict"] == "passed"

    status, tests, text = run("selftest:Hanging", *few)
    hung = tests[EVENTS("test_call_soon_threadsafe")]
    assert status == 1 and hung["status"] == "hang", text
    assert "most recent call first" in hung["detail"], hung
    assert tests[EVENTS("test_call_soon")]["verdict"] == "passed"

    one = ["-m", "test_events", "-k", EVENTS("test_add_signal_handler"), *TASK]
    name = EVENTS("test_add_signal_handler")
    for loop, pending, expected in (
        ("Incomplete", "", "failed"),
        ("Incomplete", f"{name} | signal handlers | signals", "pending"),
        ("Incomplete", f"{name} | another feature | signals", "failed"),
        ("Sound", f"{name} | signal handlers | signals", "failed"),
        ("Sound", "", "passed"),
    ):
        status, tests, text = run(f"selftest:{loop}", *one, pending=pending)
        assert tests[name]["verdict"] == expected, (loop, pending, text)
        assert status == (expected == "failed"), text

    status, tests, text = run(
        "selftest:Sound", "-m", "test_tasks", "-k", "*.TargetTask_TargetFuture_Tests.*name*",
        "--task", "selftest:Nameless", "--future", "asyncio.futures:_PyFuture",
    )  # fmt: skip
    assert status == 1 and "failed" in verdicts(tests), text

    for bad in (["--groups", "nowhere"], ["-m", "test_nowhere"], ["--pending", "/nowhere"]):
        status, _, text = run("selftest:Sound", *bad)
        assert status == 2 and len(text.splitlines()) == 1, text
    status, _, text = run("selftest:Nowhere")
    assert status == 2 and len(text.splitlines()) == 1, text
    print("conformance self-test: ok")


if __name__ == "__main__":
    main()
