"""What libraries read of transports, servers and loops: `get_extra_info`, the socket in it, private attributes.

The private names are those that asyncio's own modules, anyio, aiohttp, uvicorn, prompt_toolkit and test-suites touch.
What must hold is not their implementation but what can be seen of it: the value where a value is promised, the
presence where code asks `hasattr`.
"""

import asyncio
import contextlib
import socket
import sys
import threading
import weakref

import pytest
from differential import outcome, plain, same
from peers import TOO_MUCH, BufferedRecorder, Recorder, close, connect, reset, tcp_pair, turns

pytestmark = pytest.mark.usefixtures("no_leaks")


@contextlib.contextmanager
def pair_of(kind):
    """Two connected sockets; those of IPv6 and TCP have the protocol in them."""
    if kind == "unix":
        here, there = socket.socketpair()
    elif kind == "tcp":
        here, there = tcp_pair()
    else:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
            here = socket.create_connection(listener.getsockname()[:2])
            there, _ = listener.accept()
    there.settimeout(10)
    with here, there:
        yield here, there


# --- get_extra_info ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_extra_info_of_a_connection(kind, method):
    async def scenario():
        loop = asyncio.get_running_loop()
        with pair_of(kind) as (here, there):
            names = here.getsockname(), here.getpeername()
            transport, protocol = await getattr(loop, method)(Recorder, sock=here)
            ask = transport.get_extra_info
            assert (ask("sockname"), ask("peername")) == names
            seen = [sorted(transport._extra)]
            for key in ("compression", "cipher", "peercert", "sslcontext", "ssl_object", "pipe", "subprocess", "no"):
                seen.append((key, ask(key), ask(key, "default"), ask(key, default=1)))
            there.close()
            await close(protocol)
            # It answers for what is closed.
            assert (ask("sockname"), ask("peername")) == names
            seen.append((ask("socket").fileno(), ask("no", 5)))
            return [plain(repr(one)) for one in seen]

    same(scenario)


async def nothing(ask):
    return type(ask()) and None


async def many(ask):
    return ask("a", "b", "c")


async def wrong_keyword(ask):
    return ask("a", other=1)


async def by_name(ask):
    return ask(name="no", default=3)


def test_the_names_of_keywords_and_texts_of_errors_of_get_extra_info():
    """TypeErrors name another function; that they are TypeErrors counts."""

    async def scenario():
        protocol, peer = await connect()
        kinds = []
        for call in (nothing, many, wrong_keyword, by_name):
            kind, result = await outcome(call(protocol.transport.get_extra_info))
            kinds.append((kind, result[0] if kind == "raises" else result))
        await close(protocol, peer)
        return kinds

    same(scenario)


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_the_socket_of_a_transport_answers_as_asyncios(kind):
    async def scenario():
        loop = asyncio.get_running_loop()
        with pair_of(kind) as (here, there):
            number = here.fileno()
            transport, protocol = await loop.create_connection(Recorder, sock=here)
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert sock.fileno() == number == transport._sock_fd
            assert sock.getsockname() == transport.get_extra_info("sockname")
            assert sock.getpeername() == transport.get_extra_info("peername")
            seen = [sock.family, sock.type, sock.proto, sock.gettimeout(), sock.get_inheritable()]
            seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
            seen.append(len(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            seen.append(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))
            sock.settimeout(0)
            sock.setblocking(False)
            for refused in (lambda: sock.settimeout(1), lambda: sock.setblocking(True)):
                with pytest.raises(ValueError) as caught:
                    refused()
                seen.append(str(caught.value))
            copy = sock.dup()
            seen.append((type(copy).__name__, copy.gettimeout() != 0))
            copy.close()
            seen.append(
                [name for name in ("recv", "send", "close", "accept", "connect", "bind") if hasattr(sock, name)]
            )
            seen.append(plain(repr(sock)))
            sock.shutdown(socket.SHUT_WR)
            seen.append(there.recv(1))
            there.close()
            await protocol.lost
            seen.append((sock.fileno(), plain(repr(sock))))
            return seen

    same(scenario)


def test_two_transports_do_not_share_what_they_know(run):
    async def main():
        one, peer = await connect()
        two, other = await connect()
        assert one.transport._extra is not two.transport._extra
        assert one.transport.get_extra_info("socket") is one.transport.get_extra_info("socket")
        one.transport._extra["mine"] = 1
        assert one.transport.get_extra_info("mine") == 1
        assert two.transport.get_extra_info("mine") is None
        await close(one, peer)
        await close(two, other)

    run(main)


def test_extra_info_of_an_accepted_connection(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = loop.create_future()

        class Told(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                ask = transport.get_extra_info
                made.set_result((self, ask("peername"), ask("sockname"), ask("socket")))

        server = await loop.create_server(Told, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), 10) as peer:
            protocol, peername, sockname, sock = await made
            assert (peername, sockname) == (peer.getsockname(), peer.getpeername())
            assert sock.getpeername() == peername and sock.getsockname() == sockname
            assert sorted(protocol.transport._extra) == ["peername", "socket", "sockname"]
            assert sock.gettimeout() == 0 and sock.get_inheritable() is False
            await close(protocol)
        server.close()
        await server.wait_closed()

    run(main)


def test_a_peer_that_is_gone_has_no_name_where_it_is_not_known():
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = tcp_pair()
        reset(there)
        here.settimeout(5)
        with pytest.raises(ConnectionResetError):
            here.recv(1)
        transport, protocol = await loop.create_connection(Recorder, sock=here)
        seen = transport.get_extra_info("peername"), transport.get_extra_info("peername", "default")
        transport.abort()
        await protocol.lost
        return seen

    assert same(scenario) == (None, None)


# --- what a transport is -------------------------------------------------------------------------


def test_what_a_transport_is_an_instance_of(run):
    async def main():
        protocol, peer = await connect()
        transport = protocol.transport
        for base in (asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport, asyncio.BaseTransport):
            assert isinstance(transport, base) and issubclass(type(transport), base)
        assert isinstance(transport, asyncio.transports._FlowControlMixin) or not hasattr(
            transport, "_maybe_pause_protocol"
        )
        for other in (asyncio.DatagramTransport, asyncio.SubprocessTransport):
            assert not isinstance(transport, other)
        assert transport._start_tls_compatible is True
        assert transport._sendfile_compatible is asyncio.constants._SendfileMode.TRY_NATIVE
        await close(protocol, peer)

    run(main)


def test_a_transport_can_be_a_key_and_be_referred_to_weakly(run):
    async def main():
        protocol, peer = await connect()
        transport = protocol.transport
        assert transport == transport and {transport: 1}[transport] == 1
        known, among = weakref.ref(transport), weakref.WeakSet([transport])
        transport.mine = "an attribute of a library"
        assert transport.mine == "an attribute of a library" and known() is transport and transport in among
        await close(protocol, peer)

    run(main)


def test_attributes_of_a_transport_through_its_life():
    names = ("_conn_lost", "_closing", "_paused", "_eof", "_protocol_paused", "_sendfile_compatible")

    async def scenario():
        loop = asyncio.get_running_loop()
        protocol, peer = await connect()
        transport = protocol.transport
        seen = []

        def look(stage):
            seen.append((stage, [getattr(transport, name) for name in names]))

        assert transport._loop is loop and transport._protocol is protocol and transport._server is None
        assert transport._sock.fileno() == transport._sock_fd
        assert type(transport._sock) is socket.socket
        look("made")
        transport.pause_reading()
        look("paused")
        transport.resume_reading()
        transport.write(bytes(TOO_MUCH))
        look("writing")
        transport.abort()
        look("aborted")
        for _ in range(3):
            transport.write(b"x")
        look("written after")
        await protocol.lost
        await turns(2)
        look("lost")
        assert transport._sock is None and transport._loop is None and transport._protocol is None
        assert transport.get_protocol() is None
        peer.close()
        protocol, peer = await connect()
        transport = protocol.transport
        transport.write_eof()
        look("eof")
        await close(protocol, peer)
        return seen

    same(scenario)


TRANSPORT_NAMES = [
    "_buffer",
    "_buffer_size",
    "_call_connection_lost",
    "_closing",
    "_conn_lost",
    "_empty_waiter",
    "_eof",
    "_extra",
    "_fatal_error",
    "_force_close",
    "_high_water",
    "_loop",
    "_low_water",
    "_paused",
    "_protocol",
    "_protocol_connected",
    "_protocol_paused",
    "_read_ready",
    "_sendfile_compatible",
    "_server",
    "_sock",
    "_sock_fd",
    "_start_tls_compatible",
    "max_size",
]

#: asyncio has these, the transport has not yet. Whoever adds one takes it out.
TRANSPORT_MISSING = {
    "_buffer": "the queue of chunks",
    "_buffer_size": "of 3.15",
    "_high_water": "get_write_buffer_limits() tells it",
    "_low_water": "get_write_buffer_limits() tells it",
    "_protocol_connected": "inner state",
    "_read_ready": "an inner callback",
    "max_size": "bytes per recv, a number that may be set",
}


@pytest.mark.parametrize("name", TRANSPORT_NAMES)
def test_a_private_name_of_transports_is_there(run, is_ours, request, name):
    if is_ours and name in TRANSPORT_MISSING:
        request.applymarker(pytest.mark.xfail(strict=True, reason=f"missing: {TRANSPORT_MISSING[name]}"))

    async def main():
        protocol, peer = await connect()
        there = hasattr(protocol.transport, name)
        await close(protocol, peer)
        return there

    there = run(main)
    if not is_ours and not there:
        pytest.skip("not of this Python")
    assert there


# --- the loop's private names --------------------------------------------------------------------

LOOP_NAMES = [
    "_accept_connection",
    "_add_callback",
    "_add_reader",
    "_add_writer",
    "_asyncgen_finalizer_hook",
    "_asyncgen_firstiter_hook",
    "_asyncgens",
    "_asyncgens_shutdown_called",
    "_call_soon",
    "_check_callback",
    "_check_closed",
    "_check_default_executor",
    "_check_running",
    "_check_thread",
    "_clock_resolution",
    "_closed",
    "_csock",
    "_current_handle",
    "_debug",
    "_default_executor",
    "_ensure_fd_no_transport",
    "_ensure_resolved",
    "_exception_handler",
    "_executor_shutdown_called",
    "_internal_fds",
    "_make_datagram_transport",
    "_make_socket_transport",
    "_process_events",
    "_read_from_self",
    "_ready",
    "_remove_reader",
    "_remove_writer",
    "_run_once",
    "_scheduled",
    "_selector",
    "_set_coroutine_origin_tracking",
    "_signal_handlers",
    "_ssock",
    "_start_serving",
    "_stop_serving",
    "_stopping",
    "_task_factory",
    "_thread_id",
    "_timer_handle_cancelled",
    "_transports",
    "_write_to_self",
    "slow_callback_duration",
]

#: asyncio has these, the loop has not yet. Whoever adds one takes it out.
LOOP_MISSING = {
    "_read_from_self": "beside _write_to_self",
    "_run_once": "programs that nest loops call it",
    "_process_events": "an inner method",
    "_call_soon": "an inner method",
    "_add_callback": "an inner method",
    "_accept_connection": "an inner method",
    "_ensure_fd_no_transport": "an inner method",
}


@pytest.mark.parametrize("name", LOOP_NAMES)
def test_a_private_name_of_loops_is_there(new_loop, is_ours, request, name):
    if is_ours and name in LOOP_MISSING:
        request.applymarker(pytest.mark.xfail(strict=True, reason=f"missing: {LOOP_MISSING[name]}"))
    there = hasattr(new_loop(), name)
    if not is_ours and not there:
        pytest.skip("not of this Python")
    assert there


def test_values_of_private_names_through_the_life_of_a_loop():
    """The ones whose values programs read."""

    async def scenario():
        loop = asyncio.get_running_loop()
        seen = [loop._thread_id == threading.get_ident(), loop._stopping, loop._closed, loop._debug]
        seen.append((loop._default_executor, loop._executor_shutdown_called, loop._asyncgens_shutdown_called))
        seen.append((len(loop._asyncgens), len(loop._signal_handlers), loop._task_factory, loop._current_handle))
        loop.call_soon(print)
        handle = loop._ready[-1]
        seen.append((isinstance(handle, asyncio.Handle), handle._callback is print))
        handle.cancel()
        timer = loop.call_later(100, print)
        seen.append((len([t for t in loop._scheduled if t is timer]), timer._scheduled, timer.when() > loop.time()))
        timer.cancel()
        await loop.run_in_executor(None, int)
        seen.append((type(loop._default_executor).__mro__[-3].__name__, loop._executor_shutdown_called))
        await loop.shutdown_default_executor()
        seen.append(loop._executor_shutdown_called)

        async def generate():
            yield 1

        generator = generate()
        await generator.__anext__()
        seen.append(len(loop._asyncgens))
        await generator.aclose()
        await loop.shutdown_asyncgens()
        seen.append((len(loop._asyncgens), loop._asyncgens_shutdown_called))
        loop.stop()
        seen.append(loop._stopping)
        loop._stopping = False
        seen.append(loop._stopping)
        return seen

    same(scenario)


def test_a_loop_at_rest(new_loop):
    loop = new_loop()
    assert loop._thread_id is None and not loop._closed and not loop._stopping
    assert list(loop._ready) == [] and list(loop._scheduled) == []
    loop._check_closed()
    loop._check_running()
    loop.close()
    assert loop._closed
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop._check_closed()


def test_methods_and_attributes_can_be_replaced_on_one_loop(new_loop):
    """As `unittest.mock.patch.object(loop, ...)` does."""
    loop = new_loop()
    seen = []
    loop.time = lambda: 5.0
    assert loop.time() == 5.0
    del loop.time
    loop.mine = 1
    assert vars(loop)["mine"] == 1

    async def main():
        loop.call_exception_handler = seen.append
        loop.call_soon(lambda: 1 / 0)
        await turns(3)
        del loop.call_exception_handler

    loop.run_until_complete(main())
    (context,) = seen
    assert type(context["exception"]) is ZeroDivisionError


def test_readers_added_by_the_private_names_are_handles(run):
    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            handle = loop._add_reader(here.fileno(), print)
            assert isinstance(handle, asyncio.Handle) and not handle.cancelled()
            second = loop._add_reader(here.fileno(), print)
            assert handle.cancelled() and not second.cancelled()
            writer = loop._add_writer(here.fileno(), print)
            assert loop._remove_writer(here.fileno()) is True and writer.cancelled()
            assert loop._remove_writer(here.fileno()) is False
            assert loop._remove_reader(here.fileno()) is True and second.cancelled()

    run(main)


def test_the_callback_of_run_until_complete_is_asyncios(run):
    """anyio finds the root task by it."""

    async def main():
        task = next(
            task
            for task in asyncio.all_tasks()
            if any(
                callback.__module__ == "asyncio.base_events" and callback.__name__ == "_run_until_complete_cb"
                for callback, _ in task._callbacks or ()
            )
        )
        assert task.get_coro().__name__ in ("main", "wait_for")

    run(main)


# --- servers -------------------------------------------------------------------------------------


THEIRS = [
    "_active_count",
    "_backlog",
    "_clients",
    "_context",
    "_loop",
    "_protocol_factory",
    "_serving",
    "_serving_forever_fut",
    "_sockets",
    "_ssl_context",
    "_ssl_handshake_timeout",
    "_waiters",
]


def test_private_names_of_a_server():
    async def scenario():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, backlog=17)
        names = sorted(name for name in THEIRS if hasattr(server, name))
        assert server._loop is loop and len(server._sockets) == 1
        seen = [server._backlog, server._serving, server._ssl_context, server._serving_forever_fut, names]
        seen.append(type(server._sockets[0]) is socket.socket)
        server.close()
        await server.wait_closed()
        seen.append((server._sockets, server._waiters))
        return seen

    same(scenario)


def test_what_a_transport_of_a_server_knows(run):
    async def main():
        loop = asyncio.get_running_loop()
        made = []

        class Told(BufferedRecorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                made.append(self)

        server = await loop.create_server(Told, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), 10):
            while not made:
                await asyncio.sleep(0)
            transport = made[0].transport
            assert transport._server is server
            if sys.version_info >= (3, 13):
                assert list(server._clients) == [transport]
            else:
                assert server._active_count == 1
            await close(made[0])
        assert transport._server is None
        if sys.version_info >= (3, 13):
            assert list(server._clients) == []
        else:
            assert server._active_count == 0
        server.close()
        await server.wait_closed()

    run(main)
