"""Servers in their corners, against asyncio's: when they count as closed, bursts, exhaustion, ends from inside."""

import asyncio
import gc
import socket
import sys

import pytest
from differential import describe, outcome, plain, same
from peers import PATIENCE_S, TOO_MUCH, Recorder, turns
from serving import Serving, settle

pytestmark = pytest.mark.usefixtures("no_leaks")

of_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="of 3.13")


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
        if sys.version_info >= (3, 11):
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
def test_a_transport_that_is_dropped_leaves_its_server(run, is_ours):
    if not is_ours and sys.version_info[:2] == (3, 12):
        pytest.skip("asyncio's stays, and wait_closed() waits for ever")

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
