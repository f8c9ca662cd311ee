"""Odd objects around a TLS connection: contexts and SSL objects that raise, buffers of other shapes, callbacks that
come back to the transport, servers and loops that end in the middle.

Where asyncio decides, the scenario runs on both loops of this Python and is compared (`same`).
"""

import array
import asyncio
import contextlib
import gc
import ssl
import sys
import warnings

import pytest
import tls
from differential import describe, outcome
from peers import BufferedRecorder, Recorder, tcp_pair, turns
from tls import NEW, SIDES, VERSIONS, Peer, attempt, calm, drop, opening, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")

both_sides = pytest.mark.parametrize("side", SIDES)

# --- contexts and objects ------------------------------------------------------------------------

METHODS = ["do_handshake", "read", "write", "unwrap", "getpeercert", "cipher", "compression"]


@both_sides
@pytest.mark.parametrize("exception", [ZeroDivisionError, OSError, ssl.SSLError, ssl.CertificateError])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_an_ssl_object_that_raises(certs, method, side, exception):
    """It is the user's own class; the exception is told as one of asyncio's would be."""

    def raising(self, *args, **kwargs):
        raise exception("from the object")

    async def scenario():
        contexts = certs.contexts()
        contexts[side == "client"].sslobject_class = type("Own", (ssl.SSLObject,), {method: raising})
        here, there = tcp_pair()
        peer = Peer(there, contexts[side == "server"], side == "client", "localhost")
        task = asyncio.ensure_future(opening(Recorder, here, contexts[side == "client"], side))
        with_peer = asyncio.ensure_future(outcome(peer.handshake()))
        done, _ = await asyncio.wait([task], timeout=0.2)
        seen = [bool(done)]
        if not done:
            task.cancel()  # asyncio has lost it
            await asyncio.wait([task])
            peer.close() if with_peer.done() else None
        else:
            kind, result = await outcome(task)
            seen.append((kind, result if kind == "raises" else None))
            if kind == "is":
                protocol = result[1]
                with contextlib.suppress(OSError):
                    await with_peer
                await outcome(peer.send(b"data"))
                protocol.transport.write(b"data")
                await asyncio.sleep(0.005)
                try:
                    protocol.transport.close()
                except Exception as error:
                    seen.append(describe(error))
                await outcome(peer.send_raw(peer.close_notify()))
                await asyncio.wait([protocol.lost], timeout=0.1)
                seen.append((protocol.lost.done() and describe(protocol.lost.result()), protocol.calls))
                protocol.transport.abort()
                await turns(3)
        if not with_peer.done():
            with contextlib.suppress(OSError):
                peer.shut()
            await asyncio.wait([with_peer], timeout=0.2)
            with_peer.cancel()
            await asyncio.wait([with_peer])
        peer.close()
        return seen

    if not NEW:
        pytest.skip("3.10: another order of calls")
    if method in ("cipher", "compression") or (method == "do_handshake" and exception in (ZeroDivisionError, OSError)):
        pytest.skip("asyncio forgets who waits for the handshake")
    same(scenario)


@both_sides
@pytest.mark.parametrize("what", ["raises", "None", "object"])
def test_wrap_bio_that_fails(certs, side, what):
    class Own(ssl.SSLContext):
        def wrap_bio(self, *args, **kwargs):
            if what == "raises":
                raise ZeroDivisionError("from the context")
            return None if what == "None" else object()

    async def scenario():
        contexts = certs.server(make=Own), certs.client(make=Own)
        here, there = tcp_pair()
        kind, result = await outcome(asyncio.wait_for(opening(Recorder, here, contexts[side == "client"], side), 0.3))
        there.close()
        gc.collect()
        return kind, result[0] if what == "raises" else None

    observed = [tls.observe(name, scenario) for name in ("asyncio", "aioxide")]
    # What an object without methods leads to is of no interest, as long as it is an exception.
    assert [one["result"] for one in observed] == [("raises", "ZeroDivisionError" if what == "raises" else None)] * 2


# --- buffers -------------------------------------------------------------------------------------


@pytest.mark.skipif(not NEW, reason="3.10 counts elements, and never ends")
def test_buffers_of_other_shapes(run, certs):
    async def main():
        protocol, peer = await secure(certs)
        words = array.array("I", range(1000))
        for data in (
            memoryview(b"0123456789")[2:5],
            memoryview(words).cast("B"),
            memoryview(bytearray(b"x" * 20_000)),
            memoryview(bytes(120)).cast("B", (10, 12)),
            type("Own", (bytes,), {})(b"a subclass"),
            type("Own", (bytearray,), {})(b"another"),
        ):
            expected = bytes(data)
            protocol.transport.write(data)
            assert await peer.receive(len(expected)) == expected
        await drop(protocol, peer)

    run(main)


def test_a_list_that_raises(certs):
    async def scenario():
        def pieces():
            yield b"before "
            raise ZeroDivisionError("in the list")

        protocol, peer = await secure(certs)
        seen = []
        try:
            protocol.transport.writelines(pieces())
        except ZeroDivisionError as error:
            seen.append(describe(error))
        protocol.transport.write(b"after")
        protocol.transport.close()
        data, _ = await peer.receive_to_end()
        await outcome(peer.through(peer.tls.unwrap))
        await protocol.lost
        peer.close()
        return seen, data.endswith(b"after")

    same(scenario)


class Lends(BufferedRecorder):
    """A view: of a bytearray asyncio's TLS fills a copy."""

    def get_buffer(self, sizehint):
        return memoryview(self.buffer)


@pytest.mark.parametrize("kinds", [(Recorder, Lends), (Lends, Recorder)])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_protocol_is_switched_while_it_receives(run, certs, kinds, version):
    """Several records in one segment, and the one who gets the first hands over."""

    async def main():
        late = kinds[1]()

        class Hands(kinds[0]):
            def data_received(self, data):
                super().data_received(data)
                if self.transport.get_protocol() is self:
                    self.transport.set_protocol(late)

        protocol, peer = await secure(certs, "client", Hands, version)
        await peer.send_raw(b"".join(peer.encrypted(b"%d," % number) for number in range(100)))
        expected = b"".join(b"%d," % number for number in range(100))
        await protocol.until_received(1)
        await peer.send(b"end")
        while not (protocol.received + late.received).endswith(b"end"):
            await asyncio.sleep(0.001)
        assert bytes(protocol.received + late.received) == expected + b"end"
        assert protocol.received and late.received
        late.transport = protocol.transport
        await drop(late, peer)

    run(main)


# --- callbacks that come back --------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio calls OpenSSL inside of OpenSSL, which crashes
@pytest.mark.parametrize("method", ["write", "close", "abort", "pause_reading", "read", "use"])
@pytest.mark.parametrize("when", ["read", "write", "close"])
@both_sides
def test_a_message_callback_that_comes_back(run, certs, method, when, side):
    """Inside of OpenSSL. Nothing of it is promised, but that it ends, and that nothing crashes."""

    async def main():
        armed = []

        def callback(connection, *message):
            if armed:
                transport = armed.pop()
                if method == "write":
                    transport.write(b"from inside")
                elif method == "read":
                    with contextlib.suppress(ssl.SSLError, ValueError):
                        transport.get_extra_info("ssl_object").pending()
                elif method == "use":
                    transport.get_extra_info("ssl_object").cipher()
                    transport.get_write_buffer_size()
                else:
                    getattr(transport, method)()

        contexts = certs.contexts(VERSIONS[0])
        contexts[side == "client"]._msg_callback = callback
        protocol, peer = await secure(certs, side, contexts=contexts)
        armed.append(protocol.transport)
        if when == "read":
            await peer.send(b"data")
        elif when == "write":
            protocol.transport.write(b"data")
        else:
            protocol.transport.close()
        await turns(10)
        armed.clear()
        peer.shut()
        data = asyncio.ensure_future(peer.receive_to_end())
        protocol.transport.resume_reading()
        await asyncio.wait([protocol.lost], timeout=2)
        protocol.transport.abort()
        assert await protocol.lost is None or isinstance(protocol.lost.result(), OSError)
        await data
        peer.close()
        await calm(0.01)

    if not NEW:
        pytest.skip("3.10: the end drops what is asked")
    run(main)


# --- servers and loops that end ------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 13), reason="3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_clients_of_a_server_are_closed(certs, method):
    """Connected ones and those in the handshake."""

    async def scenario():
        loop, made = asyncio.get_running_loop(), []
        server_context, client_context = certs.contexts()

        def make():
            made.append(Recorder())
            return made[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        _, connected = await loop.create_connection(Recorder, *address, ssl=client_context, server_hostname="localhost")
        while not made[0].calls:
            await asyncio.sleep(0.001)
        reader, writer = await asyncio.open_connection(*address)
        while len(made) < 2:
            await asyncio.sleep(0.001)
        getattr(server, method)()
        seen = [describe(await asyncio.wait_for(connected.lost, 5)), await outcome(reader.read())]
        seen.append(describe(await asyncio.wait_for(made[0].lost, 5)))
        writer.close()
        server.close()
        await asyncio.wait_for(server.wait_closed(), 5)
        return seen[0], seen[2], [one.calls for one in made]

    same(scenario)


@both_sides
def test_a_loop_that_is_closed_in_the_handshake(certs, new_loop, side):
    loop = new_loop()
    kept = []

    async def main():
        task, peer = tls.half_secure(certs, side)
        kept.extend([task, peer])
        await turns(4)

    loop.run_until_complete(main())
    task, peer = kept
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.run_until_complete(turns(3))
    loop.close()
    peer.close()
    kept.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del task, peer
        gc.collect()


def test_cycles_are_collected(run, certs, is_ours):
    """A connection that is over leaves no object behind: its context is collected with it."""

    async def main():
        import weakref

        for end in ("close", "abort"):
            contexts = certs.server(), certs.client()
            one, other = await secure_pair(certs, contexts=contexts)
            one.transport.own = one if not is_ours else None
            one.cycle = [one, one.transport, contexts]
            gone = [weakref.ref(context) for context in contexts] + [weakref.ref(one), weakref.ref(other)]
            getattr(one.transport, end)()
            await one.lost
            await other.lost
            del one, other, contexts
            await turns(5)
            gc.collect()
            assert [ref() for ref in gone] == [None] * 4

    run(main)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_flight_in_small_segments(run, certs, size):
    """The whole conversation of the peer, in segments of so many bytes."""

    async def main():
        class Slices(Peer):
            async def send_raw(self, data):
                for index in range(0, len(data), size):
                    await self.loop.sock_sendall(self.sock, data[index : index + size])
                    if size < 1000 or index % 3000 == 0:
                        await asyncio.sleep(0)

        for side in SIDES:
            here, there = tcp_pair()
            server, client = certs.shared()
            peer = Slices(there, server if side == "client" else client, side == "client", "localhost")
            (_, protocol), _ = await asyncio.gather(
                opening(BufferedRecorder, here, client if side == "client" else server, side), peer.handshake()
            )
            await peer.send(b"x" * 3000)
            await protocol.until_received(3000)
            protocol.transport.close()
            await peer.receive_to_end()
            await peer.send_raw(peer.close_notify())
            assert await protocol.lost is None
            peer.close()

    run(main)


@both_sides
def test_a_failed_attempt_leaves_nothing(run, certs, side):
    """Hundreds of handshakes that fail: descriptors, tasks and timers are those of before."""

    async def main():
        loop = asyncio.get_running_loop()
        tasks = asyncio.all_tasks()
        for count in range(60):
            task, peer = tls.half_secure(certs, side)
            await outcome(peer.send_raw(b"\x15\x03\x03\x00\x02\x02\x28" if count % 2 else b"nothing like TLS"))
            seen = await outcome(task)
            assert seen[0] == "raises"
            peer.close()
            del task, peer
        await turns(5)
        assert asyncio.all_tasks() == tasks
        assert len([timer for timer in loop._scheduled if timer is not None and not timer.cancelled()]) <= 1

    run(main)


def test_attempt_tells_of_both(run, certs):
    """The helper itself: an attempt that succeeds has no exception, one that fails has no protocol."""

    async def main():
        seen, with_peer, protocol, peer = await attempt(certs, "client")
        assert (seen, with_peer) == (("is", None), ("is", None))
        await drop(protocol, peer)
        seen, _, protocol, peer = await attempt(certs, "client", contexts=(certs.server("expired"), certs.client()))
        assert seen[0] == "raises" and protocol is None
        peer.close()

    run(main)
