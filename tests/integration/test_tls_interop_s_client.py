"""A server with `openssl s_client` at the other end, driven by its commands."""

import asyncio
import re
import ssl
import subprocess
import sys

import pytest
from peers import Recorder
from tls_peers import (
    ALLOW_CLIENT_RENEGOTIATION,
    PSK,
    VERSIONS,
    Upper,
    aside,
    content,
    digest,
    digits,
    s_client,
    serving,
)


def said(client, text):
    """Say a line; the answer has come."""
    client.send(text + b"\n")
    client.read_until(text.upper() + b"\n")


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_talks_and_goes(run, pki, version):
    def dialogue(port):
        with s_client(pki, port, f"-{version}") as client:
            client.read_until(b"Verify return code: 0 (ok)")
            for number in range(20):
                said(client, b"line %d" % number)
            client.end_input()
            output, code = client.finish()
            assert b"DONE" in output and code == 0

    async def main():
        async with serving(Upper, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]
        assert protocol.received.count(b"\n") == 20

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_is_killed(run, pki, version):
    """The connection ends without close_notify."""

    def dialogue(port):
        with s_client(pki, port, f"-{version}") as client:
            said(client, b"hello")

    async def main():
        async with serving(Upper, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_s_client_is_left(run, pki, version, end):
    def dialogue(port):
        with s_client(pki, port, f"-{version}") as client:
            client.send(b"go\n")
            output, code = client.finish()
            # It tells a close_notify ("closed") from an end of the connection.
            if end == "close":
                assert (output.split()[-1], code) == (b"closed", 0)
            else:
                assert b"unexpected eof while reading" in output and code == 1

    async def main():
        async with serving(Recorder, pki.server()) as server:
            peer = asyncio.ensure_future(aside(dialogue, server.port))
            protocol = await server.arrived()
            await protocol.until_received(3)
            getattr(protocol.transport, end)()
            assert await protocol.lost is None
            await peer

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_uploads_in_small_records(run, pki, version, tmp_path):
    data = digits(1_000_000)
    path = tmp_path / "content"
    path.write_bytes(data)

    def dialogue(port):
        with path.open("rb") as file, s_client(
            pki, port, f"-{version}", "-quiet", "-no_ign_eof", "-max_send_frag", "512", input=file
        ) as client:  # fmt: skip
            assert client.finish()[1] == 0

    async def main():
        async with serving(Recorder, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert digest(protocol.received) == digest(data)

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_downloads(run, pki, version):
    data = content(1_000_000)

    def dialogue(port):
        with s_client(pki, port, f"-{version}", "-quiet", "-ign_eof") as client:
            return client.finish()

    async def main():
        async with serving(Recorder, pki.server()) as server:
            peer = asyncio.ensure_future(aside(dialogue, server.port))
            protocol = await server.arrived()
            for start in range(0, len(data), 300):
                protocol.transport.write(data[start : start + 300])
            protocol.transport.close()
            output, code = await peer
            assert await protocol.lost is None
        # What it says of the certificate comes before.
        assert (digest(output[-len(data) :]), code) == (digest(data), 0)

    run(main)


def test_s_client_ends_its_lines_with_crlf(run, pki):
    def dialogue(port):
        with s_client(pki, port, "-crlf") as client:
            client.send(b"one\ntwo\n")
            client.read_until(b"TWO\r\n")

    async def main():
        async with serving(Upper, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            await protocol.lost
        assert bytes(protocol.received) == b"one\r\ntwo\r\n"

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_resumes_its_session(run, pki, version, tmp_path):
    session = tmp_path / "session"

    def dialogue(port, *options):
        with s_client(pki, port, f"-{version}", *options) as client:
            start = client.read_until(b"Verify return code: 0 (ok)")
            said(client, b"hello")
            client.end_input()
            assert client.finish()[1] == 0
            return [word for word in (b"New, ", b"Reused, ") if word in start]

    async def main():
        async with serving(Upper, pki.server()) as server:
            words, reused = [], []
            for option in ("-sess_out", "-sess_in"):
                words += await aside(dialogue, server.port, option, session)
                protocol = await server.arrived()
                reused.append(protocol.ssl_object.session_reused)
                await protocol.lost
        assert (words, reused) == ([b"New, ", b"Reused, "], [False, True])

    run(main)


class NotingReuse(Upper):
    def connection_made(self, transport):
        super().connection_made(transport)
        self.was_reused = self.ssl_object.session_reused


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_reconnects(run, pki, version):
    """`-reconnect`: five more connections, each as soon as the one before is made."""

    def dialogue(port):
        with s_client(pki, port, f"-{version}", "-reconnect") as client:
            client.read_until(b"drop connection and then reconnect", 5)
            client.read_until(b"CONNECTED")
            said(client, b"hello")
            client.end_input()
            assert client.finish()[1] == 0

    async def main():
        async with serving(NotingReuse, pki.server()) as server:
            await aside(dialogue, server.port)
            protocols = [await server.arrived() for _ in range(6)]
            lost = [await protocol.lost for protocol in protocols]
        assert [bytes(protocol.received) for protocol in protocols] == [b""] * 5 + [b"hello\n"]
        if version == "tls1_3":  # it leaves before it has read a ticket
            assert all(exception is None or isinstance(exception, ConnectionError) for exception in lost)
        else:
            assert lost == [None] * 6
            assert [protocol.was_reused for protocol in protocols] == [False] + [True] * 5

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_shows_its_certificate(run, pki, version):
    context = pki.server()
    context.verify_mode = ssl.CERT_REQUIRED

    def dialogue(port):
        with s_client(pki, port, f"-{version}", "-cert", pki.client_cert, "-key", pki.client_key) as client:
            said(client, b"hello")

    async def main():
        async with serving(Upper, context) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            peercert = protocol.transport.get_extra_info("peercert")
            await protocol.lost
        assert peercert["subject"] == ((("commonName", "a client"),),)

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_has_no_certificate(run, pki, version):
    """It is turned away, and no protocol gets a connection. asyncio does not send the alert that says why."""
    context = pki.server()
    context.verify_mode = ssl.CERT_REQUIRED

    def dialogue(port):
        with s_client(pki, port, f"-{version}") as client:
            output, code = client.finish()
            alert = {"tls1_2": b"alert handshake failure", "tls1_3": b"alert certificate required"}[version]
            assert (alert in output or b"unexpected eof" in output) and code == 1

    async def main():
        async with serving(Upper, context) as server:
            await aside(dialogue, server.port)
        assert [protocol.calls for protocol in server.protocols] == [[]]

    run(main)


@pytest.mark.parametrize(
    "offered, chosen", [("http/1.1", "http/1.1"), ("h2,http/1.1", "http/1.1"), ("acme,h3", None), (None, None)]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_offers_protocols(run, pki, version, offered, chosen):
    context = pki.server()
    context.set_alpn_protocols(["spdy", "http/1.1"])

    def dialogue(port):
        with s_client(pki, port, f"-{version}", *(["-alpn", offered] if offered else [])) as client:
            start = client.read_until(b"Verify return code: 0 (ok)")
            said(client, b"hello")
            return re.search(rb"ALPN protocol: (\S+)", start)

    async def main():
        async with serving(Upper, context) as server:
            seen = await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert protocol.ssl_object.selected_alpn_protocol() == chosen
            await protocol.lost
        assert (seen[1].decode() if seen else None) == chosen

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_names_the_server(run, pki, version):
    """The SNI callback may give the connection another context."""
    first, second = pki.server(), pki.server()
    first.set_alpn_protocols(["first"])
    second.set_alpn_protocols(["second"])
    names = []

    def sni(ssl_object, name, context):
        names.append(name)
        assert context is first
        if name == "other.test":
            ssl_object.context = second

    first.sni_callback = sni

    def dialogue(port, name):
        with s_client(pki, port, f"-{version}", "-servername", name, "-alpn", "first,second") as client:
            protocol = re.search(rb"ALPN protocol: (\S+)", client.read_until(b"Verify return code: 0 (ok)"))[1]
            said(client, b"hello")
            return protocol

    async def main():
        chosen = []
        async with serving(Upper, first) as server:
            for name in ("localhost", "other.test"):
                chosen.append(await aside(dialogue, server.port, name))
                protocol = await server.arrived()
                assert protocol.ssl_object.context is (second if name == "other.test" else first)
                await protocol.lost
        assert (chosen, names) == ([b"first", b"second"], ["localhost", "other.test"])

    run(main)


def test_s_client_updates_its_keys(run, pki):
    """`k`: its own; `K`: the server's as well."""

    def dialogue(port):
        with s_client(pki, port, "-tls1_3") as client:
            said(client, b"before")
            for command in (b"k", b"K", b"K", b"k"):
                client.send(command + b"\n")
                client.read_until(b"KEYUPDATE\n")
                said(client, b"after")

    async def main():
        async with serving(Upper, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert bytes(protocol.received) == b"before\n" + 4 * b"after\n"

    run(main)


def test_s_client_may_renegotiate(run, pki):
    context = pki.server()
    context.options |= ALLOW_CLIENT_RENEGOTIATION

    def dialogue(port):
        with s_client(pki, port, "-tls1_2") as client:
            said(client, b"before")
            for _ in range(2):
                client.send(b"R\n")
                client.read_until(b"RENEGOTIATING\n")
                said(client, b"after")

    async def main():
        async with serving(Upper, context) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert await protocol.lost is None
        assert bytes(protocol.received) == b"before\n" + 2 * b"after\n"

    run(main)


@pytest.mark.parametrize("command", ["k", "K"])
def test_s_client_updates_its_keys_while_it_downloads(run, pki, command):
    data = digits(3_000_000)

    def dialogue(port):
        with s_client(pki, port, "-tls1_3", errors=subprocess.DEVNULL) as client:
            client.send(b"go\n")
            client.read_until(b"begin")
            received = b""
            for _ in range(10):
                received += client.read_until(b"part")
                client.send(f"{command}\n".encode())
            return received + client.read_until(b"end")

    async def main():
        async with serving(Recorder, pki.server()) as server:
            peer = asyncio.ensure_future(aside(dialogue, server.port))
            protocol = await server.arrived()
            await protocol.until_received(3)
            protocol.transport.write(b"begin")
            size = len(data) // 10
            for start in range(0, len(data), size):
                for at in range(start, start + size, 5_000):
                    protocol.transport.write(data[at : min(at + 5_000, start + size)])
                protocol.transport.write(b"part")
                await asyncio.sleep(0)
            protocol.transport.write(b"end")
            assert digest(await peer) == digest(data)
            await protocol.lost  # it goes without having read our last change of keys: perhaps by a reset
        assert bytes(protocol.received) == b"go\n"

    run(main)


def test_s_client_may_not_renegotiate(run, pki):
    """OpenSSL 3 refuses it by itself."""

    def dialogue(port):
        with s_client(pki, port, "-tls1_2") as client:
            said(client, b"before")
            client.send(b"R\n")
            output, code = client.finish()
            assert b"no renegotiation" in output and code == 1

    async def main():
        async with serving(Upper, pki.server()) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            lost = await protocol.lost
        assert type(lost) is ssl.SSLError and "HANDSHAKE_FAILURE" in lost.reason
        assert bytes(protocol.received) == b"before\n"

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_and_the_server_log_the_same_keys(run, pki, version, tmp_path):
    context = pki.server(version)
    context.keylog_filename = str(tmp_path / "server")

    def dialogue(port):
        with s_client(pki, port, "-keylogfile", tmp_path / "client") as client:
            said(client, b"hello")
            client.end_input()
            assert client.finish()[1] == 0

    async def main():
        async with serving(Upper, context) as server:
            await aside(dialogue, server.port)
            await (await server.arrived()).lost

    def secrets(name):
        lines = (tmp_path / name).read_text().splitlines()
        return {line for line in lines if line and not line.startswith("#")}

    run(main)
    context.keylog_filename = None  # closes the file
    assert secrets("server") == secrets("client") != set()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="pre-shared keys came with 3.13")
@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_has_a_key_shared_before(run, pki, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
    context.minimum_version = context.maximum_version = VERSIONS[version]
    context.set_ciphers("PSK")
    identities = []

    def key_of(identity):
        identities.append(identity)
        return PSK

    context.set_psk_server_callback(key_of, "a hint")

    def dialogue(port):
        with s_client(pki, port, "-psk", PSK.hex(), "-psk_identity", "anna", "-cipher", "PSK") as client:
            said(client, b"hello")

    async def main():
        async with serving(Upper, context) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            assert protocol.transport.get_extra_info("peercert") is None
            assert await protocol.lost is None
        assert set(identities) == {"anna"}

    run(main)


class ToySmtp(Recorder):
    """As much of SMTP as leads to STARTTLS; then its lines come back in upper case."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(b"220 toy ESMTP\r\n")
        self.secure = False

    def data_received(self, data):
        super().data_received(data)
        if self.secure:
            self.transport.write(data.upper())
            return
        *lines, rest = bytes(self.received).split(b"\r\n")
        self.received[:] = rest
        for line in lines:
            if line.startswith(b"EHLO"):
                self.transport.write(b"250-toy\r\n250 STARTTLS\r\n")
            elif line == b"STARTTLS":
                self.transport.write(b"220 go\r\n")
                self.secure = True
                self.upgrading = asyncio.ensure_future(self.upgrade())

    async def upgrade(self):
        self.transport = await self.loop.start_tls(self.transport, self, self.context, server_side=True)


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_s_client_starts_tls_by_smtp(run, pki, version):
    def dialogue(port):
        with s_client(pki, port, f"-{version}", "-starttls", "smtp") as client:
            client.read_until(b"Verify return code: 0 (ok)")
            said(client, b"hello")
            client.end_input()
            assert client.finish()[1] == 0

    async def main():
        ToySmtp.context = pki.server()
        async with serving(ToySmtp, None) as server:
            await aside(dialogue, server.port)
            protocol = await server.arrived()
            await protocol.upgrading
            assert await protocol.lost is None
            assert protocol.transport.get_extra_info("ssl_object") is not None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)
