# ruff: noqa: F401, F811  # fixtures are imported
"""All that `subprocess.Popen` can be asked, what asyncio refuses of it, and what descriptors a child gets."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from children import CAT, WITH_THREADS, Child, loop_name, no_children_left, seen, sh, spawn
from differential import describe, outcome

PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT

pytestmark = WITH_THREADS


# --- what Popen can be asked -----------------------------------------------------------------------


def says(expression):
    """A child in Python that prints what an expression is."""
    return sys.executable, "-S", "-c", f"import os, signal; print({expression})"


KEYWORDS = {
    "cwd": (sh("pwd"), {"cwd": "/usr"}, b"/usr\n"),
    "cwd as bytes": (sh("pwd"), {"cwd": b"/usr"}, b"/usr\n"),
    "env": (("/usr/bin/env",), {"env": {"ONE": "1"}}, b"ONE=1\n"),
    "env as bytes": (("/usr/bin/env",), {"env": {b"ONE": b"\xff"}}, b"ONE=\xff\n"),
    "an empty env": (("/usr/bin/env",), {"env": {}}, b""),
    "executable": (("shown", "-c", "echo $0"), {"executable": "/bin/sh"}, b"shown\n"),
    "bytes": ((b"/bin/sh", b"-c", b"echo \xff"), {}, b"\xff\n"),
    "start_new_session": (says("os.getsid(0) == os.getpid()"), {"start_new_session": True}, b"True\n"),
    "no new session": (says("os.getsid(0) == os.getpid()"), {}, b"False\n"),
    "umask": (sh("umask"), {"umask": 0o27}, b"0027\n"),
    "preexec_fn": (sh("echo after"), {"preexec_fn": lambda: os.write(1, b"before ")}, b"before after\n"),
    "preexec_fn and cwd": (
        sh("true"),
        {"preexec_fn": lambda: os.write(1, os.getcwd().encode()), "cwd": "/usr"},
        b"/usr",
    ),
    "stderr to stdout": (sh("echo err >&2"), {"stderr": STDOUT}, b"err\n"),
    "stdin of nothing": (CAT, {"stdin": DEVNULL}, b""),
    "pipesize": (sh("echo x"), {"pipesize": 4096}, b"x\n"),
    "close_fds": (sh("echo x"), {"close_fds": True}, b"x\n"),
}
if sys.version_info >= (3, 11):
    KEYWORDS["process_group"] = (says("os.getpgid(0) == os.getpid()"), {"process_group": 0}, b"True\n")
    KEYWORDS["no process_group"] = (says("os.getpgid(0) == os.getpid()"), {}, b"False\n")
if os.getuid() == 0:
    KEYWORDS |= {
        "user": (("id", "-u"), {"user": 65534}, b"65534\n"),
        "user by name": (("id", "-u"), {"user": "nobody"}, b"65534\n"),
        "group": (("id", "-g"), {"group": 65534}, b"65534\n"),
        "extra_groups": (("id", "-G"), {"extra_groups": [1, 2], "group": 65534}, b"65534 1 2\n"),
        "no extra_groups": (("id", "-G"), {"extra_groups": [], "group": 65534}, b"65534\n"),
    }


@pytest.mark.parametrize("case", KEYWORDS)
def test_a_keyword_of_popen(run, case):
    args, options, expected = KEYWORDS[case]

    async def main():
        process = await asyncio.create_subprocess_exec(*args, stdout=PIPE, **options)
        return await process.communicate(), process.returncode

    assert run(main) == ((expected, None), 0)


@pytest.mark.parametrize("restore", [True, False])
def test_restore_signals(run, restore):
    async def main():
        process = await asyncio.create_subprocess_exec(
            "grep", "SigIgn", "/proc/self/status", stdout=PIPE, restore_signals=restore
        )
        out, _ = await process.communicate()
        return int(out.split()[1], 16) >> (signal.SIGPIPE - 1) & 1

    assert run(main) == (not restore)


@pytest.mark.skipif(not hasattr(fcntl, "F_GETPIPE_SZ"), reason="of Linux")
def test_pipesize(run):
    async def main():
        child = await spawn(*CAT, stderr=DEVNULL, pipesize=8192)
        pipe = child.transport.get_pipe_transport(1).get_extra_info("pipe")
        size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        child.transport.close()
        await child.lost
        return size

    assert run(main) == 8192


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("exec", {"universal_newlines": True}),
        ("exec", {"text": True}),
        ("exec", {"encoding": "utf-8"}),
        ("exec", {"errors": "strict"}),
        ("exec", {"bufsize": 1}),
        ("exec", {"shell": True}),
        ("exec", {"no_such_keyword": 1}),
        ("exec", {"creationflags": 1}),
        ("exec", {"pass_fds": [0], "close_fds": False}),
        ("exec", {"stdout": "text"}),
        ("exec", {"stderr": PIPE, "stdout": STDOUT}),
        ("shell", {"universal_newlines": True}),
        ("shell", {"text": True}),
        ("shell", {"encoding": "utf-8"}),
        ("shell", {"bufsize": 1}),
        ("shell", {"shell": False}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:pass_fds overriding close_fds:RuntimeWarning")
def test_what_is_refused(seen, kind, options):
    if options == {"stdout": "text"} and sys.version_info < (3, 11):
        pytest.skip("Popen of 3.10 leaves its pipes")

    async def main():
        loop = asyncio.get_running_loop()
        try:
            _, child = await getattr(loop, f"subprocess_{kind}")(Child, "true", **options)
        except Exception as error:
            return "raises", describe(error)
        await child.lost
        return "is", child.account()

    seen(main)


@pytest.mark.parametrize("command", [5, None, ["true"], b"exit 3", "exit 3"], ids=str)
def test_commands_of_a_shell(seen, command):
    async def main():
        try:
            process = await asyncio.create_subprocess_shell(command)
        except Exception as error:
            return describe(error)
        return await process.wait()

    seen(main)


def test_a_program_that_is_no_text(seen):
    async def main():
        return [await outcome(asyncio.create_subprocess_exec(what)) for what in (5, None, ["true"], b"/nonexistent")]

    seen(main)


@pytest.mark.parametrize("shell", [None, "/bin/bash"])
def test_a_shell(run, shell):
    async def main():
        options = {} if shell is None else {"executable": shell}
        process = await asyncio.create_subprocess_shell("echo $((6 * 7)); exit 2", stdout=PIPE, **options)
        return (await process.communicate())[0], process.returncode

    assert run(main) == (b"42\n", 2)


# --- descriptors -----------------------------------------------------------------------------------

LIST = ("ls", "/proc/self/fd")


def listed(run, **options):
    async def main():
        process = await asyncio.create_subprocess_exec(*LIST, stdin=PIPE, stdout=PIPE, stderr=PIPE, **options)
        return {int(name) for name in (await process.communicate())[0].split()}

    return run(main)


def test_no_stray_descriptor_in_the_child(run):
    with socket.socket() as one, open("/dev/null") as two:
        os.set_inheritable(one.fileno(), True)
        os.set_inheritable(two.fileno(), True)
        # 3 is the folder that is being listed.
        assert listed(run) == {0, 1, 2, 3}


def test_pass_fds(run):
    with open("/dev/null") as file:
        assert not os.get_inheritable(file.fileno())
        number = fcntl.fcntl(file, fcntl.F_DUPFD, 50)
        try:
            assert listed(run, pass_fds=[number]) == {0, 1, 2, 3, number}
        finally:
            os.close(number)


def test_without_close_fds_the_inheritable_ones_are_passed_and_no_others(run):
    with open("/dev/null") as file:
        kept, closed = (fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 60 + at) for at in range(2))
        os.set_inheritable(kept, True)
        try:
            found = listed(run, close_fds=False)
        finally:
            os.close(kept)
            os.close(closed)
    # Of the loop's and the transport's own there is none.
    assert kept in found and closed not in found
    assert {number for number in found if number > 3} <= {kept, *inheritable()}


def inheritable():
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found


def test_files_and_numbers_as_ends(run, tmp_path):
    async def main():
        (tmp_path / "in").write_bytes(b"from a file")
        with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
            process = await asyncio.create_subprocess_exec(*CAT, stdin=source, stdout=target.fileno(), stderr=target)
            return await process.wait()

    assert run(main) == 0
    assert (tmp_path / "out").read_bytes() == b"from a file"


def test_the_parents_ends_are_not_inherited_and_do_not_block(run):
    async def main():
        child = await spawn(*CAT)
        seen = []
        for fd in range(3):
            pipe = child.transport.get_pipe_transport(fd).get_extra_info("pipe")
            mode = os.fstat(pipe.fileno()).st_mode
            is_known = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
            seen.append((is_known, os.get_inheritable(pipe.fileno()), os.get_blocking(pipe.fileno())))
        child.transport.close()
        await child.lost
        return seen

    assert run(main) == [(True, False, False)] * 3


def test_the_protocols_of_a_childs_pipes_by_name(seen):
    async def scenario():
        child = await spawn(*CAT)
        pipes = [child.transport._pipes[fd] for fd in (0, 1, 2)]
        names = [repr(pipe).partition(" pipe=")[0] for pipe in pipes]
        child.transport.get_pipe_transport(0).close()
        await child.lost
        return names

    assert seen(scenario) == [
        "<WriteSubprocessPipeProto fd=0",
        "<ReadSubprocessPipeProto fd=1",
        "<ReadSubprocessPipeProto fd=2",
    ]
