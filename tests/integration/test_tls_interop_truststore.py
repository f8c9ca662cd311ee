"""truststore's contexts, which are no `ssl.SSLContext` and make SSLObjects of a class of their own."""

import asyncio
import ssl

import pytest
from peers import Recorder
from tls_peers import VERSIONS, BlockingServer, talk, wheel


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
        with pytest.raises(ssl.SSLError), server_context.wrap_socket(plain, server_side=True) as tls:
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
        with pytest.raises(ssl.SSLError), pki.server("tls1_2").wrap_socket(plain, server_side=True):
            pass

    async def main():
        async with BlockingServer(serve) as peer:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await asyncio.get_running_loop().create_connection(
                    Recorder, *peer.address, ssl=context, server_hostname="elsewhere.test"
                )

    run(main)
