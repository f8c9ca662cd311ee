"""Scenarios of the refleak hunt: datagrams, Unix sockets, files that are sent."""

import asyncio
import contextlib
import gc
import io
import os
import socket
import tempfile
import warnings

from scenario import run, scenario

# --- datagrams -------------------------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answers=False):
        loop = asyncio.get_running_loop()
        self.answers, self.lost, self.got = answers, loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        if self.answers:
            self.transport.sendto(data, addr)
        elif not self.got.done():
            self.got.set_result(data)

    def error_received(self, error):
        if not self.got.done():
            self.got.set_result(type(error))

    def connection_lost(self, error):
        self.lost.set_result(error)


async def datagram_endpoint(*args, **options):
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Datagrams(*args), **options)
    return protocol


@scenario
def datagram_echo():
    async def main():
        server = await datagram_endpoint(True, local_addr=("127.0.0.1", 0))
        client = await datagram_endpoint(remote_addr=server.transport.get_extra_info("sockname"))
        client.transport.sendto(b"hello")
        assert await client.got == b"hello"
        repr(server.transport)
        for end in (client, server):
            end.transport.close()
            await end.lost

    run(main)


@scenario
def datagram_protocol_raises():
    """Nobody closes it, and it keeps the report, whose handle is one that nobody collects: no cycle may lead through it."""

    class Raises(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.pause_reading()
            self.transport.resume_reading()
            raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(Raises, local_addr=("127.0.0.1", 0))
        protocol.reports = []
        loop.set_exception_handler(lambda loop, context: protocol.reports.append(context))
        protocol.transport.sendto(b"hello", protocol.transport.get_extra_info("sockname"))
        await protocol.got
        while not protocol.reports:
            await asyncio.sleep(0)
        assert protocol.reports[0]["handle"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)
        gc.collect()


@scenario
def datagram_error_received():
    async def main():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            gone = sock.getsockname()
        client = await datagram_endpoint(remote_addr=gone)
        client.transport.sendto(b"to nobody")
        assert await client.got is ConnectionRefusedError
        try:
            client.transport.sendto(b"x", ("127.0.0.1", 9))
        except ValueError:
            pass
        client.transport.abort()
        await client.lost

    run(main)


@contextlib.contextmanager
def full_pair():
    """Two Unix datagram sockets, the first of which has room for little."""
    here, there = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    with here, there:
        here.bind("")  # abstract names: without one asyncio does not take it as connected
        there.bind("")
        here.connect(there.getsockname())
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
        yield here, there


@scenario
def datagrams_queued_at_close():
    async def main():
        with full_pair() as (here, there):
            client = await datagram_endpoint(sock=here)
            client.transport.set_write_buffer_limits(high=10)
            for _ in range(20):
                client.transport.sendto(b"x" * 1000)
            assert client.transport.get_write_buffer_size() > 0
            client.transport.close()
            while not client.lost.done():
                with contextlib.suppress(BlockingIOError):
                    there.recv(2000, socket.MSG_DONTWAIT)
                await asyncio.sleep(0)

    run(main)


@scenario
def datagrams_left_at_close_of_the_loop():
    async def main(here):
        client = await datagram_endpoint(sock=here)
        for _ in range(20):
            client.transport.sendto(b"x" * 1000)
        assert client.transport.get_write_buffer_size() > 0

    with warnings.catch_warnings(), full_pair() as (here, _):
        warnings.simplefilter("ignore", ResourceWarning)
        run(main, here)
        gc.collect()


# --- Unix sockets ----------------------------------------------------------------------------------------


@scenario
def unix_streams():
    async def serve(reader, writer):
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()

    async def main():
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "socket")
            server = await asyncio.start_unix_server(serve, path)
            for data in (b"a", b"b" * 100_000):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == data
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()
            for wrong in (path, path + "/below", "x" * 200):
                try:
                    await asyncio.open_unix_connection(wrong + ".none")
                except OSError:
                    pass
            for wrong in ({}, {"path": path, "sock": object()}, {"path": "x" * 200}):
                try:
                    await asyncio.start_unix_server(serve, **wrong)
                except (ValueError, OSError):
                    pass

    run(main)


# --- files -----------------------------------------------------------------------------------------------

SIZE = 300_000


class Collects(asyncio.Protocol):
    def __init__(self):
        self.count, self.end = 0, asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.count += len(data)

    def connection_lost(self, error):
        self.end.set_result(self.count)


@contextlib.contextmanager
def file_to_send():
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        yield file


async def transfer(send):
    """`send(transport)` to a protocol that collects; what arrived."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    _, sink = await loop.create_connection(Collects, sock=there)
    _, source = await loop.create_connection(Collects, sock=here)
    try:
        await send(source.transport)
    finally:
        source.transport.close()
    await source.end
    return await sink.end


@scenario
def sendfile_native():
    async def main():
        loop = asyncio.get_running_loop()
        with file_to_send() as file:
            assert await transfer(lambda to: loop.sendfile(to, file)) == SIZE
            assert await transfer(lambda to: loop.sendfile(to, file, 10, 1000, fallback=False)) == 1000

    run(main)


@scenario
def sendfile_by_reading():
    async def main():
        loop = asyncio.get_running_loop()
        assert await transfer(lambda to: loop.sendfile(to, io.BytesIO(bytes(SIZE)))) == SIZE

        async def refused(to):
            try:
                await loop.sendfile(to, io.BytesIO(b"x"), fallback=False)
            except (RuntimeError, asyncio.SendfileNotAvailableError):
                pass

        assert await transfer(refused) == 0

    run(main)


@scenario
def sendfile_is_cancelled():
    async def main():
        loop = asyncio.get_running_loop()

        async def gives_up(to):
            task = asyncio.ensure_future(loop.sendfile(to, file))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        with file_to_send() as file:
            await transfer(gives_up)

    run(main)


@scenario
def sock_sendfile():
    async def main():
        loop = asyncio.get_running_loop()
        for make in (file_to_send, lambda: contextlib.nullcontext(io.BytesIO(bytes(SIZE)))):
            here, there = socket.socketpair()
            with here, there, make() as file:
                here.setblocking(False)
                there.setblocking(False)
                sending = asyncio.ensure_future(loop.sock_sendfile(here, file))
                count = 0
                while count < SIZE:
                    count += len(await loop.sock_recv(there, 1 << 16))
                assert await sending == SIZE

    run(main)
