"""Cancellation at every suspension point, enumerated mechanically: nothing is left, nothing is lost.

Descriptors, tasks, timers and watchers are compared after each, and the other side sees each connection end.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time

import pytest
from addresses import refusing, resolve_to, silent
from cancelling import at_every_point, cancelled_at, open_files
from differential import awaited, called
from peers import (
    PATIENCE_S,
    Recorder,
    close,
    receive_all,
    tcp_pair,
    turns,
)

of_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="of 3.11")


def accept_all(listener):
    """Every connection that the calls have made is over."""
    listener.setblocking(False)
    while True:
        try:
            peer, _ = listener.accept()
        except BlockingIOError:
            return
        with peer:
            peer.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""


ours_only = pytest.mark.aioxide_only  # asyncio leaves sockets to the garbage collector, with ResourceWarnings


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize(
    ("target", "options", "least"),
    [
        ("literal", {}, 1),
        ("literal", {"happy_eyeballs_delay": 0.01}, 1),
        ("localhost", {"family": socket.AF_INET}, 1),
        ("good", {}, 1),
        ("refused, good", {}, 1),
        ("refused, good", {"happy_eyeballs_delay": 0.01}, 1),
        ("silent, refused, good", {"happy_eyeballs_delay": 0.01}, 2),
        ("silent, silent, good", {"happy_eyeballs_delay": 0.005}, 2),
        ("good, good, good", {"happy_eyeballs_delay": 0}, 1),
        ("refused, refused", {}, 1),
        ("refused, refused", {"happy_eyeballs_delay": 0.01}, 1),
        ("good", {"local_addr": ("127.0.0.2", 0)}, 1),
        ("good", {"local_addr": ("local", 0)}, 2),
        ("silent, good", {"local_addr": ("local", 0), "happy_eyeballs_delay": 0.005}, 2),
    ],
    ids=str,
)
def test_create_connection_cancelled_at_each_point(run, target, options, least):
    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
            host, port = "name", 1
            if target in ("literal", "localhost"):
                host, port = {"literal": "127.0.0.1"}.get(target, target), listener.getsockname()[1]
            else:
                addresses = []
                for word in target.split(", "):
                    if word == "good":
                        addresses.append(listener.getsockname())
                    else:
                        addresses.append(refusing() if word == "refused" else stack.enter_context(silent()))
                resolve_to(loop, {"name": addresses, "local": [("127.0.0.3", 0)]})

            async def make():
                try:
                    return await loop.create_connection(Recorder, host, port, **options)
                except OSError:
                    assert "good" not in target and target not in ("literal", "localhost")
                    return None

            async def undo(made):
                if made is not None:
                    await close(made[1])

            await at_every_point(make, undo, least=least)
            accept_all(listener)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("method", ["create_connection", "connect_accepted_socket"])
def test_a_socket_given_cancelled_at_each_point(run, method):
    """The socket was the caller's; from the call on it is the transport's, also when the call is cancelled."""

    async def main():
        loop = asyncio.get_running_loop()
        peers = []

        async def make():
            here, there = tcp_pair()
            peers.append(there)
            return await getattr(loop, method)(Recorder, sock=here)

        async def undo(made):
            await close(made[1])
            end_peers()

        def end_peers():
            while peers:
                with peers.pop() as peer, contextlib.suppress(ConnectionResetError):
                    assert peer.recv(1) == b""

        # The peers of cancelled calls count as leaks unless they end with them.
        async def cancelled():
            try:
                return await make()
            except BaseException:
                loop.call_later(0.001, end_peers)
                raise

        await at_every_point(cancelled, undo)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["localhost"], ["127.0.0.1", "127.0.0.2"], ["one", "two"]], ids=str)
@pytest.mark.parametrize("start_serving", [True, False])
def test_create_server_cancelled_at_each_point(run, hosts, start_serving):
    async def main():
        loop = asyncio.get_running_loop()
        if "one" in hosts:
            resolve_to(loop, {"one": [("127.0.0.1", 0)], "two": [("127.0.0.2", 0)]})

        async def make():
            return await loop.create_server(Recorder, hosts, 0, family=socket.AF_INET, start_serving=start_serving)

        async def undo(server):
            server.close()
            await server.wait_closed()

        least = 0 if hosts[0].startswith("127") and not start_serving else 1
        await at_every_point(make, undo, least=least)

    run(main)


@pytest.mark.aioxide_only  # as `ours_only`
@pytest.mark.parametrize("name", ["open_connection", "start_server"])
def test_streams_cancelled_at_each_point(run, name):
    async def main():
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
            address = listener.getsockname()
            resolve_to(asyncio.get_running_loop(), {"name": [address], "local": [("127.0.0.1", 0)]})

            async def make():
                if name == "open_connection":
                    return await asyncio.open_connection("name", 1)
                return await asyncio.start_server(lambda reader, writer: None, "local", 0)

            async def undo(made):
                if name == "open_connection":
                    made[1].close()
                    await made[1].wait_closed()
                else:
                    made.close()
                    await made.wait_closed()

            await at_every_point(make, undo, least=2)
            accept_all(listener)

    run(main)


def full(sock):
    """Fill the kernel's buffers, so that the next send must wait; how much it took."""
    count = 0
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            count += sock.send(bytes(65536))
    return count


SOCK_CALLS = ["recv", "recv_into", "sendall", "accept", "connect", "recvfrom", "recvfrom_into", "sendto"]


@pytest.mark.parametrize("name", SOCK_CALLS)
def test_sock_calls_cancelled_at_each_point(run, name):
    """What they wait for never comes, so each has at least the point where it waits; then it works as before."""
    if name in ("recvfrom", "recvfrom_into", "sendto") and sys.version_info < (3, 11):
        pytest.skip("of 3.11")

    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            here, there = socket.socketpair()
            stack.enter_context(here)
            stack.enter_context(there)
            here.setblocking(False)
            sock = here
            filled = 0
            if name == "recv":
                call = lambda: loop.sock_recv(here, 10)  # noqa: E731
            elif name == "recv_into":
                call = lambda: loop.sock_recv_into(here, bytearray(10))  # noqa: E731
            elif name == "sendall":
                filled = full(here)
                call = lambda: loop.sock_sendall(here, b"never sent")  # noqa: E731
            elif name == "accept":
                sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                sock.setblocking(False)
                call = lambda: loop.sock_accept(sock)  # noqa: E731
            elif name == "connect":
                address = stack.enter_context(silent())
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                call = lambda: loop.sock_connect(sock, address)  # noqa: E731
            elif name == "sendto":
                one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                stack.enter_context(one)
                stack.enter_context(two)
                two_name = f"\0aioxide-{os.getpid()}"
                receiver = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                receiver.bind(two_name)
                sock = one
                one.setblocking(False)
                sender = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                sender.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sender.sendto(bytes(1000), two_name)
                sock = sender
                call = lambda: loop.sock_sendto(sender, b"never sent", two_name)  # noqa: E731
            else:
                sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                sock.bind(("127.0.0.1", 0))
                sock.setblocking(False)
                if name == "recvfrom":
                    call = lambda: loop.sock_recvfrom(sock, 10)  # noqa: E731
                else:
                    call = lambda: loop.sock_recvfrom_into(sock, bytearray(10))  # noqa: E731

            async def later(action):
                """What the call waits for happens some turns later."""
                task = asyncio.ensure_future(awaited(call()))
                await turns(3)
                assert not task.done()
                action()
                return await task

            files = open_files()
            for number in range(1, 8):
                for moment in ("parked", "cancelled at once"):
                    task = asyncio.ensure_future(called(call))
                    if moment == "parked":
                        await turns(number)
                        assert not task.done()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    await turns(2)
                    assert loop.remove_reader(sock) is False
                    assert loop.remove_writer(sock) is False
                    assert open_files() == files
            # Cancelled at its first suspension, by hand.
            for _ in range(3):
                task = asyncio.ensure_future(awaited(cancelled_at(1, call(), "parked")))
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 5)
            # And nothing of it is left in the way of the next one.
            if name == "recv":
                assert await later(lambda: there.send(b"data")) == b"data"
            elif name == "recv_into":
                assert await later(lambda: there.send(b"data")) == 4
            elif name == "sendall":
                there.setblocking(False)
                sending = asyncio.ensure_future(awaited(call()))
                data = await receive_all(there, filled + 10)
                await sending
                assert data[filled:] == b"never sent"  # once, not once per cancelled call
            elif name == "accept":
                client = stack.enter_context(socket.socket())
                connection, _ = await later(lambda: client.connect(sock.getsockname()))
                connection.close()
            elif name == "sendto":
                received = []

                def take():
                    receiver.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            received.append(receiver.recv(2000))

                assert await later(take) == 10
                take()
                assert [data for data in received if data != bytes(1000)] == [b"never sent"]
            elif name.startswith("recvfrom"):
                sender = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                result, address = await later(lambda: sender.sendto(b"data", sock.getsockname()))
                assert result in (b"data", 4) and address[0] == "127.0.0.1"

    run(main)


@pytest.mark.aioxide_only  # asyncio takes the data out in its watcher, and a cancelled task never sees it
@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "accept"])
def test_a_sock_call_cancelled_when_woken_takes_nothing(run, name):
    if name == "recvfrom" and sys.version_info < (3, 11):
        pytest.skip("of 3.11")

    async def main():
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            if name == "accept":
                here = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                there = stack.enter_context(socket.socket())
                act = lambda: there.connect(here.getsockname())  # noqa: E731
            elif name == "recvfrom":
                here = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                here.bind(("127.0.0.1", 0))
                there = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                act = lambda: there.sendto(b"data", here.getsockname())  # noqa: E731
            else:
                here, there = map(stack.enter_context, socket.socketpair())
                act = lambda: there.send(b"data")  # noqa: E731
            here.setblocking(False)
            calls = {
                "recv": lambda: loop.sock_recv(here, 10),
                "recv_into": lambda: loop.sock_recv_into(here, bytearray(10)),
                "recvfrom": lambda: loop.sock_recvfrom(here, 10),
                "accept": lambda: loop.sock_accept(here),
            }
            task = asyncio.ensure_future(awaited(cancelled_at(1, calls[name](), "woken")))
            await turns(3)
            act()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)
            assert loop.remove_reader(here) is False
            result = await asyncio.wait_for(awaited(calls[name]()), 5)
            if name == "accept":
                result[0].close()
            else:
                assert result in (b"data", 4) or result[0] == b"data"

    run(main)


@pytest.mark.parametrize("name", ["getaddrinfo", "getnameinfo", "run_in_executor"])
def test_calls_in_threads_cancelled_at_each_point(run, name, monkeypatch):
    started, release = threading.Event(), threading.Event()

    def slow(*args, **options):
        started.set()
        assert release.wait(PATIENCE_S)
        return []

    async def main():
        loop = asyncio.get_running_loop()
        if name != "run_in_executor":
            monkeypatch.setattr(socket, name, slow)
        calls = {
            "getaddrinfo": lambda: loop.getaddrinfo("name.invalid", 1),
            "getnameinfo": lambda: loop.getnameinfo(("127.0.0.1", 1)),
            "run_in_executor": lambda: loop.run_in_executor(None, slow),
        }
        tasks = asyncio.all_tasks()
        for count in range(1, 6):
            started.clear()
            task = asyncio.ensure_future(awaited(calls[name]()))
            await turns(count)
            if count == 1:
                while not started.is_set():
                    await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == tasks
        # The loop is free meanwhile, and the threads end once they may.
        release.set()
        assert await asyncio.wait_for(awaited(calls[name]()), 5) == []

    try:
        run(main)
    finally:
        release.set()


def test_a_cancelled_resolution_leaves_the_loop_responsive_and_lets_it_close(new_loop, monkeypatch):
    """A name server that does not answer must not hold up what does not wait for it."""
    release = threading.Event()

    def slow(*args, **options):
        release.wait(PATIENCE_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    loop = new_loop()

    async def main():
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.create_connection(Recorder, "name.invalid", 1), 0.02)
        before = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - before < 1
        release.set()

    loop.run_until_complete(asyncio.wait_for(main(), 20))
