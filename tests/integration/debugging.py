"""What the scenarios of debug mode share: what a user sees, in plain words, and a clock that can be put forward.

`debug_child.py` runs the scenarios (`debugging_callbacks.py`, `debugging_reports.py`) for `test_debug_mode.py`.
"""

import asyncio
import logging
import re
import socket
import time
import traceback

#: A callback is slow if it takes so long (s), and how long ours take: by the loop's clock, which they put forward. So
#: nothing is slow by accident, and nobody waits.
SLOW_S = 10_000.0
LONG_S = 20_000.0


class Clock:
    ahead = 0.0

    def __call__(self):
        return time.monotonic() + self.ahead

    def sleep(self, seconds):
        self.ahead += seconds


clock = Clock()
sleep = clock.sleep

#: Files whose frames are the loop's own business.
_INNER = re.compile(r"/asyncio/|/aioxide/|/concurrent/|/threading\.py|<frozen|/logging/|/traceback\.py|/warnings\.py")
_NOISE = [
    (re.compile(r"0x[0-9a-f]+"), "0x"),
    (re.compile(r"\bfd=\d+"), "fd=N"),
    (re.compile(r"Task-\d+"), "Task-N"),
    (re.compile(r"(127\.0\.0\.1)', \d+"), r"\1', PORT"),
    (re.compile(r"(127\.0\.0\.1):\d+"), r"\1:PORT"),
    (re.compile(r"\b_?(Selector)?SocketTransport\b"), "SocketTransport"),
    (re.compile(r"<(_SelectorSoc|SocketTransp)\.\.\."), "<SocketTransp..."),
    (re.compile(r"\b(_UnixSelectorEventLoop|Base(Selector)?EventLoop|EventLoop|Connecting)\b"), "EventLoop"),
    (re.compile(r"took \d+\.\d+ seconds"), "took N seconds"),
    (re.compile(r"\d+\.\d+ms"), "TIME"),
    (re.compile(r"when=\d+\.\d+"), "when=N"),
    # Where something was made is compared by its frames: asyncio often shows a line of its own here.
    (re.compile(r"created at /\S*?\.py:\d+"), "created at FILE"),
    (re.compile(r"\.\.\.[\w/]*\.py:\d+"), "...FILE"),
    (re.compile(r"/\S*/(asyncio|aioxide)/\w+\.py:\d+"), "INNER"),
    (re.compile(r"/\S*/(\w+\.py)"), r"\1"),
]

#: How many of the user's own frames of a traceback are compared: asyncio's limit of ten counts the loop's own.
LAST_FRAMES = 2


def without_inner_frames(text):
    """A text with tracebacks, of which the user's own last frames are kept, without the marks below source lines."""
    kept, frames = [], []
    in_frame = False
    for line in [*text.splitlines(), ""]:
        if re.match(r'\s*File "', line):
            # Those that start the loop are within asyncio's limit of ten frames, or not.
            in_frame = not _INNER.search(line) and not re.search(r"in (<module>|main)$", line)
            if in_frame:
                frames.append([line])
        elif line.startswith("    "):
            if in_frame and not re.match(r"[\s~^]+$", line):
                frames[-1].append(line)
        else:
            kept += [line for frame in frames[-LAST_FRAMES:] for line in frame]
            frames, in_frame = [], False
            kept.append(line)
    # An exception that native code has raised has no traceback.
    return re.sub(r"Traceback \(most recent call last\):\n(?! )", "", "\n".join(kept[:-1]))


def plain(text):
    # What a native loop adds: whose the callback is. And it has no handle that could have been cancelled.
    text = re.sub(r"(Executing <Handle \S+\(\)) of <.*>> took", r"\1 created at FILE> took", text)
    text = re.sub(r"<Handle cancelled (\w+SocketTransport\._read_ready)", r"<Handle \1", text)
    text = without_inner_frames(text)
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


class Seen(logging.Handler):
    """What a user sees, in order."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def add(self, *words):
        self.lines.append([plain(word) if isinstance(word, str) else word for word in words])

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Using selector"):
            return  # of each loop that is made, debug mode or not; a native loop has no selector
        if "Executing" in text and "observe_" in text:
            return  # the task that runs the scenarios: the clock is put forward in threads, too
        if record.exc_info and record.exc_info[0]:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info))
        self.add("log", record.levelname, text)

    def warning(self, message, category, filename, lineno, file=None, line=None):
        self.add("warning", category.__name__, str(message))

    def raised_by(self, call, *args, **kwargs):
        try:
            result = call(*args, **kwargs)
        except Exception as error:
            self.add("raised", type(error).__name__, str(error))
            return None
        self.add("fine", result.__class__.__name__)
        return result


def user_frames(tb):
    """The frames of a `_source_traceback` that are this file's."""
    if tb is None:
        return None
    return [[frame.name, frame.line] for frame in tb if not _INNER.search(frame.filename)]


SCENARIOS = []


def scenario(function):
    SCENARIOS.append(function)
    return function


async def turns(n=5):
    for _ in range(n):
        await asyncio.sleep(0)


def slow(*_args):
    sleep(LONG_S)


class Slow:
    def method(self, *_args):
        sleep(LONG_S)

    def __repr__(self):
        return "<a Slow>"


def print_nothing(*_args):
    pass


async def a_coroutine_function():
    pass


class SlowProtocol(asyncio.Protocol):
    slow = ()

    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
        if "made" in self.slow:
            sleep(LONG_S)

    def data_received(self, data):
        if "data" in self.slow:
            sleep(LONG_S)

    def eof_received(self):
        if "eof" in self.slow:
            sleep(LONG_S)

    def connection_lost(self, exc):
        if "lost" in self.slow:
            sleep(LONG_S)
        self.lost.set_result(None)


async def connected(loop, factory=SlowProtocol):
    here, there = socket.socketpair()
    there.setblocking(False)
    here.setblocking(False)
    transport, protocol = await loop.create_connection(factory, sock=here)
    return transport, protocol, there
