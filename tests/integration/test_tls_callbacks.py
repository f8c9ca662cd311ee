"""What the user's SSLContext calls during a connection: SNI, keys shared before, messages. They may raise, too.

Where asyncio decides a text or a class, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import gc
import ssl
import sys
import weakref

import pytest
import tls
from differential import outcome
from peers import Recorder, turns
from tls import VERSIONS, attempt, drop, drop_both, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")


async def exchange(one, other):
    one.transport.write(b"from the client")
    other.transport.write(b"from the server")
    await one.until_received(15)
    await other.until_received(15)
    assert (one.received, other.received) == (b"from the server", b"from the client")


# --- server name indication ----------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_sni_switches_the_context(run, certs, version):
    """To another certificate and other protocols; the object is the transport's own."""

    async def main():
        seen = []
        first, second = certs.server("other", version=version), certs.server("server", version=version)
        first.set_alpn_protocols(["first"])
        second.set_alpn_protocols(["second"])

        def choose(ssl_object, name, context):
            seen.append((ssl_object, name, context))
            ssl_object.context = second

        first.sni_callback = choose
        client = certs.client(version=version)
        client.set_alpn_protocols(["second", "first"])
        one, other = await secure_pair(certs, contexts=(first, client))
        ssl_object = other.transport.get_extra_info("ssl_object")
        assert seen == [(ssl_object, "localhost", first)]
        assert ssl_object.context is second
        assert one.transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
        assert other.transport.get_extra_info("sslcontext") is first
        assert ssl_object.selected_alpn_protocol() == "second"
        await exchange(one, other)
        await drop_both(one, other)

    run(main)


class Named(ZeroDivisionError):
    pass


def raising(*args):
    raise Named("in the callback")


SNI_ANSWERS = {
    "an alert": lambda *args: ssl.ALERT_DESCRIPTION_ACCESS_DENIED,
    "another alert": lambda *args: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME,
    "text": lambda *args: "nonsense",
    "a large number": lambda *args: 1 << 80,
    "raises": raising,
}


@pytest.mark.parametrize("answer", SNI_ANSWERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_sni_refuses(certs, answer, version):
    async def scenario():
        contexts = certs.contexts(version)
        contexts[0].sni_callback = SNI_ANSWERS[answer]
        seen, with_peer, _, peer = await attempt(certs, "server", contexts=contexts)
        peer.close()
        await tls.calm()
        # Whether the alert that explains it arrives, or a reset, is a row of docs/differences.md.
        return seen, with_peer[0]

    seen = same(scenario, debug=True)
    assert seen["result"][0][0] == "raises"
    assert bool(seen["unraisable"]) == (answer in ("text", "a large number", "raises"))


def test_sni_keeps_and_drops_objects(run, certs):
    async def main():
        kept = []
        contexts = certs.contexts()
        contexts[0].sni_callback = lambda ssl_object, name, context: kept.append(ssl_object)
        one, other = await secure_pair(certs, contexts=contexts)
        assert kept[0] is other.transport.get_extra_info("ssl_object")
        await drop_both(one, other)
        assert kept[0].version() is not None  # it outlives its connection
        kept[0].cipher(), kept[0].shared_ciphers(), kept[0].getpeercert()
        # A context that removes its callback while it runs, and drops what it closes over.
        token = Recorder()
        gone = weakref.ref(token)

        def once(ssl_object, name, context, token=token):
            context.sni_callback = None
            gc.collect()

        contexts[0].sni_callback = once
        del token, once
        one, other = await secure_pair(certs, contexts=contexts)
        gc.collect()
        assert gone() is None
        await exchange(one, other)
        await drop_both(one, other)

    run(main)


def test_sni_uses_the_loop(run, certs):
    """It runs inside of the handshake: loops and transports can be asked anything."""

    async def main():
        loop = asyncio.get_running_loop()
        done, tasks = [], []

        async def beside():
            done.append("task")

        def callback(ssl_object, name, context):
            loop.call_soon(done.append, "soon")
            tasks.append(loop.create_task(beside()))
            gc.collect()
            for call in (ssl_object.version, ssl_object.cipher, ssl_object.pending, ssl_object.getpeercert):
                try:
                    call()
                except ValueError as error:
                    done.append(str(error))

        contexts = certs.contexts()
        contexts[0].sni_callback = callback
        one, other = await secure_pair(certs, contexts=contexts)
        await exchange(one, other)
        assert done == ["handshake not done yet", "soon", "task"]
        await drop_both(one, other)

    run(main)


def closing(call):
    return lambda *args: call()


def test_sni_aborts_what_is_below(run, certs):
    """start_tls, and the callback closes the transport on which it runs."""

    async def main():
        for method in ("abort", "close"):
            loop = asyncio.get_running_loop()
            here, there = tls.tcp_pair()
            contexts = certs.contexts()
            plain, protocol = await loop.connect_accepted_socket(Recorder, here)
            contexts[0].sni_callback = closing(getattr(plain, method))
            peer = tls.Peer(there, contexts[1], server_hostname="localhost")
            task = loop.create_task(loop.start_tls(plain, protocol, contexts[0], server_side=True))
            await outcome(peer.handshake())
            seen = await outcome(asyncio.wait_for(task, 5))
            if seen[0] == "is" and seen[1] is not None:
                seen[1].abort()
            await turns(10)
            assert plain.is_closing()
            peer.close()

    run(main)


# --- keys shared before --------------------------------------------------------------------------


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="3.13 and OpenSSL with it")
@pytest.mark.parametrize("fault", [None, "client raises", "server raises", "other key", "no key"])
@pytest.mark.parametrize("version", VERSIONS)
def test_shared_keys(certs, version, fault):
    async def scenario():
        asked = []

        def of_client(hint):
            asked.append(("client", hint))
            if fault == "client raises":
                raise Named("in the callback")
            return "me", b"" if fault == "no key" else b"other" if fault == "other key" else b"secret"

        def of_server(identity):
            asked.append(("server", identity))
            if fault == "server raises":
                raise Named("in the callback")
            return b"secret"

        server = certs.server(name=None, version=version)
        client = certs.client(version=version, check_hostname=False)
        client.verify_mode = ssl.CERT_NONE
        if version is ssl.TLSVersion.TLSv1_2:
            server.set_ciphers("PSK")
            client.set_ciphers("PSK")
        client.set_psk_client_callback(of_client)
        server.set_psk_server_callback(of_server, "a hint")
        results = []
        for side in tls.SIDES:
            seen, _, protocol, peer = await attempt(certs, side, contexts=(server, client))
            if protocol is None:
                results.append(seen)
            else:
                protocol.transport.write(b"data")
                results.append(("is", await outcome(peer.receive(4))))
                await drop(protocol)
            peer.close()
        return results, asked

    seen = same(scenario, debug=True)
    if fault is None:
        assert seen["result"][0] == [("is", ("is", b"data"))] * 2
    else:
        assert all(what[0] == "raises" or what[1][0] == "raises" for what in seen["result"][0])


# --- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", tls.SIDES)
def test_messages_are_told(certs, version, side):
    async def scenario():
        told = []
        contexts = certs.contexts(version)
        contexts[side == "client"]._msg_callback = lambda connection, *message: told.append(
            (type(connection).__name__, *map(str, message[:-1]))
        )
        protocol, peer = await secure(certs, side, contexts=contexts)
        at_handshake = len(told)
        protocol.transport.write(b"x")
        await peer.receive(1)
        await peer.send(b"y")
        await protocol.until_received(1)
        protocol.transport.close()
        await peer.receive_to_end()
        await peer.through(peer.tls.unwrap)
        peer.close()
        await protocol.lost
        # Whether the tickets come before the first data is a matter of turns.
        return sorted(told), at_handshake > 5

    told, enough = same(scenario)["result"]
    assert enough and len(told) > 10


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("when", ["handshake", "read", "write", "close"])
def test_a_message_callback_that_raises(certs, version, when):
    async def scenario():
        armed = []

        def callback(*message):
            if armed:
                raise Named("in the callback")

        contexts = certs.contexts(version)
        contexts[1]._msg_callback = callback
        if when == "handshake":
            armed.append(True)
        seen, _, protocol, peer = await attempt(certs, "client", contexts=contexts)
        if protocol is None:
            peer.close()
            return seen
        armed.append(True)
        if when == "read":
            await peer.send(b"data")
            await turns(20)
            await asyncio.sleep(0.02)
        elif when == "write":
            protocol.transport.write(b"data")
        elif when == "close":
            protocol.transport.close()
        await turns(10)
        armed.clear()
        state = protocol.transport.is_closing(), bytes(protocol.received), protocol.calls
        protocol.transport.abort()
        lost = tls.describe(await protocol.lost)
        peer.close()
        return state, lost

    same(scenario)


def test_a_message_callback_set_by_sni(run, certs):
    """On the context to which the server switches, after its object was made."""

    async def main():
        told = []
        first, second = certs.server(), certs.server()
        second._msg_callback = lambda *message: told.append(message[2:5])

        def choose(ssl_object, name, context):
            ssl_object.context = second

        first.sni_callback = choose
        one, other = await secure_pair(certs, contexts=(first, certs.client()))
        await exchange(one, other)
        one.transport.close()
        assert await one.lost is None and await other.lost is None

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 never closes what does not answer")
def test_callbacks_that_collect(run, certs):
    """The collector runs inside of every callback; the objects are in cycles."""

    async def main():
        contexts = certs.contexts()
        for context in contexts:
            context._msg_callback = lambda *message: gc.collect(0)
            context.cycle = [context]
        one, other = await secure_pair(certs, contexts=contexts)
        one.cycle, other.cycle = [one, other], [one.transport, other.transport]
        await exchange(one, other)
        one.transport.close()
        assert await one.lost is None and await other.lost is None

    run(main)
