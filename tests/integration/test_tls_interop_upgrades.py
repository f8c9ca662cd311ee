"""TLS with the blocking sockets of `ssl` at the other end: plain connections that are upgraded, and sessions resumed."""

import asyncio
import socket
import ssl
import sys

import pytest
from peers import PATIENCE_S, Recorder
from tls_peers import NAMES, VERSIONS, BlockingServer, Upper, aside, receive, serving

# --- upgrades -------------------------------------------------------------------------------------


def upgrading(plain, wrap):
    """The blocking end: a line in plain text each way, then TLS."""
    plain.sendall(b"READY?\n")
    assert receive(plain, 3) == b"YES"
    with wrap(plain) as tls:
        tls.sendall(b"hello")
        received = receive(tls, 5)
        tls.unwrap().close()
        return received


class ReadyThenTls(Upper):
    """In plain text: answers READY? with YES."""

    def __init__(self):
        super().__init__()
        self.tls = False

    def data_received(self, data):
        if self.tls:
            super().data_received(data)
        else:
            self.received += data
            self.look_again()


async def upgrade(protocol, context, **options):
    await protocol.until_received(7)
    assert bytes(protocol.received) == b"READY?\n"
    protocol.received.clear()
    protocol.tls = True
    loop = asyncio.get_running_loop()
    plain = protocol.transport
    plain.write(b"YES")
    protocol.transport = await loop.start_tls(plain, protocol, context, **options)
    assert protocol.transport is not plain
    assert await protocol.lost is None
    assert bytes(protocol.received) == b"hello"
    assert protocol.calls == ["made", "eof", "lost"]


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_start_tls_of_a_server(run, pki, version):
    def dialogue(address):
        plain = socket.create_connection(address, PATIENCE_S)
        return upgrading(plain, lambda plain: pki.client().wrap_socket(plain, server_hostname="localhost"))

    async def main():
        async with serving(ReadyThenTls, None) as server:
            peer = asyncio.ensure_future(aside(dialogue, server.address))
            await upgrade(await server.arrived(), pki.server(version), server_side=True)
            assert await peer == b"HELLO"

    run(main)


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_start_tls_of_a_client(run, pki, version):
    def serve(plain):
        return upgrading(plain, lambda plain: pki.server(version).wrap_socket(plain, server_side=True))

    async def main():
        async with BlockingServer(serve) as peer:
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(ReadyThenTls, *peer.address)
            await upgrade(protocol, pki.client(), server_hostname="localhost")
            assert await peer.outcome() == b"HELLO"

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="StreamWriter.start_tls came with 3.11")
@pytest.mark.parametrize("version", VERSIONS)
def test_start_tls_of_streams(run, pki, version):
    def dialogue(address):
        plain = socket.create_connection(address, PATIENCE_S)
        return upgrading(plain, lambda plain: pki.client().wrap_socket(plain, server_hostname="localhost"))

    async def main():
        ended = asyncio.get_running_loop().create_future()

        async def handle(reader, writer):
            assert await reader.readline() == b"READY?\n"
            writer.write(b"YES")
            await writer.start_tls(pki.server(version))
            writer.write((await reader.readexactly(5)).upper())
            await writer.drain()
            assert await reader.read() == b""
            ended.set_result(writer.get_extra_info("ssl_object").version())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        assert await aside(dialogue, server.sockets[0].getsockname()) == b"HELLO"
        assert await ended == NAMES[version]
        server.close()
        await server.wait_closed()

    run(main)


# --- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_resumes_its_session(run, pki, version):
    client = pki.client(version)

    def dialogue(address, session=None):
        plain = socket.create_connection(address, PATIENCE_S)
        with client.wrap_socket(plain, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"hello")
            assert receive(tls, 5) == b"HELLO"  # a ticket of TLS 1.3 has come with it
            return tls.session, tls.session_reused

    async def main():
        async with serving(Upper, pki.server()) as server:
            session, reused = await aside(dialogue, server.address)
            first = await server.arrived()
            assert (reused, first.ssl_object.session_reused) == (False, False)
            _, reused = await aside(dialogue, server.address, session)
            second = await server.arrived()
            assert (reused, second.ssl_object.session_reused) == (True, True)
            await asyncio.gather(first.lost, second.lost)

    run(main)


class Resuming(ssl.SSLContext):
    """Gives each new connection the session of the one before."""

    session_to_use = None

    def wrap_bio(self, *args, **options):
        return super().wrap_bio(*args, **options, session=self.session_to_use)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_context_of_the_users_own_resumes_a_session(run, pki, version):
    server_context = pki.server(version)
    client_context = pki.client(make=Resuming)

    def serve(plain):
        with server_context.wrap_socket(plain, server_side=True) as tls:
            tls.sendall(receive(tls, 5).upper())
            assert tls.recv(1) == b""
            return tls.session_reused

    async def dialogue():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Recorder, *peer.address, ssl=client_context, server_hostname="localhost"
            )
            protocol.transport.write(b"hello")
            await protocol.until_received(5)
            ssl_object = protocol.transport.get_extra_info("ssl_object")
            client_context.session_to_use = ssl_object.session
            reused = ssl_object.session_reused
            protocol.transport.close()
            assert await protocol.lost is None
            return reused, await peer.outcome()

    async def main():
        assert await dialogue() == (False, False)
        assert await dialogue() == (True, True)

    run(main)
