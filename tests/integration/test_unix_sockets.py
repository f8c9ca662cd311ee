"""`create_unix_connection` and `create_unix_server`: every keyword, against asyncio's own.

Bytes, flow control and ends are those of any stream transport (`test_transport.py`); here are paths, what is
at a path before and after, addresses, errors.
"""

import asyncio
import contextlib
import logging
import os
import pathlib
import socket
import sys
import warnings

import pytest
from differential import describe, outcome, same
from peers import PATIENCE_S, Recorder, close, turns
from test_cancellation import at_every_point

pytestmark = pytest.mark.usefixtures("no_leaks")

of_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="of 3.13")


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The working directory of the test: relative paths are the same in both runs, and short enough."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(PATIENCE_S)
    return listener


def stream_socket(path=None):
    sock = socket.socket(socket.AF_UNIX)
    if path is not None:
        sock.bind(path)
    return sock


def name(suffix=""):
    """An abstract name that nobody else uses."""
    return f"\0aioxide-test-{os.getpid()}{suffix}"


PATHS = {
    "str": lambda: "here.sock",
    "bytes": lambda: b"here.sock",
    "path": lambda: pathlib.Path("here.sock"),
    "absolute": lambda: os.path.abspath("here.sock"),
    "surrogate": lambda: os.fsdecode(b"h\xffre.sock"),
    "abstract": lambda: name(),
    "abstract bytes": lambda: name().encode() + b"\0\xff",
}


@pytest.mark.parametrize("kind", PATHS)
def test_a_connection_by_each_kind_of_path(directory, kind):
    async def scenario():
        loop = asyncio.get_running_loop()
        path = PATHS[kind]()
        accepted = []

        def factory():
            accepted.append(Recorder())
            return accepted[-1]

        server = await loop.create_unix_server(factory, path)
        seen = [[sock.getsockname() for sock in server.sockets], server.is_serving()]
        transport, protocol = await loop.create_unix_connection(Recorder, path)
        transport.write(b"to the server")
        while not accepted:
            await turns(1)
        (there,) = accepted
        await there.until_received(13)
        there.transport.write(b"to the client")
        await protocol.until_received(13)
        for end in (protocol, there):
            extra = [end.transport.get_extra_info(key) for key in ("sockname", "peername", "nothing")]
            sock = end.transport.get_extra_info("socket")
            seen.append((end.calls, bytes(end.received), extra, sock.family, sock.type))
        transport.write_eof()
        await there.lost
        await protocol.lost
        seen.append((protocol.calls, there.calls))
        server.close()
        await server.wait_closed()
        seen.append(sorted(os.listdir()))
        for left in os.listdir():
            os.remove(left)
        return seen

    same(scenario)


def test_the_peer_that_is_bound_has_its_path_for_a_name(directory):
    async def scenario():
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        class Accepted(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                accepted.set_result(transport.get_extra_info("peername"))

        server = await loop.create_unix_server(Accepted, "server.sock")
        seen = []
        for mine in ("client.sock", name("-client")):
            with stream_socket(mine) as sock:
                sock.connect("server.sock")
                seen.append(await accepted)
            accepted = loop.create_future()
        server.close()
        await turns(5)
        for left in os.listdir():
            os.remove(left)
        return [one if isinstance(one, str) else one[:14] for one in seen]

    assert same(scenario) == ["client.sock", b"\0aioxide-test-"]


def test_streams(run, directory):
    async def main():
        async def echo(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_unix_server(echo, "streams.sock")
        reader, writer = await asyncio.open_unix_connection("streams.sock")
        writer.write(b"a line\n")
        assert await reader.read() == b"a line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)


def test_a_connected_socket_is_taken(run):
    async def main():
        here, there = socket.socketpair()
        with there:
            transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, sock=here)
            assert here.gettimeout() == 0
            transport.write(b"x" * 100)
            assert there.recv(200) == b"x" * 100
            there.sendall(b"y")
            await protocol.until_received(1)
            await close(protocol)
        assert here.fileno() == -1

    run(main)


def test_a_bound_socket_is_served(directory):
    async def scenario():
        loop = asyncio.get_running_loop()
        sock = stream_socket("given.sock")
        server = await loop.create_unix_server(Recorder, sock=sock, start_serving=False, backlog=3)
        seen = [server.is_serving(), sock.gettimeout()]
        seen.append(await outcome(loop.create_unix_connection(Recorder, "given.sock")))
        await server.start_serving()
        transport, protocol = await loop.create_unix_connection(Recorder, "given.sock")
        transport.abort()
        await protocol.lost
        server.close()
        await server.wait_closed()
        seen.append((server.is_serving(), sock.fileno(), os.listdir()))
        for left in os.listdir():
            os.remove(left)
        return seen

    same(scenario)


# --- what is at the path -------------------------------------------------------------------------


def at_path(kind):
    if kind == "stale":
        stream_socket("at.sock").close()
    elif kind == "in use":
        return listening("at.sock")
    elif kind == "file":
        pathlib.Path("at.sock").write_text("precious")
    elif kind == "directory":
        os.mkdir("at.sock")
    elif kind == "dangling":
        os.symlink("nowhere", "at.sock")
    elif kind == "link":
        stream_socket("other.sock").close()
        os.symlink("other.sock", "at.sock")
    return contextlib.nullcontext()


@pytest.mark.parametrize("kind", ["nothing", "stale", "in use", "file", "directory", "dangling", "link"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_is_at_the_path_before(directory, kind, as_bytes, caplog):
    async def scenario():
        caplog.clear()
        with at_path(kind):
            path = b"at.sock" if as_bytes else "at.sock"
            is_what, server = await outcome(asyncio.get_running_loop().create_unix_server(Recorder, path))
            if is_what == "is":
                listed = sorted(os.listdir())
                server.close()
                server = listed
        seen = is_what, server, [(r.levelname, r.getMessage()) for r in caplog.records], sorted(os.listdir())
        for left in os.listdir():
            os.rmdir(left) if os.path.isdir(left) and not os.path.islink(left) else os.remove(left)
        return seen

    same(scenario)


@pytest.mark.parametrize("method", ["create_unix_server", "create_unix_connection"])
@pytest.mark.parametrize("path", ["nowhere/at.sock", "x" * 200, "", b"", "a\0b", 5, "\0", "file/at.sock"], ids=repr)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's own leftovers
def test_a_path_that_cannot_be(directory, method, path, caplog):
    pathlib.Path("file").touch()

    async def scenario():
        caplog.clear()
        is_what, result = await outcome(getattr(asyncio.get_running_loop(), method)(Recorder, path))
        if is_what == "is":
            result.close()
            result = None
        return is_what, result, [(r.levelname, r.getMessage()) for r in caplog.records]

    same(scenario)


def test_a_directory_that_cannot_be_read_is_logged_of(run, directory, caplog, monkeypatch):
    async def main():
        stream_socket("at.sock").close()
        stat_of = os.stat

        def refuse(path, *args, **options):
            if path == "at.sock":
                raise PermissionError(13, "Permission denied", path)
            return stat_of(path, *args, **options)

        monkeypatch.setattr(os, "stat", refuse)
        with pytest.raises(OSError, match=r"Address 'at\.sock' is already in use"):
            await asyncio.get_running_loop().create_unix_server(Recorder, "at.sock")
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.getMessage().startswith("Unable to check or remove stale UNIX socket 'at.sock': Permission")

    run(main)


@pytest.mark.parametrize("case", ["plain", "kept", "gone", "replaced", "abstract", "sock", "sock kept", "not started"])
def test_what_is_at_the_path_after(directory, case, caplog):
    async def scenario():
        caplog.clear()
        options = {"cleanup_socket": False} if "kept" in case and sys.version_info >= (3, 13) else {}
        if case == "not started":
            options["start_serving"] = False
        if case.startswith("sock"):
            options["sock"] = stream_socket("at.sock")
        else:
            options["path"] = name() if case == "abstract" else "at.sock"
        server = await asyncio.get_running_loop().create_unix_server(Recorder, **options)
        held = None
        if case in ("gone", "replaced"):
            # Held, so that its inode's number is not the next file's.
            held = os.open("at.sock", os.O_PATH)
            os.remove("at.sock")
            if case == "replaced":
                stream_socket("at.sock").close()
        server.close()
        await server.wait_closed()
        if held is not None:
            os.close(held)
        seen = os.listdir(), [r.getMessage() for r in caplog.records]
        for left in os.listdir():
            os.remove(left)
        return seen

    left, logged = same(scenario)
    assert logged == []
    stays = case in ("kept", "sock kept", "replaced") or (
        sys.version_info < (3, 13) and case not in ("gone", "abstract")
    )
    assert left == (["at.sock"] if stays else [])


@of_313
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_path_that_cannot_be_removed_is_logged_of(directory, caplog, monkeypatch):
    async def scenario():
        caplog.clear()
        server = await asyncio.get_running_loop().create_unix_server(Recorder, "at.sock")
        with monkeypatch.context() as patch:

            def refuse(path, **options):
                raise PermissionError(13, "Permission denied", path)

            patch.setattr(os, "unlink", refuse)
            server.close()
        await server.wait_closed()
        os.remove("at.sock")
        return [(r.levelname, r.getMessage()) for r in caplog.records]

    ((level, text),) = same(scenario)
    assert level == "ERROR" and text.startswith("Unable to clean up listening UNIX socket 'at.sock'")


# --- arguments -----------------------------------------------------------------------------------

BAD = [
    ("create_unix_connection", {}),
    ("create_unix_connection", {"path": "a", "sock": "unix"}),
    ("create_unix_connection", {"sock": "inet"}),
    ("create_unix_connection", {"sock": "datagram"}),
    ("create_unix_connection", {"sock": "seqpacket"}),
    ("create_unix_connection", {"path": "a", "server_hostname": "h"}),
    ("create_unix_connection", {"path": "a", "server_hostname": ""}),
    ("create_unix_connection", {"path": "a", "ssl": True}),
    ("create_unix_connection", {"path": "a", "ssl_handshake_timeout": 1}),
    ("create_unix_connection", {"path": "a", "ssl_shutdown_timeout": 1}),
    ("create_unix_connection", {"path": "a", "ssl": False, "ssl_handshake_timeout": 0, "ssl_shutdown_timeout": 0}),
    ("create_unix_connection", {"ssl": True, "server_hostname": "h"}),
    ("create_unix_connection", {"path": "a", "sock": "unix", "ssl": True, "server_hostname": "h"}),
    ("create_unix_connection", {"sock": "inet", "ssl": True, "server_hostname": "h"}),
    ("create_unix_connection", {"path": "a", "server_hostname": 5}),
    ("create_unix_connection", {"path": "a", "nonsense": 1}),
    ("create_unix_connection", {"path": object()}),
    ("create_unix_connection", {"path": "nobody-listens"}),
    ("create_unix_server", {}),
    ("create_unix_server", {"path": "a", "sock": "unix"}),
    ("create_unix_server", {"sock": "inet"}),
    ("create_unix_server", {"sock": "datagram"}),
    ("create_unix_server", {"sock": "unix"}),
    ("create_unix_server", {"path": "a", "ssl": True}),
    ("create_unix_server", {"path": "a", "ssl": False}),
    ("create_unix_server", {"path": "a", "ssl_handshake_timeout": 1}),
    ("create_unix_server", {"path": "a", "ssl_shutdown_timeout": 1}),
    ("create_unix_server", {"ssl": "a context"}),
    ("create_unix_server", {"path": "a", "sock": "unix", "ssl": "a context"}),
    ("create_unix_server", {"path": "a", "nonsense": 1}),
    ("create_unix_server", {"path": object()}),
    ("create_unix_server", {"path": "a", "backlog": "many"}),
]


def make(kind):
    family = socket.AF_INET if kind == "inet" else socket.AF_UNIX
    types = {"datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
    return socket.socket(family, types.get(kind, socket.SOCK_STREAM))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's own leftovers
@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]}-{'-'.join(case[1])}")
def test_bad_arguments_are_refused_with_asyncios_words(directory, case):
    method, options = case
    if "ssl_shutdown_timeout" in options and sys.version_info < (3, 11):
        pytest.skip("a keyword of 3.11")

    async def scenario():
        given = dict(options)
        with contextlib.ExitStack() as stack:
            if "sock" in given:
                given["sock"] = stack.enter_context(make(given["sock"]))
            call = getattr(asyncio.get_running_loop(), method)
            try:
                kind, result = await outcome(call(Recorder, **given))
            except TypeError as error:  # raised by the call itself
                kind, result = "raises", describe(error)
            if kind == "is":
                result.close()
                return kind
            if "sock" in given:
                assert given["sock"].fileno() >= 0
            if result[0] == "TypeError":
                # The function's name in front differs, and may.
                return result[0], result[2].split("()")[-1]
            return result

    try:
        same(scenario)
    finally:
        for left in os.listdir():
            os.remove(left)


@pytest.mark.aioxide_only
def test_a_keyword_of_a_later_python_is_refused(run, directory):
    async def main():
        loop = asyncio.get_running_loop()
        late = [("create_unix_server", {"of_no_python": True}), ("create_unix_connection", {"of_no_python": True})]
        if sys.version_info < (3, 11):
            late += [(method, {"ssl_shutdown_timeout": 1}) for method, _ in late]
        if sys.version_info < (3, 13):
            late += [("create_unix_server", {"cleanup_socket": False})]
        for method, options in late:
            with pytest.raises(TypeError, match="got an unexpected keyword argument"):
                await getattr(loop, method)(Recorder, "at.sock", **options)

    run(main)


def test_with_tls_paths_are_the_same(directory):
    ssl = pytest.importorskip("ssl")

    async def scenario():
        loop = asyncio.get_running_loop()
        client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        seen = [await outcome(loop.create_unix_connection(Recorder, "at.sock", ssl=client, server_hostname="h"))]
        listening = await loop.create_unix_server(Recorder, "at.sock", ssl=server)
        seen.append(os.listdir())
        listening.close()
        await listening.wait_closed()
        seen.append(os.listdir())
        for left in os.listdir():
            os.remove(left)
        return seen

    missing, there, _ = same(scenario)
    assert (missing[0], there) == ("raises", ["at.sock"])


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio leaves sockets to the garbage collector
@pytest.mark.parametrize("method", ["create_unix_connection", "create_unix_server"])
def test_cancelled_at_each_point(run, directory, method):
    async def main():
        loop = asyncio.get_running_loop()
        with stream_socket("listener.sock") as listener:
            listener.listen(1000)

            async def make():
                if method == "create_unix_server":
                    return await loop.create_unix_server(Recorder, "at.sock")
                return (await loop.create_unix_connection(Recorder, "listener.sock"))[0]

            async def undo(made):
                made.close()
                await turns(4)

            await at_every_point(make, undo, least=1)
        assert "at.sock" not in os.listdir() or sys.version_info < (3, 13)

    run(main)


@pytest.mark.aioxide_only  # asyncio leaves the socket to the garbage collector
@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_server_that_cannot_start_leaves_nothing(run, directory):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            await loop.create_unix_server(Recorder, "at.sock", backlog="many")
        assert not [left for left in os.listdir() if sys.version_info >= (3, 13)]

    run(main)


def test_a_full_backlog_is_an_error_at_once(directory):
    """connect(2) to AF_UNIX does not wait when non-blocking: EAGAIN, which asyncio waits for in vain or retries."""

    async def scenario():
        loop = asyncio.get_running_loop()
        with listening("at.sock") as listener, contextlib.ExitStack() as stack:
            listener.listen(0)
            filler = stack.enter_context(stream_socket())
            filler.connect("at.sock")
            task = asyncio.ensure_future(loop.create_unix_connection(Recorder, "at.sock"))
            await asyncio.wait([task], timeout=0.1)
            seen = task.done()
            if not seen:
                task.cancel()
            result = await outcome(task)
            if result[0] == "is":
                result[1][0].abort()
                await turns(3)
                result = "connected"
        os.remove("at.sock")
        return seen, result

    same(scenario)


def test_a_factory_that_raises(directory):
    def factory():
        raise ZeroDivisionError("in the factory")

    async def scenario():
        loop = asyncio.get_running_loop()
        with listening("at.sock") as listener:
            seen = await outcome(loop.create_unix_connection(factory, "at.sock"))
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(PATIENCE_S)
                # asyncio leaves it to the garbage collector, which is prompt here.
                ended = peer.recv(1) == b""
        os.remove("at.sock")
        return seen, ended

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        same(scenario)
