# ruff: noqa: F401, F811  # fixtures are imported
"""Faults of child processes: on both loops, asyncio's answers.

After each: no descriptor, thread, zombie or pending task is left.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
from children import (
    CAT,
    MISSING,
    WITH_THREADS,
    Child,
    await_waiting_threads,
    loop_name,
    no_children_left,
    seen,
    sh,
    spawn,
    texts_of,
)
from differential import describe, observe, outcome, plain
from peers import turns

PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT

pytestmark = WITH_THREADS


# --- a child that never comes to be ----------------------------------------------------------------


def make_script(folder, text="#!/bin/sh\nexit 0\n", mode=0o755):
    path = folder / "script"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def fails():
    raise ZeroDivisionError("in the child")


STILLBORN = {
    "no such program": lambda folder: ((["/nonexistent/program"]), {}),
    "no such name": lambda folder: ((["no-such-program-on-the-path"]), {}),
    "not executable": lambda folder: ([make_script(folder, mode=0o644)], {}),
    "a folder": lambda folder: ([str(folder)], {}),
    "no known format": lambda folder: ([make_script(folder, "neither ELF nor script")], {}),
    "no such interpreter": lambda folder: ([make_script(folder, "#!/nonexistent\n")], {}),
    "no such folder": lambda folder: (["true"], {"cwd": "/nonexistent"}),
    "preexec_fn raises": lambda folder: (["true"], {"preexec_fn": fails}),
    "a null byte": lambda folder: (["tr\0ue"], {}),
    "a null byte in the environment": lambda folder: (["true"], {"env": {"a": "b\0c"}}),
    "no such user": lambda folder: (["true"], {"user": "no-such-user-here"}),
    "no file for stdout": lambda folder: (["true"], {"stdout": 1 << 20}),
    "a wrong cwd": lambda folder: (["true"], {"cwd": 5.0}),
    "a wrong argument": lambda folder: (["true", 5], {}),
}


@pytest.mark.parametrize("case", STILLBORN)
@pytest.mark.parametrize("streams", [False, True])
def test_a_child_that_dies_before_exec(seen, tmp_path, case, streams):
    if case == "no such user" and sys.version_info < (3, 11):
        pytest.skip("Popen of 3.10 leaves its pipes")
    args, options = STILLBORN[case](tmp_path)

    async def main():
        made = []

        def make():
            made.append(Child())
            return made[-1]

        try:
            if streams:
                await asyncio.create_subprocess_exec(*args, stdin=PIPE, **{"stdout": PIPE, **options})
            else:
                await spawn(*args, make=make, **options)
        except Exception as error:
            seen = describe(error), getattr(error, "filename", None)
        else:
            seen = None
        await turns(5)
        return seen, [child.calls for child in made]

    error, calls = seen(main)
    assert error is not None and calls in ([], [[]])


@pytest.mark.skipif(os.getuid() == 0, reason="root may")
def test_a_user_that_may_not_become_another(seen):
    async def main():
        return await outcome(spawn("true", user=0, group=0))

    assert seen(main)[0] == "raises"


# --- a child that ends in its own way --------------------------------------------------------------

ENDS = {
    "at once": (sh("exit 0"), {}),
    "with a status": (sh("exit 7"), {}),
    "by a signal of its own": (sh("kill -9 $$"), {}),
    "having spoken": (sh("echo out; echo err >&2; exit 3"), {}),
    "having closed its pipes": (sh("exec <&- >&- 2>&-; sleep 0.05; exit 4"), {}),
    "having closed its stdin": (sh("exec <&-; sleep 0.05; echo yes; exit 5"), {}),
    "leaving its stdout to a grandchild": (sh("(sleep 0.1; echo late) & exit 6"), {}),
    "without pipes": (sh("exit 8"), {"stdin": None, "stdout": None, "stderr": None}),
    "with nothing": (sh("exit 9"), {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}),
    "with its errors in its output": (sh("echo one >&2; echo two"), {"stderr": STDOUT}),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_the_protocol_is_told_when_a_child_ends(seen, case):
    args, options = ENDS[case]

    async def main():
        child = await spawn(*args, **options)
        await child.lost
        child.assert_in_order()
        return child.account()

    _, calls, _ = seen(main)
    assert calls[0] == "made" and calls[-1] == ("lost", None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("way", ["send_signal", "os.kill", "kill"])
def test_a_child_that_is_killed(seen, number, way):
    if way == "kill" and number == signal.SIGUSR1:
        pytest.skip("it has no method")

    async def main():
        child = await spawn(*CAT)
        transport = child.transport
        before = transport.get_returncode()
        if way == "os.kill":
            os.kill(transport.get_pid(), number)
        elif way == "send_signal":
            transport.send_signal(number)
        else:
            {signal.SIGKILL: transport.kill, signal.SIGTERM: transport.terminate}[number]()
        await child.lost
        again = []
        for call in (transport.kill, transport.terminate, lambda: transport.send_signal(0)):
            try:
                again.append(call())
            except ProcessLookupError as error:
                again.append(describe(error))
        return before, transport.get_returncode(), child.account(), again

    assert seen(main)[:2] == (None, -number)


def test_a_thousand_children(run):
    """A hundred and fifty at a time, or as many as the limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    alive = min(150, (soft - 100) // 8)
    count = 1000

    async def one(number, gate):
        async with gate:
            stdout = PIPE if number % 4 == 0 else DEVNULL
            process = await asyncio.create_subprocess_exec(*sh(f"echo {number}; exit {number % 7}"), stdout=stdout)
            out, _ = await process.communicate()
            return process.returncode, out

    async def main():
        gate = asyncio.Semaphore(alive)
        return await asyncio.wait_for(asyncio.gather(*(one(number, gate) for number in range(count))), 50)

    # Not `run`: its limit is shorter.
    expected = [(number % 7, b"%d\n" % number if number % 4 == 0 else None) for number in range(count)]
    assert run_long(run, main) == expected


def run_long(run, main):
    box = []

    async def start():
        box.append(asyncio.get_running_loop())

    run(start)
    return box[0].run_until_complete(main())


def test_many_alive_at_once_and_killed_together(run):
    async def main():
        children = await asyncio.gather(*(spawn(*CAT, stdout=DEVNULL, stderr=DEVNULL) for _ in range(100)))
        for child in children:
            child.transport.kill()
        for child in children:
            await child.lost
        return [child.transport.get_returncode() for child in children]

    assert run(main) == [-9] * 100


# --- SIGCHLD and waitpid by others -----------------------------------------------------------------


@contextlib.contextmanager
def sigchld(handler):
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_sigchld_ignored(run, caplog):
    """The kernel keeps no status then."""

    async def main():
        # One that ends at once may be gone before asyncio looks: it raises ProcessLookupError then.
        process = await asyncio.create_subprocess_exec(*sh("sleep 0.05; exit 3"))
        return await process.wait(), process.returncode

    with sigchld(signal.SIG_IGN), caplog.at_level(logging.WARNING, "asyncio"):
        assert run(main) == (255, 255)
        await_waiting_threads()
    (record,) = caplog.records
    assert "will report returncode 255" in record.getMessage() and record.levelname == "WARNING"


def test_sigchld_ignored_says_what_asyncio_says(caplog):
    if MISSING:
        pytest.xfail("aioxide starts no processes yet")

    async def main():
        child = await spawn(*sh("sleep 0.05; exit 3"))
        await child.lost
        return child.account()

    said = []
    with sigchld(signal.SIG_IGN), caplog.at_level(logging.WARNING, "asyncio"):
        for name in ("asyncio", "aioxide"):
            result = observe(name, main)
            await_waiting_threads()
            said.append((result, [plain(record.msg) for record in caplog.records]))
            caplog.clear()
    assert said[0] == said[1]


def test_a_handler_for_sigchld_of_the_program_lives_beside(run):
    calls = []

    async def main():
        statuses = []
        for number in range(5):
            process = await asyncio.create_subprocess_exec(*sh(f"exit {number}"))
            statuses.append(await process.wait())
        return statuses

    with sigchld(lambda number, frame: calls.append(number)):
        assert run(main) == [0, 1, 2, 3, 4]
        assert signal.getsignal(signal.SIGCHLD).__name__ == "<lambda>"
    assert 1 <= len(calls) <= 5 and set(calls) == {signal.SIGCHLD}


def test_sigchld_blocked_makes_no_difference(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*sh("exit 6"))
        return await process.wait()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        assert run(main) == 6
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def test_a_status_that_the_program_took(run, caplog):
    """`os.waitpid(-1)` in the program, in the very callback in which the child ends."""

    async def main():
        child = await spawn(*sh("read line; exit 3"), stdout=DEVNULL, stderr=DEVNULL)
        os.write(child.transport.get_pipe_transport(0).get_extra_info("pipe").fileno(), b"go\n")
        try:
            taken = os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1])
        except ChildProcessError:
            taken = None  # up to 3.11 asyncio waits in a thread, which may be first
        await child.lost
        return taken, child.transport.get_returncode()

    with caplog.at_level(logging.WARNING, "asyncio"):
        taken, status = run(main)
    if sys.version_info >= (3, 12):
        assert taken == 3
    assert (taken, status) in ((3, 255), (None, 3))
    assert len(caplog.records) == (taken == 3)


def test_popen_of_the_program_beside_ours(run):
    """A child that is not the loop's keeps its status for who started it."""

    async def main():
        with subprocess.Popen(sh("exit 4")) as theirs:
            process = await asyncio.create_subprocess_exec(*sh("exit 5"))
            status = await process.wait()
            await asyncio.sleep(0.02)
        return status, theirs.returncode

    assert run(main) == (5, 4)


# --- giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["wait", "communicate"])
def test_a_cancelled_wait_takes_nothing_from_the_next_one(seen, call):
    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        told = []
        for turn in range(4):
            task = asyncio.ensure_future(process.wait() if call == "wait" else process.communicate())
            if call == "communicate" and turn:
                # Its input was closed by the first one.
                task.cancel()
                told.append(await outcome(task))
                continue
            await turns(turn)
            task.cancel()
            told.append(await outcome(task))
        if call == "wait":
            process.stdin.write(b"still here")
        process.stdin.close()
        if call == "wait":
            told.append(await process.stdout.read())
        return told, await process.wait(), process.returncode

    told, *status = seen(main)
    assert status == [0, 0] and told[0][0] == "raises"


@pytest.mark.parametrize("turn", range(1, 6))
def test_a_start_that_is_cancelled_leaves_no_child(run, turn):
    async def main():
        task = asyncio.ensure_future(asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE))
        await turns(turn)
        if task.done():
            process = await task
            process.kill()
            return await process.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            process = await task
            process.kill()
            await process.wait()
        await asyncio.sleep(0.05)
        return -9

    assert run(main) == -9


def test_a_transport_closed_while_the_child_runs_kills_it(seen):
    async def main():
        child = await spawn(*CAT)
        pid = child.transport.get_pid()
        child.transport.close()
        closing = child.transport.is_closing()
        child.transport.close()
        await child.lost
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        return closing, child.account(), child.transport.get_returncode()

    assert seen(main)[0] is True


ABANDONED = textwrap.dedent("""
    import asyncio, gc, os, signal, sys, warnings
    name, way = sys.argv[1:]
    warnings.simplefilter("ignore", ResourceWarning)
    if name == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    process = loop.run_until_complete(
        asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    )
    pid = process.pid
    if way == "close":
        loop.close()
        os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
        del process, loop
    else:
        del process
        gc.collect()
        loop.close()
    gc.collect()
    print("well", flush=True)
""")


@pytest.mark.parametrize("way", ["close", "drop"])
def test_a_loop_closed_with_a_child_alive(loop_name, way):
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, loop_name, way], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


# --- pipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_communicate_with_one_that_does_not_listen(seen, size):
    async def main():
        process = await asyncio.create_subprocess_exec(*sh("exec <&-; echo deaf"), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        return await process.communicate(b"x" * size), process.returncode

    assert seen(main) == ((b"deaf\n", b""), 0)


def test_writing_to_a_child_that_is_gone(seen):
    async def main():
        process = await asyncio.create_subprocess_exec("true", stdin=PIPE)
        await process.wait()
        await asyncio.sleep(0.05)  # the pipe's end may come after the child's
        told = []
        for _ in range(3):
            process.stdin.write(b"x" * 100)
            told.append((await outcome(process.stdin.drain()))[1] and "raises")
        process.stdin.close()
        return told

    seen(main)


def test_much_in_both_directions_at_once(run):
    data = bytes(range(256)) * (5 << 12)

    async def main():
        process = await asyncio.create_subprocess_exec(*sh("tee /dev/stderr"), stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await asyncio.wait_for(process.communicate(data), 15)
        return out == data, err == data, process.returncode

    assert run(main) == (True, True, 0)


def test_a_reader_that_lags_behind_holds_the_child_up(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*sh("head -c 3000000 /dev/zero"), stdout=PIPE, limit=1000)
        await asyncio.sleep(0.1)
        assert process.returncode is None
        data = await process.stdout.read()
        return len(data), await process.wait()

    assert run(main) == (3_000_000, 0)


def test_lines_are_read_as_they_come(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        for number in range(50):
            process.stdin.write(b"line %d\n" % number)
            await process.stdin.drain()
            assert await process.stdout.readline() == b"line %d\n" % number
        process.stdin.close()
        await process.stdin.wait_closed()
        return await process.wait()

    assert run(main) == 0


# --- what a transport tells ------------------------------------------------------------------------


def test_extra_info_and_repr(seen):
    async def main():
        child = await spawn(*CAT, stderr=DEVNULL)
        transport = child.transport
        popen = transport.get_extra_info("subprocess")
        told = [
            isinstance(popen, subprocess.Popen),
            type(popen) is subprocess.Popen,
            popen.pid == transport.get_pid(),
            popen.args,
            popen.returncode,
            transport.get_extra_info("no such"),
            transport.get_extra_info("no such", 5),
            [fd for fd in (0, 1, 2, 3) if transport.get_pipe_transport(fd) is not None],
            transport.get_returncode(),
            transport.is_closing(),
            transport.get_protocol() is child,
            isinstance(transport, asyncio.SubprocessTransport),
            texts_of(transport),
        ]
        transport.get_pipe_transport(0).close()
        await child.lost
        return [*told, popen.returncode, texts_of(transport), transport.is_closing()]

    told = seen(main)
    assert told[0] is True and told[2] is True


def test_a_process_of_streams_tells(seen):
    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        told = [
            type(process).__name__,
            process.returncode,
            process.stderr,
            type(process.stdin).__name__,
            type(process.stdout).__name__,
            isinstance(process.pid, int),
        ]
        process.stdin.close()
        await process.wait()
        return told, process.returncode

    assert seen(main)[1] == 0


@pytest.mark.parametrize("where", ["connection_made", "pipe_data_received", "process_exited", "connection_lost"])
def test_a_protocol_that_raises(loop_name, where):
    """The report is asyncio's, and nothing is left."""

    async def main():
        class Raises(Child):
            pass

        def raising(self, *args):
            getattr(Child, where)(self, *args)
            raise ZeroDivisionError(where)

        setattr(Raises, where, raising)
        child = await outcome(spawn(*sh("echo out; exit 2"), make=Raises))
        if child[0] == "raises":
            await asyncio.sleep(0.05)
            return child
        child = child[1]
        await asyncio.wait_for(child.lost, 5)
        return child.account()

    theirs = observe("asyncio", main)
    if loop_name == "aioxide":
        ours = observe("aioxide", main)
        assert ours["result"] == theirs["result"]
        assert [report[1:] for report in ours["reports"]] == [report[1:] for report in theirs["reports"]]
