"""What of the user's own SSLContext must work: all of it.

Where asyncio decides a text or a class, the scenario runs on both loops of this Python and is compared (`same`).
"""

import ssl

import pytest
from tls import PASSWORD, SIDES, VERSIONS, attempt, drop, drop_both, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("version", VERSIONS)
def test_alpn(run, certs, version):
    async def main():
        for ours, theirs, chosen in [
            (["h2", "http/1.1"], ["http/1.1"], "http/1.1"),
            (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"),
            (["h2"], ["spdy"], None),
        ]:
            server_context, client_context = certs.contexts(version)
            client_context.set_alpn_protocols(ours)
            server_context.set_alpn_protocols(theirs)
            one, other = await secure_pair(certs, contexts=(server_context, client_context))
            for protocol in (one, other):
                ssl_object = protocol.transport.get_extra_info("ssl_object")
                assert ssl_object.selected_alpn_protocol() == chosen
            await drop_both(one, other)

    run(main)


def test_ciphers_and_versions(run, certs):
    async def main():
        for cipher in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "AES256-SHA256"):
            server_context, client_context = certs.contexts(ssl.TLSVersion.TLSv1_2)
            client_context.set_ciphers(cipher)
            server_context.set_ciphers("ALL")
            one, other = await secure_pair(certs, contexts=(server_context, client_context))
            assert one.transport.get_extra_info("cipher")[0] == cipher
            assert other.transport.get_extra_info("cipher")[0] == cipher
            await exchange(one, other)
            await drop_both(one, other)
        for version, name in zip(VERSIONS, ("TLSv1.2", "TLSv1.3")):
            one, other = await secure_pair(certs, contexts=(certs.server(version=version), certs.client()))
            assert one.transport.get_extra_info("ssl_object").version() == name
            await drop_both(one, other)

    run(main)


async def exchange(one, other):
    one.transport.write(b"from the client")
    other.transport.write(b"from the server")
    await one.until_received(15)
    await other.until_received(15)
    assert (one.received, other.received) == (b"from the server", b"from the client")


def test_an_elliptic_certificate_and_an_encrypted_key(run, certs):
    async def main():
        asked = []

        def password():
            asked.append(True)
            return PASSWORD

        encrypted = certs.server(name=None)
        encrypted.load_cert_chain(str(certs.path("server.pem")), str(certs.path("encrypted.key")), password)
        assert asked
        for context in (certs.server("ec"), encrypted):
            one, other = await secure_pair(certs, contexts=(context, certs.client()))
            await exchange(one, other)
            await drop_both(one, other)

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", list(ssl.VerifyMode))
@pytest.mark.parametrize("name", [None, "client", "stranger"])
def test_client_certificates(certs, version, mode, name):
    async def scenario():
        server_context = certs.server(version=version, verify_mode=mode)
        contexts = (server_context, certs.client(name, version=version))
        seen, with_peer, protocol, peer = await attempt(certs, "server", contexts=contexts)
        if protocol is None:
            peer.close()
            return with_peer[0], seen
        certificate = protocol.transport.get_extra_info("peercert")
        await drop(protocol, peer)
        return "connected", certificate

    seen = same(scenario)["result"]
    refused = (mode is ssl.CERT_REQUIRED and name is None) or (mode is not ssl.CERT_NONE and name == "stranger")
    assert (seen[0] != "connected") == refused
    if mode is not ssl.CERT_NONE and name == "client":
        assert seen[1]["subject"] == ((("commonName", "a client"),),)


def test_a_client_that_does_not_verify(run, certs):
    async def main():
        client_context = certs.client(check_hostname=False)
        client_context.verify_mode = ssl.CERT_NONE
        for name in ("expired", "self_signed", "other", "stranger"):
            one, other = await secure_pair(certs, contexts=(certs.server(name), client_context))
            assert one.transport.get_extra_info("peercert") == {}
            assert one.transport.get_extra_info("ssl_object").getpeercert(True)
            await drop_both(one, other)

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
def test_session_reuse(run, certs, version):
    class Resumes(ssl.SSLContext):
        """Its objects take up the session that was kept."""

        kept = None

        def wrap_bio(self, incoming, outgoing, server_side=False, server_hostname=None, session=None):
            return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.kept)

    async def main():
        contexts = certs.server(version=version), certs.client(make=Resumes, version=version)
        for turn in range(3):
            one, other = await secure_pair(certs, contexts=contexts)
            await exchange(one, other)
            ssl_object = one.transport.get_extra_info("ssl_object")
            assert ssl_object.session_reused == (turn > 0)
            assert other.transport.get_extra_info("ssl_object").session_reused == (turn > 0)
            contexts[1].kept = ssl_object.session
            assert contexts[1].kept.has_ticket
            one.transport.close()
            assert await one.lost is None
            assert await other.lost is None
        stats = contexts[0].session_stats()
        assert stats["accept"] == 3 and stats["hits"] == 2

    run(main)


def test_keys_are_logged(run, certs, tmp_path):
    async def main():
        for side in SIDES:
            contexts = certs.contexts(ssl.TLSVersion.TLSv1_3)
            path = tmp_path / side
            contexts[side == "client"].keylog_filename = str(path)
            protocol, peer = await secure(certs, side, contexts=contexts)
            protocol.transport.write(b"x")
            assert await peer.receive(1) == b"x"
            labels = {line.split()[0] for line in path.read_text().splitlines() if not line.startswith("#")}
            assert {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} <= labels
            await drop(protocol, peer)

    run(main)


def test_an_sslcontext_of_ones_own(run, certs):
    """Subclasses of context and object: the methods that are overridden are called, the object is theirs."""

    class Own(ssl.SSLObject):
        pass

    class Counts(ssl.SSLContext):
        sslobject_class = Own
        wrapped = 0

        def wrap_bio(self, *args, **kwargs):
            self.wrapped += 1
            return super().wrap_bio(*args, **kwargs)

    async def main():
        contexts = certs.server(make=Counts), certs.client(make=Counts)
        one, other = await secure_pair(certs, contexts=contexts)
        await exchange(one, other)
        for protocol, context in ((one, contexts[1]), (other, contexts[0])):
            assert type(protocol.transport.get_extra_info("ssl_object")) is Own
            assert protocol.transport.get_extra_info("sslcontext") is context
            assert context.wrapped == 1
        await drop_both(one, other)

    run(main)


class Spying(ssl.SSLObject):
    """Python methods between asyncio and OpenSSL: they are called, as asyncio calls them."""

    seen = None

    def read(self, len=1024, buffer=None):
        type(self).seen.append("read")
        return super().read(len, buffer)

    def write(self, data):
        type(self).seen.append("write")
        return super().write(data)

    def do_handshake(self):
        type(self).seen.append("do_handshake")
        return super().do_handshake()

    def unwrap(self):
        type(self).seen.append("unwrap")
        return super().unwrap()


def test_methods_of_an_ssl_object_of_ones_own_are_called(run, certs):
    async def main():
        Spying.seen = []
        contexts = certs.contexts()
        contexts[1].sslobject_class = Spying
        one, other = await secure_pair(certs, contexts=contexts)
        await exchange(one, other)
        one.transport.close()
        await one.lost
        await other.lost
        assert {"read", "write", "do_handshake", "unwrap"} <= set(Spying.seen)

    run(main)
