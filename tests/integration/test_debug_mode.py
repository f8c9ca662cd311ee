"""Debug mode is asyncio's: everything it tells, in every way of switching it on, and nothing when it is off.

The scenarios (`debugging_callbacks.py`, `debugging_reports.py`) run in an interpreter of its own, once on asyncio and once
on aioxide.
"""

import asyncio
import difflib
import functools
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import aioxide
import debugging
import pytest

PROGRAM = Path(__file__).with_name("debug_child.py")
LIMIT_S = 50

#: name: (options of the interpreter, environment, word for the program, is it on?)
WAYS = {
    "environment": (["-W", "ignore"], {"PYTHONASYNCIODEBUG": "1"}, "loop", True),
    "development mode": (["-X", "dev"], {}, "loop", True),
    "PYTHONDEVMODE": ([], {"PYTHONDEVMODE": "1"}, "loop", True),
    "set_debug() before": ([], {}, "before", True),
    "set_debug() while running": ([], {}, "while", True),
    "run(debug=True)": ([], {}, "run", True),
    "Runner(debug=True)": ([], {}, "runner", True),
    "run(debug=False)": ([], {"PYTHONASYNCIODEBUG": "1"}, "run-off", False),
    "ignored environment": (["-E"], {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"}, "loop", False),
    "empty environment": ([], {"PYTHONASYNCIODEBUG": ""}, "loop", False),
    "off": ([], {}, "loop", False),
}


@functools.cache
def told(loop_name, way):
    """What each scenario has told: a dict of lists."""
    options, environment, word, _ = WAYS[way]
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE")}
    done = subprocess.run(
        [sys.executable, *options, PROGRAM, loop_name, word],
        capture_output=True, text=True, timeout=LIMIT_S, env={**clean, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def words_of(lines):
    return "\n".join("| ".join(map(str, line)) for line in lines).splitlines()


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_told_as_asyncio_tells_it(way):
    if way == "Runner(debug=True)" and sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is of 3.11")
    theirs, ours = told("asyncio", way), told("aioxide", way)
    assert list(ours) == list(theirs)
    differing = {
        name: list(difflib.unified_diff(words_of(theirs[name]), words_of(ours[name]), "asyncio", "aioxide", n=1))
        for name in theirs
        if theirs[name] != ours[name]
    }
    assert not differing, "\n".join([name + "\n" + "\n".join(lines) for name, lines in differing.items()])


#: Scenario: what must be in that which it tells, so that an equal silence is no success.
EXPECTED = {
    "slow_handles": "Executing <TimerHandle when=N slow(",
    "slow_tasks": "Executing <Task finished name='ends_slowly'",
    "slow_protocols": "Executing <Handle SocketTransport._read_ready()",
    "slow_in_real_time": "Executing <Handle sleep(",
    "thread_checks": "Non-thread-safe operation invoked on an event loop other than the current one",
    "callback_checks": "coroutines cannot be used with call_at()",
    "never_awaited": "Coroutine created at (most recent call last)",
    "exceptions_in_callbacks": "handle_traceback: Handle created at (most recent call last)",
    "never_retrieved": "source_traceback: Object created at (most recent call last)",
    "destroyed_pending": "source_traceback: Object created at (most recent call last)",
    "a_reset_connection": "Fatal read error on socket transport",
    "addresses": "Getting address info a.name:80 took TIME",
    "blocking_sockets": "the socket must be non-blocking",
    "the_way_of_a_connection": "resumes reading",
    "closing_other_loops": "Close <EventLoop running=False closed=False debug=True>",
    "representations": "<Handle cancelled slow(",
}


#: These are told in any mode.
ALWAYS = {
    "errors_of_transports": "Fatal error: protocol.data_received() call failed.",
    "unclosed_things": "unclosed transport",
    "generators_after_shutdown": "was scheduled after loop.shutdown_asyncgens() call",
}


@pytest.mark.parametrize("way", WAYS)
def test_there_is_something_to_tell_when_it_is_on(way):
    if way == "Runner(debug=True)" and sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner is of 3.11")
    is_on = WAYS[way][-1]
    said = {name: "\n".join(words_of(lines)) for name, lines in told("aioxide", way).items()}
    assert {name: True for name in ALWAYS} == {name: text in said[name] for name, text in ALWAYS.items()}
    assert len(said) > 25
    assert {name: is_on for name in EXPECTED} == {name: text in said[name] for name, text in EXPECTED.items()}


def test_a_slow_transport_is_named_with_its_connection(caplog):
    """asyncio tells `<Handle _SelectorSocketTransport._read_ready() created at ...>`, and not whose it is."""
    loop = aioxide.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = debugging.SLOW_S
    loop.time = clock = debugging.Clock()

    class Slow(asyncio.Protocol):
        def data_received(self, data):
            clock.sleep(debugging.LONG_S)

    async def main():
        here, there = socket.socketpair()
        transport, _ = await loop.create_connection(Slow, sock=here)
        there.send(b"x")
        await asyncio.sleep(0.01)
        name = repr(transport)
        transport.close()
        await asyncio.sleep(0)
        there.close()
        return name

    with caplog.at_level(logging.WARNING, "asyncio"):
        name = loop.run_until_complete(main())
    loop.close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"Executing <Handle SocketTransport._read_ready() of {name}> took ")


@pytest.mark.parametrize("kind", ["call_soon", "task", "timer"])
def test_a_representation_that_raises_ends_nothing(caplog, kind):
    loop = aioxide.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0

    class Wrong:
        def __repr__(self):
            raise ZeroDivisionError

        def __call__(self):
            pass

    async def main():
        if kind == "task":
            task = asyncio.create_task(asyncio.sleep(0))
            await task
        elif kind == "call_soon":
            loop.call_soon(Wrong())
        else:
            loop.call_later(0, Wrong())
        await asyncio.sleep(0.01)
        return "well"

    with caplog.at_level(logging.WARNING, "asyncio"):
        assert loop.run_until_complete(main()) == "well"
    loop.close()
