"""`connect_read_pipe` and `connect_write_pipe`: what goes through, flow control, ends, errors of the kernel.

Most scenarios run on asyncio and on aioxide and are compared.
"""

import asyncio
import contextlib
import errno
import gc
import os
import random
import sys
import tty
import warnings
from io import FileIO

import pytest
from differential import LOOPS, describe, outcome, plain, same
from gathering import warm
from peers import PATIENCE_S, Recorder, close, connect, receive_exactly, reset, tcp_pair
from pipe_ends import (
    KINDS,
    METHODS,
    TOO_MUCH,
    Pipe,
    connect_reader,
    connect_writer,
    ends,
    read_all,
    read_to_end,
    reading,
    settle,
    state,
    writing,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- bytes, and what a transport says of itself ----------------------------------------------------


@pytest.mark.parametrize("size", [1, 8 * 1024, 100_000, TOO_MUCH])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_go_through_whole_and_in_order(kind, size, run, tmp_path):
    data = random.Random(size).randbytes(size)

    async def main():
        reader, writer = ends(kind, tmp_path / "fifo")
        source, sink = await connect_writer(writer), await connect_reader(reader)
        at = 0
        for part in (1, size // 3, size):
            source.transport.write(data[at : at + part])
            at += part
        source.transport.writelines([b"", b"the ", bytearray(b"end")])
        await sink.until_received(size + len(b"the end"))
        source.transport.close()
        assert await source.lost is None
        if kind != "pty":
            assert await sink.lost is None
            assert sink.calls == ["made", "eof", None, "lost"]
        else:
            await sink.lost
        assert sink.received == data + b"the end"

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_the_life_of_a_transport(kind, tmp_path):
    paths = iter([tmp_path / "one", tmp_path / "other"])

    async def scenario():
        reader, writer = ends(kind, next(paths))
        source, sink = await connect_writer(writer), await connect_reader(reader)
        seen = []

        def look(word):
            seen.append((word, state(source.transport), state(sink.transport)))

        look("new")
        assert isinstance(source.transport, asyncio.WriteTransport)
        assert isinstance(sink.transport, asyncio.ReadTransport)
        files = [side.transport.get_extra_info("pipe") for side in (source, sink)]
        assert [file.fileno() for file in files] == [writer, reader]
        assert not os.get_blocking(reader) and not os.get_blocking(writer)
        seen.append([source.transport.get_extra_info("no"), sink.transport.get_extra_info("no", 1)])
        sink.transport.pause_reading()
        look("paused")
        source.transport.write(b"x" * TOO_MUCH)
        source.transport.close()
        seen.append(source.transport.get_write_buffer_size() > 0)
        seen.append(plain(repr(source.transport)).split()[:-1])
        sink.transport.resume_reading()
        await sink.until_received(TOO_MUCH)
        await source.lost
        await sink.lost
        await settle()
        look("closed")
        assert [file.closed for file in files] == [True, True]
        assert [side.transport.get_extra_info("pipe") for side in (source, sink)] == files
        return seen, source.calls, sink.calls

    same(scenario)


class NumberOnly:
    """A file object of the program's own."""

    def __init__(self, number):
        self.number = number
        self.closed = 0

    def fileno(self):
        return self.number

    def close(self):
        self.closed += 1
        os.close(self.number)


@METHODS
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_is_refused_stays_the_callers(method, what, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")

    async def scenario():
        number = os.open(tmp_path / "file" if what == "file" else tmp_path, os.O_RDONLY)
        file = NumberOnly(number)
        seen = await outcome(getattr(asyncio.get_running_loop(), method)(Pipe, file))
        gc.collect()
        assert file.closed == 0 and os.get_blocking(number)
        os.close(number)
        return seen

    assert same(scenario)[1][0] == "ValueError"


@METHODS
def test_a_closed_descriptor_is_an_error_and_the_transports(run, method):
    async def main():
        number = os.dup(0)
        os.close(number)
        file = NumberOnly(number)
        file.close = lambda: setattr(file, "closed", file.closed + 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(OSError) as error:
                await getattr(asyncio.get_running_loop(), method)(Pipe, file)
            assert error.value.errno == errno.EBADF
            del error
            gc.collect()
        texts = [plain(str(warning.message)) for warning in caught]
        assert len(texts) == 1 and texts[0].startswith("unclosed transport <") and file.closed == 1

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves a transport half made, whose finalizer fails
@METHODS
@pytest.mark.parametrize(
    ("fileno", "error"),
    [(lambda: 1 / 0, ZeroDivisionError), (lambda: "3", TypeError), (lambda: 1 << 40, OverflowError), (None, TypeError)],
)
def test_a_file_without_a_usable_number_is_an_error(run, method, fileno, error):
    class File:
        pass

    async def main():
        file = File()
        file.fileno = fileno
        with pytest.raises(error):
            await getattr(asyncio.get_running_loop(), method)(Pipe, file)
        with pytest.raises(AttributeError):
            await getattr(asyncio.get_running_loop(), method)(Pipe, object())

    run(main)


# --- the end of the stream, and errors of the kernel --------------------------------------------------


@pytest.mark.parametrize("keeps_open", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "pty"])
def test_the_writer_is_gone(kind, keeps_open):
    async def scenario():
        async with reading(kind=kind) as (sink, peer):
            sink.keeps_open = keeps_open
            os.write(peer[0], b"last words")
            await sink.until_received(10)
            os.close(peer.pop())
            await sink.lost
            await settle()
            return sink.calls, bytes(sink.received)

    same(scenario)


def test_what_a_writer_has_left_is_read_before_its_end(run):
    async def main():
        async with reading() as (sink, peer):
            sink.transport.pause_reading()
            os.write(peer[0], b"left behind")
            os.close(peer.pop())
            await settle()
            assert sink.calls == ["made"] and not sink.received
            sink.transport.resume_reading()
            await sink.lost
            assert sink.received == b"left behind"

    run(main)


def test_a_reset_socket_is_a_read_error_that_is_reported():
    async def scenario():
        here, there = tcp_pair()
        sink = await connect_reader(here.detach())
        reset(there)
        await sink.lost
        return sink.calls

    assert same(scenario)[1][1] == errno.ECONNRESET


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
def test_the_reader_is_gone(kind, queued, tmp_path):
    """Nobody writes: the loop notices by itself."""
    paths = iter([tmp_path / "one", tmp_path / "other"])

    async def scenario():
        reader, writer = ends(kind, next(paths))
        source = await connect_writer(writer)
        source.transport.write(b"x" * TOO_MUCH if queued else b"x")
        os.close(reader)
        await source.lost
        await settle()
        return source.calls

    same(scenario)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_write_finds_that_the_reader_is_gone(kind, caplog):
    async def scenario():
        caplog.clear()
        async with writing(kind=kind) as (source, peer):
            os.close(peer.pop())
            for _ in range(8):
                source.transport.write(b"x")
            seen = [source.transport.is_closing(), state(source.transport)]
            await source.lost
            source.transport.write(b"x")
            return seen, source.calls, [record.getMessage() for record in caplog.records]

    seen = same(scenario)
    assert seen[2].count("pipe closed by peer or os.write(pipe, data) raised exception.") == 4
    assert seen[1][1][0] == "BrokenPipeError"


def test_the_reader_goes_while_the_writer_is_paused():
    async def scenario():
        async with writing() as (source, peer):
            source.transport.write(b"x" * TOO_MUCH)
            await settle()
            os.close(peer.pop())
            await source.lost
            return source.calls

    assert same(scenario)[1] == "pause"


def test_a_full_disk_is_an_error_of_the_connection():
    async def scenario():
        source = await connect_writer(os.open("/dev/full", os.O_WRONLY))
        source.transport.write(b"x")
        assert source.transport.is_closing()
        await source.lost
        return source.calls

    assert same(scenario)[1][1] == errno.ENOSPC


@pytest.mark.parametrize("bad", ["read", "write"])
def test_the_wrong_end_is_an_error_of_the_connection(bad):
    async def scenario():
        reader, writer = os.pipe()
        if bad == "write":
            protocol = await connect_writer(reader)
            protocol.transport.write(b"x")
            os.close(writer)
        else:
            protocol = await connect_reader(writer)
            os.close(reader)
        await protocol.lost
        return protocol.calls

    assert same(scenario)[1][1] == errno.EBADF


def test_devices_that_cannot_be_waited_for():
    """epoll refuses them; asyncio tells its handler so, and gives the transport all the same."""

    async def scenario():
        seen = []
        for name in ("/dev/null", "/dev/zero"):
            number = os.open(name, os.O_RDWR)
            sink = await connect_reader(os.dup(number))
            seen.append(state(sink.transport))
            sink.transport.pause_reading()
            try:
                sink.transport.resume_reading()
            except OSError as error:
                seen.append(describe(error))
            source = await connect_writer(number)
            source.transport.write(b"x" * TOO_MUCH)
            seen.append(state(source.transport))
            for protocol in (sink, source):
                protocol.transport.close()
                await protocol.lost
                seen.append(protocol.calls)
        return seen

    def observed(name):
        loop = LOOPS[name]()
        told = []
        loop.set_exception_handler(
            lambda _, context: told.append((describe(context["exception"]), "handle" in context))
        )
        try:
            return loop.run_until_complete(scenario()), told
        finally:
            loop.close()

    theirs, ours = observed("asyncio"), observed("aioxide")
    assert ours == theirs
    assert [error[0][1] for error in ours[1]] == [errno.EPERM, errno.EPERM]


# --- flow control ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"high": 10}, {"high": 0}, {"low": 1000}, {"high": 5000, "low": 5000}], ids=str)
def test_the_protocol_is_paused_and_resumed(limits):
    async def scenario():
        seen = []
        async with writing() as (source, peer):
            source.transport.set_write_buffer_limits(**limits)
            full = 0
            while source.transport.get_write_buffer_size() == 0:
                source.transport.write(b"x" * 1000)
                full += 1000
            for size in (1, 1000, 70_000):
                source.transport.write(b"x" * size)
                full += size
                seen.append((source.transport.get_write_buffer_size(), source.calls[:]))
            while full:
                full -= len(read_all(peer[0]))
                await settle()
                seen.append((source.transport.get_write_buffer_size(), source.calls[:]))
            for wrong in ({"high": -1}, {"high": 1, "low": 2}):
                with contextlib.suppress(ValueError):
                    source.transport.set_write_buffer_limits(**wrong)
                    seen.append("accepted")
            return seen

    same(scenario)


def test_limits_are_heeded_when_they_are_set():
    async def scenario():
        async with writing() as (source, _):
            source.transport.set_write_buffer_limits(high=TOO_MUCH)
            source.transport.write(b"x" * TOO_MUCH)
            seen = source.calls[:]
            source.transport.set_write_buffer_limits(high=10)
            return seen, source.calls[:]

    assert same(scenario) == (["made"], ["made", "pause"])


def test_reading_pauses_and_resumes():
    async def scenario():
        seen = []
        async with reading() as (sink, peer):
            for action in ("pause", "pause", "resume", "resume", "pause", "resume"):
                getattr(sink.transport, f"{action}_reading")()
                os.write(peer[0], b"x")
                await settle()
                seen.append((len(sink.received), plain(repr(sink.transport))))
        sink.transport.pause_reading()
        sink.transport.resume_reading()
        return seen, sink.calls

    same(scenario)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 forgets it")
def test_a_protocol_may_pause_its_transport_at_once():
    class Paused(Pipe):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def scenario():
        async with reading(Paused) as (sink, peer):
            os.write(peer[0], b"x")
            await settle()
            seen = bytes(sink.received)
            sink.transport.resume_reading()
            await sink.until_received(1)
            return seen, bytes(sink.received)

    assert same(scenario) == (b"", b"x")


# --- what is written, and when ----------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio copies all
def test_a_queued_bytes_is_not_copied_and_what_may_change_is(run):
    async def main():
        async with writing() as (source, peer):
            source.transport.write(b"x" * TOO_MUCH)
            data, mutable = b"y" * TOO_MUCH, bytearray(b"z" * 100)
            before = sys.getrefcount(data)
            source.transport.write(data)
            assert sys.getrefcount(data) == before + 1
            source.transport.write(memoryview(mutable)[50:])
            source.transport.write(mutable)
            mutable[:] = b"changed"  # it can be resized: no view of it is left
            source.transport.close()
            assert await read_to_end(peer[0]) == b"x" * TOO_MUCH + data + b"z" * 150
            assert sys.getrefcount(data) == before

    run(main)


@pytest.mark.parametrize("data", ["text", 1, None, [b"list"]], ids=str)
def test_what_is_not_bytes_is_refused(data):
    async def scenario():
        async with writing() as (source, _):
            return await outcome(asyncio.wait_for(coroutine(source.transport.write, data), 1)), source.calls

    async def coroutine(function, *args):
        return function(*args)

    assert same(scenario)[0][1][0] == "AssertionError"


def test_a_view_that_is_not_contiguous_ends_the_connection():
    async def scenario():
        async with writing() as (source, _):
            source.transport.write(memoryview(b"abcdef")[::2])
            await source.lost
            return source.calls

    assert same(scenario)[1][0] == "BufferError"


@pytest.mark.parametrize("ending", ["close", "write_eof", "abort"])
@pytest.mark.parametrize("queued", [False, True])
def test_the_ways_to_end(ending, queued):
    async def scenario():
        async with writing() as (source, peer):
            size = TOO_MUCH if queued else 3
            source.transport.write(b"x" * size)
            getattr(source.transport, ending)()
            seen = [source.transport.is_closing(), source.calls[:]]
            source.transport.write(b"too late")
            source.transport.close()
            source.transport.write_eof()
            got = await read_to_end(peer[0])
            await source.lost
            assert source.transport.get_extra_info("pipe").closed
            seen.append(got.count(b"x") == size if ending != "abort" else len(got) < size or not queued)
            assert b"late" not in got
            return seen, source.calls, state(source.transport)

    same(scenario)


@pytest.mark.aioxide_only  # asyncio asks for connection_lost once more, which fails: None has no such method
def test_an_end_comes_once_whatever_is_called(run):
    async def main():
        for first in ("close", "abort", "write_eof"):
            async with writing() as (source, _):
                getattr(source.transport, first)()
                for then in ("abort", "close", "abort", "write_eof"):
                    getattr(source.transport, then)()
                await source.lost
                source.transport.abort()
                source.transport._call_connection_lost(None)
                await settle()
                assert source.calls == ["made", None, "lost"]

    run(main)


def test_a_peer_of_a_socket_that_talks_back_counts_as_gone():
    """Of a socket, too, only writing is expected."""

    async def scenario():
        async with writing(kind="socket") as (source, peer):
            os.write(peer[0], b"hello")
            await source.lost
            return source.calls

    same(scenario)


@pytest.mark.aioxide_only  # asyncio holds nothing
def test_what_a_connection_holds_is_sent_before_what_a_pipe_writes(run):
    async def main():
        protocol, peer = await connect(Recorder)
        await warm(protocol, peer)
        peer.setblocking(False)
        async with writing() as (source, _):
            for effect in (lambda: source.transport.write(b"x"), source.transport.close):
                protocol.transport.write(b"1")
                protocol.transport.write(b"2")
                with pytest.raises(BlockingIOError):
                    peer.recv(10)
                effect()
                assert receive_exactly(peer, 2) == b"12"
                await warm_again(protocol, peer)
            await source.lost
        await close(protocol, peer)

    async def warm_again(protocol, peer):
        await settle()
        peer.setblocking(True)
        peer.settimeout(PATIENCE_S)
        await warm(protocol, peer)
        peer.setblocking(False)

    run(main)


# --- terminals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_number", [True, False])
def test_both_ways_over_one_terminal(same_number):
    async def scenario():
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(slave, False)
        loop = asyncio.get_running_loop()
        second = FileIO(master, "wb", closefd=False) if same_number else FileIO(os.dup(master), "wb")
        _, sink = await loop.connect_read_pipe(Pipe, FileIO(master, "rb"))
        _, source = await loop.connect_write_pipe(Pipe, second)
        source.transport.write(b"down")
        await settle()
        got = [read_all(slave)]
        os.write(slave, b"up")
        await sink.until_received(2)
        if not same_number:  # asyncio ends the watches of the number
            source.transport.close()
            await source.lost
        os.write(slave, b" again")
        await sink.until_received(8)
        got.append(bytes(sink.received))
        os.close(slave)
        await sink.lost
        if same_number:
            source.transport.close()
            await source.lost
        return got, sink.calls, source.calls

    assert same(scenario)[0] == [b"down", b"up again"]
