"""Pipes in the hands of programs: protocols that raise, owners that forget, cancellation, anything at random."""

import asyncio
import contextlib
import contextvars
import errno
import gc
import logging
import os
import random
import warnings
from io import FileIO

import pytest
from differential import plain, same
from peers import PATIENCE_S, BufferedRecorder, raises
from pipe_ends import (
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
    writing,
)
from test_cancellation import at_every_point

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- user code that raises, closes, or is not there -------------------------------------------------------


@pytest.mark.parametrize("name", ["data_received", "eof_received", "connection_lost"])
def test_a_reader_whose_method_raises(name):
    async def scenario():
        async with reading(raises(name, base=Pipe)) as (sink, peer):
            os.write(peer[0], b"x")
            await settle()
            os.write(peer[0], b"y")
            os.close(peer.pop())
            await settle()
            return sink.calls, bytes(sink.received)

    same(scenario)


@pytest.mark.parametrize("name", ["pause_writing", "resume_writing", "connection_lost"])
def test_a_writer_whose_method_raises(name):
    async def scenario():
        async with writing(raises(name, base=Pipe)) as (source, peer):
            transport = source.transport
            transport.write(b"x" * TOO_MUCH)
            got = 0
            while got < TOO_MUCH:
                got += len(read_all(peer[0]))
                await settle()
            transport.close()
            await settle()
            return source.calls, transport.is_closing(), repr(transport).count("closed")

    same(scenario)


def test_a_connection_made_that_raises_is_reported_and_the_pipe_is_connected(run, reports):
    make = raises("connection_made", base=Pipe)

    async def main():
        async with reading(make) as (sink, number), writing(make) as (source, peer):
            os.write(number[0], b"x")
            await sink.until_received(1)
            source.transport.write(b"y")
            assert read_all(peer[0]) == b"y"

    run(main)
    told = reports.take_whole()
    assert [(report.exception, report.others) for report in told] == [(ZeroDivisionError, ("handle",))] * 2
    assert all(report.message.startswith("Exception in callback raises.<locals>.method(") for report in told)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["data_received", "connection_lost"])
def test_an_exit_out_of_a_protocol_ends_the_loop(new_loop, name, error):
    loop = new_loop()
    reader, writer = os.pipe()
    sink = loop.run_until_complete(connect_reader(reader, raises(name, error, Pipe)))
    os.write(writer, b"x")
    if name == "connection_lost":
        sink.transport.close()
    limit = loop.call_later(PATIENCE_S, loop.stop)
    with pytest.raises(error):
        loop.run_forever()
    limit.cancel()
    sink.transport.close()
    with contextlib.suppress(error):
        loop.run_until_complete(settle())
    assert sink.transport.get_extra_info("pipe").closed
    os.close(writer)


@pytest.mark.aioxide_only  # asyncio calls connection_lost again, or leaves its watch behind
@pytest.mark.parametrize("ending", ["close", "abort", "write_eof"])
@pytest.mark.parametrize("name", ["connection_made", "pause_writing", "resume_writing"])
def test_a_writer_that_ends_in_a_callback(run, name, ending):
    def method(self, *args):
        getattr(Pipe, name)(self, *args)
        getattr(self.transport, ending)()

    Ends = type("Ends", (Pipe,), {name: method})

    async def main():
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        source = await connect_writer(writer, Ends)
        source.transport.write(b"x" * TOO_MUCH)
        got = await read_to_end(reader)
        assert await source.lost is None
        await settle()
        assert source.calls.count("lost") == 1
        if name == "connection_made":
            assert got == b""
        elif name == "resume_writing" or ending != "abort":
            assert got == b"x" * TOO_MUCH
        else:
            assert len(got) < TOO_MUCH
        os.close(reader)

    run(main)


@pytest.mark.aioxide_only  # asyncio loses what was queued last
@pytest.mark.parametrize("ending", ["close", "write_eof"])
def test_a_writer_that_writes_and_closes_in_resume_writing(run, ending):
    class Last(Pipe):
        def resume_writing(self):
            super().resume_writing()
            if not self.transport.is_closing():
                self.transport.write(b"y" * TOO_MUCH)
                getattr(self.transport, ending)()

    async def main():
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        source = await connect_writer(writer, Last)
        source.transport.write(b"x" * TOO_MUCH)
        assert await read_to_end(reader) == b"x" * TOO_MUCH + b"y" * TOO_MUCH
        assert await source.lost is None
        assert source.calls.count("lost") == 1
        os.close(reader)

    run(main)


def test_a_reader_that_closes_while_it_receives():
    class Closes(Pipe):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()
            self.transport.close()

    async def scenario():
        async with reading(Closes) as (sink, peer):
            os.write(peer[0], b"x")
            await sink.lost
            with contextlib.suppress(BrokenPipeError):
                os.write(peer[0], b"y")
            await settle()
            return sink.calls, bytes(sink.received)

    assert same(scenario) == (["made", None, "lost"], b"x")


def test_the_protocol_can_be_exchanged():
    async def scenario():
        async with reading() as (sink, peer), writing() as (source, _):
            os.write(peer[0], b"x")
            await sink.until_received(1)
            other, another = Pipe(), Pipe()
            sink.transport.set_protocol(other)
            source.transport.set_protocol(another)
            assert sink.transport.get_protocol() is other
            os.write(peer[0], b"y")
            await other.until_received(1)
            sink.transport.close()
            source.transport.write(b"x" * TOO_MUCH)
            source.transport.abort()
            await other.lost
            await another.lost
            return sink.calls, other.calls, source.calls, another.calls

    same(scenario)


def test_a_protocol_with_a_buffer_of_its_own_gets_no_data():
    async def scenario():
        async with reading(type("Odd", (BufferedRecorder,), {"data_received": None})) as (sink, peer):
            os.write(peer[0], b"x")
            await settle()
            os.close(peer.pop())
            await sink.lost
            return sink.calls

    same(scenario)


def test_each_callback_has_the_context_of_asyncio():
    variable = contextvars.ContextVar("variable", default=0)

    def noted(name):
        def method(self, *args):
            self.calls.append(variable.get())
            return getattr(Pipe, name)(self, *args)

        return method

    names = "connection_made", "data_received", "eof_received", "connection_lost", "pause_writing", "resume_writing"
    Noting = type("Noting", (Pipe,), {name: noted(name) for name in names})

    async def scenario():
        variable.set(1)
        async with reading(Noting) as (sink, number), writing(Noting) as (source, peer):
            variable.set(2)
            os.write(number[0], b"x")
            await sink.until_received(1)
            sink.transport.pause_reading()
            variable.set(3)
            sink.transport.resume_reading()
            variable.set(4)
            os.write(number[0], b"x")
            await sink.until_received(2)
            source.transport.write(b"x" * TOO_MUCH)
            variable.set(5)
            source.transport.write(b"x")
            source.transport.close()
            await read_to_end(peer[0])
            os.close(number.pop())
            await sink.lost
            await source.lost
            return sink.calls, source.calls

    same(scenario)


@pytest.mark.parametrize("debug", [False, True])
def test_what_debug_mode_says(debug, caplog):
    async def scenario():
        asyncio.get_running_loop().set_debug(debug)
        asyncio.get_running_loop().slow_callback_duration = 100
        caplog.clear()
        async with reading() as (sink, number), writing() as (source, peer):
            sink.transport.pause_reading()
            sink.transport.resume_reading()
            os.close(number.pop())
            await sink.lost
            os.close(peer.pop())
            source.transport.write(b"x")
            await source.lost
        async with writing() as (source, peer):
            os.close(peer.pop())
            await source.lost
        said = [(record.levelname, plain(record.getMessage()), bool(record.exc_info)) for record in caplog.records]
        return [one for one in said if "poll" not in one[1].split()]

    with caplog.at_level(logging.DEBUG, "asyncio"):
        assert bool(same(scenario)) == debug


# --- nobody closes it, or somebody else does ------------------------------------------------------------


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_transport_that_nobody_closes_warns_and_closes_its_pipe(run, side):
    async def main():
        reader, writer = os.pipe()
        if side == "read":
            protocol = await connect_reader(reader)
            protocol.transport.pause_reading()
            mine = writer
        else:
            protocol = await connect_writer(os.open("/dev/null", os.O_WRONLY))
            os.close(reader)
            mine = writer
        file = protocol.transport.get_extra_info("pipe")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del protocol
            gc.collect()
        state = "idle>" if side == "read" else "idle bufsize=0>"
        name = f"{side.capitalize()}PipeTransport"
        assert [plain(str(warning.message)) for warning in caught] == [f"unclosed transport <{name} fd=N {state}"]
        assert file.closed
        os.close(mine)

    run(main)


@pytest.mark.parametrize("side", ["read", "write"])
def test_a_loop_that_is_closed_first(new_loop, side):
    loop = new_loop()
    reader, writer = os.pipe()
    if side == "read":
        protocol, other = loop.run_until_complete(connect_reader(reader)), writer
    else:
        protocol, other = loop.run_until_complete(connect_writer(writer)), reader
    transport = protocol.transport
    loop.close()
    assert plain(repr(transport)) == f"<{side.capitalize()}PipeTransport fd=N open>"
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    assert transport.is_closing() and protocol.calls == ["made"]
    file = transport.get_extra_info("pipe")
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        del transport, protocol
        gc.collect()
    assert file.closed
    os.close(other)


@METHODS
def test_a_closed_loop_makes_no_transport(new_loop, method):
    loop = new_loop()
    loop.close()
    reader, writer = os.pipe()
    file, other = (FileIO(reader, "rb"), writer) if "read" in method else (FileIO(writer, "wb"), reader)
    make = getattr(loop, f"_make_{method[len('connect_') :]}_transport")
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            make(file, asyncio.Protocol())
        gc.collect()
    assert file.closed
    os.close(other)


def test_a_number_that_is_used_again_is_not_mixed_up(run):
    async def main():
        for _ in range(20):
            reader, writer = os.pipe()
            first = await connect_reader(reader)
            os.write(writer, b"for the first")
            os.close(writer)
            first.transport.close()  # its event may have been reported by now
            await first.lost
            again, other = os.pipe()
            assert reader in (again, other)
            second = await connect_reader(again)
            os.write(other, b"for the second")
            await second.until_received(14)
            assert second.received == b"for the second"
            second.transport.close()
            await second.lost
            os.close(other)

    run(main)


def test_a_pipe_closed_behind_the_transport(run):
    async def main():
        async with writing() as (source, _):
            source.transport.get_extra_info("pipe").close()
            source.transport.write(b"x")
            assert (await source.lost).errno == errno.EBADF
        async with reading() as (sink, _):
            sink.transport.get_extra_info("pipe").close()
            sink.transport.close()
            assert await sink.lost is None

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves its watch behind when the call is cancelled before it is set
@METHODS
@pytest.mark.parametrize("kind", ["pipe", "socket", "pty"])
def test_cancelled_at_each_point(run, method, kind):
    async def main():
        loop = asyncio.get_running_loop()
        others = []

        async def make():
            reader, writer = ends(kind)
            mine, other = (reader, writer) if "read" in method else (writer, reader)
            others.append(other)
            try:
                return await getattr(loop, method)(Pipe, FileIO(mine, "rb" if mine == reader else "wb"))
            finally:
                loop.call_later(0.001, end)

        def end():
            while others:
                os.close(others.pop())

        async def undo(made):
            made[0].close()
            await made[1].lost

        assert await at_every_point(make, undo, least=1) == 1

    run(main)


@METHODS
def test_the_waiter_may_be_cancelled_by_hand(run, method):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        file, other = (FileIO(reader, "rb"), writer) if "read" in method else (FileIO(writer, "wb"), reader)
        waiter = loop.create_future()
        protocol = Pipe()
        make = getattr(loop, f"_make_{method[len('connect_') :]}_transport")
        extra = {"mine": 1}
        transport = make(file, protocol, waiter, extra)
        waiter.cancel()
        await settle()
        assert protocol.calls == ["made"] and extra == {"mine": 1, "pipe": file}
        assert transport.get_extra_info("mine") == 1
        transport.close()
        assert await protocol.lost is None
        os.close(other)

    run(main)


# --- streams, and anything at all -------------------------------------------------------------------------


def test_streams_over_pipes(run):
    async def main():
        loop = asyncio.get_running_loop()
        number, other = os.pipe()
        reader = asyncio.StreamReader(limit=100)
        _, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), FileIO(number, "rb"))
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, FileIO(other, "wb"))
        writer = asyncio.StreamWriter(transport, protocol, None, loop)

        async def produce():
            for line in range(20_000):
                writer.write(b"%d\n" % line)
                await writer.drain()
            writer.close()

        producer = asyncio.ensure_future(produce())
        lines = [line async for line in reader]
        await producer
        assert lines == [b"%d\n" % line for line in range(20_000)]

    run(main)


@pytest.mark.parametrize("seed", range(30))
def test_any_sequence_of_calls(seed):
    """The same calls, at random, on both loops: what is called back, what arrives, what is left."""

    async def scenario():
        choice = random.Random(seed)
        kind = choice.choice(["pipe", "socket"])
        log = []
        async with reading(kind=kind) as (sink, number), writing(kind=kind) as (source, peer):
            for _ in range(choice.randrange(5, 40)):
                action = choice.choice(["write", "write", "read", "feed", "feed", "pause", "resume", "limits", "rare"])
                size = choice.choice([0, 1, 1000, 70_000, 300_000])
                if action == "write":
                    source.transport.write(choice.choice([bytes, bytearray])(size))
                elif action == "read" and peer:
                    log.append(len(read_all(peer[0])))
                elif action == "feed" and number:
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):
                        os.write(number[0], bytes(min(size, 4000)))
                elif action in ("pause", "resume"):
                    getattr(sink.transport, f"{action}_reading")()
                elif action == "limits":
                    source.transport.set_write_buffer_limits(high=size)
                elif action == "rare":
                    rare = choice.choice(["close source", "close sink", "hang up", "end", "nothing", "nothing"])
                    if rare == "close source":
                        source.transport.close()
                    elif rare == "close sink":
                        sink.transport.close()
                    elif rare == "hang up" and peer:
                        os.close(peer.pop())
                    elif rare == "end" and number:
                        os.close(number.pop())
                await settle()
                log.append((action, size, len(sink.received), source.transport.get_write_buffer_size()))
                log.append((plain(repr(sink.transport)), plain(repr(source.transport))))
            return kind, log, sink.calls, source.calls

    same(scenario)
