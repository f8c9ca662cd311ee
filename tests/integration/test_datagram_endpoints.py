"""`create_datagram_endpoint`: every keyword, against asyncio's own."""

import asyncio
import os
import socket
import sys
import warnings

import pytest
from datagrams import DatagramRecorder, close_all, endpoint, settle
from differential import describe, outcome, same
from peers import PATIENCE_S
from test_cancellation import at_every_point

pytestmark = pytest.mark.usefixtures("no_leaks")

ANY = ("127.0.0.1", 0)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def datagram_socket(family=socket.AF_INET, address=None, kind=socket.SOCK_DGRAM):
    sock = socket.socket(family, kind)
    if address is not None:
        sock.bind(address)
    sock.settimeout(PATIENCE_S)
    return sock


BAD = [
    {},
    {"family": socket.AF_INET},
    {"family": socket.AF_INET6},
    {"family": socket.AF_UNIX},
    {"family": 12345},
    {"family": socket.AF_INET, "proto": 12345},
    {"local_addr": ANY, "family": socket.AF_INET6},
    {"local_addr": ("::1", 0), "family": socket.AF_INET},
    {"local_addr": ANY, "remote_addr": ("::1", 9)},
    {"local_addr": "127.0.0.1"},
    {"local_addr": ["127.0.0.1", 0]},
    {"local_addr": ("127.0.0.1", 0, 0)},
    {"remote_addr": 5},
    {"local_addr": ("127.0.0.1", 70000)},
    {"local_addr": ("192.0.2.77", 0)},
    {"remote_addr": ("256.1.1.1", 1)},
    {"remote_addr": ("127.0.0.1", 9), "proto": socket.IPPROTO_TCP},
    {"remote_addr": ("255.255.255.255", 9)},
    {"local_addr": (), "remote_addr": ()},
    {"local_addr": ANY, "nonsense": 1},
    {"local_addr": "nowhere/at.sock", "family": socket.AF_UNIX},
    {"remote_addr": "nobody", "family": socket.AF_UNIX},
    {"local_addr": b"bytes", "family": socket.AF_UNIX},
    {"local_addr": ANY, "family": socket.AF_UNIX},
    {"local_addr": "x" * 200, "family": socket.AF_UNIX},
    {"sock": "stream"},
    {"sock": "seqpacket"},
    {"sock": "closed"},
    {"sock": "udp", "local_addr": ANY},
    {"sock": "udp", "remote_addr": ANY, "family": 2, "proto": 17, "flags": 1, "reuse_port": True, "allow_broadcast": True},
    {"sock": "udp", "family": 0, "local_addr": (), "reuse_port": False},
    {"sock": "stream", "family": 2},
    {"sock": 5},
]  # fmt: skip


def made(kind):
    if kind in ("stream", "seqpacket"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_SEQPACKET)
    sock = datagram_socket()
    if kind == "closed":
        sock.close()
    return sock


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's own leftovers
@pytest.mark.parametrize("options", BAD, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()) or "nothing")
def test_bad_arguments_are_refused_with_asyncios_words(directory, options):
    async def scenario():
        given = dict(options)
        sock = None
        if isinstance(given.get("sock"), str):
            sock = given["sock"] = made(given["sock"])
        try:
            kind, result = await outcome(endpoint(**given))
            if kind == "is":
                transport, protocol = result
                shown = transport.get_extra_info("socket").family, transport.get_extra_info("peername")
                await close_all(protocol)
                return kind, shown, protocol.calls
            if result[0] == "TypeError":
                # The function's name in front differs, and may.
                return kind, result[0], result[2].split("()")[-1]
            return kind, result
        finally:
            if sock is not None:
                sock.close()

    same(scenario)


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="a keyword of 3.10")
@pytest.mark.parametrize("value", [True, False, None])
@pytest.mark.parametrize("with_sock", [True, False])
def test_reuse_address_of_310(value, with_sock):
    async def scenario():
        with datagram_socket() as sock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            given = {"sock": sock} if with_sock else {"local_addr": ANY}
            kind, result = await outcome(endpoint(reuse_address=value, **given))
            if kind == "is":
                await close_all(result[1])
                result = None
            told = [(w.category, str(w.message), os.path.basename(w.filename)) for w in caught]
            return kind, result, [t for t in told if t[0] is DeprecationWarning]

    same(scenario)


@pytest.mark.aioxide_only
def test_a_keyword_of_another_python_is_refused(run):
    async def main():
        late = [{"of_no_python": True}]
        if sys.version_info >= (3, 11):
            late += [{"reuse_address": False}, {"reuse_address": None}]
        for options in late:
            with pytest.raises(TypeError, match="got an unexpected keyword argument"):
                await endpoint(local_addr=ANY, **options)

    run(main)


# --- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "remote", "options"),
    [
        (ANY, None, {}),
        (("::1", 0), None, {}),
        (("localhost", 0), None, {"family": socket.AF_INET}),
        (("localhost", "0"), None, {"family": socket.AF_INET6}),
        (None, ("127.0.0.1", 9), {}),
        (None, ("::1", 9), {}),
        (ANY, ("127.0.0.1", 9), {}),
        (("127.0.0.1", 0), ("localhost", 9), {}),
        (("", 0), None, {"family": socket.AF_INET, "flags": socket.AI_PASSIVE}),
        ((None, 0), None, {"family": socket.AF_INET}),
        (None, ("127.0.0.1", 9), {"allow_broadcast": True}),
        (ANY, None, {"proto": socket.IPPROTO_UDP, "reuse_port": True, "allow_broadcast": True}),
        (None, None, {"family": socket.AF_INET, "reuse_port": True}),
    ],
    ids=str,
)
def test_what_becomes_of_the_arguments(local, remote, options):
    async def scenario():
        kind, result = await outcome(endpoint(local_addr=local, remote_addr=remote, **options))
        if kind != "is":
            return kind, result
        transport, protocol = result
        sock = transport.get_extra_info("socket")
        flags = [
            sock.getsockopt(socket.SOL_SOCKET, o)
            for o in (socket.SO_BROADCAST, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
        ]
        name, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        seen = [
            sock.family,
            sock.type,
            sock.proto,
            flags,
            name[0],
            name[2:],
            peer,
            transport._address,
            sock.gettimeout(),
        ]
        seen += [isinstance(transport, one) for one in (asyncio.Transport, asyncio.BaseTransport)]
        await close_all(protocol)
        return seen

    same(scenario)


def test_it_is_a_datagram_transport(run, is_ours):
    async def main():
        transport, protocol = await endpoint(local_addr=ANY)
        assert isinstance(transport, asyncio.DatagramTransport) or (not is_ours and sys.version_info < (3, 12))
        assert protocol.calls == ["made"]
        assert repr(transport) == (
            f"<{type(transport).__name__} fd={transport._sock_fd} read=polling write=<idle, bufsize=0>>"
        )
        assert transport.get_extra_info("nothing", 5) == 5
        await close_all(protocol)
        assert repr(transport).startswith(f"<{type(transport).__name__} closed fd=")

    run(main)


def test_every_address_that_resolves_is_tried(run):
    async def main():
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
            hosts = {"two": ["192.0.2.77", "127.0.0.1"], "none": [], "bad": ["192.0.2.77", "192.0.2.78"]}[host]
            protos = range(17, 17 + len(hosts)) if host != "two" else (17, 136)
            return [(socket.AF_INET, type, p, "", (h, port)) for h, p in zip(hosts, protos)]

        loop.getaddrinfo = getaddrinfo
        transport, protocol = await endpoint(local_addr=("two", 0))
        assert transport.get_extra_info("socket").proto == 136
        await close_all(protocol)
        with pytest.raises(OSError, match=r"getaddrinfo\(\) returned empty list"):
            await endpoint(local_addr=("none", 0))
        with pytest.raises(OSError, match="Cannot assign requested address"):
            await endpoint(local_addr=("bad", 0))

    run(main)


def test_a_port_can_be_shared(run):
    async def main():
        one, first = await endpoint(local_addr=ANY, reuse_port=True)
        address = one.get_extra_info("sockname")
        other, second = await endpoint(local_addr=address, reuse_port=True)
        assert other.get_extra_info("sockname") == address
        with pytest.raises(OSError, match="Address already in use"):
            await endpoint(local_addr=address)
        await close_all(first, second)

    run(main)


def test_a_broadcast_reaches_every_listener(run):
    async def main():
        received = []
        for allow in (None, True):
            with datagram_socket(address=("0.0.0.0", 0)) as listener:
                to = ("127.255.255.255", listener.getsockname()[1])
                transport, protocol = await endpoint(local_addr=("0.0.0.0", 0), allow_broadcast=allow)
                transport.sendto(b"to all", to)
                if allow:
                    received.append(listener.recv(10))
                    assert protocol.calls == ["made"]
                else:
                    assert protocol.calls[1][1][0] == "PermissionError"
                await close_all(protocol)
        assert received == [b"to all"]

    run(main)


# --- Unix datagrams ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "abstract", "unbound", "surrogate"])
def test_unix_datagrams_and_the_addresses_they_come_from(directory, kind):
    names = {"path": "here.sock", "surrogate": os.fsdecode(b"h\xff.sock"), "unbound": None}
    name = names.get(kind, f"\0aioxide-datagram-{os.getpid()}")

    async def scenario():
        server, received = await endpoint(family=socket.AF_UNIX, local_addr="server.sock")
        client, protocol = await endpoint(family=socket.AF_UNIX, local_addr=name, remote_addr="server.sock")
        client.sendto(b"to the server")
        client.sendto(b"again", "server.sock")
        await received.until(lambda: len(received.datagrams) == 2)
        seen = [received.datagrams]
        if name is not None:
            server.sendto(b"by its address", received.datagrams[0][1])
            server.sendto(b"by its name", name)
            await protocol.until(lambda: len(protocol.datagrams) == 2)
        for transport in (server, client):
            seen.append([transport.get_extra_info(key) for key in ("sockname", "peername")])
        server.sendto(b"nobody", "nowhere.sock")
        seen.append((received.calls, protocol.calls, protocol.datagrams))
        await close_all(received, protocol)
        seen.append(sorted(os.listdir()))
        return seen

    same(scenario)


@pytest.mark.parametrize("kind", ["stale", "file", "directory", "bound"])
def test_what_is_at_a_unix_path_before(directory, kind, caplog):
    async def scenario():
        caplog.clear()
        other = None
        if kind in ("stale", "bound"):
            other = datagram_socket(socket.AF_UNIX, "at.sock")
            if kind == "stale":
                other.close()
        elif kind == "file":
            open("at.sock", "w").close()
        else:
            os.mkdir("at.sock")
        is_what, result = await outcome(endpoint(family=socket.AF_UNIX, local_addr="at.sock"))
        if is_what == "is":
            await close_all(result[1])
            result = os.listdir()
        if other is not None:
            other.close()
        seen = is_what, result, [(r.levelname, r.getMessage()) for r in caplog.records]
        for left in os.listdir():
            os.rmdir(left) if os.path.isdir(left) else os.remove(left)
        return seen

    same(scenario)


def test_a_path_that_cannot_be_looked_at_is_logged_of(directory, caplog, monkeypatch):
    async def scenario():
        caplog.clear()
        with monkeypatch.context() as patch:

            def refuse(path, *args, **options):
                raise PermissionError(13, "Permission denied", path)

            patch.setattr(os, "stat", refuse)
            kind, result = await outcome(endpoint(family=socket.AF_UNIX, local_addr="at.sock"))
        if kind == "is":
            await close_all(result[1])
        for left in os.listdir():
            os.remove(left)
        return kind, [(r.levelname, r.getMessage()) for r in caplog.records]

    kind, ((level, text),) = same(scenario)
    assert (kind, level) == ("is", "ERROR")
    assert text.startswith("Unable to check or remove stale UNIX socket 'at.sock'")


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio leaves sockets to the garbage collector
@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"local_addr": ANY}, 1),
        ({"remote_addr": ("127.0.0.1", 9)}, 1),
        ({"local_addr": ("name", 0), "remote_addr": ("name", 9)}, 3),
        ({"sock": True}, 1),
    ],
    ids=str,
)
def test_cancelled_at_each_point(run, options, least):
    async def main():
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host, port, *, type, **options):
            await asyncio.sleep(0)
            return [(socket.AF_INET, type, 0, "", ("127.0.0.1", port))]

        loop.getaddrinfo = getaddrinfo

        async def make():
            given = dict(options)
            if "sock" in given:
                given["sock"] = datagram_socket()
            return (await endpoint(asyncio.DatagramProtocol, **given))[0]

        async def undo(transport):
            transport.close()
            await settle()

        await at_every_point(make, undo, least=least)

    run(main)


@pytest.mark.aioxide_only  # as above
@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("given", [True, False])
def test_a_factory_that_raises_leaves_no_socket(run, given):
    async def main():
        options = {"sock": datagram_socket()} if given else {"local_addr": ANY}
        with pytest.raises(ZeroDivisionError):
            await endpoint(lambda: 1 // 0, **options)
        if given:
            assert options["sock"].fileno() == -1

    run(main)


def test_connection_made_that_raises_is_reported(run, reports):
    async def main():
        class Raises(DatagramRecorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                raise ZeroDivisionError

        _, protocol = await endpoint(Raises, local_addr=ANY)
        ((message, error),) = reports.take()
        assert error is ZeroDivisionError and "connection_made" in message
        await close_all(protocol)

    run(main)


@pytest.mark.parametrize("local", [ANY, None])
def test_debug_mode_tells_of_it(local, caplog):
    async def scenario():
        asyncio.get_running_loop().set_debug(True)
        caplog.set_level("DEBUG", "asyncio")
        caplog.clear()
        transport, protocol = await endpoint(local_addr=local, remote_addr=("127.0.0.1", 9))
        seen = [(r.levelname, r.msg, len(r.args)) for r in caplog.records if "Datagram" in r.msg]
        transport._fatal_error(OSError("told in debug mode"))
        seen += [(r.levelname, r.msg) for r in caplog.records[-1:]]
        seen.append(describe(await protocol.lost))
        return seen

    same(scenario)
