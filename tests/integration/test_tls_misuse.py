"""Programs that do what they should not: protocols that raise, an `ssl_object` used behind the transport's back or after
its end, another extension's error in OpenSSL's queue.

The scenario runs on both loops of this Python, and all that is told is compared (`same`).
"""

import _ssl
import asyncio
import ctypes
import gc
import ssl

import aioxide
import pytest
import tls
from differential import describe, outcome
from peers import TOO_MUCH, BufferedRecorder, Recorder, raises, turns
from tls import NEW, SIDES, VERSIONS, calm, drop, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")

# --- protocols that raise ------------------------------------------------------------------------

CALLBACKS = [
    ("connection_made", Recorder),
    ("data_received", Recorder),
    ("get_buffer", BufferedRecorder),
    ("buffer_updated", BufferedRecorder),
    ("eof_received", Recorder),
    ("pause_writing", Recorder),
    ("resume_writing", Recorder),
    ("connection_lost", Recorder),
]


@pytest.mark.parametrize(("name", "base"), CALLBACKS)
@pytest.mark.parametrize("side", SIDES)
def test_a_protocol_that_raises(certs, side, name, base):
    async def scenario():
        made = []

        class Own(raises(name, base=base)):
            def __init__(self):
                super().__init__()
                made.append(self)

        seen, _, protocol, peer = await tls.attempt(certs, side, Own)
        results = [seen]
        if protocol is not None:
            protocol = made[0]
            if name in ("data_received", "get_buffer", "buffer_updated"):
                await outcome(peer.send(b"data"))
                await outcome(asyncio.wait_for(protocol.lost, 5))
            elif name == "eof_received":
                await peer.send_raw(peer.close_notify())
                await outcome(asyncio.wait_for(protocol.lost, 5))
            elif name in ("pause_writing", "resume_writing"):
                protocol.transport.set_write_buffer_limits(1000)
                # What is below takes the first whole, and is full.
                protocol.transport.write(bytes(TOO_MUCH // 2))
                protocol.transport.write(bytes(10_000))
                assert len(await peer.receive(TOO_MUCH // 2 + 10_000))
                await turns(5)
                results.append(protocol.transport.is_closing())
            elif name == "connection_lost":
                protocol.transport.close()
                await peer.receive_to_end()
                await peer.through(peer.tls.unwrap)
                await protocol.until(lambda: name in protocol.calls)
        peer.close()
        for one in made:
            if one.transport is not None:
                one.transport.abort()
        await turns(5)
        await calm(0.02)
        lost = [describe(one.lost.result()) if one.lost.done() else "no end" for one in made]
        return results, [one.calls for one in made], lost

    if name == "connection_made" and not NEW:
        # 3.10 leaves the one who waits without an answer.
        pytest.skip("3.10 never ends the handshake of a protocol whose connection_made raises")
    reports = same(scenario)["reports"]
    assert reports, "nothing was told"


@pytest.mark.aioxide_only  # asyncio takes the nothing that is read into it for the peer's end
def test_an_empty_buffer(run, certs, reports):
    class Answers(BufferedRecorder):
        def get_buffer(self, sizehint):
            return bytearray()

    async def main():
        _, _, protocol, peer = await tls.attempt(certs, "client", Answers)
        await outcome(peer.send(b"data"))
        lost = await asyncio.wait_for(protocol.lost, 5)
        assert (type(lost), str(lost)) == (RuntimeError, "get_buffer() returned an empty buffer")
        assert [kind for _, kind in reports.take()] == [RuntimeError]
        peer.close()

    run(main)


@pytest.mark.parametrize("answer", [None, 3, b"constant", memoryview(b"constant"), "text"])
def test_a_useless_buffer(certs, answer):
    class Answers(BufferedRecorder):
        def get_buffer(self, sizehint):
            return answer

    async def scenario():
        # asyncio asks for a buffer at the handshake's end, when there is nothing to read yet.
        _, _, protocol, peer = await tls.attempt(certs, "client", Answers)
        await outcome(peer.send(b"data"))
        try:
            lost = await asyncio.wait_for(protocol.lost, 0.5)
            text = type(lost).__name__
        except asyncio.TimeoutError:
            text = "goes on"
        await drop(protocol, peer)
        await calm(0.02)
        return text, protocol.calls

    observed = [tls.observe(name, scenario) for name in ("asyncio", "aioxide")]
    # Which TypeError a buffer raises that is none is native code's to say.
    theirs, ours = ([one["result"], [report[0] for report in one["reports"]]] for one in observed)
    assert ours == theirs


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_an_exit_ends_the_run(new_loop, certs, name, exception):
    loop = new_loop()
    made = []

    class Exits(Recorder):
        def __init__(self):
            super().__init__()
            made.append(self)

    def method(self, *args):
        getattr(Recorder, name)(self, *args)
        raise exception("from the protocol")

    setattr(Exits, name, method)
    peers = []

    async def main():
        task, peer = tls.half_secure(certs, "client", Exits)
        peers.append((task, peer))
        await peer.handshake()
        await peer.send(b"data")
        await peer.send_raw(peer.close_notify())
        await asyncio.sleep(5)

    outer = loop.create_task(main())
    with pytest.raises(exception, match="from the protocol"):
        loop.run_until_complete(outer)

    async def end():
        outer.cancel()
        await asyncio.wait([outer])
        ((task, peer),) = peers
        if not task.done():
            task.cancel()
        await asyncio.wait([task])
        peer.close()
        for protocol in made:
            protocol.transport.abort()
        await turns(5)

    loop.run_until_complete(end())


@pytest.mark.parametrize("method", ["close", "abort", "write", "pause_reading", "set_protocol", "write and close"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "pause_writing"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_protocol_that_reenters(certs, where, method, version):
    """It closes, writes, switches in the middle of a callback."""

    class Reenters(Recorder):
        done = False

        def act(self):
            if self.done:
                return
            self.done = True
            if method == "write":
                self.transport.write(b"again" * 10)
            elif method == "set_protocol":
                self.late = Recorder()
                self.late.transport = self.transport
                self.transport.set_protocol(self.late)
            elif method == "write and close":
                self.transport.write(b"last words")
                self.transport.close()
            else:
                getattr(self.transport, method)()

    def called(self, *args):
        answer = getattr(Recorder, where)(self, *args)
        self.act()
        return answer

    setattr(Reenters, where, called)

    async def scenario():
        _, _, protocol, peer = await tls.attempt(certs, "client", Reenters, version)
        if where == "pause_writing":
            protocol.transport.set_write_buffer_limits(1)
            protocol.transport.write(bytes(TOO_MUCH // 2))
            protocol.transport.write(bytes(1000))
            await turns(3)
        got = asyncio.ensure_future(peer.receive_to_end())
        # One after the other: how many turns lie between them is no loop's promise.
        for piece in (peer.encrypted(b"one"), peer.encrypted(b"two"), peer.close_notify()):
            await outcome(peer.send_raw(piece))
            await asyncio.sleep(0.002)
        if method == "pause_reading":
            await asyncio.sleep(0.01)
            protocol.transport.resume_reading()
        data, _ = await asyncio.wait_for(got, 5)
        peer.close()
        last = getattr(protocol, "late", protocol)
        lost = describe(await asyncio.wait_for(last.lost, 5))
        seen = [lost, bytes(protocol.received), bytes(last.received)]
        if where == "pause_writing":
            # How often it pauses is up to the kernel's buffers.
            seen.append([call for call in protocol.calls + last.calls if call not in ("pause", "resume")])
        else:
            seen += [protocol.calls, last.calls]
        if method not in ("abort", "close") or where != "pause_writing":
            seen.append((len(data), data[-100:] if len(data) < 1000 else None))
        return seen

    if not NEW and where in ("eof_received", "pause_writing"):
        pytest.skip("3.10: eof_received is not called at close_notify, nothing but bytes pauses")
    if where == "connection_made" and version is VERSIONS[1] and method in ("pause_reading", "abort"):
        pytest.skip("whether the last flight goes before is the subject of another test")
    same(scenario)


# --- ssl_object behind the transport's back ------------------------------------------------------

USES = {
    "read": lambda o: o.read(),
    "read into": lambda o: o.read(10, bytearray(10)),
    "read nothing": lambda o: o.read(0),
    "write": lambda o: o.write(b"beside"),
    "write nothing": lambda o: o.write(b""),
    "do_handshake": lambda o: o.do_handshake(),
    "unwrap": lambda o: o.unwrap(),
    "getpeercert": lambda o: bool(o.getpeercert()),
    "getpeercert binary": lambda o: bool(o.getpeercert(True)),
    "shared_ciphers": lambda o: o.shared_ciphers(),
    "cipher": lambda o: o.cipher(),
    "version": lambda o: o.version(),
    "compression": lambda o: o.compression(),
    "pending": lambda o: o.pending(),
    "session": lambda o: o.session is not None,
    "session_reused": lambda o: o.session_reused,
    "server_hostname": lambda o: o.server_hostname,
    "alpn": lambda o: o.selected_alpn_protocol(),
    "binding": lambda o: len(o.get_channel_binding("tls-unique") or b"") > 0,
    "verify later": lambda o: o.verify_client_post_handshake(),
    "chain": lambda o: len(o.get_verified_chain()) if hasattr(o, "get_verified_chain") else None,
    "context": lambda o: type(o.context).__name__,
    "set session": lambda o: setattr(o, "session", o.session),
    "set context": lambda o: setattr(o, "context", o.context),
}


def use(ssl_object, name):
    try:
        return "is", USES[name](ssl_object)
    except Exception as error:
        return "raises", describe(error)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("end", ["close", "abort", "eof", "error", "close_notify"])
def test_ssl_object_after_the_end(certs, side, version, end):
    async def scenario():
        protocol, peer = await secure(certs, side, version=version)
        await peer.send(b"before")
        await protocol.until_received(6)
        ssl_object = protocol.transport.get_extra_info("ssl_object")
        if end == "abort":
            protocol.transport.abort()
        elif end == "eof":
            peer.shut()
        elif end == "error":
            await peer.send_raw(b"no record at all")
        else:
            if end == "close":
                protocol.transport.close()
            else:
                await peer.send_raw(peer.close_notify())
            await peer.receive_to_end()
            await outcome(peer.through(peer.tls.unwrap))
        await asyncio.wait_for(protocol.lost, 5)
        peer.close()
        seen = [(name, use(ssl_object, name)) for name in USES for _ in range(2)]
        transport = protocol.transport
        protocol.transport = None
        del protocol, transport
        gc.collect()
        seen += [(name, use(ssl_object, name)) for name in USES]
        return [one for one in seen if one[0] != "binding" or version is VERSIONS[0]]

    if not NEW and end == "abort":
        pytest.skip("3.10 does not keep the object's buffers")
    same(scenario)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in USES if name != "binding"])
def test_ssl_object_in_the_middle(certs, side, version, name):
    """Between two exchanges of data, in a callback of the loop."""

    async def scenario():
        protocol, peer = await secure(certs, side, version=version)
        protocol.transport.write(b"before")
        assert await peer.receive(6) == b"before"
        await peer.send(b"before")
        await protocol.until_received(6)
        seen = use(protocol.transport.get_extra_info("ssl_object"), name)
        protocol.transport.write(b"after")
        data = None
        if name == "unwrap":
            data, _ = await peer.receive_to_end()  # asyncio forgets to send the record that says so
        else:
            data = await peer.receive(11 if name == "write" else 5)
            await peer.send(b"after")
            await protocol.until_received(11)
        await drop(protocol, peer)
        return seen, data, bytes(protocol.received)

    same(scenario)


@pytest.mark.parametrize("name", ["read", "read nothing", "write", "pending", "version", "do_handshake"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_ssl_object_inside_of_a_callback(certs, where, name):
    class Uses(Recorder):
        seen = None

        def use(self):
            if self.seen is None:
                self.seen = use(self.transport.get_extra_info("ssl_object"), name)

    def called(self, *args):
        getattr(Recorder, where)(self, *args)
        self.use()

    setattr(Uses, where, called)

    async def scenario():
        protocol, peer = await secure(certs, "client", Uses, VERSIONS[0])
        for index, piece in enumerate((b"one", b"two")):
            await outcome(peer.send_raw(peer.encrypted(piece)))
            for _ in range(200):
                if len(protocol.received) == 3 + 3 * index or protocol.lost.done():
                    break
                await asyncio.sleep(0.001)
        await outcome(peer.send_raw(peer.close_notify()))
        data = await peer.receive_to_end()
        await outcome(asyncio.wait_for(asyncio.shield(protocol.lost), 0.5))
        ended = protocol.lost.done()
        await drop(protocol, peer)
        return protocol.seen, protocol.calls, bytes(protocol.received), data[0], ended

    if not NEW and where in ("eof_received", "connection_lost"):
        pytest.skip("3.10: eof_received is not called at close_notify, and the end drops the pipe")
    same(scenario)


METHODS = [
    ("write", (b"late",)),
    ("writelines", ([b"late", b"r"],)),
    ("abort", ()),
    ("is_closing", ()),
    ("is_reading", ()),
    ("pause_reading", ()),
    ("pause_reading", ()),
    ("resume_reading", ()),
    ("resume_reading", ()),
    ("get_write_buffer_size", ()),
    ("get_write_buffer_limits", ()),
    ("set_write_buffer_limits", (10,)),
    ("get_protocol", ()),
    ("get_extra_info", ("peername",)),
    ("get_extra_info", ("cipher", "?")),
]


def called(transport, method, args):
    try:
        return method, args, "is", type(getattr(transport, method)(*args)).__name__
    except Exception as error:
        return method, args, "raises", type(error).__name__


@pytest.mark.parametrize("end", ["open", "closing", "close", "abort"])
def test_methods_in_each_state(certs, end):
    async def scenario():
        one, other = await secure_pair(certs)
        transport = one.transport
        if end == "abort":
            transport.abort()
        elif end != "open":
            transport.close()
        if end in ("close", "abort"):
            await one.lost
            await other.lost
        seen = [called(transport, *call) for call in METHODS if call[0] != "abort" or end in ("close", "abort")]
        if end in ("open", "closing"):
            transport.abort()
            await one.lost
            await other.lost
        return seen

    if not NEW:
        pytest.skip("3.10: half of it is AttributeError on None")
    same(scenario)


def test_writing_after_the_end_is_warned_of(certs):
    async def scenario():
        for end in ("close", "abort"):
            one, other = await secure_pair(certs)
            getattr(one.transport, end)()
            for _ in range(3):
                one.transport.write(b"late")
            await one.lost
            for _ in range(7):
                one.transport.write(b"late")
            one.transport.writelines([b"late"] * 3)
            await other.lost
            await turns(3)

    if not NEW:
        pytest.skip("3.10 queues it for ever")
    assert same(scenario)["log"]


@pytest.mark.aioxide_only  # asyncio's transport forgets all that it asks
def test_methods_after_it_was_closed_twice(run, certs):
    async def main():
        one, other = await secure_pair(certs)
        one.transport.close()
        one.transport.close()
        await one.lost
        await other.lost
        one.transport.close()
        for method, args in METHODS:
            getattr(one.transport, method)(*args)

    run(main)


# --- another extension's errors ------------------------------------------------------------------


class StaleErrors:
    """Puts errors into this thread's queue of the OpenSSL that `_ssl` uses, as an extension does that forgets them."""

    def __init__(self):
        #: The other engine calls OpenSSL as asyncio does, and cannot look at its queue.
        self.is_seen = aioxide.build_info()["tls"] == "direct"
        file = getattr(_ssl, "__file__", None)
        self.library = ctypes.CDLL(file) if file else None
        if self.library is None or not hasattr(self.library, "ERR_set_error"):
            pytest.skip("OpenSSL's queue cannot be reached")
        self.library.ERR_peek_error.restype = ctypes.c_ulong

    def put(self, library=6, reason=100):
        self.library.ERR_new()
        self.library.ERR_set_debug(b"file.c", 1, b"function")
        self.library.ERR_set_error(library, reason, None)
        assert self.library.ERR_peek_error() != 0

    def clear(self):
        self.library.ERR_clear_error()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stale_error(run, certs, is_ours, side, version):
    """asyncio may take it for the connection's own, and lose that; aioxide does not."""

    async def main():
        stale = StaleErrors()

        class Leaves(Recorder):
            """An error in the queue after each call."""

            def data_received(self, data):
                super().data_received(data)
                stale.put()

        protocol, peer = await secure(certs, side, Leaves, version)
        try:
            for count in range(1, 6):
                stale.put(library=20, reason=count)
                data = peer.encrypted(b"data")
                stale.put(library=20, reason=count)
                if protocol.transport.is_closing() and not (is_ours and stale.is_seen):
                    break
                protocol.transport.write(b"data")
                await asyncio.sleep(0)
                stale.put()
                await peer.send_raw(data)
                while len(protocol.received) < 4 * count and "lost" not in protocol.calls:
                    await asyncio.sleep(0.001)
            stale.clear()
            if is_ours and stale.is_seen:
                assert protocol.received == b"data" * 5 and await peer.receive(20) == b"data" * 5
                stale.put()
                protocol.transport.close()
                stale.put()
                await peer.receive_to_end()
                await peer.through(peer.tls.unwrap)
                assert await protocol.lost is None
            elif "lost" in protocol.calls:
                assert isinstance(protocol.lost.result(), ssl.SSLError)
        finally:
            stale.clear()
        await drop(protocol, peer)
        await calm()

    run(main)


@pytest.mark.aioxide_only  # asyncio's connection is lost by it
def test_a_stale_error_in_each_step_of_a_handshake(run, certs):
    async def main():
        stale = StaleErrors()
        if not stale.is_seen:
            pytest.skip("the direct engine's")
        loop = asyncio.get_running_loop()
        going = True

        def spoil():
            stale.put()
            if going:
                loop.call_soon(spoil)

        spoil()
        try:
            one, other = await secure_pair(certs)
            one.transport.write(b"x" * 100_000)
            await other.until_received(100_000)
            one.transport.close()
            assert await one.lost is None and await other.lost is None
        finally:
            going = False
            await turns(2)
            stale.clear()

    run(main)
