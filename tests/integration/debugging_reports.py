"""What debug mode tells of objects: where they were made, what went wrong, what they do, and what is left open."""

import asyncio
import functools
import gc
import inspect
import re
import socket
import sys
import threading
import weakref

from debugging import (
    LAST_FRAMES,
    LONG_S,
    Slow,
    SlowProtocol,
    connected,
    print_nothing,
    scenario,
    sleep,
    slow,
    turns,
    user_frames,
)

LISTENER = socket.create_server(("127.0.0.1", 0))


# --- 5., 6. source tracebacks and representations --------------------------------------------------------------------


def deep(n, call):
    return call() if n == 0 else deep(n - 1, call)


@scenario
async def source_tracebacks(loop, seen):
    async def job():
        await asyncio.sleep(0)

    made = {
        "loop.create_future": loop.create_future,
        "Future": lambda: type(loop.create_future())(loop=loop),
        "create_task": lambda: asyncio.create_task(job()),
        "loop.create_task": lambda: loop.create_task(job()),
        "ensure_future": lambda: asyncio.ensure_future(job()),
        "gather": lambda: asyncio.gather(job()),
        "shield": lambda: asyncio.shield(job()),
        "call_soon": lambda: loop.call_soon(print_nothing),
        "call_soon_threadsafe": lambda: loop.call_soon_threadsafe(print_nothing),
        "call_later": lambda: loop.call_later(0, print_nothing),
        "call_at": lambda: loop.call_at(0, print_nothing),
        "run_in_executor": lambda: loop.run_in_executor(None, print_nothing),
        "StreamReader": lambda: asyncio.StreamReader(loop=loop),
    }
    waits = []
    for depth in (0, 20):
        for name, make in made.items():
            thing = deep(depth, make)
            tb = thing._source_traceback
            frames = user_frames(tb)
            if frames is not None and ("call_" in name or name == "StreamReader"):
                frames = frames[-LAST_FRAMES:]  # asyncio's ten count the loop's own
            seen.add(name, depth, type(tb).__name__, frames)
            if asyncio.isfuture(thing):
                waits.append(thing)
    [wait.cancel() for wait in waits if not isinstance(wait, asyncio.Task)]
    await asyncio.gather(*waits, return_exceptions=True)
    await asyncio.sleep(0.01)


class Callable:
    def __init__(self, text):
        self.text = text

    def __call__(self):
        pass

    def __repr__(self):
        return self.text


@scenario
async def representations(loop, seen):
    bound = Slow().method
    wrapped = functools.wraps(slow)(print_nothing)
    for callback, args in [
        (slow, ()), (slow, (1, "x" * 200)), (bound, (2,)), (functools.partial(slow, 1, 2), (3,)),
        (functools.partial(functools.partial(slow, 1), key=[2]), ()), (lambda: None, ()), (Callable("<own>"), ()),
        (wrapped, ()), (len, ([],)), (int, ("5",)),
    ]:  # fmt: skip
        for handle in (
            loop.call_soon(callback, *args),
            loop.call_later(9, callback, *args),
            loop.call_soon_threadsafe(callback, *args),
        ):
            seen.add(repr(handle))
            handle.cancel()
            seen.add(repr(handle))
            handle.cancel()
            seen.add(repr(handle), handle.cancelled(), repr(handle._callback), repr(handle._args))
    ran = loop.call_soon(print_nothing, 1)
    await turns()
    ran.cancel()
    seen.add(ran.cancelled())
    future = loop.create_future()
    future.add_done_callback(slow)
    seen.add(repr(future))
    future.remove_done_callback(slow)
    future.set_result("r" * 300)
    seen.add(repr(future))
    failed = loop.create_future()
    failed.set_exception(ValueError("v"))
    failed.exception()
    seen.add(repr(failed))

    async def job():
        await asyncio.sleep(0)

    task = loop.create_task(job(), name="N")
    seen.add(repr(task))
    await asyncio.sleep(0)
    seen.add(repr(task))
    await task
    seen.add(repr(task))
    seen.add(repr(loop))


# --- reports ---------------------------------------------------------------------------------------------------------


def raises(*_args):
    raise ValueError("of a callback")


def reports(loop, **context):
    loop.call_exception_handler({"message": "a report", **context})


@scenario
async def exceptions_in_callbacks(loop, seen):
    loop.call_soon(raises)
    loop.call_soon(raises, 1, "two")
    loop.call_later(0, raises, "later")
    loop.call_soon_threadsafe(raises, "threadsafe")
    future = loop.create_future()
    future.add_done_callback(raises)
    future.set_result(None)
    await asyncio.sleep(0.02)

    async def in_a_task():
        reports(loop)

    def in_a_callback():
        reports(loop)

    loop.call_soon(reports, loop)
    loop.call_soon(in_a_callback)
    loop.call_later(0, in_a_callback)
    await asyncio.sleep(0.02)
    await asyncio.create_task(in_a_task())


@scenario
async def keys_of_reports(loop, seen):
    keys = []
    loop.set_exception_handler(lambda loop, context: keys.append([context["message"][:30], sorted(context)]))
    loop.call_soon(raises)
    future = loop.create_future()
    future.add_done_callback(raises)
    future.set_exception(ValueError())
    del future
    await asyncio.sleep(0.01)
    gc.collect()
    loop.set_exception_handler(None)
    seen.add(sorted(keys))


@scenario
async def never_retrieved(loop, seen):
    def future():
        future = loop.create_future()
        future.set_exception(ValueError("of a future"))

    async def fails():
        raise ValueError("of a task")

    async def task():
        task = asyncio.create_task(fails())
        await asyncio.wait([task])

    future()
    gc.collect()
    await task()
    gc.collect()
    group = asyncio.gather(fails(), fails())
    await asyncio.wait([group])
    del group
    gc.collect()


@scenario
async def destroyed_pending(loop, seen):
    async def waits_for_ever():
        await loop.create_future()

    def make():
        return asyncio.create_task(waits_for_ever(), name="lost")

    task = make()
    await turns()
    gone = weakref.ref(task)
    del task
    gc.collect()
    seen.add("gone", gone() is None)


@scenario
async def errors_of_transports(loop, seen):
    class Wrong(SlowProtocol):
        def data_received(self, data):
            raise ValueError("of a protocol")

    transport, protocol, peer = await connected(loop, Wrong)
    peer.send(b"x")
    await protocol.lost
    peer.close()

    class WrongStart(SlowProtocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ValueError("of connection_made")

    transport, protocol, peer = await connected(loop, WrongStart)
    transport.close()
    await protocol.lost
    peer.close()


@scenario
async def a_reset_connection(loop, seen):
    server = socket.create_server(("127.0.0.1", 0))
    _transport, protocol = await loop.create_connection(SlowProtocol, *server.getsockname())
    peer, _ = server.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()
    await protocol.lost
    server.close()


# --- 7. to 10. logs --------------------------------------------------------------------------------------------------


@scenario
async def addresses(loop, seen):
    stock = socket.getaddrinfo

    def quick(*args):
        return ["an answer"]

    def sleepy(*args):
        sleep(LONG_S)
        return ["an answer"]

    try:
        for stand_in in (quick, sleepy):
            socket.getaddrinfo = stand_in
            await loop.getaddrinfo("a.name", 80)
            await loop.getaddrinfo("a.name", "http", family=socket.AF_INET, type=socket.SOCK_STREAM, proto=6, flags=1)
            await loop.getaddrinfo(None, None)
    finally:
        socket.getaddrinfo = stock
    # One that is answered at once.
    await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    await loop.getaddrinfo("::1", 80)
    await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)


@scenario
async def blocking_sockets(loop, seen):
    here, there = socket.socketpair()
    here.setblocking(False)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server = socket.create_server(("127.0.0.1", 0))
    calls = {
        "sock_recv": lambda sock: loop.sock_recv(sock, 1),
        "sock_recv_into": lambda sock: loop.sock_recv_into(sock, bytearray(1)),
        "sock_recvfrom": lambda sock: loop.sock_recvfrom(sock, 1),
        "sock_recvfrom_into": lambda sock: loop.sock_recvfrom_into(sock, bytearray(1)),
        "sock_sendall": lambda sock: loop.sock_sendall(sock, b"x"),
        "sock_sendto": lambda sock: loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
        "sock_connect": lambda sock: loop.sock_connect(sock, ("127.0.0.1", 9)),
        "sock_accept": lambda sock: loop.sock_accept(sock),
    }
    if not loop.get_debug():
        calls = {}
    for timeout in (None, 1.5):
        for name, call in calls.items():
            if not hasattr(loop, name):
                continue
            for sock in (there, udp, server):
                sock.settimeout(timeout)
                seen.add(name, timeout)
                try:
                    await call(sock)
                except Exception as error:
                    seen.add(type(error).__name__, str(error))
                else:
                    seen.add("fine")
    for sock in (here, there, udp, server):
        sock.close()


@scenario
async def the_way_of_a_connection(loop, seen):
    made = []

    class Server(SlowProtocol):
        def __init__(self):
            made.append(self)

    server = await loop.create_server(Server, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(SlowProtocol, *server.sockets[0].getsockname())
    await asyncio.sleep(0.02)
    transport.pause_reading()
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    transport.write(b"x")
    transport.write_eof()
    await made[0].lost
    await protocol.lost
    server.close()
    await server.wait_closed()
    here, there = socket.socketpair()
    transport, protocol = await loop.connect_accepted_socket(SlowProtocol, here)
    transport.close()
    await protocol.lost
    there.close()


@scenario
async def a_connection_that_fails(loop, seen):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        try:
            await loop.create_connection(SlowProtocol, *unused.getsockname())
        except OSError as error:
            seen.add(type(error).__name__)


@scenario
async def a_factory_that_fails(loop, seen):
    def factory():
        raise ValueError("of a factory")

    # asyncio leaves the connection open until it is collected (to 3.14): its peer sees no end.
    seen.accept = re.compile("Error on transport creation")
    server = await loop.create_server(factory, "127.0.0.1", 0)
    _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.02)
    writer.close()
    server.close()


@scenario
async def closing_other_loops(loop, seen):
    other = type(loop)()
    other.set_debug(loop.get_debug())
    other.close()
    seen.raised_by(other.call_soon, print_nothing)


# --- 11. resources ---------------------------------------------------------------------------------------------------


@scenario
async def unclosed_things(loop, seen):
    other = type(loop)()
    seen.add(repr(other))
    del other
    gc.collect()

    async def unclosed_transport():
        transport, protocol, peer = await connected(loop)
        transport.pause_reading()
        await turns()
        protocol.transport = None
        peer.close()
        loop._remove_reader(transport._sock_fd)

    await unclosed_transport()
    gc.collect()
    # The collector may come to the socket before its transport.
    seen.accept = re.compile("(?!unclosed <socket)")

    async def unclosed_stream():
        _reader, writer = await asyncio.open_connection(*LISTENER.getsockname())
        writer.transport.pause_reading()

    await unclosed_stream()
    await turns()
    gc.collect()


@scenario
async def generators_after_shutdown(loop, seen):
    async def generator():
        yield 1
        yield 2

    other = type(loop)()

    def run():
        async def main():
            await other.shutdown_asyncgens()
            async for _value in generator():
                pass

        other.run_until_complete(main())
        other.close()

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)


@scenario
async def an_executor_that_does_not_end(loop, seen):
    shutdown = asyncio.BaseEventLoop.shutdown_default_executor
    if "timeout(timeout)" not in inspect.getsource(shutdown):
        return  # the first releases of 3.12 wait for it all the same, and 3.11 has no timeout
    over = threading.Event()
    other = type(loop)()

    def run():
        async def main():
            other.run_in_executor(None, over.wait, 5)
            await other.shutdown_default_executor(0.01)

        other.run_until_complete(main())
        other.close()
        over.set()  # not before: its outcome would race with the close

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)


@scenario
async def origins_end_with_the_loop(loop, seen):
    depths = []

    def run():
        depths.append(sys.get_coroutine_origin_tracking_depth())
        other = type(loop)()
        other.set_debug(loop.get_debug())

        async def main():
            depths.append(sys.get_coroutine_origin_tracking_depth())
            other.set_debug(True)
            await turns(2)
            depths.append(sys.get_coroutine_origin_tracking_depth())
            other.set_debug(False)
            await turns(2)
            depths.append(sys.get_coroutine_origin_tracking_depth())
            other.set_debug(True)

        other.run_until_complete(main())
        depths.append(sys.get_coroutine_origin_tracking_depth())
        other.close()

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    seen.add(depths)
