"""Deep nesting is an error, never a crash. Each case gets a process."""

import subprocess
import sys

import pytest

DEEP_AWAITS = """
import asyncio, sys
import aioxide

async def nested(n):
    if n == 0:
        return await last(n)
    return await nested(n - 1)

async def sleeps(n):
    await asyncio.sleep(0)

async def at_once(n):
    return n

class Chain:
    def __init__(self, inner): self.inner = inner
    def __await__(self): return self.inner.__await__() if self.inner else iter(())

async def wraps(n):
    inner = None
    for _ in range(n):
        inner = Chain(inner)
    await inner

def coroutines_made_outside(n):
    async def one(inner):
        if inner is None:
            await asyncio.sleep(0)
        else:
            await inner
    inner = None
    for _ in range(n):
        inner = one(inner)
    return inner

what, loop_name = sys.argv[1:]
loop = aioxide.new_event_loop() if loop_name == "aioxide" else asyncio.SelectorEventLoop()
last = {"at_once": at_once}.get(what, sleeps)
coro = {"wraps": wraps, "outside": coroutines_made_outside}.get(what, nested)(100_000)
task = loop.create_task(coro) if asyncio.iscoroutine(coro) else coro
try:
    loop.run_until_complete(task)
    print("done")
except RecursionError:
    print("RecursionError")
async def one(): return 1
assert loop.run_until_complete(one()) == 1
loop.close()
"""


@pytest.mark.parametrize("what", ["sleeps", "at_once", "wraps"])
def test_100000_awaits_deep_is_a_recursion_error(loop_name, what):
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", DEEP_AWAITS, what, loop_name],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "RecursionError\n"), run.stderr[-2000:]


DEEP_TASKS = """
import asyncio, sys
import aioxide
N = 100_000

async def wait(x):
    return await x

loop = aioxide.new_event_loop()
first = task = loop.create_future()
tasks = []
for _ in range(N):
    task = loop.create_task(wait(task))
    tasks.append(task)
loop.call_soon(loop.stop); loop.run_forever()
loop.call_soon(loop.stop); loop.run_forever()
try:
    print("cancelled", task.cancel())
except RecursionError:
    print("RecursionError")
first.cancel()
try:
    loop.run_until_complete(task)
except asyncio.CancelledError:
    print("done")
loop.close()
"""


def test_cancelling_a_chain_of_100000_tasks_does_not_overflow_the_stack():
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", DEEP_TASKS], capture_output=True, text=True, timeout=50
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split()[-1] == "done"
