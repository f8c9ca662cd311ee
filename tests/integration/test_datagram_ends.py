"""What the protocol of a datagram transport may do, how a transport ends, sockets of other kinds: against asyncio's own."""

import asyncio
import contextlib
import contextvars
import gc
import socket
import subprocess
import sys
import warnings
import weakref

import pytest
from datagrams import DatagramRecorder, close_all, endpoint, raises, settle, unix_pair
from differential import describe, observe, outcome, plain, same
from gathering import warm
from peers import PATIENCE_S, connect

pytestmark = pytest.mark.usefixtures("no_leaks")


def udp_socket(address=("127.0.0.1", 0), family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(PATIENCE_S)
    return sock


# --- what protocols do ---------------------------------------------------------------------------

INSIDE = {
    "close": lambda p: p.transport.close(),
    "abort": lambda p: p.transport.abort(),
    "twice": lambda p: (p.transport.close(), p.transport.abort()),
    "set_protocol": lambda p: p.transport.set_protocol(p.second),
    "pause": lambda p: p.transport.pause_reading(),
    "pause and resume": lambda p: (p.transport.pause_reading(), p.transport.resume_reading()),
    "send": lambda p: p.transport.sendto(b"from inside"),
    "raise": lambda p: 1 // 0,
    "drop": lambda p: p.transport._sock.close(),
}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pause_reading() of datagrams is of 3.11")
@pytest.mark.parametrize("where", ["made", "datagram", "error", "pause", "resume", "lost"])
@pytest.mark.parametrize("what", INSIDE)
def test_from_inside_a_call_of_the_protocol(where, what):
    if what == "drop" and where in ("made", "pause", "resume"):
        pytest.skip("selectors tells of a closed descriptor in words of its own")

    if (what, where) == ("raise", "made"):
        pytest.skip(
            "the report's text is cut within the class's name: see test_connection_made_that_raises_is_reported"
        )

    async def scenario():
        with unix_pair() as (here, there):
            names = {"made": "connection_made", "datagram": "datagram_received", "error": "error_received"}
            names |= {"pause": "pause_writing", "resume": "resume_writing", "lost": "connection_lost"}
            done = []

            class Inside(DatagramRecorder):
                pass

            def method(self, *args):
                getattr(DatagramRecorder, names[where])(self, *args)
                if not done:
                    done.append(1)
                    INSIDE[what](self)

            setattr(Inside, names[where], method)
            Inside.second = DatagramRecorder()
            transport, protocol = await endpoint(Inside, sock=here)
            seen = []
            with contextlib.suppress(ConnectionRefusedError):
                there.send(b"one")
            await settle()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    if not protocol.lost.done():
                        transport.sendto(bytes(1 << 20))  # EMSGSIZE
                    if where in ("pause", "resume"):
                        transport.set_write_buffer_limits(2000, 100)
                        for i in range(600):
                            if not protocol.lost.done():
                                transport.sendto(b"%d " % i + bytes(900))
                except (ZeroDivisionError, AttributeError, OSError, ValueError) as error:
                    seen.append(type(error).__name__)
            if where == "resume":
                there.setblocking(False)
                for _ in range(2000):
                    try:
                        there.recv(1 << 17)
                    except (BlockingIOError, ConnectionResetError):
                        await asyncio.sleep(0.001)
                        if "resume" in protocol.calls or protocol.lost.done():
                            break
            await settle()
            transport.abort()
            there.setblocking(False)
            await settle()
            calls = [call if isinstance(call, str) else call[0] for call in protocol.calls + Inside.second.calls]
            return seen, calls, here.fileno(), transport.is_closing(), [data for data, _ in protocol.datagrams]

    ends_twice = what in ("close", "abort", "twice")  # in asyncio, which fails from inside the second time
    never_resumes = sys.version_info[:2] == (3, 13)  # asyncio, see `keeps_headers` in test_datagrams.py
    if where == "resume" and (ends_twice or never_resumes):
        seen = observe("aioxide", scenario)
        told = [message for message, _, _ in seen["reports"]]
        assert told == (["protocol.resume_writing() failed"] if what == "raise" else [])
        assert seen["result"][1].count("lost") == 1
        assert "resume" in seen["result"][1]
    else:
        same(scenario)


def test_what_a_protocol_raises_is_reported_and_it_lives_on(run, reports, is_ours):
    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(raises("datagram_received"), sock=here)
            for _ in range(2):
                there.send(b"x")
                await protocol.until(lambda: reports)
                ((message, error, text, others),) = reports.take_whole()
                assert message.startswith("Exception in callback ") and "DatagramTransport._read_ready()" in message
                assert (error, text, others) == (ZeroDivisionError, "from the protocol", ("handle",))
            assert not transport.is_closing()
            await close_all(protocol)

    run(main)


@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["datagram_received", "error_received"])
def test_an_exit_ends_the_run(new_loop, exit_, name):
    loop = new_loop()
    loop2 = []

    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(raises(name, exit_), sock=here)
            loop2.append(protocol)
            if name == "datagram_received":
                there.send(b"x")
                await asyncio.sleep(5)
            transport.sendto(bytes(1 << 20))

    task = loop.create_task(main())
    with pytest.raises(exit_):
        loop.run_until_complete(task)
    loop2[0].transport.abort()
    if not task.done():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.run_until_complete(settle())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="of 3.11")
def test_pausing_leaves_datagrams_in_the_kernel(run):
    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(sock=here)
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            for i in range(3):
                there.send(b"%d" % i)
            await settle()
            assert protocol.datagrams == []
            transport.resume_reading()
            transport.resume_reading()
            await protocol.until(lambda: len(protocol.datagrams) == 3)
            await close_all(protocol)
            transport.resume_reading()
            assert not transport.is_reading()

    run(main)


def test_the_context_is_the_makers(run):
    variable = contextvars.ContextVar("variable")

    async def main():
        class Seen(DatagramRecorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                seen.append(variable.get())

            def datagram_received(self, data, addr):
                seen.append(variable.get())
                variable.set("of the reader")
                super().datagram_received(data, addr)

        seen = []
        variable.set("of the maker")
        with unix_pair() as (here, there):
            _, protocol = await endpoint(Seen, sock=here)
            variable.set("later")
            there.send(b"1")
            there.send(b"2")
            await protocol.until(lambda: len(protocol.datagrams) == 2)
            assert seen == ["of the maker", "of the maker", "of the reader"]
            assert variable.get() == "later"
            await close_all(protocol)

    run(main)


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "abort"])
def test_sending_after_the_end(end, caplog):
    async def scenario():
        caplog.clear()
        with udp_socket() as peer:
            transport, protocol = await endpoint(remote_addr=peer.getsockname())
            getattr(transport, end)()
            for _ in range(4):
                transport.sendto(b"x")
            await protocol.lost
            for _ in range(4):
                transport.sendto(b"x")
            with pytest.raises(ValueError):
                transport.sendto(b"x", ("127.0.0.1", 1))
            with pytest.raises(TypeError):
                transport.sendto("x")
            seen = [(r.levelname, r.getMessage()) for r in caplog.records]
            return seen, transport._conn_lost, protocol.calls, repr(transport).split("Transport")[1].split("fd")[0]

    same(scenario)


@pytest.mark.aioxide_only  # asyncio raises AttributeError from inside
def test_sending_without_an_address_after_the_end(run, caplog):
    async def main():
        with udp_socket() as peer:
            transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
            transport.close()
            transport.sendto(b"still open", peer.getsockname())
            assert peer.recv(20) == b"still open"
            await protocol.lost
            for _ in range(6):
                transport.sendto(b"x", peer.getsockname())
            assert {r.getMessage() for r in caplog.records} == {"socket.send() raised exception."}
            assert protocol.calls == ["made", "lost"]

    run(main)


def test_a_transport_that_nobody_closes(run, is_ours):
    async def main():
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        # Who watches it keeps it alive.
        if is_ours:
            transport.pause_reading()
        else:
            asyncio.get_running_loop()._remove_reader(transport._sock_fd)
        gone = weakref.ref(transport)
        protocol.transport = None
        with pytest.warns(ResourceWarning, match="unclosed transport <.*DatagramTransport fd="):
            del transport
            gc.collect()
        assert gone() is None

    run(main)


def test_a_dropped_loop_with_a_transport_is_collected(new_loop):
    loop = new_loop()
    transport, protocol = loop.run_until_complete(endpoint(local_addr=("127.0.0.1", 0)))
    transport.abort()
    loop.run_until_complete(settle())
    gone = weakref.ref(transport)
    del transport
    protocol.transport = None
    gc.collect()
    assert gone() is None


def test_its_descriptor_is_its_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        fd = transport._sock_fd
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises(
                RuntimeError, match=f"File descriptor {fd} is used by transport <.*DatagramTransport fd={fd}"
            ):
                call(fd, print)
        if sys.version_info >= (3, 12):
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop._make_datagram_transport(transport._sock, protocol)
        await close_all(protocol)

    run(main)


def test_what_a_stream_has_written_before_comes_before(run):
    """A transport that holds back what a callback writes sends it before a datagram goes."""

    async def main():
        protocol, stream_peer = await connect()
        await warm(protocol, stream_peer)
        with udp_socket() as peer:
            transport, datagrams = await endpoint(local_addr=("127.0.0.1", 0))
            stream_peer.setblocking(False)
            protocol.transport.write(b"first")
            transport.sendto(b"second", peer.getsockname())
            assert peer.recv(10) == b"second"
            assert stream_peer.recv(10) == b"first"
            await close_all(datagrams)
            protocol.transport.abort()
            await protocol.lost
            stream_peer.close()

    run(main)


# --- sockets that are no plain ones ---------------------------------------------------------------


def test_methods_of_a_sockets_own_class_are_called():
    async def scenario():
        calls = []

        class Own(socket.socket):
            def sendto(self, *args):
                calls.append(("sendto", args[0]))
                if len(calls) == 2:
                    raise BlockingIOError
                if args[0] == b"bad":
                    raise ZeroDivisionError("from the socket")
                return super().sendto(*args)

            def recvfrom(self, *args):
                calls.append(("recvfrom", args))
                return super().recvfrom(*args)

        with udp_socket() as peer:
            sock = Own(type=socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            transport, protocol = await endpoint(sock=sock)
            for i in range(3):
                transport.sendto(b"%d" % i, peer.getsockname())
            seen = [transport.get_write_buffer_size() > 0]
            await settle()
            seen += [peer.recv(10) for _ in range(3)]
            peer.sendto(b"back", sock.getsockname())
            await protocol.until(lambda: protocol.datagrams)
            transport.sendto(b"bad", peer.getsockname())
            seen.append(describe(await protocol.lost))
            return seen, calls, protocol.calls

    same(scenario)


def test_netlink_and_raw_families_go_by_the_sockets_methods():
    if not hasattr(socket, "AF_NETLINK"):
        pytest.skip("no netlink")

    async def scenario():
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
        sock.bind((0, 0))
        transport, protocol = await endpoint(sock=sock)
        # RTM_GETLINK, a dump: any answer will do.
        transport.sendto(bytes([20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), (0, 0))
        await protocol.until(lambda: protocol.datagrams or len(protocol.calls) > 1)
        seen = [addr for _, addr in protocol.datagrams[:1]], protocol.calls[1:2]
        await close_all(protocol)
        return seen

    same(scenario)


AUDIT = """
import asyncio, socket, sys
sys.path[:0] = {path!r}
import aioxide
seen = []
refuse = []

def hook(event, args):
    if event in ("socket.sendto", "socket.bind", "socket.connect"):
        seen.append((event, type(args[0]).__name__, args[1][0]))
        if refuse and event == "socket.sendto":
            raise RuntimeError("refused by the hook")

sys.addaudithook(hook)

class P(asyncio.DatagramProtocol):
    def connection_lost(self, exc):
        seen.append(("lost", repr(exc)))

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
    t, p = await loop.create_datagram_endpoint(P, local_addr=("127.0.0.1", 0))
    t.sendto(b"x", t.get_extra_info("sockname"))
    refuse.append(1)
    t.sendto(b"x", t.get_extra_info("sockname"))
    await asyncio.sleep(0.01)

loop = {loop}()
loop.run_until_complete(main())
loop.close()
print(seen)
"""


def test_an_audit_hook_sees_what_it_sees_on_asyncio():
    seen = [
        subprocess.run(
            [sys.executable, "-c", AUDIT.format(path=sys.path, loop=loop)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        for loop in ("asyncio.SelectorEventLoop", "aioxide.EventLoop")
    ]
    assert [one.stderr for one in seen] == ["", ""]
    assert plain(seen[0].stdout) == plain(seen[1].stdout)
    assert "refused by the hook" in seen[1].stdout


def test_an_outcome_of_each_public_call_on_a_closed_transport():
    async def scenario():
        transport, protocol = await endpoint(remote_addr=("127.0.0.1", 9), local_addr=("127.0.0.1", 0))
        transport.close()
        await protocol.lost
        seen = []
        calls = {
            "close": (),
            "abort": (),
            "is_closing": (),
            "get_protocol": (),
            "get_write_buffer_size": (),
            "get_write_buffer_limits": (),
            "set_protocol": (protocol,),
            "get_protocol again": (),
            "write_eof": (),
            "can_write_eof": (),
            "write": (b"x",),
        }
        for name, args in calls.items():

            async def call(name=name, args=args):
                return getattr(transport, name.split()[0])(*args)

            kind, result = await outcome(call())
            seen.append((name, kind, result is protocol or result))
        return seen

    same(scenario)


def test_a_foreign_sockets_method_is_called_when_there_is_something(run):
    """A class that answers for itself when there is nothing must not be asked ahead of the poll."""

    class Socket(socket.socket):
        def recvfrom(self, *args):
            try:
                return super().recvfrom(*args)
            except BlockingIOError:
                return b"made up", None

    class Protocol(asyncio.DatagramProtocol):
        received = ()

        def datagram_received(self, data, address):
            self.received += (data,)

    async def main():
        sock = Socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Protocol, sock=sock)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for n in range(3):
                peer.sendto(b"%d" % n, sock.getsockname())
                await asyncio.sleep(0.02)
        transport.close()
        await asyncio.sleep(0)
        return protocol.received

    assert run(main) == (b"0", b"1", b"2")
