"""Classes of SSLObject that do more than OpenSSL: what they override is called."""

import asyncio
import hashlib
import ssl
from pathlib import Path

import pytest
from peers import Recorder
from tls_peers import VERSIONS, BlockingServer, talk


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
