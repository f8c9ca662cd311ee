"""What tests of signals have in common."""

import asyncio
import os
import signal
import time

ME = os.getpid()
LIMIT_S = 20


def wakeup_fd():
    found = signal.set_wakeup_fd(-1)
    if found != -1:
        signal.set_wakeup_fd(found, warn_on_full_buffer=False)
    return found


def send(number, to=None):
    os.kill(ME if to is None else to, number)


async def until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
