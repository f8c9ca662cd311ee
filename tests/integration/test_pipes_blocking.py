"""Pipes that somebody else has made blocking: `O_NONBLOCK` is the open file's, which a child may share.

A call may wait then, as asyncio's does; other threads and signal handlers must run meanwhile.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import pytest
from pipe_ends import TOO_MUCH, Pipe, read_all, read_to_end, reading, settle, writing

pytestmark = pytest.mark.usefixtures("no_leaks")

LIMIT_S = 20
SOON_S = 0.05

#: In a process of its own: one that keeps the interpreter while it waits for its own thread cannot be ended from inside.
PROGRAM = """
import asyncio, os, socket, sys, threading
from io import FileIO
import aioxide

loop_name, what, kind = sys.argv[1:]
SIZE = 1_000_000
HALF = b"x" * (SIZE // 2)

def ends():
    if kind == "pipe":
        return os.pipe()
    return [end.detach() for end in socket.socketpair()]

async def write(loop, reader, writer):
    got = 0

    def read():
        nonlocal got
        while got < SIZE:
            got += len(os.read(reader, 65536))

    transport, _ = await loop.connect_write_pipe(asyncio.Protocol, FileIO(writer, "wb"))
    if what == "queued":
        transport.write(HALF)
        assert transport.get_write_buffer_size() > 0
        transport.write(HALF)
    os.set_blocking(writer, True)
    thread = threading.Thread(target=read)
    thread.start()
    if what != "queued":
        transport.write(HALF)
        transport.write(HALF)
    while thread.is_alive():
        await asyncio.sleep(0.001)
    thread.join()
    print(got, transport.get_write_buffer_size())
    transport.close()

class Received(asyncio.Protocol):
    data = b""

    def data_received(self, data):
        self.data += data

async def read(loop, reader, writer):
    transport, received = await loop.connect_read_pipe(Received, FileIO(reader, "rb"))
    os.set_blocking(reader, True)
    threading.Timer(0.05, os.write, (writer, b"late")).start()
    transport._read_ready()
    print(received.data.decode())
    transport.close()

async def main():
    await (read if what == "read" else write)(asyncio.get_running_loop(), *ends())
    await asyncio.sleep(0)

loop = {"asyncio": asyncio.SelectorEventLoop, "aioxide": aioxide.EventLoop}[loop_name]()
loop.run_until_complete(asyncio.wait_for(main(), 15))
loop.close()
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("what", ["at once", "queued", "read"])
def test_the_other_end_is_a_threads_of_the_same_program(loop_name, what, kind):
    command = [sys.executable, "-c", PROGRAM, loop_name, what, kind]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False, env=environment, text=True)
    assert done.stdout == ("late\n" if what == "read" else "1000000 0\n"), done.stderr


@contextlib.contextmanager
def alarm(handler):
    """The handler runs soon, and again and again."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, SOON_S, SOON_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fill(number):
    written = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            written += os.write(number, bytes(4096))
    return written


@contextlib.asynccontextmanager
async def full_and_blocking(queued, make=Pipe):
    """A write transport whose pipe is full; the number of the other end; what writes to it, and waits."""
    async with writing(make) as (source, peer):
        transport = source.transport
        number = transport.get_extra_info("pipe").fileno()
        if queued:
            transport.write(bytes(TOO_MUCH))
        else:
            fill(number)
        os.set_blocking(number, True)
        yield source, peer, transport._write_ready if queued else lambda: transport.write(b"end")


QUEUED = pytest.mark.parametrize("queued", [False, True])


@QUEUED
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_out_of_a_signal_handler_ends_the_wait(run, queued, error):
    def leave():
        raise error

    async def main():
        async with full_and_blocking(queued) as (source, _, write):
            with alarm(leave), pytest.raises(error):
                write()
            assert source.transport._conn_lost == 0 and not source.transport.is_closing()
            assert source.transport.get_write_buffer_size() > 0 or not queued

    run(main)


@QUEUED
def test_another_error_out_of_a_signal_handler_ends_the_connection(run, reports, queued):
    def fail():
        raise ZeroDivisionError("in the handler")

    async def main():
        async with full_and_blocking(queued) as (source, _, write):
            with alarm(fail):
                write()
            assert isinstance(await source.lost, ZeroDivisionError)

    run(main)
    assert reports.take() == [("Fatal write error on pipe transport", ZeroDivisionError)]


@QUEUED
def test_a_signal_handler_that_makes_room(run, queued):
    async def main():
        async with full_and_blocking(queued) as (source, peer, write):
            got = b""

            def read():
                nonlocal got
                got += read_all(peer[0])

            with alarm(read):
                write()
                size = TOO_MUCH if queued else len(got) + 3
                while len(got) < size:
                    await asyncio.sleep(0.01)
                await settle()
            assert got.endswith(b"\0" if queued else b"end")
            assert source.transport.get_write_buffer_size() == 0

    run(main)


@pytest.mark.aioxide_only  # asyncio's buffer cannot be emptied while it is written
@QUEUED
def test_a_signal_handler_that_aborts(run, queued):
    async def main():
        async with full_and_blocking(queued) as (source, peer, write):
            turns = 0

            def end():
                nonlocal turns
                turns += 1
                if turns == 1:
                    source.transport.abort()
                elif turns == 3:
                    read_all(peer[0])

            with alarm(end):
                write()
            assert source.transport.get_write_buffer_size() == 0
            assert await source.lost is None
            assert source.calls[-2:] == [None, "lost"]

    run(main)


@pytest.mark.aioxide_only  # asyncio's buffer cannot grow while it is written
def test_a_signal_handler_that_writes(run):
    async def main():
        async with full_and_blocking(True) as (source, peer, write):
            turns = 0

            def more():
                nonlocal turns
                turns += 1
                if turns == 1:
                    source.transport.write(b"more")
                got.append(read_all(peer[0]))

            got = []
            with alarm(more):
                write()
                while source.transport.get_write_buffer_size():
                    await asyncio.sleep(0.001)
            source.transport.close()
            got.append(await read_to_end(peer[0]))
            assert b"".join(got) == bytes(TOO_MUCH) + b"more"

    run(main)


def test_a_read_that_blocks_is_woken_by_a_signal(run):
    async def main():
        async with reading() as (sink, peer):
            os.set_blocking(sink.transport.get_extra_info("pipe").fileno(), True)
            with alarm(lambda: os.write(peer[0], b"x")):
                sink.transport._read_ready()
            assert sink.received[:1] == b"x"

            def leave():
                raise KeyboardInterrupt

            await settle()
            with alarm(leave), pytest.raises(KeyboardInterrupt):
                sink.transport._read_ready()
            assert not sink.transport.is_closing()

    run(main)
