"""The extension asks for no GIL, and everything at its plainest works without one: `smoke.py`."""

import asyncio
import sys
import threading
import warnings

assert not sys._is_gil_enabled(), "run it with PYTHON_GIL=0, on a free-threaded interpreter"
with warnings.catch_warnings():
    # "The global interpreter lock (GIL) has been enabled to load module ..."
    warnings.simplefilter("error")
    import aioxide
assert not sys._is_gil_enabled(), "importing aioxide has switched the GIL on"


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def main():
    loop = asyncio.get_running_loop()
    assert type(loop) is aioxide.EventLoop
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
    called = asyncio.Event()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
    thread.start()
    await asyncio.wait_for(called.wait(), 10)
    thread.join()
    task = asyncio.create_task(asyncio.sleep(0.01, "slept"))
    assert task in asyncio.all_tasks() and asyncio.current_task() in asyncio.all_tasks()
    return await task


def in_a_thread():
    results.append(aioxide.run(main()))


results = []
threads = [threading.Thread(target=in_a_thread) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert results == ["slept"] * 4, results
assert not sys._is_gil_enabled()
print(f"Python {sys.version.split()[0]} without a GIL: four loops in four threads")
