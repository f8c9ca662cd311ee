"""TLS connections of every kind, their arguments, and what a transport tells of itself.

Where asyncio decides a text or a class, the scenario runs on both loops of this Python and is compared (`same`).
"""

import asyncio
import socket
import ssl

import pytest
import tls
from differential import describe, outcome
from peers import Recorder, tcp_pair, turns
from tls import NEW, SIDES, VERSIONS, Peer, drop, opening, same, secure, secure_pair

pytestmark = pytest.mark.usefixtures("no_leaks")


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


DATA = bytes(range(256)) * 400

# --- every way to connect ------------------------------------------------------------------------


async def exchange(protocol):
    protocol.transport.write(DATA)
    await protocol.until_received(len(DATA))
    assert bytes(protocol.received) == DATA


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_and_its_clients(run, certs, tmp_path, family, version):
    async def main():
        loop = asyncio.get_running_loop()
        server_context, client_context = certs.contexts(version)
        made = []

        def make():
            made.append(Echo())
            return made[-1]

        path = str(tmp_path / "socket")
        if family == "tcp":
            server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context)
            port = server.sockets[0].getsockname()[1]
        else:
            server = await loop.create_unix_server(make, path, ssl=server_context)
        clients = []
        for index in range(3):
            if family == "unix":
                call = loop.create_unix_connection(Recorder, path, ssl=client_context, server_hostname="localhost")
            elif index == 0:
                call = loop.create_connection(Recorder, "localhost", port, ssl=client_context, family=socket.AF_INET)
            elif index == 1:
                call = loop.create_connection(Recorder, "127.0.0.1", port, ssl=client_context)
            else:
                sock = socket.create_connection(("127.0.0.1", port))
                sock.setblocking(False)
                call = loop.create_connection(Recorder, sock=sock, ssl=client_context, server_hostname="localhost")
            transport, protocol = await call
            assert protocol.calls == ["made"] and protocol.transport is transport
            clients.append(protocol)
        await asyncio.gather(*map(exchange, clients))
        for protocol in clients:
            protocol.transport.close()
            assert protocol.transport.is_closing()
            assert await protocol.lost is None
        for protocol in made:
            assert await protocol.lost is None
            assert protocol.calls == ["made", "eof", "lost"] or not NEW
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_streams(run, certs, tmp_path, family):
    async def main():
        server_context, client_context = certs.contexts()
        over = []

        async def serve(reader, writer):
            assert writer.get_extra_info("ssl_object").server_side
            while piece := await reader.read(5000):
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
            over.append(True)

        if family == "tcp":
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
            )
        else:
            path = str(tmp_path / "socket")
            server = await asyncio.start_unix_server(serve, path, ssl=server_context)
            reader, writer = await asyncio.open_unix_connection(path, ssl=client_context, server_hostname="localhost")
        assert not writer.can_write_eof()
        writer.write(DATA)
        assert await reader.readexactly(len(DATA)) == DATA
        writer.close()
        await writer.wait_closed()
        while not over:
            await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", VERSIONS)
def test_either_side_with_a_peer(run, certs, side, version):
    async def main():
        protocol, peer = await secure(certs, side, version=version)
        assert protocol.transport.get_extra_info("ssl_object").version() == peer.tls.version()
        protocol.transport.write(b"hello")
        assert await peer.receive(5) == b"hello"
        await peer.send(b"answer")
        await protocol.until_received(6)
        assert protocol.received == b"answer" and protocol.calls == ["made"]
        await drop(protocol, peer)

    run(main)


def test_the_first_data_may_come_with_the_end_of_the_handshake(run, certs):
    """The client's last flight and its first record in one segment."""

    async def main():
        for version in VERSIONS:
            task, peer = tls.half_secure(certs, "server", version=version)
            ended = False
            while not ended:
                try:
                    peer.tls.do_handshake()
                    ended = True
                except ssl.SSLWantReadError:
                    await peer.flush()
                    await peer.pump()
            # In TLS 1.3 the client's Finished goes with it.
            await peer.send_raw(peer.encrypted(b"at once"))
            _, protocol = await task
            await protocol.until_received(7)
            assert protocol.received == b"at once" and protocol.calls == ["made"]
            await drop(protocol, peer)

    run(main)


# --- arguments -----------------------------------------------------------------------------------

BAD_OPTIONS = [
    {"ssl": object()},
    {"ssl": 1},
    {"ssl": "context"},
    {"ssl": True},
    {"ssl": False},
    {"ssl": None, "server_hostname": "localhost"},
    {"ssl": None, "server_hostname": ""},
    {"ssl": None, "ssl_handshake_timeout": 1},
    {"ssl": None, "ssl_shutdown_timeout": 1},
    {"ssl": False, "ssl_handshake_timeout": 1},
    {"ssl_handshake_timeout": 0},
    {"ssl_handshake_timeout": -1.5},
    {"ssl_handshake_timeout": "1"},
    {"ssl_shutdown_timeout": 0},
    {"ssl_shutdown_timeout": -1},
    {"ssl_shutdown_timeout": [1]},
    {"server_hostname": None},
    {"server_hostname": 1},
    {"server_hostname": b"localhost"},
    {"server_hostname": ".localhost"},
    {"server_hostname": "local\0host"},
    {"server_hostname": "x" * 300},
    {"server_hostname": "\udc80"},
    {"server_hostname": "bücher.test"},
    {"server_hostname": ()},
    {"server_side": True},
]


def call_with(how, options, path):
    """One of the loop's methods; the other end of a socket has gone, so that no handshake begins."""
    loop = asyncio.get_running_loop()
    if how in ("connection", "unix connection") and options["ssl"]:
        options = {"server_hostname": "localhost", **options}
    if how == "by host":
        return loop.create_connection(Recorder, "127.0.0.1", 1, **options)
    if how == "server":
        return loop.create_server(Recorder, "127.0.0.1", 0, **options)
    if how == "unix server":
        return loop.create_unix_server(Recorder, path, **options)
    here, there = socket.socketpair() if how.startswith("unix") else tcp_pair()
    there.close()
    if how == "accepted":
        return loop.connect_accepted_socket(Recorder, here, **options)
    connect = loop.create_connection if how == "connection" else loop.create_unix_connection
    return connect(Recorder, sock=here, **options)


async def refusal(how, options, path):
    try:
        kind, result = await outcome(call_with(how, options, path))
    except TypeError as error:
        kind, result = "raises", describe(error)
    if kind == "is" and isinstance(result, tuple):
        result[0].abort()
        await result[1].lost
        return kind, "connected"
    if kind == "is":
        result.close()
        await result.wait_closed()
        return kind, "serving"
    if "unexpected keyword" in result[2]:  # of which function, is a matter of names
        return kind, result[0], "unexpected keyword"
    return kind, result


@pytest.mark.parametrize("how", ["connection", "by host", "unix connection", "accepted", "server", "unix server"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio leaves the socket of a failed attempt to the collector
def test_wrong_arguments(certs, tmp_path, how):
    async def scenario():
        serving = "server" in how or how == "accepted"
        context = certs.server() if serving else certs.client()
        seen = []
        for index, options in enumerate(BAD_OPTIONS):
            options = {"ssl": context, **options}
            path = str(tmp_path / f"{asyncio.get_running_loop().time()}-{index}")
            seen.append((index, await refusal(how, options, path)))
        return seen

    result = same(scenario)["result"]
    assert sum(what[0] == "raises" for _, what in result) >= 10


@pytest.mark.parametrize("side", SIDES)
def test_a_context_of_the_wrong_kind(certs, side):
    """A client's context on a server, a server's on a client, one without a certificate, an SSLSocket."""

    async def scenario():
        contexts = {
            "client": [certs.server(), certs.server(name=None)],
            "server": [certs.client(), certs.server(name=None)],
        }
        seen = []
        for context in contexts[side]:
            here, there = tcp_pair()
            proper = certs.server() if side == "client" else certs.client()
            peer = Peer(there, proper, side == "client", "localhost")
            with_peer = asyncio.ensure_future(outcome(peer.handshake()))
            seen.append(await outcome(opening(Recorder, here, context, side)))
            with_peer.cancel()
            await asyncio.wait([with_peer])
            peer.close()
        return seen

    seen = same(scenario)["result"]
    assert all(kind == "raises" for kind, _ in seen)


def test_an_ssl_socket_is_no_socket(certs):
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        wrapped = certs.client().wrap_socket(here, server_hostname="localhost", do_handshake_on_connect=False)
        seen = [
            await outcome(loop.create_connection(Recorder, sock=wrapped, ssl=certs.client(), server_hostname="")),
            await outcome(loop.create_connection(Recorder, sock=wrapped)),
            await outcome(loop.connect_accepted_socket(Recorder, wrapped, ssl=certs.server())),
            await outcome(loop.create_server(Recorder, sock=wrapped, ssl=certs.server())),
        ]
        wrapped.close()
        there.close()
        return seen

    assert all(kind == "raises" for kind, _ in same(scenario)["result"])


@pytest.mark.parametrize("name", [None, "", "localhost", "a.local.test", "127.0.0.1", "::1"])
def test_server_hostname_is_sent_and_checked(run, certs, name):
    """None: the host's. An empty one: nothing is sent nor checked."""

    async def main():
        names = []
        server_context, client_context = certs.contexts()
        client_context.check_hostname = name != ""
        server_context.sni_callback = lambda ssl_object, name, context: names.append(name)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        _, protocol = await loop.create_connection(
            Recorder, "localhost", port, ssl=client_context, server_hostname=name, family=socket.AF_INET
        )
        expected = "localhost" if name is None else name
        assert protocol.transport.get_extra_info("ssl_object").server_hostname == (expected or None)
        is_name = expected.endswith(("localhost", "test"))
        assert names == [expected if is_name else None]
        await drop(protocol)
        server.close()
        await turns(5)

    run(main)


def test_the_default_context_is_secure(run, certs, monkeypatch):
    """`ssl=True` checks against the system's authorities."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=certs.server())
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.create_connection(Recorder, "127.0.0.1", port, ssl=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certs.path("ca.pem")))
        _, protocol = await loop.create_connection(Recorder, "127.0.0.1", port, ssl=True)
        context = protocol.transport.get_extra_info("sslcontext")
        assert context is None or context.check_hostname  # 3.10 and later: the one that was made
        assert protocol.transport.get_extra_info("ssl_object").context.check_hostname
        await drop(protocol)
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await loop.create_connection(Recorder, "127.0.0.1", port, ssl=True, server_hostname="127.0.0.2")
        server.close()
        await turns(5)

    run(main)


# --- what a transport tells ----------------------------------------------------------------------

NAMES = ["ssl_object", "peercert", "cipher", "compression", "sslcontext", "peername", "sockname", "socket", "nonsense"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", VERSIONS)
def test_extra_info(run, certs, side, version):
    async def main():
        class Asks(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                self.early = {name: transport.get_extra_info(name, "?") for name in NAMES}

        protocol, peer = await secure(certs, side, Asks, version)
        transport = protocol.transport
        info = {name: transport.get_extra_info(name, "?") for name in NAMES}
        ssl_object = info["ssl_object"]
        assert type(ssl_object) is ssl.SSLObject
        assert ssl_object.server_side == (side == "server")
        assert ssl_object.context is info["sslcontext"] and type(info["sslcontext"]) is ssl.SSLContext
        assert info["cipher"] == ssl_object.cipher() == peer.tls.cipher()
        assert info["compression"] is None
        assert info["nonsense"] == "?" and transport.get_extra_info("nonsense") is None
        assert info["peername"] == peer.sock.getsockname() and info["sockname"] == peer.sock.getpeername()
        assert info["socket"].getpeername() == info["peername"]
        assert info["peercert"] == ssl_object.getpeercert()
        if side == "client":
            assert info["peercert"]["subject"] == ((("commonName", "localhost"),),)
            assert ssl_object.server_hostname == "localhost"
        else:
            assert info["peercert"] is None
        for name in NAMES:
            if name != "socket":
                assert protocol.early[name] == info[name], name
        for call in ("selected_alpn_protocol", "get_channel_binding", "shared_ciphers"):
            getattr(ssl_object, call)()
        assert ssl_object.pending() == 0 and ssl_object.session is not None
        await drop(protocol, peer)
        # What was found out at the handshake stays; the socket's own goes with it.
        for name in ("ssl_object", "peercert", "cipher", "compression", "sslcontext"):
            assert transport.get_extra_info(name, "?") == info[name], name

    run(main)


@pytest.mark.parametrize("side", SIDES)
def test_the_surface_of_a_transport(certs, side):
    async def scenario():
        protocol, peer = await secure(certs, side)
        transport = protocol.transport
        seen = [
            isinstance(transport, asyncio.Transport),
            transport.get_protocol() is protocol,
            transport.is_closing(),
            transport.is_reading(),
            transport.can_write_eof(),
            transport.get_write_buffer_size(),
            transport.get_write_buffer_limits(),
            getattr(transport, "_start_tls_compatible", None),
            str(transport._sendfile_compatible),
        ]
        if NEW:
            seen += [transport.get_read_buffer_limits(), transport.get_read_buffer_size()]
        for method, args in [
            *((name, (data,)) for name in ("write", "writelines") for data in (None, 1, object())),
            ("write", ("text",)),
            *(("write", (data,)) for data in (b"", bytearray(), memoryview(b""), [b"x"])),
            *(("writelines", (data,)) for data in ([], [b"", b""])),
            ("write", ()),
            ("write_eof", ()),
            *(("set_write_buffer_limits", limits) for limits in ((10, 20), (-1,), ("x",), (1, 1, 1))),
            *(("set_read_buffer_limits", limits) for limits in ((10, 20), (-1,), ("x",))),
        ]:
            call = getattr(transport, method, None)
            if call is None or (not NEW and method == "writelines"):
                continue
            try:
                seen.append((method, args if args != (object(),) else 0, type(call(*args)).__name__))
            except Exception as error:
                # Which argument is missing, or what cannot be computed with, is native code's to say.
                is_native = type(error) is TypeError and not (method == "write" and args)
                text = "" if is_native else str(error)
                seen.append((method, type(error).__name__, text))
        seen = [tls.plain_tls(repr(one)) for one in seen]
        seen.append(transport.is_closing())
        await drop(protocol, peer)
        return seen, protocol.calls

    same(scenario)


def test_set_protocol(run, certs):
    async def main():
        one, other = await secure_pair(certs)
        late = Recorder()
        one.transport.set_protocol(late)
        assert one.transport.get_protocol() is late
        other.transport.write(b"to the second")
        await late.until_received(13)
        assert one.received == b"" and late.received == b"to the second"
        transport = one.transport
        transport.close()
        assert await late.lost is None
        assert one.calls == ["made"]
        await drop(other)

    run(main)
