"""A client with `openssl s_server` at the other end, driven by its commands."""

import asyncio
import re
import ssl
import sys

import pytest
from peers import Recorder
from tls_peers import (
    NAMES,
    PSK,
    VERSIONS,
    Upper,
    aside,
    digest,
    digits,
    s_server,
)


async def connect(port, context, make=Recorder):
    _, protocol = await asyncio.get_running_loop().create_connection(
        make, "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    return protocol


async def closed(protocol):
    protocol.transport.close()
    return await protocol.lost


@pytest.mark.usefixtures("sslproto_of_3_11")
@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_answers(run, pki, version):
    """`-rev`: each line comes back reversed."""

    async def main():
        with s_server(pki, "-rev", f"-{version}") as (_, port):
            protocol = await connect(port, pki.client())
            for number in range(20):
                line = b"line %d" % number
                protocol.transport.write(line + b"\n")
                await protocol.until(lambda: protocol.received.endswith(b"\n"))
                assert bytes(protocol.received) == line[::-1] + b"\n"
                protocol.received.clear()
            assert protocol.transport.get_extra_info("ssl_object").version() == NAMES[version]
            assert await closed(protocol) is None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_gets_and_gives(run, pki, version):
    data = digits(600_000) + b"the end\n"

    async def main():
        with s_server(pki, "-naccept", "1", f"-{version}") as (program, port):
            protocol = await connect(port, pki.client())
            for start in range(0, len(data), 700):
                protocol.transport.write(data[start : start + 700])
            received = await aside(program.read_until, b"the end\n")
            received = re.sub(
                rb"^.*Renegotiation IS[^\n]*\n", b"", received, flags=re.DOTALL
            )  # what it says of the session
            assert digest(received + b"the end\n") == digest(data)
            await aside(program.send, data)
            await protocol.until_received(len(data))
            assert digest(protocol.received) == digest(data)
            assert await closed(protocol) is None
            assert (await aside(program.finish))[1] == 0

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("end", ["q", "killed"])
def test_s_server_goes(run, pki, version, end):
    """`q` ends the connection with close_notify; a killed one ends without."""

    async def main():
        with s_server(pki, f"-{version}") as (program, port):
            protocol = await connect(port, pki.client())
            protocol.transport.write(b"hello\n")
            await aside(program.read_until, b"hello\n")
            if end == "q":
                program.send(b"q\n")
            else:
                await aside(program.kill)
            assert await protocol.lost is None
        assert protocol.calls == ["made", "eof", "lost"]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_resumes_a_session(run, pki, version):
    class Resuming(ssl.SSLContext):
        session_to_use = None

        def wrap_bio(self, *args, **options):
            return super().wrap_bio(*args, **options, session=self.session_to_use)

    context = pki.client(make=Resuming)

    async def main():
        reused = []
        with s_server(pki, "-rev", f"-{version}") as (_, port):
            for _ in range(3):
                protocol = await connect(port, context)
                protocol.transport.write(b"hello\n")
                await protocol.until_received(6)  # a ticket of TLS 1.3 has come with it
                ssl_object = protocol.transport.get_extra_info("ssl_object")
                reused.append(ssl_object.session_reused)
                context.session_to_use = ssl_object.session
                assert await closed(protocol) is None
        assert reused == [False, True, True]

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_asks_for_a_certificate(run, pki, version):
    async def main():
        options = ("-Verify", "1", "-CAfile", pki.ca, "-verify_return_error", f"-{version}")
        with s_server(pki, *options) as (program, port):
            protocol = await connect(port, pki.client_with_certificate())
            protocol.transport.write(b"hello\n")
            output = await aside(program.read_until, b"hello\n")
            assert await closed(protocol) is None
        assert b"subject=CN = a client" in output

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_gets_no_certificate(run, pki, version):
    """With TLS 1.2 the handshake fails; with TLS 1.3 the client's is over before the server refuses it."""

    async def main():
        options = ("-Verify", "1", "-CAfile", pki.ca, "-verify_return_error", f"-{version}")
        with s_server(pki, *options) as (_, port):
            if version == "tls1_2":
                with pytest.raises(ssl.SSLError) as caught:
                    await connect(port, pki.client())
                assert "HANDSHAKE_FAILURE" in caught.value.reason
            else:
                protocol = await connect(port, pki.client())
                lost = await protocol.lost
                assert type(lost) is ssl.SSLError and "CERTIFICATE_REQUIRED" in lost.reason
                assert protocol.calls == ["made", "lost"]

    run(main)


def test_s_server_asks_for_a_certificate_later(run, pki):
    """`c`: authentication after the handshake, of TLS 1.3."""

    async def main():
        context = pki.client_with_certificate()
        context.post_handshake_auth = True
        with s_server(pki, "-verify", "1", "-CAfile", pki.ca, "-tls1_3") as (program, port):
            protocol = await connect(port, context)
            protocol.transport.write(b"before\n")
            output = await aside(program.read_until, b"before\n")
            program.send(b"c\n")
            output += await aside(program.read_until, b"depth=0 CN = a client")
            protocol.transport.write(b"after\n")
            await aside(program.read_until, b"after\n")
            program.send(b"hello\n")
            await protocol.until_received(6)
            assert await closed(protocol) is None
        assert bytes(protocol.received) == b"hello\n"

    run(main)


@pytest.mark.parametrize("chosen", ["http/1.1", "h2", None])
def test_s_server_chooses_a_protocol(run, pki, chosen):
    async def main():
        context = pki.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with s_server(pki, "-rev", *(["-alpn", f"{chosen}"] if chosen else [])) as (_, port):
            protocol = await connect(port, context)
            assert protocol.transport.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
            assert await closed(protocol) is None

    run(main)


def test_s_server_updates_its_keys(run, pki):
    """`k`: its own; `K`: the client's as well."""

    async def main():
        with s_server(pki, "-tls1_3", "-msg", "-naccept", "1") as (program, port):
            protocol = await connect(port, pki.client(), Upper)
            output = await aside(program.read_until, b"Renegotiation IS")
            for command in (b"k", b"K", b"K", b"k"):
                program.send(command + b"\n")
                protocol.transport.write(b"first the command, then this\n")
                output += await aside(program.read_until, b"then this\n")
                program.send(b"hello\n")
                await protocol.until_received(6)
                assert bytes(protocol.received) == b"hello\n"
                protocol.received.clear()
            assert await closed(protocol) is None
            output += (await aside(program.finish))[0]
        updates = re.findall(rb"([<>]{3}) TLS 1.3, Handshake \[length 0005\], KeyUpdate", output)
        assert sorted(updates) == [b"<<<"] * 2 + [b">>>"] * 4

    run(main)


@pytest.mark.parametrize("certificate", [False, True])
def test_s_server_renegotiates(run, pki, certificate):
    """`r`, which resumes the session; `R`, which does not here and asks for a certificate. The client only answers."""

    async def main():
        options = ("-no_ticket", "-no_cache") if certificate else ()
        with s_server(pki, "-tls1_2", "-CAfile", pki.ca, "-msg", *options) as (program, port):
            protocol = await connect(port, pki.client_with_certificate(), Upper)
            for first in (True, False):
                program.send(b"R\n" if certificate else b"r\n")
                output = await aside(program.read_until, b"SSL_do_handshake -> 1")
                program.send(b"hello\n")
                output += await aside(program.read_until, b"HELLO\n")
                assert (b"], CertificateVerify" in output) == (certificate and first)  # it asks once
            assert await closed(protocol) is None
        assert bytes(protocol.received) == 2 * b"hello\n"

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="pre-shared keys came with 3.13")
@pytest.mark.parametrize("version", VERSIONS)
def test_s_server_has_a_key_shared_before(run, pki, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("PSK")
    context.set_psk_client_callback(lambda hint: ("anna", PSK))

    async def main():
        options = ("-nocert", "-psk", PSK.hex(), "-psk_identity", "anna", "-cipher", "PSK", "-rev")
        with s_server(pki, *options) as (_, port):
            protocol = await connect(port, context)
            protocol.transport.write(b"hello\n")
            await protocol.until_received(6)
            assert bytes(protocol.received) == b"olleh\n"
            assert await closed(protocol) is None

    run(main)


def test_s_server_serves_a_page(run, pki):
    """`-www`: streams read a page of HTTP to the end."""

    async def main():
        with s_server(pki, "-www") as (_, port):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=pki.client())
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            page = await reader.read()
            writer.close()
            await writer.wait_closed()
        assert page.startswith(b"HTTP/1.0 200 ok") and page.rstrip().endswith(b"</HTML>")

    run(main)
