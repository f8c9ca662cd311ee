"""Loops and servers in a process that forks."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap

import pytest

FORKED = textwrap.dedent("""
    import asyncio, os, socket, sys, threading
    if sys.argv[1] == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)

    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    pid = os.fork()
    if pid == 0:
        # The child's own use of what it inherited: watch, be woken by a thread, stop listening, close.
        async def child():
            reader, writer = os.pipe()
            read = loop.create_future()
            loop.add_reader(reader, lambda: read.done() or read.set_result(os.read(reader, 1)))
            threading.Timer(0.01, lambda: loop.call_soon_threadsafe(os.write, writer, b"x")).start()
            assert await read == b"x"
            loop.remove_reader(reader)
            server.close()
        loop.run_until_complete(child())
        loop.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    async def parent():
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        woken = loop.create_future()
        threading.Timer(0.01, loop.call_soon_threadsafe, (woken.set_result, None)).start()
        await woken
        writer.close()
        await writer.wait_closed()
        server.close()
    loop.run_until_complete(parent())
    loop.close()
    print("well")
""")


@pytest.mark.aioxide_only  # a forked child of asyncio's changes the epoll set of its parent
@pytest.mark.filterwarnings("default")
def test_a_forked_child_uses_and_closes_its_loop_and_the_parent_notices_nothing(loop_name):
    done = subprocess.run([sys.executable, "-c", FORKED, loop_name], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def test_a_forked_child_may_make_a_loop_of_its_own_while_the_parent_has_one(new_loop):
    loop = new_loop()
    here, there = socket.socketpair()
    here.setblocking(False)
    seen = loop.create_future()
    loop.add_reader(here, lambda: seen.done() or seen.set_result(here.recv(1)))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            other = new_loop()
            status = other.run_until_complete(asyncio.sleep(0.001, 0))
            other.close()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    there.send(b"x")
    assert loop.run_until_complete(seen) == b"x"
    loop.remove_reader(here)
    here.close()
    there.close()
