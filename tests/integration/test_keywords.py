"""`create_connection`, `create_server`, `connect_accepted_socket`: every keyword, against asyncio's own.

What a keyword does to a plain connection is in `test_connect.py` and `test_server.py`; here are the corners: which
address is tried when, what the resolver is asked, the errors' classes and texts.
"""

import asyncio
import contextlib
import errno
import gc
import inspect
import logging
import re
import socket
import sys
import time
import weakref

import aioxide
import pytest
from differential import describe, outcome, plain, same
from peers import PATIENCE_S, Recorder, close, reset, tcp_pair, turns

pytestmark = pytest.mark.usefixtures("no_leaks")

METHODS = sorted(
    name
    for name, method in vars(asyncio.AbstractEventLoop).items()
    if not name.startswith("_") and inspect.isfunction(method)
)


@contextlib.contextmanager
def listening(host="127.0.0.1", backlog=64):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


def free_port(host="127.0.0.1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def silent():
    """An address that never answers: its queue of connections is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def info(address):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address


def resolve_to(loop, addresses, asked=None):
    async def getaddrinfo(host, port, **options):
        if asked is not None:
            asked.append((host, port, {name: int(value) for name, value in options.items()}))
        return [info(address) for address in addresses]

    loop.getaddrinfo = getaddrinfo


# --- signatures ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_asyncios(name):
    theirs = getattr(asyncio.SelectorEventLoop, name)
    ours = getattr(aioxide.EventLoop, name)
    assert inspect.iscoroutinefunction(ours) or not inspect.iscoroutinefunction(theirs)
    if "not implemented yet" in (ours.__doc__ or ""):
        pytest.skip("of a later release")
    accepted = inspect.signature(ours).parameters
    for parameter in inspect.signature(theirs).parameters.values():
        if parameter.name == "self" or (name == "sock_recv" and parameter.name == "n"):  # the next test is about n
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


def test_the_count_of_sock_recv_may_be_given_by_asyncios_name(run, is_ours, request):
    if is_ours:
        request.applymarker(pytest.mark.xfail(strict=True, reason="the parameter is called nbytes, asyncio's is n"))

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
            [p.name for p in inspect.signature(getattr(loop, name)).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
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


# --- IPv6 ----------------------------------------------------------------------------------------


def test_a_scope_id_reaches_the_socket():
    """Both in the name of the host and in an address of four."""

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []
        sock_connect = loop.sock_connect

        async def note(sock, address):
            tried.append(plain(repr(address)))
            await sock_connect(sock, address)

        loop.sock_connect = note
        seen = []
        with listening("::1") as listener:
            port = listener.getsockname()[1]
            for host in ("::1", "::1%1"):
                transport, protocol = await loop.create_connection(Recorder, host, port)
                peer, _ = listener.accept()
                seen.append(plain(repr(transport.get_extra_info("peername"))))
                await close(protocol, peer)
        return tried, seen

    tried, _ = same(scenario)
    assert tried == ["('::1', PORT, 0, 0)", "('::1', PORT, 0, 1)"]


def test_a_link_local_address_keeps_its_interface():
    loopback = socket.if_nametoindex("lo")

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []

        async def sock_connect(sock, address):
            tried.append(address)
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        return await outcome(loop.create_connection(Recorder, "fe80::1234%lo", 80)), tried

    (kind, _), tried = same(scenario)
    assert kind == "raises"
    (address,) = tried
    assert address[0].split("%")[0] == "fe80::1234" and address[1:] == (80, 0, loopback)


def test_sock_connect_passes_flow_and_scope_on():
    async def scenario():
        loop = asyncio.get_running_loop()
        seen = []
        with listening("::1") as listener:
            port = listener.getsockname()[1]
            for address in [("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("::1", port, 0, 1), ("::1%1", port)]:
                with socket.socket(socket.AF_INET6) as sock:
                    sock.setblocking(False)
                    seen.append(await outcome(loop.sock_connect(sock, address)))
                    peer, _ = listener.accept()
                    seen.append(peer.getpeername() == sock.getsockname())
                    peer.close()
            with socket.socket(socket.AF_INET6) as sock:
                sock.setblocking(False)
                # Its interface is named by number only; there is no such neighbour on the loopback.
                kind, error = await outcome(asyncio.wait_for(loop.sock_connect(sock, ("fe80::1", port, 0, 1)), 0.2))
                seen.append((kind, error[:2]))
        return seen

    same(scenario)


def test_a_server_with_a_scope_id(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "::1%1", 0)
        (listener,) = server.sockets
        assert listener.getsockname()[0].split("%")[0] == "::1"
        assert len(listener.getsockname()) == 4
        server.close()
        await server.wait_closed()

    run(main)


# --- happy eyeballs ------------------------------------------------------------------------------


class Attempts:
    """A `sock_connect` that is scripted by port: what happens and after how long."""

    def __init__(self, loop, script):
        self.loop, self.script = loop, script
        self.started, self.ended = [], []
        self.begin = loop.time()
        self.connect = loop.sock_connect
        loop.sock_connect = self

    async def __call__(self, sock, address):
        port = address[1]
        self.started.append((port, self.loop.time() - self.begin))
        wait, real = self.script[port]
        try:
            await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.ended.append((port, "cancelled"))
            raise
        if real is None:
            self.ended.append((port, "refused"))
            raise ConnectionRefusedError(111, f"no {port}")
        await self.connect(sock, real)
        self.ended.append((port, "connected"))


@pytest.mark.parametrize(
    ("waits", "options", "order"),
    [
        # (seconds until the outcome, does it connect) of each address; which are started
        ([(5, False), (0, True)], {"happy_eyeballs_delay": 0.05}, [1, 2]),
        ([(0, True), (0, True)], {"happy_eyeballs_delay": 0.05}, [1]),
        ([(0, False), (0, False), (0, True)], {"happy_eyeballs_delay": 5}, [1, 2, 3]),
        ([(5, False), (5, False), (5, False), (0, True)], {"happy_eyeballs_delay": 0.02}, [1, 2, 3, 4]),
        ([(0.2, True), (5, False)], {"happy_eyeballs_delay": 0.05}, [1, 2]),
        ([(0, True), (0, True)], {}, [1]),
        ([(0.05, False), (0, True)], {}, [1, 2]),
    ],
)
def test_attempts_start_one_delay_apart_or_when_one_fails(waits, options, order):
    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            script = {
                port: (wait, listener.getsockname() if connects else None)
                for port, (wait, connects) in enumerate(waits, 1)
            }
            resolve_to(loop, [("127.0.0.1", port) for port in script])
            attempts = Attempts(loop, script)
            before = loop.time()
            transport, protocol = await loop.create_connection(Recorder, "name", 1, **options)
            taken = loop.time() - before
            # No attempt lives on: the losers are cancelled by the time the winner is handed out, or soon.
            await asyncio.sleep(0.02)
            assert len(attempts.ended) == len(attempts.started)
            peer, _ = listener.accept()
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
            await close(protocol, peer)
        gaps = [later[1] - earlier[1] for earlier, later in zip(attempts.started, attempts.started[1:])]
        delay = options.get("happy_eyeballs_delay")
        for gap, (wait, connects) in zip(gaps, waits):
            least = wait if delay is None else min(delay, wait)
            assert least * 0.9 <= gap < least + 1
        assert taken < 2
        return [port for port, _ in attempts.started], sorted(attempts.ended)

    gc.collect()
    started, _ = same(scenario)
    assert started == order


def test_what_an_attempt_raises_that_is_no_oserror_ends_the_call():
    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", 1), ("127.0.0.1", 2)])

        async def sock_connect(sock, address):
            raise ZeroDivisionError("not of the network")

        loop.sock_connect = sock_connect
        return await outcome(loop.create_connection(Recorder, "name", 1))

    kind, error = same(scenario)
    assert (kind, error[0]) == ("raises", "ZeroDivisionError")


@pytest.mark.parametrize("delay", [None, 0, 0.01])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("all_errors", [False, True])
def test_what_is_raised_when_all_are_refused(delay, count, all_errors):
    if all_errors and sys.version_info < (3, 12):
        pytest.skip("all_errors is of 3.12")
    ports = [free_port() for _ in range(count)]

    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", port) for port in ports])
        options = {"all_errors": True} if all_errors else {}
        try:
            await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay, **options)
        except BaseException as error:
            return type(error).__name__, str(error), [str(e) for e in getattr(error, "exceptions", ())]

    kind, text, inner = same(scenario)
    if all_errors:
        assert kind == "ExceptionGroup" and len(inner) == count
    else:
        assert kind == ("ConnectionRefusedError" if count == 1 else "OSError")
        assert all(str(port) in text for port in ports)


@pytest.mark.parametrize("delay", [None, 0.01])
def test_equal_errors_are_raised_once(delay):
    port = free_port()

    async def scenario():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", port)] * 3)
        return await outcome(loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=delay))

    _, error = same(scenario)
    assert error[0] == "ConnectionRefusedError"


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.25}])
def test_errors_leave_no_cycle_behind(run, options):
    """Neither the exception nor its group is kept alive by the frames it went through."""

    class Mark:
        pass

    async def main():
        loop = asyncio.get_running_loop()
        resolve_to(loop, [("127.0.0.1", free_port()), ("127.0.0.1", free_port())])
        gc.collect()
        gc.disable()
        try:
            known = None
            try:
                await loop.create_connection(Recorder, "name", 1, **options)
            except OSError as error:
                error.mark = Mark()
                known = weakref.ref(error.mark)
            await turns(3)
            assert known() is None
        finally:
            gc.enable()

    if options and sys.version_info < (3, 14):
        # asyncio's own partial keeps the list of exceptions.
        from differential import observe

        observe("aioxide", main)
    else:
        run(main)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("first", [socket.AF_INET, socket.AF_INET6])
def test_interleave_orders_as_asyncio_does(count, first):
    v6 = [("::1", port, 0, 0) for port in range(1, 5)]
    v4 = [("127.0.0.1", port) for port in range(1, 3)]
    addresses = v6 + v4 if first == socket.AF_INET6 else v4 + v6

    async def scenario():
        loop = asyncio.get_running_loop()
        tried = []
        resolve_to(loop, addresses)

        async def sock_connect(sock, address):
            tried.append(address)
            raise ConnectionRefusedError(111, "no")

        loop.sock_connect = sock_connect
        for delay in (None, 1):
            await outcome(loop.create_connection(Recorder, "name", 1, interleave=count, happy_eyeballs_delay=delay))
            tried.append("then")
        return tried

    same(scenario)


def test_an_address_nobody_answers_and_one_that_refuses_do_not_hinder_the_third(run, is_ours):
    if not is_ours:
        pytest.skip("asyncio leaves the loser to the garbage collector")

    async def main():
        loop = asyncio.get_running_loop()
        with silent() as nowhere, listening() as listener:
            resolve_to(loop, [nowhere, ("127.0.0.1", free_port()), listener.getsockname()])
            before, tasks = loop.time(), asyncio.all_tasks()
            transport, protocol = await loop.create_connection(Recorder, "name", 1, happy_eyeballs_delay=0.05)
            assert 0.04 < loop.time() - before < 2
            assert transport.get_extra_info("peername") == listener.getsockname()
            peer, _ = listener.accept()
            await close(protocol, peer)
            assert asyncio.all_tasks() == tasks

    run(main)


# --- local_addr ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [None, 0.01])
def test_local_addresses_of_the_wrong_family(delay):
    port = free_port()

    async def scenario():
        loop = asyncio.get_running_loop()
        return await outcome(
            loop.create_connection(
                Recorder, "127.0.0.1", port, local_addr=("::1", 0), happy_eyeballs_delay=delay
            )
        )

    same(scenario)


def test_the_first_local_address_that_can_be_bound_is_taken():
    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as taken, listening() as listener:
            answers = {
                "there": [listener.getsockname()],
                "here": [("::1", 0, 0, 0), taken.getsockname(), ("127.0.0.3", 0), ("127.0.0.4", 0)],
                "nowhere": [taken.getsockname(), taken.getsockname()],
            }

            async def getaddrinfo(host, port, **options):
                return [info(address) for address in answers[host]]

            loop.getaddrinfo = getaddrinfo
            transport, protocol = await loop.create_connection(Recorder, "there", 1, local_addr=("here", 0))
            peer, address = listener.accept()
            bound = address[0], transport.get_extra_info("sockname") == address
            await close(protocol, peer)
            failure = await outcome(loop.create_connection(Recorder, "there", 1, local_addr=("nowhere", 0)))
            return bound, failure

    bound, (kind, _) = same(scenario)
    assert bound == ("127.0.0.3", True) and kind == "raises"


def test_an_empty_answer_for_the_local_address():
    async def scenario():
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host, port, **options):
            return []

        loop.getaddrinfo = getaddrinfo
        return await outcome(loop.create_connection(Recorder, "127.0.0.1", 1, local_addr=("local", 0)))

    same(scenario)


# --- sock= and TCP_NODELAY -----------------------------------------------------------------------


def nodelay(transport):
    return bool(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_nagles_algorithm_is_off_by_asyncios_rule(proto, method):
    """asyncio looks at `sock.proto`, which is 0 for `socket.socket()`."""

    async def scenario():
        loop = asyncio.get_running_loop()
        with listening() as listener:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, proto)
            sock.connect(listener.getsockname())
            peer, _ = listener.accept()
            transport, protocol = await getattr(loop, method)(Recorder, sock=sock)
            seen = nodelay(transport)
            await close(protocol, peer)
            return seen

    assert same(scenario) is (proto == socket.IPPROTO_TCP)


@pytest.mark.parametrize("proto", [None, 0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_nagles_algorithm_is_off_for_accepted_connections_by_asyncios_rule(proto, host):
    """A connection has its listener's `proto`; one that create_server makes has TCP's."""

    async def scenario():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result((self, nodelay(transport)))

        if proto is None:
            server = await loop.create_server(Told, host, 0)
        else:
            listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, proto)
            listener.bind((host, 0))
            server = await loop.create_server(Told, sock=listener)
        peer = socket.create_connection(server.sockets[0].getsockname()[:2], PATIENCE_S)
        protocol, seen = await made
        sock = protocol.transport.get_extra_info("socket")
        kind = sock.family, sock.type, sock.proto
        await close(protocol, peer)
        server.close()
        await server.wait_closed()
        return seen, kind

    same(scenario)


def test_a_socket_that_is_not_connected_becomes_a_transport_that_is_lost():
    async def scenario():
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        seen = [transport.get_extra_info("peername"), plain(repr(transport.get_extra_info("sockname")))]
        transport.write(b"x")
        error = describe(await protocol.lost)
        return seen, error, protocol.calls

    same(scenario)


def test_a_duplicate_of_the_socket_stays_usable(run):
    async def main():
        here, there = tcp_pair()
        copy = here.dup()
        _, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=here)
        protocol.transport.write(b"one")
        await close(protocol)
        copy.setblocking(True)
        copy.sendall(b"two")
        copy.close()
        assert there.makefile("rb").read() == b"onetwo"
        there.close()

    run(main)


# --- listening sockets ---------------------------------------------------------------------------

OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reuse_address": True},
        {"reuse_address": False},
        {"reuse_port": True},
        {"reuse_port": False},
        {"keep_alive": True},
        {"keep_alive": False},
        {"start_serving": False},
        {"family": socket.AF_INET},
        {"family": socket.AF_INET6},
        {"backlog": 1},
        {"backlog": 0},
        {"backlog": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None, "", ["127.0.0.1", "::1"]], ids=str)
def test_options_of_listening_sockets(options, host):
    if "keep_alive" in options and sys.version_info < (3, 13):
        pytest.skip("keep_alive is of 3.13")

    async def scenario():
        loop = asyncio.get_running_loop()
        kind, server = await outcome(loop.create_server(Recorder, host, 0, **options))
        if kind == "raises":
            return server
        seen = []
        for sock in server.sockets:
            only = sock.family == socket.AF_INET6 and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            flags = [bool(sock.getsockopt(*option)) for option in OPTIONS]
            blocks = sock.gettimeout() != 0
            seen.append((sock.family, sock.type, sock.proto, flags, bool(only), blocks, sock.get_inheritable()))
        serves = server.is_serving()
        server.close()
        await server.wait_closed()
        return sorted(seen, key=repr), serves

    same(scenario)


def test_an_address_in_use_has_asyncios_error():
    with listening() as taken:
        address = taken.getsockname()

        async def scenario():
            loop = asyncio.get_running_loop()
            seen = []
            for options in ({}, {"reuse_address": False}, {"reuse_port": True}):
                seen.append(await outcome(loop.create_server(Recorder, *address, **options)))
            return seen

        for kind, error in same(scenario):
            assert kind == "raises" and error[1] == errno.EADDRINUSE


def test_a_server_of_a_socket_that_listens_already(run):
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        peer = socket.create_connection(listener.getsockname(), PATIENCE_S)  # before the server is there
        made = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.set_result(self)

        server = await loop.create_server(Told, sock=listener, start_serving=False)
        await turns(5)
        assert not made.done() and not server.is_serving()
        await server.start_serving()
        protocol = await made
        await close(protocol, peer)
        server.close()
        await server.wait_closed()

    run(main)


# --- debug mode ----------------------------------------------------------------------------------


def lines(caplog):
    found = [(r.levelname, plain(r.getMessage())) for r in caplog.records if r.name == "asyncio"]
    caplog.clear()
    return [line for line in found if not line[1].startswith(("Executing ", "Using selector"))]


def test_debug_mode_logs_the_same_lines(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 1e9
        caplog.clear()
        seen = []
        served = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                served.set_result(self)

            def __repr__(self):
                return "<protocol>"

        server = await loop.create_server(Told, "127.0.0.1", 0)
        seen.append(("server", lines(caplog)))

        class Quiet(Recorder):
            def __repr__(self):
                return "<client>"

        transport, client = await loop.create_connection(Quiet, *server.sockets[0].getsockname())
        protocol = await served
        await turns(5)
        seen.append(("connected", sorted(lines(caplog))))
        transport.pause_reading()
        transport.resume_reading()
        seen.append(("paused", lines(caplog)))
        transport.write_eof()
        await protocol.until(lambda: "eof" in protocol.calls)
        await protocol.lost
        await client.lost
        await turns(5)
        seen.append(("ended", sorted(lines(caplog))))
        server.close()
        await server.wait_closed()
        seen.append(("closed", lines(caplog)))
        here, there = tcp_pair()
        _, accepted = await loop.connect_accepted_socket(Quiet, here)
        seen.append(("accepted", lines(caplog)))
        reset(there)
        await accepted.lost
        seen.append(("reset", lines(caplog)))
        seen.append(await outcome(loop.create_connection(Quiet, "127.0.0.1", free_port())))
        seen.append(("refused", lines(caplog)))
        return seen

    same(scenario)


def test_debug_mode_logs_name_resolution(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "asyncio")

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        time.sleep(0.001)
        return [info(("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        caplog.clear()
        seen = []
        for slow in (1e9, 0):
            loop.slow_callback_duration = slow
            await loop.getaddrinfo("name", 1)
            await loop.getaddrinfo("name", 80, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=6, flags=1)
            seen.append([line for line in lines(caplog) if "ddress info" in line[1]])
        loop.slow_callback_duration = 1e9
        return seen

    same(scenario)


def test_closing_a_loop_in_debug_mode_is_logged(new_loop, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop = new_loop()
    loop.set_debug(True)
    caplog.clear()
    loop.close()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert re.match(r"Close <\w*EventLoop running=False closed=", caplog.records[0].getMessage())
