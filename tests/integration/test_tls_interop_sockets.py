"""TLS with the blocking sockets of `ssl` at the other end, in a thread: transfers and ends."""

import asyncio
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from peers import PATIENCE_S, TOO_MUCH, BufferedRecorder, Recorder
from tls_peers import (
    NAMES,
    VERSIONS,
    BlockingServer,
    Relay,
    Upper,
    aside,
    blocking_client,
    both_ways,
    content,
    digest,
    receive,
    receive_to_end,
    serving,
)

SIZE = 3_000_000
OURS, THEIRS = content(SIZE, seed=1), content(SIZE + 7, seed=2)


async def by_protocol(protocol, data, count):
    protocol.transport.write(data)
    await protocol.until_received(count)
    return bytes(protocol.received)


async def by_streams(reader, writer, data, count):
    async def send():
        for start in range(0, len(data), 40_000):
            writer.write(data[start : start + 40_000])
            await writer.drain()

    received, _ = await asyncio.gather(reader.readexactly(count), send())
    return received


class BufferedInView(BufferedRecorder):
    """Lends a memoryview: asyncio's TLS loses what it reads into a slice of a bytearray, which is a copy."""

    def __init__(self):
        super().__init__(50_000)

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)


PROTOCOLS = {"protocol": Recorder, "buffered": BufferedInView}


def exchange(tls):
    """The blocking end of a transfer: all of OURS comes, all of THEIRS goes, and the peer's close_notify ends it."""
    with tls:
        received = both_ways(tls, THEIRS, len(OURS))
        assert tls.recv(1) == b""
        return received, tls.version()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_server_and_a_client_transfer_both_ways_at_once(run, pki, kind, version):
    async def main():
        async with serving(PROTOCOLS[kind], pki.server(version)) as server:
            peer = asyncio.ensure_future(aside(lambda: exchange(blocking_client(pki.client(), server.address))))
            protocol = await server.arrived()
            received = await by_protocol(protocol, OURS, len(THEIRS))
            protocol.transport.close()
            assert await protocol.lost is None
            theirs, name = await peer
        assert (digest(received), digest(theirs), name) == (digest(THEIRS), digest(OURS), NAMES[version])

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_client_and_a_server_transfer_both_ways_at_once(run, pki, kind, version):
    def serve(plain):
        return exchange(pki.server(version).wrap_socket(plain, server_side=True))

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                PROTOCOLS[kind], *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            received = await by_protocol(protocol, OURS, len(THEIRS))
            protocol.transport.close()
            assert await protocol.lost is None
            theirs, name = await peer.outcome()
        assert (digest(received), digest(theirs), name) == (digest(THEIRS), digest(OURS), NAMES[version])

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 100, 16_383])
def test_a_lent_buffer_that_holds_less_than_a_record(run, pki, version, size):
    """The rest of it comes into the next ones, though nothing more comes from the peer."""
    data = content(20 * size if size < 1000 else 50_000)
    answered = threading.Event()

    class Small(BufferedRecorder):
        def __init__(self):
            super().__init__(size)

        def get_buffer(self, sizehint):
            return memoryview(self.buffer)

    def serve(plain):
        with pki.server(version).wrap_socket(plain, server_side=True) as tls:
            tls.sendall(data)
            assert answered.wait(PATIENCE_S)

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Small, *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            try:
                await asyncio.wait_for(protocol.until_received(len(data)), PATIENCE_S / 2)
            finally:
                answered.set()
            assert await protocol.lost is None
        assert digest(protocol.received) == digest(data)

    run(main)


@pytest.mark.aioxide_only
@pytest.mark.parametrize("version", VERSIONS)
def test_a_lent_bytearray_gets_every_byte(run, pki, version):
    """asyncio reads a second record into a copy of it, and tells the protocol of zeros."""
    data = content(1_000_000)

    def serve(plain):
        with pki.server(version).wrap_socket(plain, server_side=True) as tls:
            tls.sendall(data)
            tls.unwrap().close()

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                lambda: BufferedRecorder(50_000), *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            assert await protocol.lost is None
        assert digest(protocol.received) == digest(data)

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_streams_transfer_both_ways_at_once(run, pki, version):
    async def main():
        outcome = asyncio.get_running_loop().create_future()

        async def handle(reader, writer):
            received = await by_streams(reader, writer, OURS, len(THEIRS))
            writer.close()
            await writer.wait_closed()
            outcome.set_result(received)

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=pki.server(version))
        address = server.sockets[0].getsockname()
        theirs, name = await aside(lambda: exchange(blocking_client(pki.client(), address)))
        received = await outcome
        server.close()
        await server.wait_closed()
        assert (digest(received), digest(theirs), name) == (digest(THEIRS), digest(OURS), NAMES[version])

    run(main)


def test_over_a_unix_socket(run, pki, tmp_path):
    path = str(tmp_path / "socket")

    def dialogue():
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(PATIENCE_S)
        plain.connect(path)
        with pki.client().wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"hello")
            return receive(tls, 5)

    async def main():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        def make():
            made.set_result(Upper())
            return made.result()

        server = await loop.create_unix_server(make, path, ssl=pki.server())
        assert await aside(dialogue) == b"HELLO"
        await (await made).lost
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 7, 1500])
def test_a_stream_that_comes_in_small_pieces(run, pki, version, size):
    """Records and handshake messages are cut anywhere."""
    data = content(100 * size)

    async def main():
        async with serving(Upper, pki.server(version)) as server:
            relay = Relay(server.address, size)
            relay.start()

            def dialogue():
                with blocking_client(pki.client(), relay.address) as tls:
                    received = both_ways(tls, data, len(data))
                    tls.unwrap().close()
                    return received

            assert await aside(dialogue) == data.upper()
            protocol = await server.arrived()
            assert await protocol.lost is None
            await aside(relay.join)
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reader_that_waits_pauses_the_writer(run, pki, version):
    """Everything written arrives, and arrives once, though the peer lets the buffers fill first."""
    data = content(TOO_MUCH)
    may_read = threading.Event()

    def serve(plain):
        with pki.server(version).wrap_socket(plain, server_side=True) as tls:
            assert may_read.wait(PATIENCE_S)
            return receive_to_end(tls)

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Recorder, *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            sent = memoryview(data)
            while sent and "pause" not in protocol.calls:
                protocol.transport.write(sent[:100_000])
                sent = sent[100_000:]
                await asyncio.sleep(0)
            assert "pause" in protocol.calls
            assert protocol.transport.get_write_buffer_size() > 0
            may_read.set()
            await protocol.until(lambda: "resume" in protocol.calls)
            protocol.transport.write(sent)
            protocol.transport.close()
            assert await protocol.lost is None
            assert await peer.outcome() == (len(data), digest(data))

    run(main)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"])  # fmt: skip
def test_ciphers_of_tls_1_2(run, pki, cipher):
    """AEAD and CBC: their records differ in form and length."""
    context = pki.server("tls1_2")
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    data = content(200_000)

    def dialogue(address):
        client = pki.client("tls1_2")
        client.set_ciphers(f"{cipher}:@SECLEVEL=0")
        with blocking_client(client, address) as tls:
            assert tls.cipher()[0] == cipher
            return both_ways(tls, data, len(data))

    async def main():
        async with serving(Upper, context) as server:
            assert await aside(dialogue, server.address) == data.upper()
            protocol = await server.arrived()
            assert protocol.transport.get_extra_info("cipher")[0] == cipher
            assert await protocol.lost is None

    run(main)


def test_many_clients_at_once(run, pki):
    count = 60

    def dialogue(address, number):
        with blocking_client(pki.client(), address) as tls:
            tls.sendall(b"client %d" % number)
            return receive(tls, len(b"client %d" % number))

    def dialogues(address):
        with ThreadPoolExecutor(12) as pool:
            return list(pool.map(lambda number: dialogue(address, number), range(count)))

    async def main():
        async with serving(Upper, pki.server()) as server:
            assert await aside(dialogues, server.address) == [b"CLIENT %d" % number for number in range(count)]
            for _ in range(count):
                assert await (await server.arrived()).lost is None

    run(main)


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_peer_unwraps(run, pki, version):
    """Its close_notify is answered; then comes the end of the connection."""

    def dialogue(address):
        tls = blocking_client(pki.client(version), address)
        tls.sendall(b"hello")
        answer = receive(tls, 5)
        with tls.unwrap() as plain:
            return answer, plain.recv(1)

    async def main():
        async with serving(Upper, pki.server()) as server:
            assert await aside(dialogue, server.address) == (b"HELLO", b"")
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_plain_text_after_the_end_of_tls_is_no_data(run, pki, version):
    """A peer may go on without TLS; asyncio does not, and gives none of it to the protocol."""
    go_on = threading.Event()

    def serve(plain):
        tls = pki.server(version).wrap_socket(plain, server_side=True)
        tls.sendall(b"by TLS")
        with tls.unwrap() as plain:
            go_on.set()
            try:
                plain.sendall(b"by no TLS" * 1000)
                while plain.recv(1000):
                    pass
            except ConnectionError:
                pass
        return "the end"

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Recorder, *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            assert await protocol.lost is None
            assert await peer.outcome() == "the end"
        assert go_on.is_set()
        assert bytes(protocol.received) == b"by TLS"
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_peer_goes_without_close_notify(run, pki, version):
    def dialogue(address):
        tls = blocking_client(pki.client(version), address)
        tls.sendall(b"hello")
        answer = receive(tls, 5)
        os.close(tls.detach())
        return answer

    async def main():
        async with serving(Upper, pki.server()) as server:
            assert await aside(dialogue, server.address) == b"HELLO"
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_close_sends_close_notify_and_abort_does_not(run, pki, version):
    def serve(plain):
        tls = pki.server(version).wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
        with tls:
            data = receive(tls, 5)
            try:
                return data, tls.recv(1)
            except (ssl.SSLEOFError, ConnectionResetError) as exception:
                return data, type(exception)

    async def main(end):
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Recorder, *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            protocol.transport.write(b"hello")
            # Whatever comes of its own after the handshake (tickets of TLS 1.3) is read: the abort resets nothing.
            await asyncio.sleep(0.05)
            end(protocol.transport)
            assert await protocol.lost is None
            return await peer.outcome()

    assert run(main, lambda transport: transport.close()) == (b"hello", b"")
    assert run(main, lambda transport: transport.abort()) == (b"hello", ssl.SSLEOFError)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_before_close_arrives(run, pki, version):
    data = content(2_000_000)

    def serve(plain):
        with pki.server(version).wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as tls:
            return receive_to_end(tls)

    async def main():
        async with BlockingServer(serve) as peer:
            _, protocol = await asyncio.get_running_loop().create_connection(
                Recorder, *peer.address, ssl=pki.client(), server_hostname="localhost"
            )
            for start in range(0, len(data), 1000):
                protocol.transport.write(data[start : start + 1000])
            protocol.transport.close()
            assert await peer.outcome() == (len(data), digest(data))
            assert await protocol.lost is None

    run(main)
