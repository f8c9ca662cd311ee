"""The ways a TLS connection ends: close_notify, EOF without it, abort, timeouts, data that comes or waits meanwhile.

Where asyncio decides, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import warnings

import pytest
import tls
from differential import describe, outcome
from peers import BufferedRecorder, Recorder, reset, turns
from tls import NEW, SIDES, VERSIONS, calm, drop, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")

MEGABYTES = 12 << 20
both_sides = pytest.mark.parametrize("side", SIDES)
both_versions = pytest.mark.parametrize("version", VERSIONS)


@both_sides
@both_versions
def test_close_says_goodbye_and_waits_for_the_answer(run, certs, side, version):
    async def main():
        protocol, peer = await secure(certs, side, version=version)
        protocol.transport.write(b"last words")
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert await peer.receive_to_end() == (b"last words", "close_notify")
        await turns(10)
        assert not protocol.lost.done()
        await peer.send_raw(peer.close_notify())
        assert await protocol.lost is None
        assert protocol.calls == (["made", "eof", "lost"] if NEW else ["made", "lost"])
        assert await peer.receive_raw() == b""
        peer.close()

    run(main)


@both_sides
@both_versions
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_the_peer_says_goodbye(run, certs, side, version, make):
    async def main():
        protocol, peer = await secure(certs, side, make, version=version)
        # All in one segment, the end with it.
        await peer.send_raw(peer.encrypted(b"last words") + peer.close_notify())
        assert await peer.receive_to_end() == (b"", "close_notify")
        assert await protocol.lost is None
        assert protocol.received == b"last words"
        assert protocol.calls == (["made", "eof", "lost"] if NEW else ["made", "lost"])
        peer.close()

    run(main)


@both_sides
@both_versions
def test_eof_without_goodbye(certs, side, version):
    async def scenario():
        protocol, peer = await secure(certs, side, version=version)
        await peer.send(b"last words")
        peer.shut()
        lost = describe(await protocol.lost)
        data = await peer.receive_to_end()
        peer.close()
        return lost, protocol.calls, bytes(protocol.received), data

    same(scenario, debug=True)


@both_sides
@pytest.mark.parametrize("written", [0, 10, MEGABYTES])
def test_abort(run, certs, side, written):
    async def main():
        protocol, peer = await secure(certs, side)
        protocol.transport.write(bytes(written))
        protocol.transport.abort()
        assert protocol.transport.is_closing()
        assert await protocol.lost is None
        data, end = await peer.receive_to_end()
        assert end != "close_notify" and len(data) <= written
        assert [call for call in protocol.calls if call not in ("pause", "resume")] == ["made", "lost"]
        peer.close()

    run(main)


@both_sides
@both_versions
@pytest.mark.parametrize("what", ["reset", "reset after goodbye"])
def test_the_peer_resets(certs, side, version, what):
    async def scenario():
        protocol, peer = await secure(certs, side, version=version)
        if what == "reset after goodbye":
            protocol.transport.close()
            await peer.receive_to_end()
        reset(peer.sock)
        return describe(await protocol.lost), protocol.calls

    same(scenario, debug=True)


@pytest.mark.skipif(not NEW, reason="3.10 has no ssl_shutdown_timeout")
@both_sides
@both_versions
@pytest.mark.parametrize("queued", [0, MEGABYTES])
def test_no_answer_to_goodbye(certs, side, version, queued):
    """With megabytes queued: the peer does not read either."""

    async def scenario():
        protocol, peer = await secure(certs, side, version=version, ssl_shutdown_timeout=0.05)
        protocol.transport.write(bytes(queued))
        protocol.transport.close()
        lost = describe(await asyncio.wait_for(protocol.lost, 5))
        peer.close()
        await calm(0.02)
        return lost, protocol.calls[0], protocol.calls[-1]

    seen = same(scenario, debug=True)["result"]
    assert seen[0] == ("TimeoutError", None, "SSL shutdown timed out")


@both_sides
@both_versions
def test_megabytes_are_sent_before_goodbye(run, certs, side, version):
    async def main():
        protocol, peer = await secure(certs, side, version=version)
        protocol.transport.write(b"x" * MEGABYTES)
        protocol.transport.write(b"end")
        protocol.transport.close()
        protocol.transport.write(b"too late")
        data, end = await peer.receive_to_end()
        assert len(data) == MEGABYTES + 3 and data.endswith(b"xend") and end == "close_notify"
        await peer.send_raw(peer.close_notify())
        assert await protocol.lost is None
        peer.close()

    run(main)


@both_versions
@pytest.mark.parametrize("how", ["goodbye", "eof"])
def test_megabytes_are_queued_when_the_peer_ends(certs, version, how):
    """What the peer has not read when it says goodbye, or shuts its sending half down."""

    async def scenario():
        protocol, peer = await secure(certs, version=version)
        protocol.transport.write(b"x" * MEGABYTES)
        protocol.transport.write(b"end")
        if how == "goodbye":
            await peer.send_raw(peer.close_notify())
        else:
            peer.shut()
        await asyncio.sleep(0.02)
        data, end = await peer.receive_to_end()
        peer.close()
        return describe(await asyncio.wait_for(protocol.lost, 5)), len(data), data[-4:], end

    if not NEW:
        pytest.skip("3.10 closes what is below at once")
    same(scenario)


@both_sides
@both_versions
def test_data_after_goodbye_is_no_data(certs, side, version):
    """Records after close_notify, and plain text."""

    async def scenario():
        seen = []
        for tail in (b"plain text", b"\x17\x03\x03\x00\x10" + bytes(16), b"\x15\x03\x03\x00\x02\x01\x00"):
            protocol, peer = await secure(certs, side, version=version)
            await peer.send_raw(peer.close_notify() + tail)
            seen.append((describe(await protocol.lost), protocol.calls, bytes(protocol.received)))
            peer.close()
        return seen

    same(scenario, debug=True)


@both_sides
@both_versions
@pytest.mark.parametrize("is_paused", [False, True])
def test_data_that_comes_after_close(certs, side, version, is_paused):
    """The peer has not seen our goodbye yet, and goes on sending."""

    async def scenario():
        protocol, peer = await secure(certs, side, version=version)
        if is_paused:
            protocol.transport.pause_reading()
        protocol.transport.close()
        await outcome(peer.send_raw(peer.encrypted(b"in flight")))
        await asyncio.sleep(0.005)
        await outcome(peer.send_raw(peer.close_notify()))
        lost = describe(await asyncio.wait_for(protocol.lost, 5))
        peer.close()
        return lost, protocol.calls, bytes(protocol.received)

    same(scenario, debug=True)


@both_sides
@both_versions
def test_close_with_unread_data(certs, side, version):
    """Reading is paused, data has come; then it is closed."""

    async def scenario():
        protocol, peer = await secure(certs, side, version=version, **({"ssl_shutdown_timeout": 0.1} if NEW else {}))
        protocol.transport.pause_reading()
        await peer.send(b"unread" * 1000)
        await asyncio.sleep(0.01)
        protocol.transport.close()
        await asyncio.sleep(0.01)
        await outcome(peer.send_raw(peer.close_notify()))
        lost = describe(await asyncio.wait_for(protocol.lost, 5))
        peer.close()
        return lost, protocol.calls, bytes(protocol.received)

    if not NEW:
        pytest.skip("3.10 pauses what is below, and waits for ever")
    same(scenario)


@both_sides
@pytest.mark.parametrize("how", ["goodbye", "eof"])
def test_the_end_waits_for_a_paused_reader(certs, side, how):
    async def scenario():
        protocol, peer = await secure(certs, side)
        protocol.transport.pause_reading()
        await peer.send_raw(peer.encrypted(b"unread") + (peer.close_notify() if how == "goodbye" else b""))
        if how == "eof":
            peer.shut()
        await asyncio.sleep(0.02)
        seen = [list(protocol.calls), bytes(protocol.received), protocol.transport.is_closing()]
        protocol.transport.resume_reading()
        lost = describe(await asyncio.wait_for(protocol.lost, 5))
        peer.close()
        return seen, lost, protocol.calls, bytes(protocol.received)

    same(scenario)


@pytest.mark.parametrize("where", ["eof_received", "connection_lost"])
@pytest.mark.parametrize("method", ["close", "abort", "write"])
def test_what_is_done_at_the_end(certs, where, method):
    class Acts(Recorder):
        pass

    def act(self, *args):
        answer = getattr(Recorder, where)(self, *args)
        getattr(self.transport, method)(*((b"answer",) if method == "write" else ()))
        return answer

    setattr(Acts, where, act)

    async def scenario():
        protocol, peer = await secure(certs, make=Acts)
        await peer.send_raw(peer.close_notify())
        data, _ = await peer.receive_to_end()
        lost = describe(await asyncio.wait_for(protocol.lost, 5))
        peer.close()
        await turns(5)
        return lost, protocol.calls, data

    if not NEW:
        pytest.skip("3.10: eof_received is not called at close_notify")
    same(scenario)


def test_eof_received_cannot_keep_it_open(certs):
    class Keeps(Recorder):
        keeps_open = True

    async def scenario():
        seen = []
        for end in ("goodbye", "eof"):
            protocol, peer = await secure(certs, make=Keeps)
            await peer.send_raw(peer.close_notify()) if end == "goodbye" else peer.shut()
            seen.append((describe(await protocol.lost), protocol.calls))
            peer.close()
        return seen

    log = same(scenario)["log"]
    assert log and all(line[1] == "returning true from eof_received() has no effect when using ssl" for line in log)


# --- keys and certificates asked for later -------------------------------------------------------


@both_versions
def test_a_certificate_that_is_asked_for_later(run, certs, version):
    """Post-handshake authentication, by the server's `ssl_object`."""

    async def main():
        server, client = certs.server(version=version), certs.client("client", version=version)
        server.verify_mode = ssl.CERT_REQUIRED if version is VERSIONS[0] else ssl.CERT_OPTIONAL
        server.post_handshake_auth = client.post_handshake_auth = True
        one, other = await secure_pair(certs, contexts=(server, client))
        ssl_object = other.transport.get_extra_info("ssl_object")
        one.transport.write(b"before")
        await other.until_received(6)
        if version is VERSIONS[0]:
            with pytest.raises(ssl.SSLError, match="WRONG_SSL_VERSION"):
                ssl_object.verify_client_post_handshake()
        else:
            assert ssl_object.getpeercert() is None
            server.verify_mode = ssl.CERT_REQUIRED
            ssl_object.verify_client_post_handshake()
            other.transport.write(b"who are you?")
            await one.until_received(12)
            one.transport.write(b"me")
            await other.until_received(8)
        assert ssl_object.getpeercert()["subject"] == ((("commonName", "a client"),),)
        one.transport.close()
        assert await one.lost is None and await other.lost is None

    run(main)


def test_a_certificate_that_is_asked_for_later_and_not_given(certs):
    async def scenario():
        server, client = certs.server(verify_mode=ssl.CERT_REQUIRED), certs.client()
        client.post_handshake_auth = server.post_handshake_auth = True
        server.minimum_version = ssl.TLSVersion.TLSv1_3
        protocol, peer = await secure(certs, "server", contexts=(server, client))
        protocol.transport.get_extra_info("ssl_object").verify_client_post_handshake()
        protocol.transport.write(b"who are you?")
        await outcome(peer.receive(12))
        await outcome(peer.send(b"nobody"))
        lost = describe(await protocol.lost)
        peer.close()
        return lost, protocol.calls, bytes(protocol.received)

    same(scenario, debug=True)


# --- what nobody closes --------------------------------------------------------------------------


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("side", SIDES)
def test_a_transport_that_nobody_closes(certs, new_loop, side, is_lost):
    """It is warned of, if it was not lost before; its descriptor is gone afterwards."""
    loop = new_loop()
    protocol, peer = loop.run_until_complete(secure(certs, side))
    if is_lost:
        peer.close()
        loop.run_until_complete(protocol.lost)
    loop.close()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del protocol
        gc.collect()
    peer.close()
    # Those of the TLS transport, and of what is below it, and of its socket.
    texts = [str(one.message) for one in warned if one.category is ResourceWarning]
    assert any(text.startswith("unclosed transport <") for text in texts) != is_lost, texts


def test_a_loop_that_is_closed_with_open_connections(certs, new_loop):
    """What is left of them can still be asked, and closed, without a crash."""
    loop = new_loop()
    one, other = loop.run_until_complete(secure_pair(certs))
    one.transport.write(b"never read")
    loop.close()
    for protocol in (one, other):
        ssl_object = protocol.transport.get_extra_info("ssl_object")
        for method in ("abort", "close"):
            try:
                getattr(protocol.transport, method)()
            except RuntimeError as error:
                assert str(error) == "Event loop is closed"
        for call in ((ssl_object.read,), (ssl_object.write, b"x"), (ssl_object.unwrap,)):
            with contextlib.suppress(OSError):
                call[0](*call[1:])
        assert ssl_object.version() is not None
    one.transport = other.transport = None
    del one, other, protocol, ssl_object
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transports and sockets that were not closed
        gc.collect()


def test_a_half_closed_peer_gets_all(run, certs):
    """TCP's sending half is shut after the data; the answer is written in eof_received."""

    class Answers(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"answer to " + bytes(self.received))

    async def main():
        protocol, peer = await secure(certs, make=Answers)
        await peer.send(b"question")
        peer.sock.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert protocol.received == b"question"
        peer.close()

    run(main)


@both_sides
def test_close_during_the_handshake(certs, side):
    """By start_tls, of the transport below; nobody waits longer than it takes."""

    async def scenario():
        seen = []
        for method in ("close", "abort"):
            loop = asyncio.get_running_loop()
            here, there = tls.tcp_pair()
            server, client = certs.shared()
            plain, protocol = await loop.create_connection(Recorder, sock=here)
            context = client if side == "client" else server
            options = {"server_hostname": "localhost"} if side == "client" else {"server_side": True}
            task = asyncio.ensure_future(loop.start_tls(plain, protocol, context, **options))
            await turns(3)
            getattr(plain, method)()
            kind, result = await outcome(asyncio.wait_for(task, 5))
            # asyncio's answer is None for a transport; ours is one that is closed.
            assert kind == "raises" or result is None or result.is_closing()
            seen.append((kind, result if kind == "raises" else None))
            there.close()
        return seen

    if not NEW:
        pytest.skip("3.10: the one who waits gets an answer as if it were connected")
    same(scenario)


@both_versions
def test_connections_come_and_go(run, certs, version):
    """Many, each with a few bytes: nothing piles up."""

    async def main():
        for count in range(40):
            one, other = await secure_pair(certs, version=version)
            one.transport.write(b"x" * count)
            await other.until_received(count)
            (one if count % 2 else other).transport.close()
            assert await one.lost is None and await other.lost is None
            assert other.received == b"x" * count
        await drop(one)
        await calm()

    run(main)
