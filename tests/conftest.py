"""Fixtures of all tests: one body on both loops, and nothing left behind.

A test that asks for `new_loop` or `run` runs twice, on stock asyncio and on aioxide: what it asserts is
asyncio's behaviour, and a difference is a bug or a row of `docs/differences.md`. A test of such a row is
marked `aioxide_only`. What a loop tells its exception handler must be taken from `reports`, or the test
fails.
"""

import asyncio
import gc
import os
import threading
from typing import NamedTuple

import aioxide
import pytest

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "aioxide": aioxide.EventLoop}

#: Of one coroutine given to `run`, in seconds. Nothing here should come near it.
LIMIT_S = 20


def pytest_configure(config):
    config.addinivalue_line("markers", "aioxide_only: a difference from asyncio, or what asyncio leaks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def frozen_heap():
    """What lives by now stays alive: each collection looks at the test's own objects only."""
    loop = aioxide.EventLoop()  # what a process has once: the descriptor by which signals end a wait
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def descriptors():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # that of listdir itself
            pass
    return found


@pytest.fixture
def no_leaks(request, frozen_heap):
    """The test leaves the descriptors and threads that were there before."""
    gc.collect()
    descriptors_before, threads_before = descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    if request.node.stash.get(FAILED, False):
        return  # its traceback keeps all sorts of things alive
    after = descriptors()
    assert {fd: name for fd, name in after.items() if descriptors_before.get(fd) != name} == {}
    assert {fd: name for fd, name in descriptors_before.items() if fd not in after} == {}
    assert set(threading.enumerate()) - threads_before == set()


class Report(NamedTuple):
    """One call of an exception handler. Without the exception: its traceback keeps transports alive."""

    message: str
    exception: type | None
    text: str
    others: tuple[str, ...]


class Reports(list):
    def __call__(self, loop, context):
        exception = context.get("exception")
        others = tuple(sorted(set(context) - {"message", "exception"}))
        kind = None if exception is None else type(exception)
        self.append(Report(context["message"], kind, str(exception), others))

    def take(self):
        """(message, exception's class) of each, in order."""
        return [(report.message, report.exception) for report in self.take_whole()]

    def take_whole(self):
        taken = self[:]
        self.clear()
        return taken


@pytest.fixture
def reports(no_leaks):
    """What loops of this test have told their exception handlers."""
    reports = Reports()
    yield reports
    assert reports == []


@pytest.fixture(params=LOOPS)
def loop_name(request):
    if request.param == "asyncio" and request.node.get_closest_marker("aioxide_only"):
        pytest.skip("a difference from asyncio")
    return request.param


@pytest.fixture
def is_ours(loop_name):
    return loop_name == "aioxide"


@pytest.fixture
def new_loop(loop_name, reports, request):
    """Makes loops, and closes them after the test, which must have ended its tasks."""
    loops = []

    def new_loop():
        loop = LOOPS[loop_name]()
        loop.set_exception_handler(reports)
        loops.append(loop)
        return loop

    yield new_loop
    left = []
    for loop in loops:
        if loop.is_closed():
            continue
        tasks = asyncio.all_tasks(loop)
        left += map(repr, tasks)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True) if tasks else asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    if not request.node.stash.get(FAILED, False):
        assert left == []


@pytest.fixture
def run(new_loop):
    """Run a coroutine function on a new loop, for a bounded time; its result."""

    def run(main, *args):
        return new_loop().run_until_complete(asyncio.wait_for(main(*args), LIMIT_S))

    return run
