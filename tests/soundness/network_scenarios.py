"""Scenarios of the refleak hunt: descriptors, sockets, transports, servers, streams."""

import asyncio
import gc
import socket

from scenario import Loop, run, scenario

# --- descriptors -----------------------------------------------------------------------------------------


@scenario
def readers_and_writers():
    with Loop() as loop:
        a, b = socket.socketpair()
        with a, b:
            loop.add_reader(a, loop.stop)
            loop.add_reader(a, loop.stop)
            loop.add_writer(a.fileno(), lambda: None)
            b.send(b"x")
            loop.run_forever()
            loop.remove_writer(a)
            loop.add_reader(b, print)
            loop.remove_reader(b)
            loop.remove_reader(b)
            loop.remove_reader(a)
        try:
            loop.add_reader(-1, print)
        except ValueError:
            pass


@scenario
def reader_raises():
    with Loop() as loop:
        a, b = socket.socketpair()
        with a, b:

            def fail():
                a.recv(1)
                loop.call_soon(loop.stop)
                raise ValueError("planted")

            loop.add_reader(a, fail)
            b.send(b"xx")
            loop.run_forever()
            loop.run_forever()
            loop.remove_reader(a)


@scenario
def reader_left_at_close():
    a, b = socket.socketpair()
    with a, b, Loop() as loop:
        loop.add_reader(a, id, loop)
        loop.add_writer(b, id, loop)


@scenario
def sockets():
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        with listener, client:
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            peer, _ = await accepting
            with peer:
                await loop.sock_sendall(client, b"x" * 100)
                assert await loop.sock_recv(peer, 1000)
                waiting = loop.create_task(loop.sock_recv(peer, 1))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])

    run(main)


# --- transports --------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(100)

    def get_buffer(self, size_hint):
        return self.buffer

    def buffer_updated(self, n):
        self.transport.write(bytes(self.buffer[:n]))


class Client(asyncio.Protocol):
    def __init__(self, loop, size):
        self.size = size
        self.lost = loop.create_future()
        self.received = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x" * self.size)
        transport.writelines([b"", bytearray(b"y")])
        repr(transport), transport.get_extra_info("peername"), transport.get_write_buffer_size()

    def data_received(self, data):
        self.received += len(data)
        if self.received == self.size + 1:
            self.transport.close()

    def connection_lost(self, error):
        self.lost.set_result(error)


async def echo(server_protocol, size):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(server_protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, client = await loop.create_connection(lambda: Client(loop, size), *address)
    await client.lost
    server.close()
    await server.wait_closed()
    await settled()


async def settled():
    """The other side has seen the end as well."""
    for _ in range(5):
        await asyncio.sleep(0.0002)


@scenario
def protocol_echo():
    run(echo, Echo, 1000)


@scenario
def large_protocol_echo():
    run(echo, Echo, 2_000_000)


@scenario
def buffered_protocol_echo():
    run(echo, BufferedEcho, 1000)


@scenario
def stream_echo():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 100 + b"\n")
        assert len(await reader.readline()) == 101
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def connection_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()

        async def main():
            try:
                await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)
            except ConnectionRefusedError:
                pass

        run(main)


@scenario
def connection_by_name():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "localhost", 0)
        transport, _ = await loop.create_connection(Echo, "localhost", server.sockets[0].getsockname()[1])
        transport.abort()
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def protocol_misbehaves():
    class Fails(asyncio.Protocol):
        def data_received(self, data):
            raise ValueError("planted")

        def connection_lost(self, error):
            raise ValueError("planted")

    async def main():
        loop = asyncio.get_running_loop()

        def factory():
            raise ValueError("planted")

        server = await loop.create_server(Fails, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        transport.write(b"x")
        await settled()
        transport.close()
        try:
            await loop.create_connection(factory, *address)
        except ValueError:
            pass
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def server_closed_with_clients():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        await server.start_serving()
        address = server.sockets[0].getsockname()
        transport, client = await loop.create_connection(lambda: Client(loop, 10_000), *address)
        server.close()
        transport.pause_reading()
        transport.resume_reading()
        transport.set_protocol(transport.get_protocol())
        transport.abort()
        await client.lost
        await settled()

    run(main)


@scenario
def transport_left_at_close():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        await settled()
        server.close()

    run(main)
    gc.collect()
