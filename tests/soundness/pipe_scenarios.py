"""Scenarios of the refleak hunt: pipes."""

import asyncio
import gc
import io
import os
import warnings

from scenario import run, scenario


class Keeper(asyncio.Protocol):
    def __init__(self):
        self.received = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += len(data)

    def connection_lost(self, error):
        self.lost.set_result(error)


async def both(make=Keeper):
    loop = asyncio.get_running_loop()
    out, into = os.pipe()
    _, source = await loop.connect_write_pipe(make, io.FileIO(into, "wb"))
    _, sink = await loop.connect_read_pipe(make, io.FileIO(out, "rb"))
    return source, sink


@scenario
def pipe_carries_and_ends():
    async def main():
        source, sink = await both()
        sink.transport.pause_reading()
        for data in (b"x", b"y" * 300_000, bytearray(b"z" * 10), memoryview(b"v" * 10)):
            source.transport.write(data)
        source.transport.set_write_buffer_limits(high=10)
        source.transport.close()
        sink.transport.resume_reading()
        await source.lost
        await sink.lost
        repr((source.transport, sink.transport))
        source.transport.write(b"late")

    run(main)


@scenario
def pipe_reader_is_gone():
    async def main():
        source, sink = await both()
        source.transport.write(b"x" * 300_000)
        sink.transport.close()
        await sink.lost
        await source.lost
        source, sink = await both()
        sink.transport.get_extra_info("pipe").close()
        source.transport.write(b"x")
        await source.lost
        sink.transport.close()
        await sink.lost

    run(main)


@scenario
def pipe_protocol_raises():
    class Raises(Keeper):
        def data_received(self, data):
            raise ZeroDivisionError

        eof_received = pause_writing = data_received

    async def main():
        source, sink = await both(Raises)
        source.transport.write(b"x" * 300_000)
        await asyncio.sleep(0.001)
        source.transport.abort()
        await source.lost
        await sink.lost

    run(main)


@scenario
def pipe_is_refused():
    async def main():
        loop = asyncio.get_running_loop()
        for connect in (loop.connect_read_pipe, loop.connect_write_pipe):
            with open(__file__, "rb", 0) as file:
                try:
                    await connect(Keeper, file)
                except ValueError:
                    pass
            try:
                await connect(Keeper, object())
            except AttributeError:
                pass

    run(main)


@scenario
def pipe_call_is_cancelled():
    async def main():
        loop = asyncio.get_running_loop()
        out, into = os.pipe()
        task = loop.create_task(loop.connect_read_pipe(Keeper, io.FileIO(out, "rb")))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        os.close(into)

    run(main)


@scenario
def pipes_left_at_close():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)

        async def main():
            source, _ = await both()
            source.transport.write(b"x" * 300_000)

        run(main)
        gc.collect()
