#!/usr/bin/env python3
"""Hunt for leaked references, memory blocks and descriptors.

    refleaks.py [--loop aioxide|asyncio] [--debug] [NAME ...]

Each scenario makes a loop, works and closes it, ten times per run; some runs warm caches up, then the growth of
`sys.gettotalrefcount()` (a --with-pydebug interpreter only), `sys.getallocatedblocks()` and the number of open
descriptors is taken over each of the measured runs. Growth in every one of them is a leak, as in `regrtest -R`.

Planted leaks come first: a hunt that does not find them is blind, and fails.
exit status: 0 if nothing leaks, 1 if something does, 2 for bad usage.
"""

import argparse
import asyncio
import contextvars
import gc
import logging
import os
import socket
import sys
import threading
import time
import warnings
import weakref

WARM_UP, MEASURED, REPEATS = 4, 5, 10
VAR = contextvars.ContextVar("VAR")

SCENARIOS = {}
PLANTED = {}
options = None


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def planted(function):
    PLANTED[function.__name__] = function
    return function


class Loop:
    """A new loop, closed in the end."""

    def __enter__(self):
        if options.loop == "asyncio":
            self.loop = asyncio.SelectorEventLoop()
        else:
            import aioxide

            self.loop = aioxide.new_event_loop()
        self.loop.set_debug(options.debug)
        self.loop.set_exception_handler(lambda loop, context: None)
        return self.loop

    def __exit__(self, *exc_info):
        if self.loop.is_closed():
            return
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


def run(main, *args):
    with Loop() as loop:
        return loop.run_until_complete(main(*args))


def turn(loop):
    loop.call_soon(loop.stop)
    loop.run_forever()


# --- planted: the hunt must find these -------------------------------------------------------------

BAG = []


@planted
def planted_object():
    BAG.append(object())


@planted
def planted_descriptor():
    BAG.append(os.dup(0))


# --- loops -------------------------------------------------------------------------------------------


@scenario
def loop_created_and_closed():
    with Loop():
        pass


@scenario
def loop_abandoned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = Loop().__enter__()
        loop.me = loop
        loop.call_soon(loop.stop)
        loop.call_later(60, loop.stop)
        del loop
        gc.collect()


@scenario
def loop_with_attributes_and_factories():
    async def noop():
        await asyncio.sleep(0)

    with Loop() as loop:
        loop.something = loop
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        loop.run_until_complete(loop.create_task(noop(), name="given"))
        loop.call_soon = loop.call_soon
        loop.run_until_complete(noop())
        del loop.call_soon
        loop.time = lambda: 1.0
        loop.call_later(0, loop.stop)
        loop.run_forever()
        del loop.time


# --- futures -----------------------------------------------------------------------------------------


@scenario
def future_awaited():
    async def main():
        loop = asyncio.get_running_loop()
        for value in (None, object(), StopAsyncIteration()):
            future = loop.create_future()
            loop.call_soon(future.set_result, value)
            assert await future is value
            assert await future is value

    run(main)


@scenario
def future_failed():
    async def main():
        loop = asyncio.get_running_loop()
        for error in (ValueError("planted"), KeyError, StopIteration()):
            future = loop.create_future()
            try:
                future.set_exception(error)
            except TypeError:
                continue
            try:
                await future
            except Exception as e:
                e.__traceback__ = None
            future.exception()

    run(main)


@scenario
def future_cancelled():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.add_done_callback(lambda future: None)
        loop.call_soon(future.cancel, "planted")
        try:
            await future
        except asyncio.CancelledError:
            pass

    run(main)


@scenario
def future_callbacks():
    async def main():
        future = asyncio.get_running_loop().create_future()
        called = []
        for _ in range(3):
            future.add_done_callback(called.append)
        future.add_done_callback(called.append, context=contextvars.copy_context())
        future.remove_done_callback(called.append)
        future.add_done_callback(called.append)
        assert len(future._callbacks) == 1
        future.set_result(future)
        future.add_done_callback(called.append)
        await asyncio.sleep(0)
        assert len(called) == 2
        repr(future)

    run(main)


@scenario
def future_misused():
    with Loop() as loop:
        future = loop.create_future()
        for wrong in (future.result, future.exception, lambda: future.set_exception(1), lambda: list(future)):
            try:
                wrong()
            except Exception:
                pass
        iterator = iter(future)
        iterator.close()
        future.set_result(1)
        try:
            future.set_result(2)
        except asyncio.InvalidStateError:
            pass
        type(future).__new__(type(future))


@scenario
def future_never_retrieved():
    with Loop() as loop:
        future = loop.create_future()
        future.set_exception(ValueError("planted"))
        del future
        gc.collect()


# --- tasks -------------------------------------------------------------------------------------------


@scenario
def tasks():
    async def work(i):
        await asyncio.sleep(0)
        return i

    async def main():
        assert await asyncio.gather(*(work(i) for i in range(20))) == list(range(20))
        task = asyncio.create_task(work(1), name="named")
        task.get_name(), repr(task), task.get_stack(), asyncio.all_tasks(), asyncio.current_task()
        await task

    run(main)


@scenario
def tasks_failed():
    async def fail():
        await asyncio.sleep(0)
        raise ValueError("planted")

    async def main():
        await asyncio.gather(*(fail() for _ in range(5)), return_exceptions=True)
        try:
            await fail()
        except ValueError:
            pass

    run(main)


@scenario
def tasks_cancelled():
    async def wait(future):
        try:
            await future
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise

    async def main():
        loop = asyncio.get_running_loop()
        waiting = [loop.create_task(wait(loop.create_future())) for _ in range(3)]
        unstarted = loop.create_task(wait(loop.create_future()))
        unstarted.cancel("planted")
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, unstarted, return_exceptions=True)

    run(main)


@scenario
def tasks_that_yield_nonsense():
    class Nonsense:
        def __await__(self):
            yield object()

    async def main():
        loop = asyncio.get_running_loop()

        async def wait(awaitable):
            await awaitable

        async def wait_for_itself():
            await asyncio.current_task()

        with Loop_without_running() as other:
            for coro in (wait(Nonsense()), wait(other.create_future()), wait_for_itself()):
                try:
                    await loop.create_task(coro)
                except RuntimeError:
                    pass

    run(main)


class Loop_without_running:
    """A second loop, while one runs in this thread."""

    def __enter__(self):
        self.loop = Loop().__enter__()
        return self.loop

    def __exit__(self, *exc_info):
        self.loop.close()


@scenario
def task_never_retrieved():
    async def fail():
        raise ValueError("planted")

    with Loop() as loop:
        loop.create_task(fail())
        turn(loop)
        turn(loop)
        gc.collect()


@scenario
def task_destroyed_pending():
    async def wait(loop):
        await loop.create_future()

    with Loop() as loop:
        loop.create_task(wait(loop))
        turn(loop)
        turn(loop)
        gc.collect()


@scenario
def task_not_a_coroutine():
    with Loop() as loop:
        for wrong in (1, None, loop.create_future()):
            try:
                loop.create_task(wrong)
            except TypeError:
                pass


@scenario
def tasks_and_futures_of_c():
    import _asyncio

    async def wait(future):
        return await future

    async def main():
        loop = asyncio.get_running_loop()
        c_future, future = _asyncio.Future(loop=loop), loop.create_future()
        waiting = [_asyncio.Task(wait(future), loop=loop), loop.create_task(wait(c_future))]
        await asyncio.sleep(0)
        c_future.set_result(1)
        future.set_result(2)
        assert await asyncio.gather(*waiting) == [2, 1]

    run(main)


@scenario
def eager_tasks():
    if sys.version_info < (3, 12):
        return

    async def at_once():
        return 1

    async def later():
        await asyncio.sleep(0)
        return 2

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        assert await asyncio.gather(at_once(), later()) == [1, 2]
        asyncio.get_running_loop().set_task_factory(None)

    run(main)


@scenario
def timeouts_groups_shields_and_queues():
    async def main():
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.0001)
        except asyncio.TimeoutError:
            pass
        await asyncio.shield(asyncio.sleep(0))
        queue = asyncio.Queue(1)
        producer = asyncio.create_task(queue.put(1))
        assert await queue.get() == 1
        await producer
        lock = asyncio.Lock()
        async with lock:
            waiter = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0)
        await waiter
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        for one in asyncio.as_completed([asyncio.sleep(0), asyncio.sleep(0.0001)]):
            await one
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))

    run(main)


@scenario
def contexts():
    async def main():
        VAR.set(object())
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        loop.call_soon(VAR.set, 1, context=context)
        loop.call_later(0, VAR.set, 2, context=context)
        await asyncio.sleep(0.0001)
        if sys.version_info >= (3, 11):
            await asyncio.create_task(asyncio.sleep(0), context=context)

    run(main)


@scenario
def exits():
    async def exit_(error):
        raise error

    for error in (KeyboardInterrupt, SystemExit):
        with Loop() as loop:
            try:
                loop.run_until_complete(exit_(error()))
            except BaseException as e:
                assert type(e) is error
            loop.call_soon(print, error()).cancel()

            def raise_(error=error):
                raise error

            loop.call_soon(raise_)
            try:
                loop.run_forever()
            except BaseException as e:
                assert type(e) is error
            turn(loop)


# --- callbacks and timers ------------------------------------------------------------------------------


@scenario
def call_soon():
    with Loop() as loop:
        handles = [loop.call_soon(lambda *args: None, *range(n)) for n in range(6)]
        loop.call_soon(print, "never").cancel()
        loop.call_soon(lambda: None, context=contextvars.copy_context())
        repr(handles[2]), handles[0].cancelled(), weakref.ref(handles[1])
        turn(loop)


@scenario
def call_soon_misused():
    with Loop() as loop:
        for wrong in (
            lambda: loop.call_soon(),
            lambda: loop.call_later(1),
            lambda: loop.call_later(None, print),
            lambda: loop.call_at("x", print),
            lambda: loop.call_soon(print, context=1),
            lambda: loop.call_soon(print, nonsense=1),
        ):
            try:
                wrong()
            except (TypeError, RuntimeError):
                pass
        try:
            turn(loop)
        except (TypeError, RuntimeError):
            pass
    try:
        loop.call_soon(print)
    except RuntimeError:
        pass


@scenario
def callback_raises():
    def fail(*args):
        raise ValueError("planted")

    def handler(loop, context):
        repr(context["handle"]) if "handle" in context else None
        raise ValueError("planted too")

    with Loop() as loop:
        loop.call_soon(fail)
        loop.call_later(0, fail, 1)
        loop.call_soon_threadsafe(fail)
        future = loop.create_future()
        future.add_done_callback(fail)
        future.set_result(1)
        turn(loop)
        loop.set_exception_handler(handler)
        loop.call_soon(fail)
        turn(loop)


@scenario
def timers():
    with Loop() as loop:
        for i in range(20):
            loop.call_later(0, lambda *args: None, i)
            loop.call_later(60, lambda *args: None, i)
            loop.call_at(loop.time() + 60, lambda *args: None).cancel()
        kept = loop.call_later(60, lambda: kept)
        loop.call_later(0.0001, loop.stop)
        loop.run_forever()


@scenario
def timers_swept():
    with Loop() as loop:
        for _ in range(300):
            loop.call_later(60, print).cancel()
        turn(loop)


@scenario
def pending_work_at_close():
    async def wait():
        await asyncio.sleep(60)

    with Loop() as loop:
        future = loop.create_future()
        future.add_done_callback(print)
        loop.kept = [loop.call_soon(print, future), loop.call_later(60, print, future), future]
        coro = wait()
        task = loop.create_task(coro)
        task._log_destroy_pending = False
        loop.close()
    coro.close()


@scenario
def other_threads():
    with Loop() as loop:
        threads = [
            threading.Thread(target=lambda: [loop.call_soon_threadsafe(lambda *a: None, i) for i in range(20)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        turn(loop)
        for thread in threads:
            thread.join()
        turn(loop)
        turn(loop)


@scenario
def executor():
    async def main():
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, int, "1") == 1
        try:
            await loop.run_in_executor(None, int, "x")
        except ValueError:
            pass
        await asyncio.to_thread(int)

    run(main)


@scenario
def async_generators():
    async def numbers():
        try:
            for i in range(3):
                await asyncio.sleep(0)
                yield i
        finally:
            await asyncio.sleep(0)

    async def main():
        assert [i async for i in numbers()] == [0, 1, 2]
        async for _ in numbers():
            break
        left = numbers()
        await left.__anext__()
        del left
        gc.collect()
        await asyncio.sleep(0)
        global KEPT
        KEPT = numbers()
        await KEPT.__anext__()

    run(main)


# --- descriptors -----------------------------------------------------------------------------------------


@scenario
def readers_and_writers():
    with Loop() as loop:
        a, b = socket.socketpair()
        with a, b:
            loop.add_reader(a, loop.stop)
            loop.add_reader(a, loop.stop)
            loop.add_writer(a.fileno(), lambda: None)
            b.send(b"x")
            loop.run_forever()
            loop.remove_writer(a)
            loop.add_reader(b, print)
            loop.remove_reader(b)
            loop.remove_reader(b)
            loop.remove_reader(a)
        try:
            loop.add_reader(-1, print)
        except ValueError:
            pass


@scenario
def reader_raises():
    with Loop() as loop:
        a, b = socket.socketpair()
        with a, b:

            def fail():
                a.recv(1)
                loop.call_soon(loop.stop)
                raise ValueError("planted")

            loop.add_reader(a, fail)
            b.send(b"xx")
            loop.run_forever()
            loop.run_forever()
            loop.remove_reader(a)


@scenario
def reader_left_at_close():
    a, b = socket.socketpair()
    with a, b, Loop() as loop:
        loop.add_reader(a, id, loop)
        loop.add_writer(b, id, loop)


@scenario
def sockets():
    async def main():
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        with listener, client:
            accepting = loop.create_task(loop.sock_accept(listener))
            await loop.sock_connect(client, listener.getsockname())
            peer, _ = await accepting
            with peer:
                await loop.sock_sendall(client, b"x" * 100)
                assert await loop.sock_recv(peer, 1000)
                waiting = loop.create_task(loop.sock_recv(peer, 1))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])

    run(main)


# --- transports --------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = bytearray(100)

    def get_buffer(self, size_hint):
        return self.buffer

    def buffer_updated(self, n):
        self.transport.write(bytes(self.buffer[:n]))


class Client(asyncio.Protocol):
    def __init__(self, loop, size):
        self.size = size
        self.lost = loop.create_future()
        self.received = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x" * self.size)
        transport.writelines([b"", bytearray(b"y")])
        repr(transport), transport.get_extra_info("peername"), transport.get_write_buffer_size()

    def data_received(self, data):
        self.received += len(data)
        if self.received == self.size + 1:
            self.transport.close()

    def connection_lost(self, error):
        self.lost.set_result(error)


async def echo(server_protocol, size):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(server_protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, client = await loop.create_connection(lambda: Client(loop, size), *address)
    await client.lost
    server.close()
    await server.wait_closed()
    await settled()


async def settled():
    """The other side has seen the end as well."""
    for _ in range(5):
        await asyncio.sleep(0.0002)


@scenario
def protocol_echo():
    run(echo, Echo, 1000)


@scenario
def large_protocol_echo():
    run(echo, Echo, 2_000_000)


@scenario
def buffered_protocol_echo():
    run(echo, BufferedEcho, 1000)


@scenario
def stream_echo():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 100 + b"\n")
        assert len(await reader.readline()) == 101
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def connection_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()

        async def main():
            try:
                await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)
            except ConnectionRefusedError:
                pass

        run(main)


@scenario
def connection_by_name():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "localhost", 0)
        transport, _ = await loop.create_connection(Echo, "localhost", server.sockets[0].getsockname()[1])
        transport.abort()
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def protocol_misbehaves():
    class Fails(asyncio.Protocol):
        def data_received(self, data):
            raise ValueError("planted")

        def connection_lost(self, error):
            raise ValueError("planted")

    async def main():
        loop = asyncio.get_running_loop()

        def factory():
            raise ValueError("planted")

        server = await loop.create_server(Fails, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        transport.write(b"x")
        await settled()
        transport.close()
        try:
            await loop.create_connection(factory, *address)
        except ValueError:
            pass
        server.close()
        await server.wait_closed()
        await settled()

    run(main)


@scenario
def server_closed_with_clients():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
        await server.start_serving()
        address = server.sockets[0].getsockname()
        transport, client = await loop.create_connection(lambda: Client(loop, 10_000), *address)
        server.close()
        transport.pause_reading()
        transport.resume_reading()
        transport.set_protocol(transport.get_protocol())
        transport.abort()
        await client.lost
        await settled()

    run(main)


@scenario
def transport_left_at_close():
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        await settled()
        server.close()

    run(main)
    gc.collect()


# --- the hunt ----------------------------------------------------------------------------------------------


COUNTERS = ("references", "blocks", "descriptors")


def clear_caches():
    # What belongs to no loop and grows by itself.
    import linecache

    linecache.clearcache()
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    threading._dangling.clear() if hasattr(threading, "_dangling") else None
    global KEPT
    KEPT = None
    gc.collect()
    gc.collect()


def count():
    clear_caches()
    return (
        getattr(sys, "gettotalrefcount", lambda: 0)(),
        sys.getallocatedblocks(),
        len(os.listdir("/proc/self/fd")),
    )


def deltas(work):
    """Growth of each counter in each measured run."""
    before = [count() for _ in range(2)][1]
    found = []
    # Made beforehand, and small numbers are not allocated: the table itself is nothing new.
    table = [[0] * (WARM_UP + MEASURED) for _ in COUNTERS]
    for run in range(WARM_UP + MEASURED):
        for _ in range(REPEATS):
            work()
        after = count()
        for counter in range(len(COUNTERS)):
            table[counter][run] = after[counter] - before[counter]
        before = after
    return {what: grown[WARM_UP:] for what, grown in zip(COUNTERS, table)}


def leaks(work):
    """The counters that grow in every run; a second look tells a leak from a cache that fills late."""
    grown = {}
    for _ in range(2):
        grown = {what: each for what, each in deltas(work).items() if all(d >= 1 for d in each)}
        if not grown:
            break
    return grown


def main():
    global options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=["aioxide", "asyncio"], default="aioxide")
    parser.add_argument("--debug", action="store_true", help="with asyncio's debug mode on")
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios, by a part of their names")
    options = parser.parse_args()
    chosen = {n: f for n, f in SCENARIOS.items() if not options.names or any(part in n for part in options.names)}
    if not chosen:
        parser.error("no such scenario")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    counted = "references, " if hasattr(sys, "gettotalrefcount") else ""
    mode = ", debug mode" if options.debug else ""
    print(
        f"refleaks: {len(chosen)} scenarios on {options.loop}{mode}: {counted}blocks and descriptors",
        flush=True,
    )

    blind = [name for name, work in PLANTED.items() if not leaks(work)]
    for descriptor in BAG:
        if isinstance(descriptor, int):
            os.close(descriptor)
    BAG.clear()
    if blind:
        print(f"refleaks: planted leaks were not found: {', '.join(blind)}")
        return 1
    began, leaking = time.monotonic(), []
    for i, (name, work) in enumerate(chosen.items(), 1):
        try:
            grown = leaks(work)
        except Exception as error:
            grown = {"did not run": repr(error)}
        if grown:
            leaking.append(name)
            print(f"  LEAK {name}: " + "; ".join(f"{what} {each}" for what, each in grown.items()), flush=True)
        elif i % 10 == 0 or i == len(chosen):
            print(f"  {i}/{len(chosen)} scenarios ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"refleaks: {len(chosen) - len(leaking)} of {len(chosen)} scenarios leak nothing")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
