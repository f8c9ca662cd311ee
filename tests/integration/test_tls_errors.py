"""Handshakes and records that go wrong: asyncio's exception, report and log line, and nothing spins, leaks or crashes.

The scenario runs on both loops of this Python, most with debug mode on, and all that is told is compared (`same`).
Where OpenSSL's peer ends decides a text, the peer is one of `tls.Peer`, the same for both.
"""

import asyncio
import random
import resource
import socket
import ssl

import pytest
from differential import describe, outcome
from peers import Recorder, reset, tcp_pair, turns
from tls import SIDES, VERSIONS, attempt, calm, drop, half_secure, opening, same, secure

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name", ["other", "nameless", "expired", "early", "self_signed", "stranger", "client", "revoked", "no trust"]
)
def test_a_certificate_that_is_refused(certs, name, version):
    async def scenario():
        server = certs.server("server" if name == "no trust" else name, version=version)
        client = certs.client(version=version)
        if name == "revoked":
            client.load_verify_locations(str(certs.path("ca.crl")))
            client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        elif name == "no trust":
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        elif name == "nameless":
            client.hostname_checks_common_name = False
        seen, _, protocol, peer = await attempt(certs, "client", contexts=(server, client))
        assert protocol is None
        peer.close()
        await calm()
        return seen

    kind, what = same(scenario, debug=True)["result"]
    assert kind == "raises" and what[0] == "SSLCertVerificationError"


def test_a_certificate_error_says_what_it_is(run, certs):
    async def main():
        for name, code, text in [
            ("other", 62, "Hostname mismatch, certificate is not valid for 'localhost'."),
            ("expired", 10, "certificate has expired"),
            ("early", 9, "certificate is not yet valid"),
            ("stranger", 20, "unable to get local issuer certificate"),
        ]:
            task, peer = half_secure(certs, "client", contexts=(certs.server(name), certs.client()))
            with_peer = asyncio.ensure_future(outcome(peer.handshake()))
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                await task
            error = caught.value
            assert (error.verify_code, error.verify_message) == (code, text)
            assert error.reason == "CERTIFICATE_VERIFY_FAILED" and error.library == "SSL" and error.errno == 1
            await with_peer
            peer.close()

    run(main)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
def test_an_alert_from_the_peer(certs, side, version):
    """It refuses our certificate, or what we offer; in TLS 1.3 a client learns of it after its handshake."""

    async def scenario():
        if side == "server":
            contexts = certs.server("stranger", version=version), certs.client(version=version)
        else:
            contexts = certs.server(version=version, verify_mode=ssl.CERT_REQUIRED), certs.client(version=version)
        seen, with_peer, protocol, peer = await attempt(certs, side, contexts=contexts)
        if protocol is not None:
            seen = describe(await protocol.lost), protocol.calls
        peer.close()
        await calm()
        return seen, with_peer

    same(scenario, debug=True)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", ["version", "cipher"])
def test_nothing_in_common(certs, side, what):
    async def scenario():
        if what == "version":
            contexts = certs.server(version=VERSIONS[1]), certs.client(version=VERSIONS[0])
        else:
            contexts = certs.contexts(VERSIONS[0])
            contexts[0].set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
            contexts[1].set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
        seen, _, protocol, peer = await attempt(certs, side, contexts=contexts)
        assert protocol is None
        peer.close()
        return seen

    same(scenario, debug=True)


def test_a_server_goes_on_after_each_failure(run, certs):
    """A server whose clients fail in every way serves the next one, and reports nothing."""

    async def main():
        made = []

        def make():
            made.append(Recorder())
            return made[-1]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, "127.0.0.1", 0, ssl=certs.server())
        address = server.sockets[0].getsockname()
        for piece in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00", bytes(100)):
            sock = socket.create_connection(address)
            sock.sendall(piece)
            sock.close()
            reset(socket.create_connection(address))
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(Recorder, *address, ssl=certs.client(), server_hostname="wrong.test")
        _, protocol = await loop.create_connection(Recorder, *address, ssl=certs.client())
        while not (calls := [one.calls for one in made if one.calls]):
            await asyncio.sleep(0.001)
        assert calls == [["made"]]
        await drop(protocol)
        server.close()
        await asyncio.gather(*(one.lost for one in made if one.calls))
        await calm()

    run(main)


# --- what is no TLS ------------------------------------------------------------------------------

NO_TLS = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "smtp": b"220 localhost ESMTP\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "one byte": b"\0",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "warning": b"\x15\x03\x03\x00\x02\x01\x00",
    "bad alert": b"\x15\x03\x03\x00\x02\x07\x28",
    "change": b"\x14\x03\x03\x00\x01\x01" * 50,
    "data": b"\x17\x03\x03\x00\x05hello",
    "empty records": b"\x16\x03\x03\x00\x00" * 50,
    "too long": b"\x16\x03\x01\xff\xff" + bytes(1000),
    "old version": b"\x16\x03\x00\x00\x05\x01\x00\x00\x01\x00",
    "sslv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
    "hello of nothing": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    "huge hello": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x3FFC),
}


async def end_of(protocol):
    """What the protocol is told at last, and all it was called."""
    lost = await asyncio.wait_for(protocol.lost, 5)
    return describe(lost), bytes(protocol.received), protocol.calls


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", NO_TLS)
def test_plain_text_at_the_beginning(certs, side, what):
    async def scenario():
        task, peer = half_secure(certs, side)
        if side == "client":
            assert await peer.receive_raw()  # its hello
        await peer.send_raw(NO_TLS[what])
        peer.shut()
        seen = await outcome(asyncio.wait_for(task, 5))
        peer.close()
        await calm()
        return seen

    assert same(scenario, debug=True)["result"][0] == "raises"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
def test_plain_text_after_the_handshake(certs, side, version):
    async def scenario():
        seen = []
        for what, data in NO_TLS.items():
            if what in ("empty records", "change"):
                continue  # how many of them are too many is OpenSSL's version's to say
            protocol, peer = await secure(certs, side, version=version)
            await peer.send(b"before")
            await protocol.until_received(6)
            await peer.send_raw(data)
            peer.shut()
            seen.append((what, await end_of(protocol), protocol.transport.is_closing()))
            peer.close()
        await calm()
        return seen

    same(scenario, debug=True)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_flight_with_a_flipped_bit(certs, side, version, seed):
    """Of the peer's first flight: the position in it is the seed's."""

    async def scenario():
        random_ = random.Random(seed)
        task, peer = half_secure(certs, side, version=version)
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        if side == "client":
            await peer.pump()
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
        flight = bytearray(peer.outgoing.read())
        flight[random_.randrange(5 + 4 + 2 if seed % 2 else len(flight))] ^= 1 << random_.randrange(8)
        await peer.send_raw(flight)
        peer.shut()
        kind, result = await outcome(asyncio.wait_for(task, 5))
        if kind == "is":
            await result[1].lost
            result = None
        peer.close()
        # What a flipped bit means depends on the keys of the day: only that it fails, soon and clean.
        return kind

    seen = same(scenario)
    assert seen["reports"] == []


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
def test_records_with_flipped_bits(certs, side, version, seed):
    """A record of data that is not what was sent."""

    async def scenario():
        random_ = random.Random(seed)
        protocol, peer = await secure(certs, side, version=version)
        await peer.send(b"before")
        await protocol.until_received(6)
        bad = bytearray(peer.encrypted(bytes(200)))
        # The header (kind, version, length), or what is authenticated.
        place = random_.randrange(5) if seed % 2 else random_.randrange(5, len(bad))
        bad[place] ^= 1 << random_.randrange(8)
        await peer.send_raw(bad)
        peer.shut()
        seen = await end_of(protocol)
        peer.close()
        return seen

    same(scenario, debug=True)


@pytest.mark.aioxide_only  # asyncio drops what the same segment brought before it
@pytest.mark.parametrize("side", SIDES)
def test_what_came_before_a_bad_record_arrives(run, certs, side):
    async def main():
        for version in VERSIONS:
            protocol, peer = await secure(certs, side, version=version)
            good = peer.encrypted(b"good")
            bad = bytearray(peer.encrypted(b"bad"))
            bad[-1] ^= 1
            await peer.send_raw(good + bad)
            assert isinstance(await protocol.lost, ssl.SSLError)
            assert protocol.received == b"good" and protocol.calls == ["made", "lost"]
            peer.close()

    run(main)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("side", SIDES)
def test_noise_at_any_moment(run, certs, side, seed):
    """Random bytes at a random step of the handshake, of the data phase or of the shutdown: an OSError, and calm."""

    async def main():
        random_ = random.Random(seed * 2 + (side == "client"))
        for _ in range(12):
            moment = random_.choice(["hello", "middle", "data", "closing", "closed"])
            noise = random_.randbytes(random_.choice([1, 5, 6, 100, 20_000]))
            task, peer = half_secure(certs, side, version=random_.choice(VERSIONS))
            protocol = None
            if moment == "middle":
                try:
                    peer.tls.do_handshake()
                except ssl.SSLWantReadError:
                    await peer.flush()
                await peer.pump()
            elif moment != "hello":
                await peer.handshake()
                _, protocol = await task
                if moment != "data":
                    protocol.transport.close()
                if moment == "closed":
                    await peer.receive_to_end()
            await outcome(peer.send_raw(noise))
            try:
                peer.shut()
            except OSError:
                pass
            if protocol is None:
                with pytest.raises(OSError):
                    await asyncio.wait_for(task, 5)
            else:
                lost = await asyncio.wait_for(protocol.lost, 5)
                assert lost is None or isinstance(lost, OSError)
            peer.close()
        await calm()

    run(main)


# --- handshakes that do not end ------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_a_handshake_cut_anywhere(certs, side, version, end):
    """The peer ends after so many bytes."""

    async def scenario():
        seen = []
        for count in (0, 1, 4, 5, 6, 9, 50, 200, 500, 1000):
            task, peer = half_secure(certs, side, version=version)
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            if side == "client":
                await peer.pump()
                try:
                    peer.tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
            else:
                await turns(3)
            flight = peer.outgoing.read()
            if count >= len(flight):
                peer.close()
                await outcome(task)
                continue
            await peer.send_raw(flight[:count])
            await turns(3)
            peer.shut() if end == "eof" else reset(peer.sock)
            seen.append((count, await outcome(asyncio.wait_for(task, 5))))
            peer.close()
        await calm()
        return seen

    assert all(what[0] == "raises" for _, what in same(scenario, debug=end == "eof")["result"])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("phase", ["nothing", "half a record", "half a handshake"])
def test_a_handshake_that_never_ends(certs, side, phase):
    async def scenario():
        task, peer = half_secure(certs, side, ssl_handshake_timeout=0.05)
        if phase == "half a record":
            await peer.send_raw(b"\x16\x03\x01\x02\x00\x01")
        elif phase == "half a handshake":
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.flush()
        await calm(0.02)
        seen = await outcome(task)
        peer.close()
        await calm()
        return seen

    seen = same(scenario, debug=True)["result"]
    text = "SSL handshake is taking longer than 0.05 seconds: aborting the connection"
    assert seen == ("raises", ("ConnectionAbortedError", None, text))


def test_a_timeout_is_told_as_it_was_given(certs):
    async def scenario():
        seen = []
        for timeout in (0.01, 1e-9, True / 100, 0.010000000000000002):
            task, peer = half_secure(certs, "server", ssl_handshake_timeout=timeout)
            seen.append(await outcome(task))
            peer.close()
        return seen

    same(scenario)


def half_open_count(loop_name):
    """As many as descriptors allow; each of asyncio's costs a quarter of a megabyte of address space."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min((soft - 500) // 2, 10_000 if loop_name == "aioxide" else 1000)


def test_many_half_open_handshakes(run, certs, loop_name):
    """They cost the others nothing, and end by their timeout."""

    async def main():
        made = []

        def make():
            made.append(Recorder())
            return made[-1]

        loop = asyncio.get_running_loop()
        count = half_open_count(loop_name)
        server = await loop.create_server(
            make, "127.0.0.1", 0, ssl=certs.server(), ssl_handshake_timeout=3, backlog=1000
        )
        address = server.sockets[0].getsockname()
        silent = []
        while len(silent) < count:
            for _ in range(100):
                silent.append(socket.create_connection(address))
                if len(silent) % 2:
                    silent[-1].sendall(b"\x16\x03\x01\x02\x00")
            await turns(2)
        while len(made) < count:
            await asyncio.sleep(0.001)
        _, protocol = await loop.create_connection(Recorder, *address, ssl=certs.client())
        protocol.transport.write(b"alive")
        await made[-1].until_received(5)
        await drop(protocol)
        await made[-1].lost
        await calm(0.1)
        for sock in silent[: count // 2]:
            sock.close()
        for sock in silent[count // 2 :]:
            sock.setblocking(False)
        # Each of the others is closed when its time is over.
        waiting = silent[count // 2 :]
        while waiting:
            await asyncio.sleep(0.05)
            waiting = [sock for sock in waiting if not ended(sock)]
        server.close()
        await turns(5)
        assert sum("made" in one.calls for one in made) == 1

    run(main)


def ended(sock):
    try:
        is_over = sock.recv(1000) == b""
    except BlockingIOError:
        return False
    except OSError:
        is_over = True
    if is_over:
        sock.close()
    return is_over


def test_a_server_that_closes_during_handshakes(run, certs):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=certs.server(), ssl_handshake_timeout=0.1)
        silent = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
        await turns(20)
        server.close()
        await asyncio.wait_for(server.wait_closed(), 5)
        for sock in silent:
            sock.setblocking(False)
        # Up to 3.11 `wait_closed` does not wait for them.
        while silent:
            await asyncio.sleep(0.01)
            silent = [sock for sock in silent if not ended(sock)]

    run(main)


@pytest.mark.parametrize("side", SIDES)
def test_a_connection_that_is_cancelled(run, certs, side):
    """At every turn of its handshake."""

    async def main():
        for count in range(1, 12):
            task, peer = half_secure(certs, side)
            with_peer = asyncio.ensure_future(outcome(peer.handshake()))
            await turns(count)
            task.cancel()
            kind, result = await outcome(task)
            if kind == "is":
                await drop(result[1])
            else:
                assert result[0] == "CancelledError"
            result = None
            await turns(5)
            await with_peer
            peer.close()
        await calm()

    run(main)


@pytest.mark.parametrize("side", SIDES)
def test_a_peer_that_is_gone(certs, side):
    async def scenario():
        server, client = certs.contexts()
        here, there = tcp_pair()
        reset(there)
        context = client if side == "client" else server
        one = await outcome(opening(Recorder, here, context, side))
        here.close()
        here, there = tcp_pair()
        there.close()
        other = await outcome(opening(Recorder, here, context, side))
        here.close()
        return one, other

    same(scenario, debug=True)
