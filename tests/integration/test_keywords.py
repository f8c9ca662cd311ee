"""`create_connection`, `create_server`, `connect_accepted_socket`: every keyword, against asyncio's own.

What a keyword does to a plain connection is in `test_connect.py` and `test_server.py`; here are the corners: which
address is tried when, what the resolver is asked, the errors' classes and texts.
"""

import asyncio
import gc
import inspect
import socket
import sys

import aioxide
import pytest
from addresses import free_port, info, listening, resolve_to
from differential import describe, outcome, same
from peers import Recorder, close

pytestmark = pytest.mark.usefixtures("no_leaks")

METHODS = sorted(
    name
    for name, method in vars(asyncio.AbstractEventLoop).items()
    if not name.startswith("_") and inspect.isfunction(method)
)


# --- signatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_asyncios(name):
    theirs = getattr(asyncio.SelectorEventLoop, name)
    ours = getattr(aioxide.EventLoop, name)
    # Those of `sock_*` make native coroutines: a row of docs/differences.md.
    if not name.startswith("sock_"):
        assert inspect.iscoroutinefunction(ours) or not inspect.iscoroutinefunction(theirs)
    if "not implemented yet" in (ours.__doc__ or ""):
        pytest.skip("of a later release")
    accepted = inspect.signature(ours).parameters
    for parameter in inspect.signature(theirs).parameters.values():
        if parameter.name == "self":
            continue
        kinds = [p.kind for p in accepted.values()]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            assert inspect.Parameter.VAR_POSITIONAL in kinds
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert inspect.Parameter.VAR_KEYWORD in kinds
        elif parameter.name in accepted:
            mine = accepted[parameter.name]
            assert (mine.kind, mine.default) == (parameter.kind, parameter.default), parameter
        else:
            assert inspect.Parameter.VAR_KEYWORD in kinds, f"{name} has no {parameter}"


def test_the_count_of_sock_recv_may_be_given_by_asyncios_name(run):
    async def main():
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.send(b"x")
            assert await asyncio.get_running_loop().sock_recv(here, n=10) == b"x"

    run(main)


def test_positional_parameters_keep_their_order():
    for name in ("create_connection", "create_server", "connect_accepted_socket"):
        positional = [
            [
                p.name
                for p in inspect.signature(getattr(loop, name)).parameters.values()
                if p.kind == p.POSITIONAL_OR_KEYWORD
            ]
            for loop in (asyncio.SelectorEventLoop, aioxide.EventLoop)
        ]
        assert positional[0] == positional[1]


# --- arguments that cannot be --------------------------------------------------------------------


def make(kind):
    """A bad socket by name. Closing it is up to the caller."""
    if kind == "udp":
        return socket.socket(type=socket.SOCK_DGRAM)
    if kind == "closed":
        sock = socket.socket()
        sock.close()
        return sock
    if kind == "unbound":
        return socket.socket()
    if kind == "seqpacket":
        return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if kind == "nonblocking udp":
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setblocking(False)
        return sock
    assert kind == "tls"
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.socket())


BAD = [
    ("create_connection", {}),
    ("create_connection", {"host": None, "port": None}),
    ("create_connection", {"sock": "udp"}),
    ("create_connection", {"sock": "nonblocking udp"}),
    ("create_connection", {"sock": "seqpacket"}),
    ("create_connection", {"sock": "tls"}),
    ("create_connection", {"sock": "closed"}),
    ("create_connection", {"sock": "unbound", "host": "127.0.0.1", "port": 1}),
    ("create_connection", {"sock": "unbound", "port": 1}),
    ("create_connection", {"sock": "unbound", "host": ""}),
    ("create_connection", {"sock": "tls", "host": "127.0.0.1", "port": 1}),
    ("create_connection", {"sock": "unbound", "local_addr": ("127.0.0.1", 0), "ssl_handshake_timeout": 1}),
    ("create_connection", {"sock": "unbound", "server_hostname": "h"}),
    ("create_connection", {"sock": "unbound", "ssl": True}),
    ("create_connection", {"host": "", "port": 1, "ssl": True}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "server_hostname": ""}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 0}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 0}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "ssl": False, "ssl_handshake_timeout": 1}),
    ("create_connection", {"host": "127.0.0.1", "port": -1}),
    ("create_connection", {"host": "127.0.0.1", "port": 65536}),
    ("create_connection", {"host": "127.0.0.1", "port": "http/x"}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "family": socket.AF_INET6}),
    ("create_connection", {"host": "::1", "port": 1, "family": socket.AF_INET}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "family": 12345}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "proto": socket.IPPROTO_ICMP}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": ("::1", 0)}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": ("127.0.0.1", 70000)}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": ("256.1.1.1", 0)}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": ("192.0.2.77", 0)}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": "x"}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "local_addr": 5}),
    ("create_connection", {"host": 5, "port": 1}),
    ("create_connection", {"host": "127.0.0.1", "port": 1.5}),
    ("create_connection", {"host": "127.0.0.1", "port": object}),
    ("create_connection", {"host": "127.0.0.1\0", "port": 1}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "nonsense": 1}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "interleave": "x"}),
    ("create_connection", {"host": "127.0.0.1", "port": 1, "happy_eyeballs_delay": -1}),
    ("create_server", {}),
    ("create_server", {"sock": "udp"}),
    ("create_server", {"sock": "tls"}),
    ("create_server", {"sock": "seqpacket"}),
    ("create_server", {"sock": "closed"}),
    ("create_server", {"sock": "unbound", "host": "127.0.0.1", "port": 0}),
    ("create_server", {"sock": "unbound", "port": 0}),
    ("create_server", {"port": 0, "ssl": False}),
    ("create_server", {"port": 0, "ssl": True}),
    ("create_server", {"port": 0, "ssl_handshake_timeout": 0}),
    ("create_server", {"port": 0, "ssl_shutdown_timeout": 0}),
    ("create_server", {"host": "127.0.0.1", "port": -1}),
    ("create_server", {"host": "127.0.0.1", "port": 65536}),
    ("create_server", {"host": "127.0.0.1", "port": 0, "backlog": "x"}),
    ("create_server", {"host": "127.0.0.1", "port": 0, "nonsense": 1}),
    ("create_server", {"host": "192.0.2.77", "port": 0}),
    ("create_server", {"host": ["127.0.0.1", "192.0.2.77"], "port": 0, "start_serving": "later"}),
    ("create_server", {"host": [], "port": 0}),
    ("create_server", {"host": 5, "port": 0}),
    ("create_server", {"host": [5], "port": 0}),
    ("create_server", {"host": "::1", "port": 0, "family": socket.AF_INET}),
    ("connect_accepted_socket", {"sock": "udp"}),
    ("connect_accepted_socket", {"sock": "tls"}),
    ("connect_accepted_socket", {"sock": "closed"}),
    ("connect_accepted_socket", {"sock": "unbound", "ssl_handshake_timeout": 1}),
    ("connect_accepted_socket", {"sock": "unbound", "ssl_shutdown_timeout": 1}),
    ("connect_accepted_socket", {"sock": None}),
    ("connect_accepted_socket", {"sock": 5}),
]  # fmt: skip


def name_of(case):
    method, options = case
    return f"{method}-{'-'.join(f'{key}={value}' for key, value in options.items()) or 'nothing'}"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # asyncio's own leftovers
@pytest.mark.parametrize("case", BAD, ids=name_of)
def test_bad_arguments_are_refused_with_asyncios_words(case):
    method, options = case
    if "ssl_shutdown_timeout" in options and sys.version_info < (3, 11):
        pytest.skip("a keyword of 3.11")

    async def scenario():
        given = dict(options)
        sock = None
        if isinstance(given.get("sock"), str):
            sock = given["sock"] = make(given["sock"])
        loop = asyncio.get_running_loop()
        try:
            call = lambda: getattr(loop, method)(Recorder, **given)  # noqa: E731
            try:
                kind, result = await outcome(call())
            except TypeError as error:  # raised by the call itself
                kind, result = "raises", describe(error)
            if kind == "is" and method == "create_server":
                shown = [(s.family, s.getsockname()[0]) for s in result.sockets]
                result.close()
                await result.wait_closed()
                result = shown
            elif kind == "is":
                transport, protocol = result
                transport.abort()
                error = await protocol.lost
                result = describe(error)
            if "x" in options.values() and kind == "raises":
                result = result[0]  # whose arithmetic fails first is not to be compared
            elif kind == "raises" and result[0] == "TypeError":
                # The function's name in front differs, and may.
                result = result[0], None, result[2].split("()")[-1]
            return kind, result
        finally:
            gc.collect()
            if sock is not None:
                sock.close()

    same(scenario)


def test_a_keyword_of_a_later_python_is_refused(run):
    async def main():
        loop = asyncio.get_running_loop()
        late = []
        if sys.version_info < (3, 11):
            late += [("create_connection", {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1})]
            late += [("create_server", {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1})]
        if sys.version_info < (3, 12):
            late += [("create_connection", {"host": "127.0.0.1", "port": 1, "all_errors": True})]
        if sys.version_info < (3, 13):
            late += [("create_server", {"host": "127.0.0.1", "port": 0, "keep_alive": True})]
        late += [("create_server", {"host": "127.0.0.1", "port": 0, "of_no_python": True})]
        for method, options in late:
            with pytest.raises(TypeError, match="got an unexpected keyword argument"):
                await getattr(loop, method)(Recorder, **options)

    run(main)


def test_a_refused_socket_stays_the_callers(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for method in (loop.create_connection, loop.create_server, loop.connect_accepted_socket):
                with pytest.raises(ValueError):
                    await method(Recorder, sock=sock)
            assert sock.fileno() >= 0
        with socket.socket() as sock:
            with pytest.raises(ValueError):
                await loop.create_connection(Recorder, "127.0.0.1", 1, sock=sock)
            with pytest.raises(ValueError):
                await loop.create_server(Recorder, "127.0.0.1", 1, sock=sock)
            assert sock.fileno() >= 0

    run(main)


# --- what the resolver is asked ------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"host": "name", "port": 80},
        {"host": "name", "port": "http"},
        {"host": "name", "port": None},
        {"host": None, "port": 80},
        {"host": "", "port": 80},
        {"host": b"name", "port": 80},
        {"host": "127.0.0.1", "port": "http"},
        {"host": "127.0.0.1", "port": 80},
        {"host": "127.0.0.1", "port": "80"},
        {"host": "127.0.0.1", "port": b"80"},
        {"host": "127.0.0.1", "port": ""},
        {"host": "127.0.0.1", "port": b""},
        {"host": b"127.0.0.1", "port": 80},
        {"host": "127.0.0.1", "port": 80, "family": socket.AF_INET6},
        {"host": "127.0.0.1", "port": 80, "flags": socket.AI_CANONNAME},
        {"host": "127.0.0.1", "port": 80, "proto": socket.IPPROTO_UDP},
        {"host": "127.0.0.1", "port": 80, "proto": socket.IPPROTO_ICMP},
        {"host": "::1", "port": 80},
        {"host": "::1%1", "port": 80},
        {"host": "fe80::1%lo", "port": 80},
        {"host": "::ffff:127.0.0.1", "port": 80},
        {"host": "1", "port": 80},
        {"host": "127.1", "port": 80},
        {"host": "0x7f000001", "port": 80},
        {"host": " 127.0.0.1", "port": 80},
        {"host": "name", "port": 80, "family": socket.AF_INET},
        {"host": "name", "port": 80, "proto": socket.IPPROTO_TCP, "flags": socket.AI_ADDRCONFIG},
        {"host": "name", "port": 80, "local_addr": ("local", 7)},
        {"host": "name", "port": 80, "local_addr": ("127.0.0.1", 0)},
        {"host": "name", "port": 80, "local_addr": ("local", 7), "family": socket.AF_INET, "flags": 1},
        {"host": "127.0.0.1", "port": 80, "local_addr": ("local", 7, 1, 2)},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_the_resolver_of_create_connection_is_asked_the_same(options):
    async def scenario():
        loop = asyncio.get_running_loop()
        asked, tried = [], []
        resolve_to(loop, [("127.0.0.1", 9)], asked)

        async def sock_connect(sock, address):
            tried.append((sock.family, sock.type, sock.proto, address))
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        return await outcome(loop.create_connection(Recorder, **options)), asked, tried

    same(scenario)


@pytest.mark.parametrize(
    "options",
    [
        {"host": "name", "port": 0},
        {"host": None, "port": 0},
        {"host": "", "port": 0},
        {"host": ["name", "name"], "port": 0},
        {"host": ("one", "127.0.0.1", "two"), "port": 0},
        {"host": "name", "port": 0, "family": socket.AF_INET, "flags": socket.AI_NUMERICSERV},
        {"host": "127.0.0.1", "port": 0},
        {"host": "127.0.0.1", "port": "0"},
        {"host": "127.0.0.1", "port": None},
        {"host": "name", "port": None},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_the_resolver_of_create_server_is_asked_the_same(options):
    async def scenario():
        loop = asyncio.get_running_loop()
        asked = []
        resolve_to(loop, [("127.0.0.1", 0)], asked)
        server = await loop.create_server(Recorder, **options)
        names = [sock.getsockname()[0] for sock in server.sockets]
        server.close()
        await server.wait_closed()
        return sorted(asked, key=repr), names

    same(scenario)


def test_a_replaced_socket_getaddrinfo_is_what_names_go_through(run, monkeypatch):
    asked = []

    def getaddrinfo(host, port, *args, **options):
        asked.append((host, port))
        return [info(listener.getsockname())]

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        for host in ("name.invalid", "127.0.0.1"):
            _, protocol = await loop.create_connection(Recorder, host, listener.getsockname()[1])
            peer, _ = listener.accept()
            await close(protocol, peer)
        assert asked == [("name.invalid", listener.getsockname()[1])]
        assert await loop.getaddrinfo("127.0.0.1", 1) == [info(listener.getsockname())]

    with listening() as listener:
        run(main)


def test_a_resolver_that_answers_with_an_iterator_or_a_tuple(run):
    async def main():
        loop = asyncio.get_running_loop()
        with listening() as listener:

            async def getaddrinfo(*args, **options):
                return (info(("127.0.0.1", port)) for port in ())

            loop.getaddrinfo = getaddrinfo
            with pytest.raises(Exception):  # noqa: B017 - whatever it is, it is no hang
                await loop.create_connection(Recorder, "name", 1)

            async def tuples(*args, **options):
                return (info(("127.0.0.1", free_port())), info(listener.getsockname()))

            loop.getaddrinfo = tuples
            _, protocol = await loop.create_connection(Recorder, "name", 1)
            peer, _ = listener.accept()
            await close(protocol, peer)

    run(main)
