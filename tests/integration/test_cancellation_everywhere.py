"""Every awaitable method of the loop, and of what the loop gives, is cancelled at each of its suspension points.

The table of scenarios is held against the classes themselves: a method without a scenario fails the test. After each
cancellation no descriptor, task, timer or zombie is left.
`test_cancellation` looks closer at connections, servers and `sock_*`.
"""

import asyncio
import contextlib
import inspect
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading

import aioxide
import pytest
from cancelling import at_every_point
from children import CAT, Child, assert_no_zombie, await_waiting_threads
from differential import awaited
from peers import PATIENCE_S, Recorder, close, tcp_pair, turns

pytestmark = [pytest.mark.filterwarnings("ignore:.*scheduled after loop.shutdown_asyncgens:ResourceWarning")]

#: Where asyncio itself leaves sockets or children to the garbage collector, or never ends when it is cancelled twice.
ASYNCIO_LEAVES = {
    ("loop", "create_connection"),
    ("loop", "create_server"),
    ("loop", "create_unix_server"),
    ("loop", "connect_accepted_socket"),
    ("loop", "sock_accept"),
}

#: A scenario is an async function: it gets the loop and an exit stack, and gives `make`, `undo` and how many suspension
#: points there are at least.
SCENARIOS = {}


def scenario(*names, of="loop", since=(3, 10)):
    def enter(function):
        if sys.version_info >= since:
            for name in names:
                assert (of, name) not in SCENARIOS
                SCENARIOS[of, name] = function
        return function

    return enter


async def nothing(made):
    """There is nothing to undo."""


# --- connections and servers -----------------------------------------------------------------------


async def end(made):
    await close(made[1])


@scenario("create_connection")
async def create_connection(name, loop, stack):
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
    return lambda: loop.create_connection(Recorder, *listener.getsockname()), end, 1


@scenario("connect_accepted_socket")
async def connect_accepted_socket(name, loop, stack):
    async def make():
        here, there = tcp_pair()
        loop.call_later(0.001, there.close)
        return await loop.connect_accepted_socket(Recorder, here)

    return make, end, 1


async def end_server(server):
    server.close()
    await server.wait_closed()


@scenario("create_server")
async def create_server(name, loop, stack):
    return lambda: loop.create_server(Recorder, "127.0.0.1", 0), end_server, 1


def path_in(stack):
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    return os.path.join(folder, "socket")


def listening(stack):
    path = path_in(stack)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(1000)
    listener.setblocking(False)
    return path, listener


@scenario("create_unix_connection")
async def create_unix_connection(name, loop, stack):
    path, listener = listening(stack)

    async def make():
        try:
            return await loop.create_unix_connection(Recorder, path)
        finally:
            # What was accepted is nobody's leak.
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()

    return make, end, 1


@scenario("create_unix_server")
async def create_unix_server(name, loop, stack):
    path = path_in(stack)

    async def undo(server):
        await end_server(server)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    return lambda: loop.create_unix_server(Recorder, path), undo, 1


@scenario("start_serving", of="server")
async def start_serving(name, loop, stack):
    async def make():
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            server = await uncancelled(loop.create_server(Recorder, sock=sock.dup(), start_serving=False))
            try:
                await server.start_serving()
            finally:
                server.close()

    return make, nothing, 1


async def uncancelled(awaitable):
    """The set-up of a scenario, without a point where it can be cancelled: its own steps are driven to their end."""
    task = asyncio.ensure_future(awaitable)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        undo_set_up(task.result())
        raise cancelled
    return task.result()


def undo_set_up(made):
    """A set-up that was cancelled leaves nothing either."""
    if hasattr(made, "sockets"):
        made.close()
    elif isinstance(made, tuple):
        made[0].abort()
    elif hasattr(made, "kill"):
        with contextlib.suppress(ProcessLookupError):
            made.kill()


@scenario("serve_forever", of="server")
async def serve_forever(name, loop, stack):
    async def make():
        server = await uncancelled(loop.create_server(Recorder, "127.0.0.1", 0))
        ended = []

        def end_it():
            ended.append(True)
            server.close()

        timer = loop.call_later(0.002, end_it)
        try:
            await server.serve_forever()
        except asyncio.CancelledError:
            if not ended:
                raise
        finally:
            timer.cancel()
            server.close()

    return make, nothing, 1


@scenario("wait_closed", of="server")
async def wait_closed(name, loop, stack):
    async def make():
        server = await uncancelled(loop.create_server(Recorder, "127.0.0.1", 0))
        client = socket.create_connection(server.sockets[0].getsockname())
        loop.call_later(0.001, client.close)
        try:
            await asyncio.sleep(0)
        finally:
            server.close()
        await server.wait_closed()

    return make, nothing, 1


# --- TLS -------------------------------------------------------------------------------------------


def anonymous(purpose):
    """A context that needs no certificate."""
    context = ssl.SSLContext(purpose)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


@scenario("start_tls")
async def start_tls(name, loop, stack):
    server, client = anonymous(ssl.PROTOCOL_TLS_SERVER), anonymous(ssl.PROTOCOL_TLS_CLIENT)

    def answer(sock):
        sock.settimeout(PATIENCE_S)
        with sock, contextlib.suppress(OSError), server.wrap_socket(sock, server_side=True) as secured:
            secured.recv(1)

    async def make():
        here, there = tcp_pair()
        peer = threading.Thread(target=answer, args=(there,))
        peer.start()
        stack.callback(peer.join)
        transport, protocol = await uncancelled(loop.create_connection(Recorder, sock=here))
        protocol.transport = await loop.start_tls(transport, protocol, client)
        return protocol.transport, protocol

    return make, end, 1


# --- datagrams and pipes ---------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.lost.set_result(error)


@scenario("create_datagram_endpoint")
async def create_datagram_endpoint(name, loop, stack):
    return lambda: loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0), ("127.0.0.1", 9)), end, 1


@scenario("connect_read_pipe", "connect_write_pipe")
async def connect_pipe(name, loop, stack):
    async def make():
        reader, writer = os.pipe()
        mine, other = (reader, writer) if name == "connect_read_pipe" else (writer, reader)
        timer = loop.call_later(0.001, os.close, other)
        file = os.fdopen(mine, "rb" if mine == reader else "wb", 0)
        try:
            return await getattr(loop, name)(Recorder, file)
        except NotImplementedError:
            timer.cancel()
            file.close()
            os.close(other)
            raise

    async def undo(made):
        made[0].close()
        await made[1].lost

    return make, undo, 1


# --- processes -------------------------------------------------------------------------------------


@scenario("subprocess_exec", "subprocess_shell")
async def subprocess_of_loop(name, loop, stack):
    args = CAT if name == "subprocess_exec" else ("exec cat",)

    async def undo(made):
        made[0].kill()
        await made[1].lost

    return lambda: getattr(loop, name)(Child, *args), undo, 1


async def end_process(process):
    process.kill()
    await process.communicate()


@scenario("create_subprocess_exec", "create_subprocess_shell", of="asyncio")
async def subprocess_of_streams(name, loop, stack):
    pipe = subprocess.PIPE
    return (
        lambda: getattr(asyncio, name)("exec cat" if name.endswith("shell") else "cat", stdin=pipe, stdout=pipe),
        end_process,
        1,
    )


@scenario("wait", "communicate", of="process")
async def methods_of_a_process(name, loop, stack):
    pipe = subprocess.PIPE

    async def make():
        process = await uncancelled(asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe))
        try:
            if name == "wait":
                process.stdin.close()
                return await process.wait()
            return await process.communicate(b"x" * 100_000)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise

    return make, nothing, 1


# --- files and plain sockets -----------------------------------------------------------------------


@scenario("sendfile", "sock_sendfile")
async def send_a_file(name, loop, stack):
    file = stack.enter_context(open(path_in(stack), "w+b", 0))  # noqa: SIM115
    file.write(bytes(1000))

    async def make():
        here, there = tcp_pair()
        here.setblocking(False)
        with there:
            if name == "sock_sendfile":
                with here:
                    return await loop.sock_sendfile(here, file, 0, None, fallback=False)
            transport, _ = await uncancelled(loop.create_connection(Recorder, sock=here))
            try:
                return await loop.sendfile(transport, file, 0, None)
            finally:
                transport.abort()

    return make, nothing, 0 if name == "sock_sendfile" else 1


@scenario("sock_recv", "sock_recv_into", "sock_sendall", "sock_connect", "sock_accept")
@scenario("sock_recvfrom", "sock_recvfrom_into", "sock_sendto", since=(3, 11))
async def plain_sockets(name, loop, stack):
    kind = socket.SOCK_DGRAM if name in ("sock_recvfrom", "sock_recvfrom_into", "sock_sendto") else socket.SOCK_STREAM
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))

    async def make():
        with contextlib.ExitStack() as inner:
            if name in ("sock_connect", "sock_accept"):
                sock = inner.enter_context(socket.socket())
                sock.setblocking(False)
                if name == "sock_connect":
                    return await loop.sock_connect(sock, listener.getsockname())
                own = inner.enter_context(socket.create_server(("127.0.0.1", 0)))
                own.setblocking(False)
                loop.call_soon(sock.connect_ex, own.getsockname())
                connection, _ = await loop.sock_accept(own)
                return connection.close()
            here, there = map(inner.enter_context, socket.socketpair(socket.AF_UNIX, kind))
            here.setblocking(False)
            there.setblocking(False)
            if name in ("sock_sendall", "sock_sendto"):
                # Full, until somebody reads a little later.
                with contextlib.suppress(BlockingIOError):
                    while True:
                        here.send(bytes(1000))
                loop.call_later(0.001, drain, there)
                if name == "sock_sendall":
                    return await loop.sock_sendall(here, b"x")
                there.bind(f"\0cancellation-{os.getpid()}-{there.fileno()}")
                return await loop.sock_sendto(here, b"x", there.getsockname())
            loop.call_soon(there.send, b"x")
            target = 10 if name in ("sock_recv", "sock_recvfrom") else bytearray(10)
            return await getattr(loop, name)(here, target)

    return make, nothing, 1


def drain(sock):
    with contextlib.suppress(BlockingIOError, OSError):
        while sock.fileno() >= 0:
            sock.recv(1 << 20)


# --- threads and ends ------------------------------------------------------------------------------


@scenario("getaddrinfo", "getnameinfo", "run_in_executor")
async def in_threads(name, loop, stack):
    calls = {
        "getaddrinfo": lambda: loop.getaddrinfo("localhost", 80),
        "getnameinfo": lambda: loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
        "run_in_executor": lambda: loop.run_in_executor(None, int, "5"),
    }
    return lambda: awaited(calls[name]()), nothing, 0 if name == "getnameinfo" else 1


@scenario("shutdown_asyncgens")
async def shutdown_asyncgens(name, loop, stack):
    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)

    async def make():
        generator = numbers()
        async for _ in generator:
            break
        try:
            await loop.shutdown_asyncgens()
        except BaseException:
            # Its end was cancelled with the call.
            with contextlib.suppress(BaseException):
                generator.athrow(GeneratorExit).close()
            raise

    return make, nothing, 1


@scenario("shutdown_default_executor")
async def shutdown_default_executor(name, loop, stack):
    async def make():
        loop._executor_shutdown_called = False
        await loop.shutdown_default_executor()

    return make, nothing, 0


# --- all of them -----------------------------------------------------------------------------------

CLASSES = {
    "loop": asyncio.AbstractEventLoop,
    "server": asyncio.AbstractServer,
    "process": asyncio.subprocess.Process,
    "asyncio": asyncio.subprocess,
}
#: Awaitables that are no coroutine functions.
ALSO = {("loop", "run_in_executor")}


def methods():
    found = set(ALSO)
    for of, owner in CLASSES.items():
        for name in dir(owner):
            if not name.startswith("_") and inspect.iscoroutinefunction(getattr(owner, name)):
                found.add((of, name))
    for name in dir(aioxide.EventLoop):
        if not name.startswith("_") and inspect.iscoroutinefunction(getattr(aioxide.EventLoop, name)):
            found.add(("loop", name))
    return found


def test_every_awaitable_method_has_a_scenario():
    assert methods() == SCENARIOS.keys()


def cases():
    for of, name in sorted(SCENARIOS):
        for loop_name in ("asyncio", "aioxide"):
            if loop_name == "asyncio" and (of, name) in ASYNCIO_LEAVES:
                continue
            yield pytest.param(of, name, loop_name, id=f"{of}.{name}-{loop_name}")


@pytest.fixture
def loop_name(request):
    """Of the case, not of the fixture that others share."""
    return request.node.callspec.params["loop_of_case"]


@pytest.mark.parametrize(("of", "name", "loop_of_case"), cases())
def test_cancelled_at_each_point(run, of, name, loop_of_case):
    async def main():
        with contextlib.ExitStack() as stack:
            make, undo, least = await SCENARIOS[of, name](name, asyncio.get_running_loop(), stack)
            # asyncio shields its wait for the child that it has killed.
            is_patient = loop_of_case == "asyncio" and (of in ("process", "asyncio") or name.startswith("subprocess"))
            await at_every_point(make, undo, least=least, is_patient=is_patient)
        await turns(3)

    run(main)
    await_waiting_threads()
    assert_no_zombie()
