"""Contexts and SSLObjects of other packages: truststore's, and classes that do more in the handshake than OpenSSL."""

import asyncio
import hashlib
import ssl
from pathlib import Path

import pytest
from peers import Recorder
from tls_peers import VERSIONS, BlockingServer, Upper, serving, wheel


async def talk(context, server_context, server_hostname="localhost"):
    """A connection to a server of the same loop, which answers; the client's ssl_object."""
    async with serving(Upper, server_context) as server:
        _, protocol = await asyncio.get_running_loop().create_connection(
            Recorder, *server.address, ssl=context, server_hostname=server_hostname
        )
        protocol.transport.write(b"hello")
        await protocol.until_received(5)
        assert bytes(protocol.received) == b"HELLO"
        ssl_object = protocol.transport.get_extra_info("ssl_object")
        protocol.transport.close()
        assert await protocol.lost is None
        return ssl_object


# --- truststore -----------------------------------------------------------------------------------


def truststore_context(no_ca=False):
    context = wheel("truststore").SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if no_ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("version", VERSIONS)
def test_truststore_with_a_private_ca(run, pki, version):
    """It is added to the system's."""
    context = truststore_context()
    context.load_verify_locations(pki.ca)

    async def main():
        ssl_object = await talk(context, pki.server(version))
        assert ssl_object.getpeercert()["subject"] == ((("commonName", "localhost"),),)
        assert type(ssl_object).__name__ == "TruststoreSSLObject"

    run(main)


def test_truststore_without_verification(run, pki):
    async def main():
        await talk(truststore_context(no_ca=True), pki.server())

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_truststore_does_not_know_the_ca(run, pki, version):
    """The same error as that of a context of the standard library's."""
    server_context = pki.server(version)

    def serve(plain):
        with pytest.raises(ssl.SSLError):
            with server_context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(1)

    async def refused(context):
        async with BlockingServer(serve) as peer:
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                await asyncio.get_running_loop().create_connection(
                    Recorder, *peer.address, ssl=context, server_hostname="localhost"
                )
        return caught.value

    async def main():
        theirs, standard = await refused(truststore_context()), await refused(ssl.create_default_context())
        assert type(theirs) is type(standard)
        assert theirs.args == standard.args
        assert theirs.verify_code == standard.verify_code != 0
        assert theirs.verify_message == standard.verify_message == "self-signed certificate in certificate chain"

    run(main)


def test_truststore_checks_the_name(run, pki):
    context = truststore_context()
    context.load_verify_locations(pki.ca)

    def serve(plain):
        with pytest.raises(ssl.SSLError):
            with pki.server("tls1_2").wrap_socket(plain, server_side=True):
                pass

    async def main():
        async with BlockingServer(serve) as peer:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await asyncio.get_running_loop().create_connection(
                    Recorder, *peer.address, ssl=context, server_hostname="elsewhere.test"
                )

    run(main)


# --- classes of SSLObject -------------------------------------------------------------------------


def pinning(pki, digest):
    """A context whose objects accept one certificate only: they look at it when the handshake is over."""

    class Pinning(ssl.SSLObject):
        seen = 0

        def do_handshake(self):
            super().do_handshake()
            Pinning.seen += 1
            if hashlib.sha256(self.getpeercert(True)).digest() != digest:
                raise ssl.SSLCertVerificationError("a certificate that is not pinned")

    context = pki.client()
    context.sslobject_class = Pinning
    return context


@pytest.mark.parametrize("version", VERSIONS)
def test_an_object_accepts_its_certificate(run, pki, version):
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(pki.cert).read_text())).digest()

    async def main():
        ssl_object = await talk(pinning(pki, digest), pki.server(version))
        assert ssl_object.seen == 1

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_object_refuses_a_certificate(run, pki, version):
    """What do_handshake raises ends the connection, though OpenSSL is content."""
    context = pinning(pki, b"another")

    def serve(plain):
        try:
            with pki.server(version).wrap_socket(plain, server_side=True) as tls:
                return tls.recv(1)
        except (ssl.SSLError, ConnectionError):
            return b""

    async def main():
        async with BlockingServer(serve) as peer:
            with pytest.raises(ssl.SSLCertVerificationError, match="not pinned"):
                await asyncio.get_running_loop().create_connection(
                    Recorder, *peer.address, ssl=context, server_hostname="localhost"
                )
            assert await peer.outcome() == b""
        assert context.sslobject_class.seen == 1

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_object_reads_and_writes_by_itself(run, pki, version):
    """A class may count the bytes, or change them: its own methods are called."""

    class Counting(ssl.SSLObject):
        count = 0

        def write(self, data):
            Counting.count += len(data)
            return super().write(data)

        def read(self, length=1024, buffer=None):
            result = super().read(length, buffer)
            Counting.count += 100 * (len(result) if buffer is None else result)
            return result

    context = pki.client()
    context.sslobject_class = Counting

    async def main():
        await talk(context, pki.server(version))
        assert Counting.count == 505

    run(main)
