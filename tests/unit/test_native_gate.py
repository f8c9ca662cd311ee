"""The gate of nativeness: while an aioxide loop works, none of asyncio's loop code runs, nor Python of ours.

Two questions are asked of a loop. Is `asyncio.BaseEventLoop` among its bases? And which Python frames
does `sys.setprofile` see while a thousand echoes, timers or task switches run on it? Only the work is
watched: making the loop, listening and connecting may run Python, once each.

Later features extend `LOOP_CODE` by the modules they replace (streams, locks, queues, tasks, ...).

The self-test puts asyncio's own loop through the same gate, plain, as a subclass and in disguise. Every
workload alone must reject it, or the gate would be blind in that place.
"""

import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.selector_events
import asyncio.tasks
import asyncio.unix_events
import collections
import functools
import gc
import io
import os
import selectors
import socket
import sys

import aioxide
import pytest
from certificates import contexts

N = 1000

PACKAGE = os.path.dirname(os.path.realpath(aioxide.__file__))
LOOP_CODE = {
    os.path.realpath(module.__file__)
    for module in (
        asyncio.base_events,
        asyncio.events,
        asyncio.selector_events,
        asyncio.unix_events,
        selectors,
    )
}


# --- the watch -----------------------------------------------------------------------------------


@functools.cache
def is_foreign(filename):
    """Whether a frame of this file must not run while the loop works."""
    path = os.path.realpath(filename)
    return path in LOOP_CODE or path.startswith(PACKAGE + os.sep)


class Watch:
    """Counts the Python frames that start or go on in this thread, inside the `with` block.

    No garbage is collected meanwhile: finalizers of what earlier tests left behind are not this
    loop's work.
    """

    def __init__(self):
        self.calls = collections.Counter()

    def __enter__(self):
        gc.collect()
        gc.disable()
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *exc_info):
        sys.setprofile(None)
        gc.enable()

    def _on_event(self, frame, event, argument):
        if event == "call":
            self.calls[frame.f_code] += 1

    def foreign(self):
        """`file:function` of the frames that should not have run, with their number."""
        found = collections.Counter()
        for code, count in self.calls.items():
            if is_foreign(code.co_filename):
                found[f"{os.path.basename(code.co_filename)}:{code.co_name}"] += count
        return found


# --- the work ------------------------------------------------------------------------------------


class Endpoint(asyncio.Protocol):
    """One end of a connection; `made` and `lost` are futures for those who set up and clean up."""

    def __init__(self, loop):
        self.made, self.lost = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.made.set_result(None)

    def connection_lost(self, error):
        self.lost.set_result(error)


class Echo(Endpoint):
    def data_received(self, data):
        self.transport.write(data)


class Pinger(Endpoint):
    """Sends a message, waits for its echo, and again."""

    message = b"x" * 1024

    def __init__(self, loop):
        super().__init__(loop)
        self.received = 0
        self.done = loop.create_future()

    def ping(self):
        self.transport.write(self.message)

    def data_received(self, data):
        self.received += len(data)
        rounds, rest = divmod(self.received, len(self.message))
        if rounds == N:
            self.done.set_result(self.received)
        elif not rest:
            self.ping()


async def echoes(loop, watch):
    """A protocol's echo server and its client, over TCP."""
    echo, pinger = Echo(loop), Pinger(loop)
    server = await loop.create_server(lambda: echo, "127.0.0.1", 0)
    await loop.create_connection(lambda: pinger, *server.sockets[0].getsockname())
    await echo.made
    with watch:
        pinger.ping()
        assert await pinger.done == N * len(pinger.message)
    pinger.transport.close()
    assert [await pinger.lost, await echo.lost] == [None, None]
    server.close()
    await server.wait_closed()


async def tls_echoes(loop, watch):
    """The first ones with TLS."""
    server_context, client_context = contexts()
    echo, pinger = Echo(loop), Pinger(loop)
    server = await loop.create_server(lambda: echo, "127.0.0.1", 0, ssl=server_context)
    address = server.sockets[0].getsockname()
    await loop.create_connection(lambda: pinger, *address, ssl=client_context, server_hostname="localhost")
    await echo.made
    with watch:
        pinger.ping()
        assert await pinger.done == N * len(pinger.message)
    pinger.transport.close()
    assert [await pinger.lost, await echo.lost] == [None, None]
    server.close()
    await server.wait_closed()


class Relay(Endpoint):
    """What comes out of one pipe goes into another."""

    into = None

    def data_received(self, data):
        self.into.transport.write(data)


class Drain(Pinger):
    """The pinger of a loop of pipes, which writes to another than it reads from."""

    def ping(self):
        self.out.transport.write(self.message)


async def pipe_echoes(loop, watch):
    """The same over two pipes."""
    (there_out, there_in), (back_out, back_in) = os.pipe(), os.pipe()
    ends = Endpoint(loop), Relay(loop), Endpoint(loop), Drain(loop)
    first, relay, back, last = ends
    relay.into, last.out = back, first
    await loop.connect_write_pipe(lambda: first, io.FileIO(there_in, "wb"))
    await loop.connect_read_pipe(lambda: relay, io.FileIO(there_out, "rb"))
    await loop.connect_write_pipe(lambda: back, io.FileIO(back_in, "wb"))
    await loop.connect_read_pipe(lambda: last, io.FileIO(back_out, "rb"))
    with watch:
        last.ping()
        assert await last.done == N * len(last.message)
    for end in ends:
        end.transport.close()
        assert await end.lost is None


async def stream_echoes(loop, watch):
    """The same with asyncio's streams, whose own code may run for now."""
    served = loop.create_future()

    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def echo():
        writer.write(b"hello\n")
        await writer.drain()
        return await reader.readline()

    assert await echo() == b"hello\n"  # the server's handler runs from here on
    with watch:
        for _ in range(N):
            assert await echo() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    await served
    server.close()
    await server.wait_closed()


async def timers(loop, watch):
    """A thousand that fire, and a thousand that are cancelled."""
    done = loop.create_future()
    fired = []

    def fire(i):
        fired.append(i)
        if len(fired) == N:
            done.set_result(None)

    with watch:
        for i in range(N):
            loop.call_later(i % 10 / 1000, fire, i)
            loop.call_at(loop.time() + 60, fire, -1).cancel()
        await done
    assert sorted(fired) == list(range(N))


async def task_switches(loop, watch):
    """Two tasks that take turns."""
    switches = []

    async def switch(name):
        for _ in range(N):
            switches.append(name)
            await asyncio.sleep(0)

    tasks = [loop.create_task(switch(name)) for name in "ab"]
    with watch:
        for task in tasks:
            await task
    assert "".join(switches) == "ab" * N


async def tasks_and_futures(loop, watch):
    """Tasks that are made and awaited, futures that callbacks set, callbacks of other kinds."""
    called = []

    async def work(i):
        future = loop.create_future()
        future.add_done_callback(called.append)
        loop.call_soon(future.set_result, i)
        return await future

    with watch:
        for i in range(N):
            assert await loop.create_task(work(i)) == i
        loop.call_soon_threadsafe(called.append, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(called) == N + 1


async def socket_calls(loop, watch):
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)

        async def echo():
            for _ in range(N):
                await loop.sock_sendall(there, await loop.sock_recv(there, 100))

        echoing = loop.create_task(echo())
        buffer = bytearray(100)
        with watch:
            for _ in range(N):
                await loop.sock_sendall(here, b"ping")
                assert await loop.sock_recv_into(here, buffer) == 4
        await echoing


WORK = [echoes, tls_echoes, pipe_echoes, stream_echoes, timers, task_switches, tasks_and_futures, socket_calls]
each_work = pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)


# --- the gate ------------------------------------------------------------------------------------


def derives_from_asyncios_loop(loop):
    return asyncio.BaseEventLoop in type(loop).__mro__


def foreign_frames(make_loop, work):
    loop, watch = make_loop(), Watch()
    try:
        loop.run_until_complete(work(loop, watch))
    finally:
        loop.close()
    assert watch.calls, "nothing was seen: the watch is blind"
    return watch.foreign()


# --- aioxide passes ------------------------------------------------------------------------------


def test_the_loop_does_not_derive_from_asyncios():
    loop = aioxide.new_event_loop()
    try:
        assert not derives_from_asyncios_loop(loop)
    finally:
        loop.close()


@each_work
def test_no_python_of_a_loop_runs(work):
    assert foreign_frames(aioxide.new_event_loop, work) == {}


# --- the self-test: the gate rejects ---------------------------------------------------------------


class Subclass(asyncio.SelectorEventLoop):
    pass


class EventLoop(asyncio.SelectorEventLoop):
    """In disguise: by its name and module it is ours."""


EventLoop.__module__ = "aioxide"
EventLoop.__qualname__ = "EventLoop"


class Wrapped(asyncio.AbstractEventLoop):
    """Not even derived from asyncio's loop: it only has one."""

    def __init__(self):
        self._stock = asyncio.SelectorEventLoop()

    def __getattribute__(self, name):
        if name in ("_stock", "__class__"):
            return object.__getattribute__(self, name)
        return getattr(self._stock, name)


STOCK = [asyncio.SelectorEventLoop, Subclass, EventLoop]


@pytest.mark.parametrize("make_loop", STOCK, ids=["stock", "subclass", "disguised"])
def test_asyncios_loop_is_rejected_by_its_bases(make_loop):
    loop = make_loop()
    try:
        assert derives_from_asyncios_loop(loop)
    finally:
        loop.close()


@each_work
@pytest.mark.parametrize("make_loop", [*STOCK, Wrapped], ids=["stock", "subclass", "disguised", "wrapped"])
def test_asyncios_loop_is_rejected_by_each_work(make_loop, work):
    found = foreign_frames(make_loop, work)
    assert any(name.startswith("base_events.py:") for name in found)
    assert sum(found.values()) >= N


def test_python_of_our_own_is_rejected():
    planted = {}
    source = "def step(): pass"
    exec(compile(source, os.path.join(PACKAGE, "_planted.py"), "exec"), planted)

    async def work(loop, watch):
        with watch:
            for _ in range(3):
                planted["step"]()

    assert foreign_frames(asyncio.SelectorEventLoop, work) == {"_planted.py:step": 3}


def test_frames_of_other_files_are_nobodys_concern():
    assert len(LOOP_CODE) == 5
    assert not is_foreign(asyncio.tasks.__file__)
    assert not is_foreign(__file__)
