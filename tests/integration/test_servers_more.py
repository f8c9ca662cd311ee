"""Servers in their corners, against asyncio's: when they count as closed, bursts, exhaustion, ends from inside."""

import asyncio
import gc
import json
import socket
import subprocess
import sys
import textwrap

import pytest
from differential import describe, outcome, plain, same
from peers import PATIENCE_S, TOO_MUCH, Recorder, reset, turns

pytestmark = pytest.mark.usefixtures("no_leaks")

of_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="of 3.13")


class Serving:
    """A server with recorders, and sockets connected to it."""

    def __init__(self, make=Recorder):
        self.make = make
        self.protocols = []
        self.peers = []

    async def start(self, **options):
        self.server = await asyncio.get_running_loop().create_server(self._made, "127.0.0.1", 0, **options)
        self.address = self.server.sockets[0].getsockname()
        return self

    def _made(self):
        self.protocols.append(self.make())
        return self.protocols[-1]

    async def dial(self, count=1):
        for _ in range(count):
            self.peers.append(socket.create_connection(self.address, PATIENCE_S))
            while len(self.protocols) < len(self.peers):
                await asyncio.sleep(0)
            await self.protocols[-1].until(lambda: self.protocols[-1].transport is not None)
        return self.protocols[-1] if self.protocols else None

    async def end(self):
        self.server.close()
        for peer in self.peers:
            peer.close()
        for protocol in self.protocols:
            if protocol.transport is not None and not protocol.lost.done():
                protocol.transport.abort()
                await protocol.lost
        await asyncio.wait_for(self.server.wait_closed(), 5)


async def settle():
    """Time for whatever can happen by itself."""
    await asyncio.sleep(0.02)
    await turns(5)


# --- when it is closed ---------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [0, 1, 2])
@pytest.mark.parametrize("closed", ["before", "after", "never"])
@pytest.mark.parametrize("waiters", [1, 3])
def test_wait_closed_waits_for_what_asyncios_waits_for(clients, closed, waiters):
    async def scenario():
        serving = await Serving().start()
        await serving.dial(clients)
        seen = []
        if closed == "before":
            serving.server.close()
        waiting = [asyncio.ensure_future(serving.server.wait_closed()) for _ in range(waiters)]
        await settle()
        seen.append([task.done() for task in waiting])
        waiting[0].cancel()
        await settle()
        seen.append([task.done() for task in waiting])
        if closed == "after":
            serving.server.close()
            await settle()
            seen.append([task.done() for task in waiting])
        for protocol in serving.protocols:
            protocol.transport.close()
            await protocol.lost
            await settle()
            seen.append([task.done() for task in waiting])
        if closed == "never":
            serving.server.close()
            await settle()
            seen.append([task.done() for task in waiting])
        for task in waiting:
            task.cancel()
        seen.append([repr(result) for result in await asyncio.gather(*waiting, return_exceptions=True)])
        await serving.end()
        return seen

    same(scenario)


def test_connection_lost_comes_before_wait_closed_returns():
    async def scenario():
        order = []

        class Noted(Recorder):
            def connection_lost(self, exception):
                order.append("lost")
                super().connection_lost(exception)

        serving = await Serving(Noted).start()
        protocol = await serving.dial()
        waiting = asyncio.ensure_future(serving.server.wait_closed())
        waiting.add_done_callback(lambda _: order.append("closed"))
        await turns(2)
        serving.server.close()
        protocol.transport.abort()
        await waiting
        await turns(2)
        await serving.end()
        return order

    if sys.version_info >= (3, 12):
        assert same(scenario) == ["lost", "closed"]
    else:
        same(scenario)


@pytest.mark.parametrize("started", [False, True])
def test_a_closed_server_tells_of_itself_what_asyncios_tells(started):
    async def scenario():
        serving = await Serving().start(start_serving=started)
        server = serving.server
        seen = [(server.is_serving(), len(server.sockets), plain(repr(server)))]
        listener = server.sockets[0]
        assert server.sockets[0] is not listener or sys.version_info < (3, 8)  # a fresh tuple of fresh objects
        await serving.dial(1 if started else 0)
        server.close()
        seen.append((server.is_serving(), server.sockets, repr(server), listener.fileno()))
        assert server.get_loop() is asyncio.get_running_loop()
        seen.append(await outcome(server.serve_forever()))
        server.close()
        await serving.end()
        seen.append((server.sockets, repr(server)))
        assert server.get_loop() is asyncio.get_running_loop()
        return [plain(repr(one)) for one in seen]

    same(scenario)


@pytest.mark.xfail(strict=True, reason="_server.py, _start_serving: an assertion; asyncio's is a TypeError")
def test_starting_a_closed_server_raises_what_asyncios_raises():
    async def scenario():
        serving = await Serving().start()
        serving.server.close()
        return await outcome(serving.server.start_serving())

    same(scenario)


def test_the_sockets_of_a_server_cannot_be_changed_from_outside(run):
    async def main():
        serving = await Serving().start()
        assert type(serving.server.sockets) is tuple
        with pytest.raises(AttributeError):
            serving.server.sockets = ()
        for name in ("accept", "listen", "send", "close"):
            assert not hasattr(serving.server.sockets[0], name)
        await serving.end()

    run(main)


@pytest.mark.parametrize("clients", [0, 1])
def test_a_cancelled_serve_forever(clients):
    async def scenario():
        serving = await Serving().start(start_serving=False)
        forever = asyncio.ensure_future(serving.server.serve_forever())
        await turns(3)
        await serving.dial(clients)
        forever.cancel()
        await settle()
        seen = [serving.server.is_serving(), serving.server.sockets]
        seen.append([protocol.lost.done() for protocol in serving.protocols])
        seen.append(forever.done())
        for protocol in serving.protocols:
            protocol.transport.close()
            await protocol.lost
        seen.append((await asyncio.gather(forever, return_exceptions=True))[0].__class__.__name__)
        await serving.end()
        return seen

    same(scenario)


@pytest.mark.parametrize("clients", [0, 1])
def test_leaving_the_context_manager(clients):
    async def scenario():
        serving = await Serving().start()
        await serving.dial(clients)

        async def use():
            async with serving.server:
                pass

        using = asyncio.ensure_future(use())
        await settle()
        seen = [using.done(), serving.server.is_serving(), [protocol.lost.done() for protocol in serving.protocols]]
        for protocol in serving.protocols:
            protocol.transport.close()
        await using
        await serving.end()
        return seen

    same(scenario)


def test_an_exception_leaves_the_context_manager_as_it_is(run):
    async def main():
        serving = await Serving().start()
        with pytest.raises(ZeroDivisionError):
            async with serving.server:
                raise ZeroDivisionError
        assert not serving.server.is_serving()

    run(main)


def test_serve_forever_ended_from_a_protocol():
    async def scenario():
        class Closes(Recorder):
            def data_received(self, data):
                serving.server.close()

        serving = await Serving(Closes).start()
        forever = asyncio.ensure_future(serving.server.serve_forever())
        await serving.dial()
        serving.peers[0].sendall(b"x")
        while serving.server.is_serving():
            await asyncio.sleep(0)
        for protocol in serving.protocols:
            protocol.transport.close()
        seen = await asyncio.gather(forever, return_exceptions=True)
        await serving.end()
        return [type(one).__name__ for one in seen]

    same(scenario)


def test_serve_forever_may_be_called_again_after_a_failed_second_call(run):
    async def main():
        serving = await Serving().start()
        forever = asyncio.ensure_future(serving.server.serve_forever())
        await turns(2)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="already being awaited"):
                await serving.server.serve_forever()
        await serving.dial()  # the first goes on
        forever.cancel()
        serving.protocols[0].transport.abort()
        with pytest.raises(asyncio.CancelledError):
            await forever
        await serving.end()

    run(main)


# --- its clients ---------------------------------------------------------------------------------


@of_313
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
@pytest.mark.parametrize("first", [True, False])
def test_the_clients_of_a_server_end(method, first):
    async def scenario():
        serving = await Serving().start()
        await serving.dial(3)
        for protocol in serving.protocols:
            protocol.transport.pause_reading()
        serving.protocols[1].transport.write(bytes(TOO_MUCH))
        serving.protocols[2].transport.close()
        if first:
            serving.server.close()
        getattr(serving.server, method)()
        seen = [protocol.lost.done() for protocol in serving.protocols]
        await settle()
        seen += [protocol.lost.done() for protocol in serving.protocols]
        seen.append(serving.protocols[1].transport.get_write_buffer_size() > 0)
        if method == "close_clients":
            sock = serving.peers[1]
            sock.setblocking(False)
            count = 0
            while piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
                count += len(piece)
            seen.append(count)
        seen += [describe(await protocol.lost) for protocol in serving.protocols]
        seen.append(serving.server.is_serving())
        getattr(serving.server, method)()  # nobody is left
        await serving.end()
        return seen

    same(scenario)


@of_313
def test_what_a_client_does_in_its_end_does_not_disturb_the_others(run):
    async def main():
        class Chain(Recorder):
            def connection_lost(self, exception):
                super().connection_lost(exception)
                serving.server.abort_clients()
                gc.collect()

        serving = await Serving(Chain).start()
        await serving.dial(10)
        serving.protocols[0].transport.abort()
        for protocol in serving.protocols:
            assert await protocol.lost is None
            assert protocol.calls == ["made", "lost"]
        await serving.end()

    run(main)


@of_313
def test_a_connection_of_another_origin_is_not_the_servers(run):
    async def main():
        loop = asyncio.get_running_loop()
        serving = await Serving().start()
        _, own = await loop.create_connection(Recorder, *serving.address)
        while not serving.protocols:
            await asyncio.sleep(0)
        serving.server.close()
        serving.server.close_clients()
        await serving.protocols[0].lost
        await asyncio.wait_for(serving.server.wait_closed(), 5)
        await own.until(lambda: "eof" in own.calls or own.lost.done())
        own.transport.abort()
        await own.lost
        await serving.end()

    run(main)


def test_a_server_nobody_refers_to_serves_on(run):
    async def main():
        serving = await Serving().start()
        sock = serving.server._sockets[0]
        serving.server = None
        gc.collect()
        await turns(2)
        protocol = await serving.dial()
        server = protocol.transport._server
        assert server is not None and server.is_serving()
        del sock
        serving.server = server
        await serving.end()

    run(main)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_transport_that_is_dropped_leaves_its_server(run):
    async def main():
        serving = await Serving().start()
        protocol = await serving.dial()
        protocol.transport.pause_reading()
        await turns(2)
        protocol.transport = None
        serving.protocols.clear()
        del protocol
        gc.collect()
        serving.server.close()
        await asyncio.wait_for(serving.server.wait_closed(), 5)
        assert serving.peers[0].recv(1) == b""
        await serving.end()

    run(main)


# --- from inside ---------------------------------------------------------------------------------


@pytest.mark.aioxide_only  # asyncio leaves the sockets to the garbage collector
@pytest.mark.parametrize("where", ["factory", "connection_made"])
@pytest.mark.parametrize("queued", [1, 5])
def test_a_server_closed_from_inside_takes_nothing_more(run, where, queued):
    async def main():
        calls = []

        class Closes(Recorder):
            def __init__(self):
                super().__init__()
                calls.append("factory")
                if where == "factory":
                    serving.server.close()

            def connection_made(self, transport):
                super().connection_made(transport)
                serving.server.close()

        serving = await Serving(Closes).start()
        peers = [socket.create_connection(serving.address, PATIENCE_S) for _ in range(queued)]
        while serving.server.is_serving():
            await asyncio.sleep(0)
        await settle()
        if where == "factory":
            assert calls == ["factory"]
        assert serving.server.sockets == ()
        for protocol in serving.protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
                await protocol.lost
        for peer in peers:
            try:
                assert peer.recv(1) == b""
            except ConnectionResetError:
                pass
            peer.close()
        await asyncio.wait_for(serving.server.wait_closed(), 5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(serving.address, PATIENCE_S)

    run(main)


def test_connections_in_the_backlog_of_a_closed_server_are_reset(run):
    async def main():
        serving = await Serving().start(start_serving=False)
        serving.server._sockets[0].listen(10)
        peers = [socket.create_connection(serving.address, PATIENCE_S) for _ in range(5)]
        serving.server.close()
        for peer in peers:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
            peer.close()
        await turns(5)
        assert serving.protocols == []
        await serving.server.wait_closed()

    run(main)


def test_the_address_of_a_closed_server_is_free_at_once(run):
    async def main():
        loop = asyncio.get_running_loop()
        serving = await Serving().start()
        for _ in range(10):
            await serving.dial()
            await serving.end()
            serving.peers.clear()
            serving.protocols.clear()
            serving.server = await loop.create_server(serving._made, *serving.address)
        await serving.end()

    run(main)


def test_starting_and_closing_in_one_turn(run):
    async def main():
        serving = await Serving().start(start_serving=False)
        server = serving.server
        await asyncio.gather(server.start_serving(), server.start_serving())
        assert server.is_serving()
        starting = asyncio.ensure_future(server.start_serving())
        server.close()
        await asyncio.gather(starting, return_exceptions=True)
        assert server.sockets == ()
        await asyncio.wait_for(server.wait_closed(), 5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(serving.address, PATIENCE_S)

    run(main)


def test_a_socket_that_cannot_listen_fails_the_start():
    async def scenario():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        try:
            kind, error = await outcome(loop.create_server(Recorder, sock=here))
            return kind, error[:2], here.fileno() >= 0
        finally:
            here.close()
            there.close()

    gc.collect()
    same(scenario)


# --- bursts --------------------------------------------------------------------------------------


class Echo(Recorder):
    def data_received(self, data):
        self.transport.write(data)


@pytest.mark.parametrize(("backlog", "count"), [(256, 200), (100, 100), (10, 10)])
def test_a_burst_of_connections(run, backlog, count):
    """All are there before the loop looks; each is made once, and each answers for itself."""

    async def main():
        loop = asyncio.get_running_loop()
        serving = await Serving(Echo).start(backlog=backlog)
        clients = []
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(serving.address)
            clients.append(client)
        assert serving.protocols == []

        async def ask(index, client):
            message = b"%06d" % index
            await loop.sock_sendall(client, message)
            answer = b""
            while len(answer) < 6:
                answer += await loop.sock_recv(client, 6 - len(answer))
            assert answer == message

        await asyncio.wait_for(asyncio.gather(*map(ask, range(count), clients)), 15)
        assert len(serving.protocols) == count
        serving.peers = clients
        await serving.end()
        assert all(protocol.calls.count("lost") == 1 for protocol in serving.protocols)

    run(main)


def test_a_burst_in_which_many_are_gone_already(run):
    async def main():
        serving = await Serving(Echo).start(backlog=256)
        peers = [socket.create_connection(serving.address, PATIENCE_S) for _ in range(150)]
        for number, peer in enumerate(peers):
            if number % 3 == 0:
                reset(peer)
            elif number % 3 == 1:
                peer.close()
            else:
                peer.sendall(b"hello")
        living = peers[2::3]
        while len(serving.protocols) < len(living):
            await asyncio.sleep(0)
        for peer in living:
            peer.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(peer, 10) == b"hello"
            peer.close()
        await settle()
        for protocol in serving.protocols:
            assert protocol.calls[0] == "made"
            await protocol.lost
        await serving.end()

    run(main)


def test_a_loop_stays_responsive_in_a_burst(run):
    """Accepting takes turns with everything else: no more than the backlog at once."""

    async def main():
        serving = await Serving().start(backlog=10)
        peers = []
        counts = []

        def look():
            counts.append(len(serving.protocols))

        for _ in range(11):
            peers.append(socket.create_connection(serving.address, PATIENCE_S))
        while len(serving.protocols) < len(peers):
            look()
            await asyncio.sleep(0)
        look()
        assert max(after - before for before, after in zip(counts, counts[1:])) <= 11
        for peer in peers:
            peer.close()
        for protocol in serving.protocols:
            await protocol.lost
        await serving.end()

    run(main)


# --- without descriptors -------------------------------------------------------------------------

EXHAUSTED = textwrap.dedent("""
    import asyncio, errno, gc, json, os, resource, socket, sys, time
    name, what = sys.argv[1:]
    if name == "aioxide":
        import aioxide
        make = aioxide.EventLoop
    else:
        make = asyncio.SelectorEventLoop
    seen = {"reports": [], "made": 0}

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            seen["made"] += 1
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)

    def fill_up(spare):
        used = len(os.listdir("/proc/self/fd")) - 1
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 30, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        fill = []
        while True:
            try:
                fill.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        for _ in range(spare):
            os.close(fill.pop())
        return fill

    async def main():
        loop = asyncio.get_running_loop()
        def handler(loop, context):
            exception = context.get("exception")
            seen["reports"].append([context["message"], type(exception).__name__, getattr(exception, "errno", None)])
        loop.set_exception_handler(handler)
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        peers = [socket.socket() for _ in range(8)]
        for peer in peers:
            peer.setblocking(False)
        fill = fill_up(3)  # three can still be accepted
        for peer in peers:
            peer.connect_ex(address)
        while not seen["reports"]:
            await asyncio.sleep(0.001)
        seen["made at first"] = seen["made"]
        if what == "close":
            server.close()
        elif what == "close the socket":
            server._sockets[0].close()
        # While it looks away: timers go on, and nothing spins.
        used, reports = time.thread_time(), len(seen["reports"])
        ticks = 0
        until = loop.time() + 0.4
        while loop.time() < until:
            await asyncio.sleep(0.05)
            ticks += 1
        seen["cpu"] = time.thread_time() - used
        seen["more reports"] = len(seen["reports"]) - reports
        seen["ticks"] = ticks
        for fd in fill:
            os.close(fd)
        if what == "recover":
            for number, peer in enumerate(peers):
                await loop.sock_sendall(peer, b"%d" % number)
            answers = [await asyncio.wait_for(loop.sock_recv(peer, 10), 10) for peer in peers]
            seen["answers"] = [answer.decode() for answer in answers]
            server.close()
        elif what == "stay":
            # The lack goes on: told again, about once a second, no more.
            fill = fill_up(0)
            before = len(seen["reports"])
            await asyncio.sleep(2.2)
            seen["told again"] = len(seen["reports"]) - before
            for fd in fill:
                os.close(fd)
            server.close()
        else:
            await asyncio.sleep(1.2)  # the time of the second try
        for peer in peers:
            peer.close()
        await asyncio.sleep(0.05)
    loop = make()
    loop.run_until_complete(main())
    loop.close()
    print(json.dumps(seen))
""")


def exhausted(name, what):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", EXHAUSTED, name, what],
        capture_output=True,
        text=True,
        timeout=40,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", ["recover", "stay", "close", "close the socket"])
def test_out_of_descriptors(loop_name, is_ours, what):
    seen = exhausted(loop_name, what)
    assert seen["made at first"] == 3
    told = [report for report in seen["reports"] if report[0] == "socket.accept() out of system resource"]
    assert told and all(report[1:] == ["OSError", 24] for report in told)
    assert seen["more reports"] == 0
    assert seen["cpu"] < 0.05
    assert seen["ticks"] >= 6
    others = [report for report in seen["reports"] if report not in told]
    if what == "recover":
        assert seen["answers"] == [str(number) for number in range(8)]
        assert seen["made"] == 8
    if what == "stay" and is_ours:
        assert 1 <= seen["told again"] <= 4
    if is_ours:  # asyncio tries again with the number -1, and says so
        assert others == []


def test_two_servers_without_descriptors_recover_both(loop_name):
    code = textwrap.dedent("""
        import asyncio, os, resource, socket, sys
        if sys.argv[1] == "aioxide":
            import aioxide
            make = aioxide.EventLoop
        else:
            make = asyncio.SelectorEventLoop
        async def main():
            loop = asyncio.get_running_loop()
            told = []
            loop.set_exception_handler(lambda loop, context: told.append(context["message"]))
            made = []
            class P(asyncio.Protocol):
                def connection_made(self, transport):
                    transport.write(b"x")
                    made.append(transport)
            servers = [await loop.create_server(P, "127.0.0.1", 0) for _ in range(2)]
            peers = [socket.socket() for _ in servers]
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            fill = []
            try:
                while True:
                    fill.append(os.dup(0))
            except OSError:
                pass
            for peer, server in zip(peers, servers):
                peer.setblocking(False)
                peer.connect_ex(server.sockets[0].getsockname())
            while len(set(told)) < 1 or len(told) < 2:
                await asyncio.sleep(0.01)
            for fd in fill:
                os.close(fd)
            for peer in peers:
                assert await asyncio.wait_for(loop.sock_recv(peer, 1), 5) == b"x"
            for transport in made:
                transport.abort()
            for peer in peers:
                peer.close()
            for server in servers:
                server.close()
            await asyncio.sleep(0.01)
        loop = make()
        loop.run_until_complete(main())
        loop.close()
        print("well")
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, loop_name],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def test_a_connection_cannot_be_made_without_descriptors(loop_name):
    """create_connection with no descriptor left: OSError EMFILE, and all is well afterwards."""
    code = textwrap.dedent("""
        import asyncio, errno, os, resource, socket, sys
        if sys.argv[1] == "aioxide":
            import aioxide
            make = aioxide.EventLoop
        else:
            make = asyncio.SelectorEventLoop
        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await asyncio.sleep(0)
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            fill = []
            try:
                while True:
                    fill.append(os.dup(0))
            except OSError:
                pass
            answers = []
            for options in ({}, {"happy_eyeballs_delay": 0.1}):
                try:
                    await loop.create_connection(asyncio.Protocol, *address, **options)
                except OSError as error:
                    answers.append(error.errno)
            try:
                await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            except OSError as error:
                answers.append(error.errno)
            except IndexError:
                answers.append("none")
            for fd in fill:
                os.close(fd)
            transport, _ = await loop.create_connection(asyncio.Protocol, *address)
            transport.abort()
            server.close()
            await asyncio.sleep(0.05)
            print(answers)
        loop = make()
        loop.run_until_complete(main())
        loop.close()
    """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", code, loop_name],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = done.stdout.strip()
    assert answers.startswith("[24, 24"), answers
