"""Scenarios of the refleak hunt: TLS, by either engine (AIOXIDE_TLS=fallback chooses the second)."""

import asyncio
import ssl

from certificates import contexts
from network_scenarios import BufferedEcho, Client, Echo
from scenario import run, scenario


def strangers():
    """A client that trusts nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def served(factory, body):
    """Run `body(loop, address)` with a TLS server of that protocol."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=contexts()[0])
    try:
        await body(loop, server.sockets[0].getsockname())
    finally:
        server.close()
        await server.wait_closed()


async def talk(loop, address, size):
    client = Client(loop, size)
    await loop.create_connection(lambda: client, *address, ssl=contexts()[1], server_hostname="localhost")
    await client.lost


@scenario
def tls_echo():
    async def body(loop, address):
        await asyncio.gather(talk(loop, address, 10), talk(loop, address, 100_000))

    run(served, Echo, body)


@scenario
def tls_echo_into_a_buffer():
    run(served, BufferedEcho, lambda loop, address: talk(loop, address, 5000))


@scenario
def tls_infos():
    async def body(loop, address):
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *address, ssl=contexts()[1], server_hostname="localhost"
        )
        for name in ("ssl_object", "peercert", "cipher", "compression", "sslcontext", "peername", "nothing"):
            transport.get_extra_info(name)
        transport.close()
        transport.close()
        while transport.get_protocol() is not None:
            await asyncio.sleep(0.001)

    run(served, Echo, body)


@scenario
def tls_refused():
    async def body(loop, address):
        for wanted in (strangers(), contexts()[1]):
            try:
                await loop.create_connection(asyncio.Protocol, *address, ssl=wanted, server_hostname="elsewhere")
            except ssl.SSLCertVerificationError:
                pass

    run(served, Echo, body)


@scenario
def tls_garbage():
    async def body(loop, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()

    run(served, Echo, body)


@scenario
def tls_aborted_and_left():
    async def body(loop, address):
        for end in ("abort", "cancel"):
            connecting = loop.create_task(
                loop.create_connection(asyncio.Protocol, *address, ssl=contexts()[1], server_hostname="localhost")
            )
            if end == "cancel":
                await asyncio.sleep(0)
                connecting.cancel()
                await asyncio.wait([connecting])
            else:
                transport, _ = await connecting
                transport.write(b"x" * 1_000_000)
                transport.abort()

    run(served, Echo, body)


class Upgrading(asyncio.Protocol):
    """Is told when to begin."""

    def __init__(self, loop):
        self.told = loop.create_future()

    def data_received(self, data):
        if not self.told.done():
            self.told.set_result(data)


@scenario
def tls_upgrade():
    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        async def handle(reader, writer):
            await reader.readline()
            writer.write(b"go\n")
            transport = await loop.start_tls(
                writer.transport, writer.transport.get_protocol(), contexts()[0], server_side=True
            )
            transport.write(b"hello")
            transport.close()
            done.set_result(None)

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        client = Upgrading(loop)
        transport, _ = await loop.create_connection(lambda: client, *server.sockets[0].getsockname())
        transport.write(b"upgrade\n")
        await client.told
        upgraded = await loop.start_tls(transport, client, contexts()[1], server_hostname="localhost")
        await done
        upgraded.close()
        while not transport.is_closing():
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    run(main)
