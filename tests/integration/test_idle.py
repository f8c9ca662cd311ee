"""A loop that has nothing to do sleeps, in whatever state its connections are."""

import asyncio
import contextlib
import socket
import sys

import pytest
from differential import assert_idle, awaited
from peers import (
    TOO_MUCH,
    Recorder,
    close,
    connect,
    reset,
)

of_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="of 3.11")


class KeepsOpen(Recorder):
    keeps_open = True


def test_a_hundred_idle_connections_cost_nothing(run):
    async def main():
        pairs = [await connect() for _ in range(100)]
        await assert_idle()
        for protocol, peer in pairs:
            peer.sendall(b"x")
            await protocol.until_received(1)
            await close(protocol, peer)

    run(main)


@pytest.mark.parametrize(
    "state",
    [
        "paused, data",
        "paused, eof",
        "paused, reset",
        "half-closed by the peer",
        "half-closed by the peer, paused",
        "half-closed by us",
        "half-closed both",
        "half-closed by the peer, reset",
        "queued",
        "queued, paused, data",
        "queued, closing",
        "queued, half-closed by the peer",
        "lost",
    ],
)
def test_connections_in_any_state_cost_nothing(run, state):
    async def main():
        pairs = [await connect(KeepsOpen) for _ in range(20)]
        for protocol, peer in pairs:
            transport = protocol.transport
            if "queued" in state:
                transport.write(bytes(TOO_MUCH))
            if "paused" in state and "by the peer" not in state:
                transport.pause_reading()
            if "data" in state:
                peer.sendall(b"x")
            if "half-closed by the peer" in state or "half-closed both" in state or ", eof" in state:
                peer.shutdown(socket.SHUT_WR)
            if "by the peer" in state or "both" in state:
                await protocol.until(lambda protocol=protocol: "eof" in protocol.calls)
            if "by the peer, paused" in state:
                transport.pause_reading()
            if "by us" in state or "both" in state:
                transport.write_eof()
            if "closing" in state:
                transport.close()
            if "reset" in state:
                reset(peer)
            if state == "lost":
                transport.abort()
                await protocol.lost
        await assert_idle()
        for protocol, peer in pairs:
            if not protocol.lost.done():
                protocol.transport.abort()
                await protocol.lost
            peer.close()
            assert protocol.calls.count("lost") == 1

    run(main)


def test_watchers_waiting_sock_calls_servers_and_timers_cost_nothing(run):
    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(20)]
            for pair in pairs:
                for sock in pair:
                    stack.enter_context(sock).setblocking(False)
            waiting = [asyncio.ensure_future(awaited(loop.sock_recv(here, 1))) for here, _ in pairs[:10]]
            for here, _ in pairs[10:]:
                loop.add_reader(here, print)
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            waiting.append(asyncio.ensure_future(awaited(loop.sock_accept(listener))))
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            timers = [loop.call_later(1000 + number, print) for number in range(100)]
            cancelled = [loop.call_later(0.1 + number / 1000, print) for number in range(100)]
            for timer in cancelled:
                timer.cancel()
            await assert_idle()
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            for timer in timers:
                timer.cancel()
            for here, _ in pairs[10:]:
                assert loop.remove_reader(here)
            server.close()
            await server.wait_closed()

    run(main)
