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


# --- forks in mid-traffic ------------------------------------------------------------------------

FORKS = textwrap.dedent("""
    import asyncio, hashlib, os, random, socket, subprocess, sys
    name, child = sys.argv[1:]
    if name == "aioxide":
        import aioxide
        loop = aioxide.EventLoop()
    else:
        loop = asyncio.SelectorEventLoop()
    SIZE = 4_000_000
    CONNECTIONS = 4

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)
        def pause_writing(self):
            self.transport.pause_reading()
        def resume_writing(self):
            self.transport.resume_reading()

    def fork():
        if child == "subprocess":
            assert subprocess.run([sys.executable, "-S", "-c", "print(1)"], capture_output=True).stdout == b"1\\n"
            return
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                if child == "close":
                    loop_class = type(loop)
                    asyncio._set_running_loop(None)
                    other = loop_class()
                    assert other.run_until_complete(asyncio.sleep(0.001, 5)) == 5
                    other.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0

    async def talk(address, seed):
        reader, writer = await asyncio.open_connection(*address)
        data = random.Random(seed).randbytes(SIZE)
        async def write():
            for at in range(0, SIZE, 50_000):
                writer.write(data[at : at + 50_000])
                await writer.drain()
            writer.write_eof()
        writing = asyncio.ensure_future(write())
        received = hashlib.blake2b()
        count = 0
        while piece := await reader.read(1 << 16):
            received.update(piece)
            count += len(piece)
        await writing
        writer.close()
        await writer.wait_closed()
        assert count == SIZE, count
        assert received.digest() == hashlib.blake2b(data).digest()

    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        talks = [asyncio.ensure_future(talk(address, seed)) for seed in range(CONNECTIONS)]
        forks = 0
        while not all(task.done() for task in talks):
            await asyncio.sleep(0.005)
            if forks < 8:
                loop.call_soon(fork)
                forks += 1
        await asyncio.gather(*talks)
        assert forks >= 2
        # And afterwards: new connections, watchers, timers, threads.
        await talk(address, 99)
        here, there = socket.socketpair()
        here.setblocking(False)
        there.send(b"x")
        assert await loop.sock_recv(here, 1) == b"x"
        here.close(); there.close()
        assert await loop.run_in_executor(None, int, "5") == 5
        server.close()
        await server.wait_closed()
        await loop.shutdown_default_executor()
        print("well")
    loop.run_until_complete(asyncio.wait_for(main(), 40))
    loop.close()
""")


@pytest.mark.parametrize("child", ["exit", "close", "subprocess"])
def test_forks_in_mid_traffic_disturb_no_byte(loop_name, child):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, loop_name, child],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


FORKED_USE = textwrap.dedent("""
    import asyncio, os, socket, sys
    import aioxide
    loop = aioxide.EventLoop()

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
        def data_received(self, data):
            self.transport.write(data)

    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        pid = os.fork()
        if pid == 0:
            # The child goes on with the loop that it has inherited: watchers it removes and closes are its own. The
            # interpreter has told it that no loop runs.
            asyncio._set_running_loop(loop)
            server.close()
            writer.transport._sock.close()
            here, there = socket.socketpair()
            here.setblocking(False)
            loop.call_later(0.01, there.send, b"x")
            ok = await loop.sock_recv(here, 1) == b"x"
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
        for number in range(100):
            writer.write(b"%05d" % number)
            assert await reader.readexactly(5) == b"%05d" % number
        second_reader, second = await asyncio.open_connection(*address)
        second.write(b"new")
        assert await second_reader.readexactly(3) == b"new"
        for one in (writer, second):
            one.close()
            await one.wait_closed()
        server.close()
        await server.wait_closed()
        print("well")
    loop.run_until_complete(asyncio.wait_for(main(), 20))
    loop.close()
""")


def test_a_child_that_goes_on_with_the_loop_takes_nothing_from_its_parent():
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED_USE],
        capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


# --- a loop of the child's own, while the parent's runs ------------------------------------------

OWN_LOOP = textwrap.dedent("""
    import asyncio, atexit, os, signal, socket, sys, threading
    name, ending = sys.argv[1:]
    if name == "aioxide":
        import aioxide
        make = aioxide.EventLoop
    else:
        make = asyncio.SelectorEventLoop

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def talks():
        # All that a program does: streams, plain sockets, timers, threads, watchers, names.
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
        for number, (reader, writer) in enumerate(streams):
            writer.write(b"%d" % number)
        for number, (reader, writer) in enumerate(streams):
            assert await reader.readexactly(1) == b"%d" % number
            writer.close()
            await writer.wait_closed()
        here, there = socket.socketpair()
        for sock in (here, there):
            sock.setblocking(False)
        data, received = os.urandom(1_000_000), bytearray()
        async def receive():
            while len(received) < len(data):
                received.extend(await loop.sock_recv(there, 65536))
        await asyncio.gather(loop.sock_sendall(here, data), receive())
        assert received == data
        here.close(); there.close()
        assert await asyncio.gather(*(loop.run_in_executor(None, int, str(n)) for n in range(20))) == list(range(20))
        woken = loop.create_future()
        threading.Timer(0.01, loop.call_soon_threadsafe, (woken.set_result, None)).start()
        await asyncio.wait_for(woken, 10)
        assert (await loop.getaddrinfo("127.0.0.1", 80))
        server.close()
        await loop.shutdown_default_executor()
        return 7

    def child():
        atexit.register(lambda: os.write(1, b"atexit of the child\\n"))
        # The interpreter has forgotten the running loop in the child (3.12+); before, it is told.
        asyncio._set_running_loop(None)
        other = make()
        asyncio.set_event_loop(other)
        assert other.run_until_complete(asyncio.wait_for(talks(), 20)) == 7
        other.close()
        if ending == "_exit":
            os._exit(5)
        if ending == "exit":
            sys.exit(5)  # through the frames of the parent's loop
        if ending == "close":
            # What the child inherited may be closed by it: those are its own copies.
            try:
                sys.exit(5)
            finally:
                loop.stop()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        rounds = 0
        over = asyncio.Event()
        async def traffic():
            nonlocal rounds
            while not over.is_set():
                writer.write(b"%08d" % rounds)
                assert await reader.readexactly(8) == b"%08d" % rounds
                rounds += 1
                await asyncio.sleep(0)
        task = asyncio.create_task(traffic())
        await asyncio.sleep(0.01)
        pids = []
        me = os.getpid()
        def fork():
            pid = os.fork()
            if pid == 0:
                child()
            pids.append(pid)
        for _ in range(3):
            loop.call_soon(fork)
            await asyncio.sleep(0.005)
        assert os.getpid() == me
        statuses = await asyncio.gather(*(asyncio.to_thread(os.waitpid, pid, 0) for pid in pids))
        assert [os.waitstatus_to_exitcode(status) for _, status in statuses] == [5, 5, 5]
        before = rounds
        await asyncio.sleep(0.02)
        assert rounds > before
        over.set()
        await task
        writer.close()
        await writer.wait_closed()
        server.close()
        assert await talks() == 7

    loop = make()
    pid = os.getpid()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), 40))
    finally:
        if os.getpid() == pid or ending == "close":
            loop.close()
    os.write(1, b"well\\n")
""")


@pytest.mark.parametrize("ending", ["_exit", "exit", "close"])
def test_a_child_forked_by_a_running_loop_runs_one_of_its_own(loop_name, ending):
    if loop_name == "asyncio" and ending != "_exit":
        pytest.skip("asyncio's loop, closed or collected in the child, changes the epoll set of its parent")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OWN_LOOP, loop_name, ending], capture_output=True, text=True, timeout=50
    )
    exits = [] if ending == "_exit" else ["atexit of the child"] * 3
    assert (done.returncode, done.stdout.splitlines()) == (0, [*exits, "well"]), done.stderr


WAKEUP = textwrap.dedent("""
    import asyncio, os, signal, sys
    import aioxide

    def wakeup_file():
        fd = signal.set_wakeup_fd(-1, warn_on_full_buffer=False)
        assert fd != -1
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        return os.fstat(fd).st_ino

    async def main():
        return wakeup_file()

    async def parent():
        mine = wakeup_file()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                asyncio._set_running_loop(None)
                other = aioxide.EventLoop()
                status = 0 if other.run_until_complete(main()) != mine else 2
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    loop = aioxide.EventLoop()
    loop.run_until_complete(parent())
    loop.close()
""")


def test_a_signal_in_the_child_wakes_the_childs_loop_and_not_the_parents():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WAKEUP], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
