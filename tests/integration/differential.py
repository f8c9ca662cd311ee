"""The same scenario on asyncio and on aioxide, and what was seen of it compared.

Where a text or a class is asyncio's to decide, a test does not write it down: it runs the scenario on both loops of
the running Python and asserts that they are equal.
"""

import asyncio
import difflib
import gc
import pprint
import re
import resource
import threading
import time

import aioxide
from peers import turns

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "aioxide": aioxide.EventLoop}

LIMIT_S = 20
#: Of a thread that helps a test. Tests of more than LIMIT_S have a limit of their own.
THREAD_LIMIT_S = 50

#: What differs from run to run, or by name only.
_NOISE = [
    (re.compile(r"0x[0-9a-f]+"), "0x"),
    (re.compile(r"\bfd=\d+"), "fd=N"),
    (re.compile(r"(127\.0\.0\.\d+|::1(?:%\d+)?)', \d+"), r"\1', PORT"),
    (re.compile(r"(127\.0\.0\.\d+):\d+"), r"\1:PORT"),
    (re.compile(r"(/[\w.-]+)+\.py:\d+"), "FILE"),
    (re.compile(r"\b_?\w*SocketTransport\b"), "SocketTransport"),
    (re.compile(r"\b_Unix(Read|Write)PipeTransport\b"), r"\1PipeTransport"),
    (re.compile(r"\b_Selector(Datagram)?Transport\b"), "DatagramTransport"),
    (re.compile(r"\b_UnixSelectorEventLoop\b"), "EventLoop"),
    (re.compile(r"\d+\.\d+ms"), "TIME"),
]


def plain(text):
    """A text without addresses, numbers of descriptors and ports, and class names that differ."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


def describe(error):
    """Class, errno and text of an exception, of each within a group."""
    if error is None:
        return None
    inner = [describe(one) for one in getattr(error, "exceptions", ())]
    return type(error).__name__, getattr(error, "errno", None), plain(str(error)), *inner


async def outcome(awaitable):
    """("is", result) or ("raises", the exception described)."""
    try:
        return "is", await awaitable
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return "raises", describe(error)


def observe(name, scenario, *args):
    """What a coroutine function returns on one of the loops, and what that loop reported."""
    reports = []

    def report(loop, context):
        others = sorted(set(context) - {"message", "exception"})
        reports.append((plain(context["message"]), describe(context.get("exception")), others))

    loop = LOOPS[name]()
    loop.set_exception_handler(report)
    try:
        result = loop.run_until_complete(asyncio.wait_for(scenario(*args), LIMIT_S))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return {"result": result, "reports": reports}


def same(scenario, *args):
    """Assert that both loops do the same; what they did."""
    theirs = observe("asyncio", scenario, *args)
    ours = observe("aioxide", scenario, *args)
    lines = [pprint.pformat(seen, width=100).splitlines() for seen in (theirs, ours)]
    assert ours == theirs, "\n".join(difflib.unified_diff(*lines, "asyncio", "aioxide", lineterm="", n=1))
    return ours["result"]


async def thread_time(seconds):
    """CPU time in seconds that this thread uses while its loop has nothing to do but wait so long."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    used = time.thread_time()
    await over
    return time.thread_time() - used


async def switches(seconds):
    """How often this thread went to sleep in that time: once per poll that had to wait."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    await over
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def in_thread(function, *args):
    """Run a blocking function beside the loop; a daemon thread with its result or exception."""
    box = []

    def body():
        try:
            box.append(("is", function(*args)))
        except BaseException as error:
            box.append(("raises", error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    async def result():
        deadline = time.monotonic() + THREAD_LIMIT_S
        while thread.is_alive():
            assert time.monotonic() < deadline, "the thread does not end"
            await asyncio.sleep(0.002)
        thread.join()
        kind, value = box[0]
        if kind == "raises":
            raise value
        return value

    return result()


IDLE_S = 0.5
#: CPU seconds of the loop's thread in that time, and how often it may wake up.
IDLE_CPU_S = 0.01
IDLE_WAKEUPS = 20


async def assert_idle():
    await turns(20)
    await asyncio.sleep(0.02)
    gc.collect()
    assert await thread_time(IDLE_S) < IDLE_CPU_S
    assert await switches(0.1) < IDLE_WAKEUPS


async def called(call):
    return await call()


async def awaited(awaitable):
    """A coroutine of any awaitable: what `sock_*` return need not be one."""
    return await awaitable
