"""Child processes for tests: short programs, and a protocol that writes down what it is told."""

import asyncio
import os
import re
import threading
import time

import aioxide
import pytest
from differential import describe, observe, plain

CAT = ("cat",)


def sh(line, *args):
    return ("/bin/sh", "-c", line, *args)


class Child(asyncio.SubprocessProtocol):
    """Its calls in order; data joined by descriptor."""

    def __init__(self):
        self.calls = []
        self.data = {}
        self.transport = None
        self.lost = asyncio.get_running_loop().create_future()
        self.exited = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def pipe_data_received(self, fd, data):
        if fd not in self.data:
            self.calls.append(("data", fd))
        self.data[fd] = self.data.get(fd, b"") + data

    def pipe_connection_lost(self, fd, error):
        self.calls.append(("pipe lost", fd, describe(error)))

    def process_exited(self):
        self.calls.append(("exited", self.transport.get_returncode()))
        self.exited.set_result(None)

    def connection_lost(self, error):
        self.calls.append(("lost", describe(error)))
        self.transport.close()  # asyncio's warns otherwise, when it is deleted
        self.lost.set_result(None)

    def account(self):
        """The calls, the pipes' in the order of their descriptors: whose end comes first is the kernel's affair."""
        pipes = sorted((call for call in self.calls if is_of_a_pipe(call)), key=lambda call: (call[1], call[0]))
        return pipes, [call for call in self.calls if not is_of_a_pipe(call)], self.data

    def assert_in_order(self):
        """What asyncio promises whatever the kernel does."""
        assert self.calls[0] == "made" and self.calls[-1][0] == "lost"
        for fd in self.data:
            kinds = [call[0] for call in self.calls if is_of_a_pipe(call) and call[1] == fd]
            assert kinds == ["data", "pipe lost"]
        names = [call[0] for call in self.calls if not is_of_a_pipe(call)]
        assert names.count("exited") == names.count("lost") == 1


def is_of_a_pipe(call):
    return call[0] in ("data", "pipe lost")


async def spawn(*args, make=Child, **options):
    _, protocol = await asyncio.get_running_loop().subprocess_exec(make, *args, **options)
    return protocol


def texts_of(transport):
    """The repr of a transport without what differs by name or from run to run."""
    text = plain(re.sub(r"\bpid=\d+", "pid=N", repr(transport)))
    text = re.sub(r"\b_?\w*?(Read|Write|Sub)\w*Transport\b", r"\1Transport", text)
    return re.sub(r"\bpolling|idle\b", "STATE", text)


def await_waiting_threads():
    """Up to 3.11 asyncio waits for each child in a thread, which ends a little later."""
    deadline = time.monotonic() + 5
    while any(thread.name.startswith(("waitpid", "asyncio-waitpid")) for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_no_zombie():
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    raise AssertionError(f"a child is left: {left}")


# --- fixtures, for modules that import them --------------------------------------------------------

#: Falls away, with its mark, once aioxide starts processes.
MISSING = "not implemented yet" in (aioxide.EventLoop.subprocess_exec.__doc__ or "")
until_there = pytest.mark.xfail(MISSING, reason="aioxide starts no processes yet")

#: Of 3.12: a preexec_fn while threads run, those of pools among them.
WITH_THREADS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(params=["asyncio", pytest.param("aioxide", marks=until_there)])
def loop_name(request):
    return request.param


@pytest.fixture(autouse=True)
def no_children_left(no_leaks):
    yield
    await_waiting_threads()
    assert_no_zombie()


@pytest.fixture
def seen(loop_name):
    """Runs a scenario on the loop; on aioxide, what is seen must be what is seen on asyncio."""

    def seen(scenario, *args):
        theirs = observe("asyncio", scenario, *args)
        if loop_name == "aioxide":
            assert observe("aioxide", scenario, *args) == theirs
        assert theirs["reports"] == []
        return theirs["result"]

    return seen
