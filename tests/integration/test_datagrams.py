"""`create_datagram_endpoint` and its transport, against asyncio's own.

Arguments and addresses are in `test_datagram_endpoints.py`; here is what happens to datagrams.
"""

import asyncio
import os
import socket
import sys

import pytest
from datagrams import DatagramRecorder, close_all, endpoint, settle, unix_pair
from differential import describe, same
from peers import PATIENCE_S, turns

pytestmark = pytest.mark.usefixtures("no_leaks")


def udp_socket(address=("127.0.0.1", 0), family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(PATIENCE_S)
    return sock


# --- to and fro ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 64, 1500, 9000, 65507])
@pytest.mark.parametrize("connected", [False, True])
def test_an_echo_of_each_size(run, size, connected):
    async def main():
        class Echo(DatagramRecorder):
            def datagram_received(self, data, addr):
                super().datagram_received(data, addr)
                self.transport.sendto(data, None if connected else addr)

        with udp_socket() as peer:
            remote = peer.getsockname() if connected else None
            transport, echo = await endpoint(Echo, local_addr=("127.0.0.1", 0), remote_addr=remote)
            here = transport.get_extra_info("sockname")
            data = os.urandom(size)
            for count in range(1, 4):
                peer.sendto(data, here)
                await echo.until(lambda count=count: len(echo.datagrams) >= count)
                if size or sys.version_info >= (3, 13):
                    assert peer.recvfrom(1 << 17) == (data, here)
            assert echo.datagrams == [(data, peer.getsockname())] * 3
            assert type(echo.datagrams[0][0]) is bytes
            await close_all(echo)

    run(main)


@pytest.mark.parametrize("data", [b"", bytearray(), memoryview(b"")], ids=repr)
def test_an_empty_datagram_is_sent_from_313_on(data):
    async def scenario():
        with udp_socket() as peer:
            transport, protocol = await endpoint(remote_addr=peer.getsockname())
            transport.sendto(data)
            transport.sendto(b"next")
            received = peer.recv(10)
            await close_all(protocol)
            return received

    assert same(scenario) == (b"" if sys.version_info >= (3, 13) else b"next")


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "slice", "words", "array", "str", "None", "list"])
def test_each_kind_of_data(kind):
    import array

    made = {
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "memoryview": memoryview(b"abc"),
        "slice": memoryview(b"abcdef")[::2],
        "words": memoryview(b"abcdefgh").cast("I"),
        "array": array.array("b", [1, 2]),
        "str": "abc",
        "None": None,
        "list": [1],
    }[kind]

    async def scenario():
        with udp_socket() as peer:
            transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
            try:
                transport.sendto(made, peer.getsockname())
            except TypeError as error:
                result = describe(error)
            else:
                await settle()
                peer.setblocking(False)
                try:
                    result = peer.recv(100)
                except BlockingIOError:
                    result = None
            calls = protocol.calls[:]
            await close_all(protocol)
            return result, calls

    same(scenario)


def test_many_datagrams_of_many_peers_each_with_its_address(run):
    async def main():
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        here = transport.get_extra_info("sockname")
        peers = [udp_socket() for _ in range(20)]
        expected = []
        for i in range(100):
            peer = peers[i % 20 if i % 3 else 0]
            peer.sendto(b"%d" % i, here)
            expected.append((b"%d" % i, peer.getsockname()))
        await protocol.until(lambda: len(protocol.datagrams) >= 100)
        assert protocol.datagrams == expected
        for data, addr in protocol.datagrams:
            transport.sendto(data, addr)
        for i, (_, addr) in enumerate(expected):
            (peer,) = (p for p in peers if p.getsockname() == addr)
            assert peer.recv(10) == b"%d" % i
        for peer in peers:
            peer.close()
        await close_all(protocol)

    run(main)


def test_no_python_frame_but_the_protocols_own(run, is_ours):
    if not is_ours:
        pytest.skip("of aioxide")

    async def main():
        class Echo(DatagramRecorder):
            def datagram_received(self, data, addr):
                self.count = getattr(self, "count", 0) + 1
                self.transport.sendto(data, addr)
                if self.count < 100:
                    return
                done.set_result(None)

        done = asyncio.get_running_loop().create_future()
        with udp_socket() as peer:
            transport, echo = await endpoint(Echo, local_addr=("127.0.0.1", 0))
            for _ in range(100):
                peer.sendto(b"x", transport.get_extra_info("sockname"))
            frames = set()

            def profile(frame, event, arg):
                if event == "call":
                    frames.add(frame.f_code.co_name)

            sys.setprofile(profile)
            try:
                await done
            finally:
                sys.setprofile(None)
            assert frames <= {"datagram_received", "main", "wait_for"}, frames
            await close_all(echo)

    run(main)


# --- one destination -----------------------------------------------------------------------------


@pytest.mark.parametrize("broadcast", [None, True])
def test_an_endpoint_with_a_remote_address_sends_nowhere_else(broadcast):
    async def scenario():
        with udp_socket() as peer, udp_socket() as other:
            there = peer.getsockname()
            transport, protocol = await endpoint(remote_addr=there, allow_broadcast=broadcast)
            seen = []
            for addr in (
                None,
                there,
                tuple(there),
                list(there),
                other.getsockname(),
                "x",
                0,
                (),
                ("localhost", there[1]),
            ):
                try:
                    transport.sendto(repr(addr).encode(), addr)
                except ValueError as error:
                    seen.append(describe(error))
                else:
                    seen.append(len(peer.recv(100)))
            seen.append((transport.get_extra_info("peername") == there, transport._address == there))
            await close_all(protocol)
            return seen, protocol.calls

    same(scenario)


@pytest.mark.parametrize("connected", [True, False])
def test_a_given_socket(connected):
    async def scenario():
        with udp_socket() as peer:
            sock = socket.socket(type=socket.SOCK_DGRAM)
            if connected:
                sock.connect(peer.getsockname())
            transport, protocol = await endpoint(sock=sock)
            seen = [sock.gettimeout()]
            transport.sendto(b"where to?")  # without a peer: TypeError, and the transport is lost
            if connected:
                transport.sendto(b"elsewhere", ("127.0.0.1", 9))  # the peer gets it all the same
                seen += [peer.recv(100), peer.recv(100)]
            else:
                seen.append(describe(await protocol.lost))
            await close_all(protocol)
            return seen, protocol.calls, sock.fileno()

    same(scenario)


# --- errors of one datagram ----------------------------------------------------------------------


@pytest.mark.parametrize("connected", [True, False])
def test_a_datagram_that_is_too_large(connected):
    async def scenario():
        with udp_socket() as peer:
            there = peer.getsockname()
            transport, protocol = await endpoint(local_addr=("127.0.0.1", 0), remote_addr=there if connected else None)
            transport.sendto(bytes(70000), None if connected else there)
            seen = [protocol.calls[:], transport.get_write_buffer_size(), transport.is_closing()]
            transport.sendto(b"small", there)
            seen.append(peer.recv(10))
            await close_all(protocol)
            return seen, protocol.calls

    calls = same(scenario)[0][0]
    assert calls[1][0] == "error"


def test_a_peer_that_refuses():
    async def scenario():
        peer = udp_socket()
        there = peer.getsockname()
        peer.close()
        transport, protocol = await endpoint(remote_addr=there)
        transport.sendto(b"anybody?")
        await protocol.until(lambda: len(protocol.calls) > 1)
        seen = protocol.calls[:]
        transport.sendto(b"anybody?")
        await settle()
        await close_all(protocol)
        return seen, protocol.calls[-1]

    (_, (name, error)), _ = same(scenario)
    assert (name, error[0]) == ("error", "ConnectionRefusedError")


def test_a_refusal_is_told_by_the_next_send():
    """The error is pending on the socket, and whichever call comes first takes it; the datagram of that call is lost."""

    async def scenario():
        peer = udp_socket()
        there = peer.getsockname()
        peer.close()
        transport, protocol = await endpoint(remote_addr=there)
        transport.sendto(b"1")
        transport.sendto(b"2")  # on loopback the answer has come by now
        seen = protocol.calls[:]
        await settle()
        await close_all(protocol)
        return seen

    assert len(same(scenario)) == 2


DESTINATIONS = [
    None, (), ("127.0.0.1",), ("127.0.0.1", 70000), ("127.0.0.1", -1), ("127.0.0.1", "9"), ("127.0.0.1", 9.5), ["127.0.0.1", 9],
    "127.0.0.1", b"x", 5, ("no such host.invalid", 9), ("256.1.1.1", 9), ("\0", 9), ("", 9), ("<broadcast>", 9), ("::1", 9),
    (b"127.0.0.1", 9), ("127.0.0.1", 9, 0, 0), (None, 9), ("127.1", 9), ("0x7f.1", 9), ("255.255.255.255", 9), ("127.0.0.1", True),
    ("\udc80", 9), ("127.0.0.1", 0), ("240.0.0.1", 9),
]  # fmt: skip


@pytest.mark.parametrize("to", DESTINATIONS, ids=ascii)
def test_a_destination_of_each_kind(to, monkeypatch):
    getaddrinfo = socket.getaddrinfo

    async def scenario():
        transport, protocol = await endpoint(local_addr=("127.0.0.1", 0))
        transport.sendto(b"x", to)
        await settle()
        seen = transport.is_closing(), protocol.calls[:], transport.get_write_buffer_size()
        await close_all(protocol)
        return seen, protocol.calls, describe(protocol.lost.result())

    assert getaddrinfo is socket.getaddrinfo
    same(scenario)


@pytest.mark.parametrize(
    "to", [("::1",), ("::1", 0, 0), ("::1", 0, 0, 0), ("::1", 0, 1 << 20), ("::1", 0, -1), ("::1", 0, 0, 1 << 32), ("::1%lo", 0),
           ("127.0.0.1", 0), ("::ffff:127.0.0.1", 0), ("::1", 0, 5, 1), ("localhost", 0)], ids=ascii
)  # fmt: skip
def test_a_destination_of_ipv6(to):
    async def scenario():
        with udp_socket(("::1", 0), socket.AF_INET6) as peer:
            given = (to[0], peer.getsockname()[1], *to[2:]) if len(to) > 1 else to
            transport, protocol = await endpoint(local_addr=("::1", 0))
            transport.sendto(b"x", given)
            await settle()
            peer.setblocking(False)
            try:
                data, addr = peer.recvfrom(10)
                seen = data, addr == transport.get_extra_info("sockname")
            except BlockingIOError:
                seen = None
            await close_all(protocol)
            return seen, protocol.calls, describe(protocol.lost.result())

    same(scenario)


# --- no room -------------------------------------------------------------------------------------


def fill(transport, protocol, size=1000, most=5000, addr=None):
    """Send until something is queued, and some more; the numbers that were sent."""
    count = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"%d " % count + bytes(size), addr)
        count += 1
        assert count < most
    for _ in range(20):
        transport.sendto(b"%d " % count + bytes(size), addr)
        count += 1
    return count


async def drain(peer, count):
    """The numbers of the datagrams that arrive."""
    loop = asyncio.get_running_loop()
    peer.setblocking(False)
    return [int((await loop.sock_recv(peer, 1 << 17)).split()[0]) for _ in range(count)]


@pytest.fixture
def keeps_headers(is_ours):
    """asyncio 3.13 counts 8 bytes for each datagram that is queued, and never takes them back; 3.14 does."""
    return sys.version_info[:2] == (3, 13) and not is_ours


@pytest.mark.parametrize("limits", [None, (5000, 1000), (0, 0), (1 << 20, 0)], ids=str)
def test_what_finds_no_room_is_queued_and_sent_in_order(run, limits, keeps_headers):
    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(sock=here)
            if limits:
                transport.set_write_buffer_limits(*limits)
            low, high = transport.get_write_buffer_limits()
            assert (high, low) == (limits or (64 * 1024, 16 * 1024))
            count = fill(transport, protocol)
            header = 8 if sys.version_info >= (3, 13) else 0
            queued = transport.get_write_buffer_size()
            assert queued == sum(len(b"%d " % i) + 1000 + header for i in range(count - 21, count))
            assert repr(transport).endswith(f"read=polling write=<polling, bufsize={queued}>>")
            assert protocol.calls == (["made", "pause"] if queued > high else ["made"])
            assert await drain(there, count) == list(range(count))
            if not keeps_headers:
                await protocol.until(lambda: transport.get_write_buffer_size() == 0)
                await settle()
                assert protocol.calls == (["made", "pause", "resume"] if queued > high else ["made"])
                assert repr(transport).endswith("write=<idle, bufsize=0>>")
            transport.sendto(b"0 after")
            assert await drain(there, 1) == [0]
            await close_all(protocol)

    run(main)


def test_pause_and_resume_come_once_each(run, keeps_headers):
    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(sock=here)
            transport.set_write_buffer_limits(3000, 1000)
            for round_ in range(1, 4):
                count = fill(transport, protocol)
                assert protocol.calls.count("pause") == round_
                assert protocol.calls.count("resume") == round_ - 1
                assert await drain(there, count) == list(range(count))
                if keeps_headers:
                    break
                await protocol.until(lambda round_=round_: protocol.calls.count("resume") == round_)
                assert transport.get_write_buffer_size() == 0
            await close_all(protocol)

    run(main)


def test_a_queued_bytearray_may_change(run):
    async def main():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(sock=here)
            count = fill(transport, protocol)
            data = bytearray(b"%d before" % count)
            transport.sendto(data)
            transport.sendto(memoryview(b"%d-view-" % (count + 1) * 2)[:5])
            transport.sendto(memoryview(b"77 88 99 ")[::2])
            data[:] = b"99999 after"
            received = await drain(there, count + 1)
            assert received == list(range(count + 1))
            loop = asyncio.get_running_loop()
            assert len(await loop.sock_recv(there, 100)) == 5
            assert await loop.sock_recv(there, 100) == b"77 88 99 "[::2]
            await close_all(protocol)

    run(main)


def test_close_sends_what_is_queued_and_abort_does_not():
    async def scenario():
        seen = []
        for end in ("close", "abort"):
            with unix_pair() as (here, there):
                transport, protocol = await endpoint(sock=here)
                count = fill(transport, protocol)
                getattr(transport, end)()
                transport.close()
                seen.append((transport.is_closing(), protocol.calls[:]))
                if end == "close":
                    seen.append(await drain(there, count) == list(range(count)))
                error = await protocol.lost
                if end == "abort":
                    there.setblocking(False)
                    arrived = 0
                    try:
                        while there.recv(1 << 17):
                            arrived += 1
                    except (BlockingIOError, ConnectionResetError):
                        pass
                    seen.append(count - arrived)
                seen.append((describe(error), protocol.calls, here.fileno()))
        return seen

    same(scenario)


def test_an_error_among_queued_datagrams_ends_nothing():
    """The peer goes while some are queued."""

    async def scenario():
        with unix_pair() as (here, there):
            transport, protocol = await endpoint(sock=here)
            fill(transport, protocol)
            there.close()
            await protocol.until(lambda: len(protocol.calls) > 4)
            while transport.get_write_buffer_size() > 21 * 8:
                await turns(1)
            await settle()
            seen = protocol.calls[:3], len(protocol.calls), transport.is_closing()
            await close_all(protocol)
            return seen

    same(scenario)
