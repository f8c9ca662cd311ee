"""Servers under load: bursts of connections, and no descriptor left for the next."""

import asyncio
import json
import socket
import subprocess
import sys
import textwrap

import pytest
from peers import PATIENCE_S, Recorder, reset
from serving import Serving, settle

pytestmark = pytest.mark.usefixtures("no_leaks")

of_313 = pytest.mark.skipif(sys.version_info < (3, 13), reason="of 3.13")


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
