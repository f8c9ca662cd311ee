"""How the loop learns of a child's end: by its pidfd, by a thread where there are none, and when others take the status."""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import subprocess
import threading
import time
from unittest import mock

import pytest

WAIT_TEXT = "will report returncode 255"


@pytest.fixture(params=["pidfd", "thread"])
def by(request, loop_name, monkeypatch):
    """How a loop made from now on learns of a child's end."""
    if request.param == "thread":
        if loop_name == "asyncio":
            pytest.skip("the same of asyncio's two watchers is CPython's own test")
        from aioxide import _processes

        monkeypatch.setattr(_processes, "_can_use_pidfd", lambda: False)
    return request.param


async def sleeper(**keywords):
    return await asyncio.create_subprocess_exec("sleep", "100", **keywords)


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return False


def until(condition, limit_s=10):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition does not come true"
        time.sleep(0.005)


def test_a_thread_does_what_the_pidfd_does(run, by, is_ours):
    async def main():
        ended = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
        killed = await sleeper()
        waiting = sum(t.name.startswith("asyncio-waitpid-") for t in threading.enumerate())
        killed.kill()
        codes = await ended.wait(), await killed.wait()
        return codes, waiting > 0, is_zombie(ended.pid), is_zombie(killed.pid)

    codes, has_threads, *zombies = run(main)
    assert codes == (7, -signal.SIGKILL)
    assert zombies == [False, False]
    assert has_threads == (by == "thread") or not is_ours


@pytest.mark.aioxide_only
def test_the_status_is_not_lost_to_the_popen(run, caplog):
    """asyncio reports 255 when close() finds by poll() that the child has just ended; so may a user's poll()."""

    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.2; exit 5")
        popen = process._transport.get_extra_info("subprocess")
        until(lambda: is_zombie(process.pid))
        assert popen.poll() == 5
        return await process.wait(), process.returncode

    assert run(main) == (5, 5)
    assert WAIT_TEXT not in caplog.text


def test_a_status_taken_by_others_is_255_with_a_warning(run, caplog):
    async def main():
        process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.2; exit 5")
        pid, _ = os.waitpid(process.pid, 0)
        assert pid == process.pid
        return await process.wait()

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert run(main) == 255
    assert [r.levelname for r in caplog.records if WAIT_TEXT in r.getMessage()] == ["WARNING"]


@pytest.mark.aioxide_only
def test_ignored_sigchld_and_a_child_that_is_gone_at_once(run, caplog):
    """The kernel takes the status itself; by the time of pidfd_open there may be no such process (asyncio raises)."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:

        async def main():
            codes = []
            for _ in range(20):
                process = await asyncio.create_subprocess_exec("true")
                codes.append(await process.wait())
            return codes

        with caplog.at_level(logging.WARNING, "asyncio"):
            assert run(main) == [255] * 20
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert sum(WAIT_TEXT in r.getMessage() for r in caplog.records) == 20


@pytest.mark.aioxide_only
def test_no_descriptor_left_for_a_pidfd(run):
    """A thread waits, which needs none."""

    async def main():
        real = os.pidfd_open(os.getpid())
        os.close(real)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        popen = subprocess.Popen

        def starts_and_leaves_no_room(*args, **keywords):
            process = popen(*args, **keywords)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            return process

        with mock.patch("subprocess.Popen", starts_and_leaves_no_room):
            try:
                process = await sleeper()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process.terminate()
        return await process.wait()

    assert run(main) == -signal.SIGTERM


def test_the_handler_of_sigchld_is_the_users_own(run):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    try:

        async def main():
            process = await asyncio.create_subprocess_exec("sh", "-c", "exit 4")
            code = await process.wait()
            end = time.monotonic() + 5
            while not seen and time.monotonic() < end:
                await asyncio.sleep(0.01)
            return code

        assert run(main) == 4
        assert seen
        assert signal.getsignal(signal.SIGCHLD) is not before
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.aioxide_only
def test_wait_that_is_given_up_leaves_nothing(run):
    async def main():
        process = await sleeper()
        waiting = [asyncio.ensure_future(process.wait()) for _ in range(50)]
        await asyncio.sleep(0)
        for task in waiting[:49]:
            task.cancel()
        await asyncio.wait(waiting[:49])
        process.kill()
        code = await waiting[49]
        assert all(task.cancelled() for task in waiting[:49])
        return code

    assert run(main) == -signal.SIGKILL


def test_a_signal_after_the_end_goes_to_nobody(run):
    async def main():
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        await asyncio.sleep(0.05)  # connection_lost
        outcomes = []
        for send in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGUSR1)):
            try:
                outcomes.append(send())
            except ProcessLookupError:
                outcomes.append("gone")
        return outcomes

    assert run(main) == ["gone"] * 3


@pytest.mark.aioxide_only
def test_a_loop_closed_with_a_child_alive(new_loop):
    """The child ends with its transport: killed, and nobody's zombie for ever. (asyncio leaks the pidfd.)"""
    loop = new_loop()

    async def main():
        return await sleeper()

    process = loop.run_until_complete(main())
    pid = process.pid
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed transport|still running"):
        del process
        gc.collect()
    until(lambda: is_zombie(pid) or not os.path.exists(f"/proc/{pid}"))
    try:
        os.waitpid(pid, 0)
    except ChildProcessError as error:
        assert error.errno == errno.ECHILD
