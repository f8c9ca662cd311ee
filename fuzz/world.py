"""One loop, what a sequence of steps has made on it, and the account of what was seen.

The steps between two rests are a segment. An event belongs to a segment and to a channel; of each pair only the order
is compared. Steps are carried out inside a callback of the loop, several in one callback unless one asks to stand
outside, so that races within a turn are met. A turn is one `run_forever` with `stop()` called before: both loops poll
once and run what is ready. At rest nothing is ready, the kernel has nothing to report, and what was awaited from
threads, timers and processes has come.
"""

import asyncio
import gc
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import warnings

#: Seconds until something that must come by itself (a thread's call, a short timer, a child's end) counts as lost:
#: the option --late.
LATE_S = 3
#: Seconds that the kernel may take to carry a byte over loopback.
CARRY_S = 0.2
MOST_TURNS = 20_000

_NOISE = [
    (re.compile(r"0x[0-9a-f]+"), "0x"),
    (re.compile(r"\bfd=\d+"), "fd=N"),
    (re.compile(r"(127\.0\.0\.1)(', |:)\d+"), r"\1\2PORT"),
    (re.compile(r"(/[\w.-]+)+\.py:\d+"), "FILE"),
    (re.compile(r"\b_?(Unix)?SelectorEventLoop\b"), "EventLoop"),
    (re.compile(r"\b_?\w*Transport\b"), "Transport"),
    (re.compile(r"<[^<>]*\.\.\.[^<>]*>+"), "<...>"),
    (re.compile(r"\bTask-\d+"), "Task-N"),
    (re.compile(r"\bpid[= ]\d+"), "pid=N"),
    (re.compile(r"/tmp/fuzz-\w+"), "DIR"),
]


def plain(text):
    """A text without what differs from run to run."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text


def describe(error):
    """An exception as plain data. The words of a TypeError are those of whoever refused."""
    if error is None:
        return None
    inner = [describe(one) for one in getattr(error, "exceptions", ())]
    text = "" if isinstance(error, TypeError) else plain(str(error))
    return [type(error).__name__, text, *inner]


class World:
    """What steps work on. Lists only grow, and steps name their members by number, modulo the length."""

    def __init__(self, make_loop, farewells):
        self.segments = [{}]
        self._noted = 0
        #: Reports of finalizers, which come when the last reference goes: what asyncio keeps in cycles, aioxide may not.
        self.farewells = farewells
        self.futures, self.tasks, self.handles = [], [], []
        #: Tasks that wait for other tasks, or have children which do.
        self.joining = set()
        self.locks, self.events, self.queues = [], [], []
        self.connections, self.servers, self.sockets, self.watched = [], [], [], []
        self.secure = []
        self.endpoints, self.processes, self.pipes, self.signals = [], [], [], set()
        self.threads = []
        #: Called at the end, the last first: close what asyncio leaves to its user.
        self.cleaning = []
        self.counters = {}
        self._awaited = set()
        self._expected = []
        self._folder = None
        self._over = False
        #: Since the last rest `call_soon_threadsafe` was called in the loop's own thread.
        self.woken = False
        self.base = time.monotonic()
        self.loop = make_loop()
        self.loop.set_exception_handler(self._report)
        self.loop.slow_callback_duration = 1000

    # The account.

    def note(self, channel, *event):
        self._noted += 1
        events = self.segments[-1].setdefault(channel, [])
        if event[0] == "data" and events and events[-1][0] == "data":
            events[-1] = ("data", events[-1][1] + event[1])
        else:
            events.append(event)

    def number(self, what):
        self.counters[what] = count = self.counters.get(what, -1) + 1
        return count

    def _report(self, loop, context):
        others = sorted(set(context) - {"message", "exception"})
        report = (plain(context["message"]), describe(context.get("exception")), others)
        if "never retrieved" in report[0] or "destroyed" in report[0]:
            self.farewells.append(report)
        else:
            # What comes from other threads, or by signals, comes in no order with the rest.
            self.note(f"reports: {report[0]}", *report[1:])

    # What steps use.

    def pick(self, things, index):
        """One of them, or None."""
        return things[index % len(things)] if things else None

    def spawn(self, channel, coroutine, keep=False, shows=lambda result: result):
        """Run it as a task, and note on the channel how it ends."""

        async def watched():
            try:
                result = await coroutine
            except BaseException as error:
                self.note(channel, "raises", describe(error))
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                return None
            self.note(channel, "is", shows(result))
            return result

        task = self.loop.create_task(watched())
        if keep:
            self.tasks.append(task)
        return task

    def awaiting(self):
        """Rest comes only after a call of what this returns."""
        token = object()
        self._awaited.add(token)

        def come():
            if token in self._awaited:
                self._awaited.remove(token)
                if not self._awaited and not self._over:
                    self.loop.stop()

        return come

    def expect(self, condition):
        """Rest waits a little for this: the kernel is about to bring it."""
        self._expected.append(condition)

    def folder(self):
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="fuzz-")
        return self._folder

    # Running.

    def turn(self):
        self.loop.stop()
        self._run()

    def _run(self):
        try:
            self.loop.run_forever()
        except BaseException as error:  # SystemExit and KeyboardInterrupt leave the loop
            self.note("run", describe(error))

    def rest(self):
        """Run until nothing happens any more, and begin a new segment."""
        idle, turns, seen = 0, 0, None
        while idle < 2:
            if seen != self._noted:
                seen = self._noted
                limit = time.monotonic() + CARRY_S
            self.turn()
            turns += 1
            if self.loop._ready or seen != self._noted:
                idle = 0
            elif self._awaited:
                idle = 0
                self._wait()
            elif self._expected and time.monotonic() < limit:
                idle = 0
                self._expected = [condition for condition in self._expected if not condition()]
                if self._expected and seen == self._noted:
                    time.sleep(0.0001)
            else:
                idle += 1
            if turns > MOST_TURNS:
                self.note("run", "it never comes to rest")
                break
        self._expected.clear()
        self.woken = False
        self.segments.append({})

    def _wait(self):
        """Sleep in the kernel until all that is awaited has come."""
        guard = self.loop.call_later(LATE_S, self.loop.stop)
        deadline = time.monotonic() + LATE_S
        while self._awaited and time.monotonic() < deadline:
            self._run()
        guard.cancel()
        if self._awaited:
            self.note("run", "never came", len(self._awaited))
            self._awaited.clear()

    def carry_out(self, steps, operations):
        batch = []
        for step in steps:
            name = step[0]
            if name == "turn":
                self._batch(batch)
                self.turn()
            elif name == "rest":
                self._batch(batch)
                self.rest()
            elif operations[name].outside:
                self._batch(batch)
                self.turn()
                self._one(step, operations[name])
                if operations[name].rests:
                    self.rest()
            else:
                batch.append((step, operations[name]))
                if operations[name].rests:
                    self._batch(batch)
                    self.rest()
        self._batch(batch)

    def _batch(self, batch):
        if batch:
            self.loop.call_soon(self._carry_out_batch, batch[:])
            batch.clear()

    def _carry_out_batch(self, batch):
        for step, operation in batch:
            self._one(step, operation)

    def _one(self, step, operation):
        try:
            operation.call(self, *step[1:])
        except Exception as error:
            self.note(operation.channel, step[0], describe(error))

    def finish(self):
        """Cancel what is left, close everything, and note what will not go."""
        self.rest()
        for _ in range(5):
            pending = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            # In the order of their making, so far as their names tell it; the set has none.
            pending.sort(key=lambda task: [int(part) for part in re.findall(r"\d+", task.get_name())])
            if not pending:
                break
            self.note("end", "pending", len(pending))
            for task in pending:
                try:
                    task.cancel()
                except RecursionError:  # programs nested too deeply are left as they are
                    self.note("end", "too deep")
            self.rest()
        for clean in reversed(self.cleaning):
            try:
                clean()
            except Exception as error:
                self.note("end", "cleaning", describe(error))
        self.rest()
        for shutdown in (self.loop.shutdown_asyncgens, self.loop.shutdown_default_executor):
            come = self.awaiting()
            self.spawn("end", shutdown()).add_done_callback(lambda task, come=come: come())
            self.rest()
        for thread in self.threads:
            thread.join(LATE_S)
        self._over = True
        self.loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder)


class OrderedSet(dict):
    """A set in the order of insertion."""

    def __init__(self, members=()):
        super().__init__(dict.fromkeys(members))

    def add(self, member):
        self[member] = None

    def discard(self, member):
        self.pop(member, None)

    remove = dict.__delitem__


def order_sets():
    """asyncio keeps tasks in sets, whose order is that of their addresses: here it is the same on every run."""
    for module in (asyncio.tasks, getattr(asyncio, "taskgroups", None)):
        if module is not None:
            module.set = OrderedSet


class _Listener(logging.Handler):
    def __init__(self, seen):
        super().__init__(logging.WARNING)
        self.seen = seen

    def emit(self, record):
        self.seen.append(("log", plain(record.getMessage().partition("\n")[0])))


def descriptors():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(number))
        except OSError:  # that of listdir
            continue
        found.add(int(number))
    return found


def account(make_loop, steps, operations):
    """Carry out a sequence on a new loop; all that was seen, as plain data."""
    seen = []
    listener = _Listener(seen)
    logger = logging.getLogger("asyncio")
    logger.addHandler(listener)
    logger.propagate = False
    before = descriptors()
    threads = threading.active_count()
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda it: seen.append(("unraisable", describe(it.exc_value)))
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.showwarning = lambda message, category, *rest: seen.append(
                ("warning", category.__name__, plain(str(message)))
            )
            world = World(make_loop, seen)
            world.carry_out(steps, operations)
            world.finish()
            segments = world.segments
            # A thread on its way out holds what it was called with.
            deadline = time.monotonic() + 1
            while threading.active_count() > threads and time.monotonic() < deadline:
                time.sleep(0.0005)
            del world
            gc.collect()
    finally:
        gc.enable()
        logger.removeHandler(listener)
        sys.unraisablehook = unraisable
    left = []
    if descriptors() != before:
        left.append(["descriptors", len(descriptors() - before), len(before - descriptors())])
    if threading.active_count() > threads:
        left.append(["threads", threading.active_count() - threads])
    try:
        left.append(["child", os.waitpid(-1, os.WNOHANG)[1]])
    except ChildProcessError:
        pass
    # Of what finalizers say only how often each was said counts.
    return {"segments": segments, "said": sorted(map(repr, seen)), "left": left}
