"""Processes made beside and within a running loop: `multiprocessing` by each start method, and ProcessPoolExecutor."""

import subprocess
import sys

import pytest

PREAMBLE = """
import asyncio, concurrent.futures, contextlib, multiprocessing, os, sys
import aioxide

# `python -c` has no file that a spawned child could import: this one is run as a file.
name = sys.argv[1]
make = aioxide.EventLoop if name == "aioxide" else asyncio.SelectorEventLoop

def square(n):
    return n * n

def fails(n):
    raise ValueError(n)

async def talks(n):
    # A loop with a server, a client, a timer and a thread.
    loop = asyncio.get_running_loop()
    async def echo(reader, writer):
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"%04d" % n)
    answer = int(await reader.read())
    writer.close()
    await asyncio.sleep(0.001)
    assert await loop.run_in_executor(None, square, 3) == 9
    server.close()
    await loop.shutdown_default_executor()
    return answer

def runs_a_loop(n):
    loop = make()
    try:
        return loop.run_until_complete(asyncio.wait_for(talks(n), 20))
    finally:
        loop.close()

def echoes(inbox, outbox):
    for item in iter(inbox.get, None):
        outbox.put((os.getpid(), runs_a_loop(item)))

class Ticks:
    # The parent's own traffic, which must go on.
    count = 0
    async def __aenter__(self):
        self.echoed = asyncio.get_running_loop().create_future()
        self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0)
        self.streams = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        self.task = asyncio.create_task(self.tick())
        return self
    async def echo(self, reader, writer):
        try:
            while data := await reader.read(100):
                writer.write(data)
        except ConnectionResetError:  # the ticks ended with an answer on its way
            pass
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()
        self.echoed.set_result(None)
    async def tick(self):
        reader, writer = self.streams
        while True:
            writer.write(b"%08d" % self.count)
            assert await reader.readexactly(8) == b"%08d" % self.count
            self.count += 1
            await asyncio.sleep(0.001)
    async def __aexit__(self, *exc):
        assert not self.task.done()
        assert self.count > 2, self.count
        self.task.cancel()
        self.streams[1].close()
        await self.streams[1].wait_closed()
        self.server.close()
        # Else the end of the loop would come before that of the connection.
        await self.echoed

async def process(context):
    # Process, Queue: from within the running loop.
    inbox, outbox = context.Queue(), context.Queue()
    children = [context.Process(target=echoes, args=(inbox, outbox)) for _ in range(2)]
    for child in children:
        child.start()
    async with Ticks():
        for n in range(6):
            inbox.put(n)
        got = [await asyncio.to_thread(outbox.get, True, 20) for _ in range(6)]
        for child in children:
            inbox.put(None)
        for child in children:
            await asyncio.to_thread(child.join, 20)
    assert sorted(value for _, value in got) == list(range(6)), got
    assert {pid for pid, _ in got} <= {child.pid for child in children}
    assert [child.exitcode for child in children] == [0, 0]
    for queue in (inbox, outbox):
        queue.close()
        queue.join_thread()

async def pool(context):
    with context.Pool(2) as workers:
        async with Ticks():
            assert await asyncio.to_thread(workers.map, square, range(20)) == [n * n for n in range(20)]
            assert await asyncio.to_thread(workers.map, runs_a_loop, range(4)) == list(range(4))
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            workers.apply_async(square, (7,), callback=lambda n: loop.call_soon_threadsafe(future.set_result, n))
            assert await future == 49
        workers.close()
        workers.join()

async def executor(context):
    loop = asyncio.get_running_loop()
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as workers:
        async with Ticks():
            calls = [loop.run_in_executor(workers, square, n) for n in range(20)]
            assert await asyncio.gather(*calls) == [n * n for n in range(20)]
            loops = [loop.run_in_executor(workers, runs_a_loop, n) for n in range(4)]
            assert await asyncio.gather(*loops) == list(range(4))
            try:
                await loop.run_in_executor(workers, fails, 5)
            except ValueError as error:
                assert str(error) == "5"
            else:
                raise AssertionError("not raised")
            try:
                await loop.run_in_executor(workers, os._exit, 3)
            except concurrent.futures.process.BrokenProcessPool:
                pass
            else:
                raise AssertionError("not raised")

if __name__ == "__main__":
    what, method = sys.argv[2:]
    context = multiprocessing.get_context(method)
    loop = make()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(asyncio.wait_for(globals()[what](context), 40))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    # And without a running loop.
    with context.Pool(1) as workers:
        assert workers.map(runs_a_loop, range(3)) == [0, 1, 2]
        workers.close()
        workers.join()
    print("well")
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "processes.py"
    path.write_text(PREAMBLE)
    return path


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("what", ["process", "pool", "executor"])
def test_processes_beside_a_running_loop(program, loop_name, what, method):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", program, loop_name, what, method],
        capture_output=True, text=True, timeout=55,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")
