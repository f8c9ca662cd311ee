"""How the loop learns of a child's end: by its pidfd, by a thread where there are none, and when others take the status."""

import asyncio
import contextvars
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from children import await_waiting_threads

WAIT_TEXT = "will report returncode 255"


@pytest.fixture(autouse=True)
def no_thread_waits(no_leaks):
    """A thread that has told of a child may need a moment more."""
    yield
    await_waiting_threads()


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


def test_a_status_taken_by_others_is_255_with_a_warning(run, caplog, is_ours):
    if not is_ours and sys.version_info < (3, 12):
        pytest.skip("asyncio's thread waits for the same, and either may be the one who gets it")

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
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)
    await_waiting_threads()


def started(loop, *args, **keywords):
    return loop.run_until_complete(observed_start(*args, **keywords))


async def observed_start(*args, **keywords):
    return await asyncio.create_subprocess_exec(*args, **keywords)


def closed_texts(caplog):
    return [r.getMessage() for r in caplog.records if "that handles pid" in r.getMessage()]


def ended_texts(caplog, pid):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(f"process {pid} exited with")]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="asyncio leaves a zombie")
def test_a_child_that_outlives_its_loop_is_reaped_as_by_asyncio(new_loop, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asyncio"), "info", lambda *_: None)  # its record holds the transport
    loop = new_loop()
    process = started(loop, "sleep", "100")
    loop.set_debug(True)
    loop.close()
    with caplog.at_level(logging.DEBUG, "asyncio"):
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: not os.path.exists(f"/proc/{process.pid}"))
        await_waiting_threads()
    assert closed_texts(caplog) == [f"Loop {loop!r} that handles pid {process.pid} is closed"]
    assert ended_texts(caplog, process.pid) == [f"process {process.pid} exited with returncode -15"]
    process._transport.close()


def ready_to_end(loop, code):
    """A child that ends with this code when its second value is called. (A stream would ask for the loop.)"""
    out, into = os.pipe()
    process = started(loop, "sh", "-c", f"read line; exit {code}", stdin=out)
    os.close(out)
    return process, lambda: (os.write(into, b"\n"), os.close(into))


@pytest.mark.aioxide_only
def test_children_that_outlive_their_loop(new_loop, by, caplog):
    """Each is reaped at its own end, its status goes to the Popen and the transport, and nobody is signalled later."""
    loop = new_loop()
    (quick, end_quick), (slow, end_slow) = ready_to_end(loop, 3), ready_to_end(loop, 4)
    popens = [p._transport.get_extra_info("subprocess") for p in (quick, slow)]
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.close()
        assert [popen.poll() for popen in popens] == [None, None]
        for process, popen, code, end in zip((quick, slow), popens, (3, 4), (end_quick, end_slow)):
            end()
            until(lambda process=process: not os.path.exists(f"/proc/{process.pid}"))
            assert popen.wait(5) == code
            until(lambda process=process: process.returncode is not None)
            assert process.returncode == code
        with mock.patch("os.kill") as kill:
            quick.kill()
            slow.terminate()
        assert not kill.called
    await_waiting_threads()
    by_thread = by == "thread" or sys.version_info < (3, 12)
    assert len(closed_texts(caplog)) == 2 * by_thread
    for process in (quick, slow):
        process._transport.close()


@pytest.mark.aioxide_only
def test_a_child_that_ended_unnoticed_before_the_close(new_loop, by):
    loop = new_loop()
    process, end = ready_to_end(loop, 6)
    end()
    until(lambda: is_zombie(process.pid))
    if by == "thread":
        await_waiting_threads()
    before = set(threading.enumerate())
    loop.close()
    assert set(threading.enumerate()) == before
    assert not os.path.exists(f"/proc/{process.pid}")
    assert process.returncode == 6
    process._transport.close()


@pytest.mark.aioxide_only
def test_no_thread_without_a_child_that_runs(new_loop, monkeypatch):
    loop = new_loop()
    process = started(loop, "true")
    assert loop.run_until_complete(process.wait()) == 0
    monkeypatch.setattr("threading.Thread.start", None)
    loop.close()


@pytest.mark.aioxide_only
def test_no_thread_to_be_had_for_a_child_that_stays(new_loop, monkeypatch):
    """The loop is closed all the same; the child ends with its transport."""
    loop = new_loop()
    process = started(loop, "sleep", "100")
    popen = process._transport.get_extra_info("subprocess")

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", refuse)
        loop.close()
    assert loop.is_closed()
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del process
        gc.collect()
    assert popen.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("line", ["loop.close()", "pass"])
def test_the_program_ends_with_a_child_alive(loop_name, line):
    """Nothing hangs, whoever closes the loop."""
    cls = "aioxide.EventLoop" if loop_name == "aioxide" else "asyncio.SelectorEventLoop"
    source = f"""
import asyncio, aioxide
loop = {cls}()
async def main():
    return await asyncio.create_subprocess_exec("sleep", "3")
asyncio.set_event_loop(loop)
process = loop.run_until_complete(main())
print(process.pid, flush=True)
{line}
"""
    done = subprocess.run(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=False
    )
    assert done.returncode == 0
    assert int(done.stdout) > 0


def test_debug_mode_logs_what_the_thread_saw(run, by, caplog):
    """asyncio's watcher that is a thread does: the default one up to 3.11, and later that without pidfds."""

    async def main():
        asyncio.get_running_loop().set_debug(True)
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
        killed = await sleeper()
        killed.kill()
        return process.pid, await process.wait(), killed.pid, await killed.wait()

    with caplog.at_level(logging.DEBUG, "asyncio"):
        pid, code, killed_pid, killed_code = run(main)
    assert (code, killed_code) == (7, -signal.SIGKILL)
    expected = by == "thread" or sys.version_info < (3, 12)
    assert ended_texts(caplog, pid) == [f"process {pid} exited with returncode 7"] * expected
    assert ended_texts(caplog, killed_pid) == [f"process {killed_pid} exited with returncode -9"] * expected


def test_the_end_is_told_in_the_context_of_whoever_started_the_child(run):
    """From 3.12 on; before, asyncio waits in a thread, which has another."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    class Protocol(asyncio.SubprocessProtocol):
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def pipe_data_received(self, fd, data):
            seen.append(("data", variable.get()))

        def process_exited(self):
            seen.append(("exited", variable.get()))

        def connection_lost(self, error):
            self.lost.set_result(None)

    async def main():
        variable.set("of the request")
        transport, protocol = await asyncio.get_running_loop().subprocess_exec(
            Protocol, "sh", "-c", "echo; sleep 0.05", stdin=None, stderr=None
        )
        await protocol.lost
        transport.close()

    run(main)
    assert ("data", "of the request") in seen
    assert [value for what, value in seen if what == "exited"] == [
        "of the request" if sys.version_info >= (3, 12) else "unset"
    ]


@pytest.mark.aioxide_only  # up to 3.13 asyncio waits for a connection_lost that cannot be called
def test_a_protocol_without_connection_made(run):
    class Protocol:
        def process_exited(self):
            pass

        def connection_lost(self, error):
            pass

        def pipe_connection_lost(self, fd, error):
            pass

    async def main():
        loop = asyncio.get_running_loop()
        for pipes in ({"stdin": None, "stdout": None, "stderr": None}, {}):
            with pytest.raises(AttributeError, match="connection_made"):
                await asyncio.wait_for(loop.subprocess_exec(Protocol, "sleep", "10", **pipes), 5)

    run(main)


@pytest.mark.aioxide_only  # asyncio starts the child and kills it when its transport is collected
def test_no_child_is_started_for_a_loop_that_cannot_have_it(new_loop, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: started.append(1))
    closed, running = new_loop(), new_loop()
    closed.close()
    without_futures = new_loop()
    without_futures.create_future = lambda: 1 / 0

    async def main():
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            await closed.subprocess_exec(asyncio.SubprocessProtocol, "true")
        with pytest.raises(ZeroDivisionError):
            await without_futures.subprocess_exec(asyncio.SubprocessProtocol, "true")

    running.run_until_complete(main())
    del without_futures.create_future
    assert started == []
