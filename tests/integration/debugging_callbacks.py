"""What debug mode tells of callbacks: slow ones, those in the wrong thread, wrong ones, and forgotten coroutines."""

import asyncio
import functools
import gc
import re
import socket
import sys
import threading
import time

from debugging import (
    LONG_S,
    SLOW_S,
    Slow,
    SlowProtocol,
    a_coroutine_function,
    clock,
    connected,
    print_nothing,
    scenario,
    sleep,
    slow,
    turns,
)

# --- 1. slow callbacks -----------------------------------------------------------------------------------------------


def cancels_itself(box):
    sleep(LONG_S)
    box[0].cancel()


@scenario
async def slow_handles(loop, seen):
    box = []
    loop.call_soon(slow)
    loop.call_soon(slow, 1, "two", Slow())
    loop.call_soon(functools.partial(slow, 1), 3)
    loop.call_soon(lambda: sleep(LONG_S))
    loop.call_soon(Slow().method, [])
    loop.call_soon(sleep, LONG_S)
    box.append(loop.call_soon(cancels_itself, box))
    loop.call_soon_threadsafe(slow, "threadsafe")
    loop.call_later(100, slow, "later")  # the slow ones before it put the clock forward
    loop.call_at(loop.time(), slow, "at")
    cancelled = loop.call_soon(slow, "cancelled")
    cancelled.cancel()
    await asyncio.sleep(0.3)


class Counting:
    count = 0

    def __repr__(self):
        Counting.count += 1
        return "<Counting>"

    def __call__(self):
        pass


@scenario
async def quick_callbacks_are_not_described(loop, seen):
    Counting.count = 0
    loop.call_soon(Counting())
    loop.call_later(0, Counting())
    await asyncio.sleep(0.005)
    seen.add("representations", Counting.count)


@scenario
async def slow_tasks(loop, seen):
    async def begins_slowly():
        sleep(LONG_S)
        await asyncio.sleep(0)

    async def ends_slowly():
        await asyncio.sleep(0)
        sleep(LONG_S)
        return "result"

    async def fails_slowly():
        sleep(LONG_S)
        raise ValueError("slow")

    async def is_woken_slowly(future):
        await future
        sleep(LONG_S)
        await asyncio.sleep(0)

    async def is_cancelled_slowly():
        try:
            await asyncio.sleep(9)
        finally:
            sleep(LONG_S)

    for make in (begins_slowly, ends_slowly, fails_slowly):
        task = loop.create_task(make(), name=make.__name__)
        await asyncio.wait([task])
        task.exception()
    future = loop.create_future()
    task = asyncio.create_task(is_woken_slowly(future))
    await turns()
    future.set_result(None)
    await task
    task = asyncio.create_task(is_cancelled_slowly())
    await turns()
    task.cancel()
    await asyncio.wait([task])
    # A method of a task is shown as the task.
    task = asyncio.create_task(asyncio.sleep(0.01))
    task.add_done_callback(slow)
    await task
    future = loop.create_future()
    future.add_done_callback(slow)
    future.set_result([1])
    await turns()


@scenario
async def slow_in_real_time(loop, seen):
    del loop.time
    loop.slow_callback_duration = 0.1
    loop.call_soon(time.sleep, 0.11)
    loop.call_soon(print_nothing)
    await turns()
    loop.time = clock
    loop.slow_callback_duration = SLOW_S
    seen.lines = [line for line in seen.lines if "print_nothing" in line[2] or "sleep" in line[2]]


@scenario
async def debug_mode_in_mid_turn(loop, seen):
    before = loop.get_debug()
    loop.call_soon(loop.set_debug, False)
    loop.call_soon(slow, "unseen")
    loop.call_soon(loop.set_debug, before)
    loop.call_soon(slow, "seen")
    await turns()


def slow_reader(sock):
    sleep(LONG_S)
    sock.recv(10)


@scenario
async def slow_protocols(loop, seen):
    seen.accept = re.compile("Executing")
    for what in ("made", "data", "eof", "lost"):
        seen.add(what)
        _transport, protocol, peer = await connected(loop, type("P", (SlowProtocol,), {"slow": (what,)}))
        peer.send(b"x")
        await asyncio.sleep(0.01)
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost
        await turns()
        peer.close()


@scenario
async def slow_watchers(loop, seen):
    here, there = socket.socketpair()
    here.setblocking(False)
    loop.add_reader(here, slow_reader, here)
    there.send(b"x")
    await asyncio.sleep(0.05)
    loop.remove_reader(here)
    here.close()
    there.close()


@scenario
async def slow_factories(loop, seen):
    """asyncio names the task that makes the transport, a native loop its listener: compared is that something is told."""

    def factory():
        sleep(LONG_S)
        return SlowProtocol()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await asyncio.sleep(0.06)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.02)
    server.close()
    seen.lines = [[line[0], line[1], line[2][:9]] for line in seen.lines if "_accept_connection" in line[2]]


# --- 2., 3. checks ---------------------------------------------------------------------------------------------------


@scenario
async def thread_checks(loop, seen):
    async def job():
        pass

    future, cancelled = loop.create_future(), loop.create_future()
    future.add_done_callback(print_nothing)
    cancelled.add_done_callback(print_nothing)
    timer = loop.call_later(9, print_nothing)
    here, there = socket.socketpair()
    here.setblocking(False)

    def elsewhere():
        for name, call in {
            "call_soon": lambda: loop.call_soon(print_nothing),
            "call_later": lambda: loop.call_later(1, print_nothing),
            "call_at": lambda: loop.call_at(1, print_nothing),
            "call_soon_threadsafe": lambda: loop.call_soon_threadsafe(print_nothing),
            "create_future": loop.create_future,
            "set_result": lambda: future.set_result(None),
            "cancel": cancelled.cancel,
            "timer.cancel": timer.cancel,
            "add_reader": lambda: loop.add_reader(here, print_nothing),
            "remove_reader": lambda: loop.remove_reader(here),
            "run_in_executor": lambda: loop.run_in_executor(None, print_nothing),
            "stop": lambda: loop.call_soon_threadsafe(print_nothing),
            "set_debug": lambda: loop.set_debug(loop.get_debug()),
        }.items():
            seen.add(name)
            seen.raised_by(call)
        seen.add("create_task")
        coro = job()
        seen.raised_by(loop.create_task, coro)
        coro.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    await asyncio.sleep(0.05)
    here.close()
    there.close()
    # What a task that could not be scheduled says when it goes is compared elsewhere.
    seen.accept = re.compile("(?!Task was destroyed)")


@scenario
async def callback_checks(loop, seen):
    coro = a_coroutine_function()
    for wrong in (a_coroutine_function, coro, None, 5):
        for method in ("call_soon", "call_soon_threadsafe"):
            seen.add(method)
            seen.raised_by(getattr(loop, method), wrong)
        seen.add("call_later")
        handle = seen.raised_by(loop.call_later, 5, wrong)
        handle and handle.cancel()
        seen.add("call_at")
        handle = seen.raised_by(loop.call_at, loop.time() + 5, wrong)
        handle and handle.cancel()
        if loop.get_debug():
            seen.add("run_in_executor")
            seen.raised_by(loop.run_in_executor, None, wrong)
        if sys.platform == "linux" and sys.argv[3:] == ["signals"]:
            seen.add("add_signal_handler")
            seen.raised_by(loop.add_signal_handler, 10, wrong)
    coro.close()
    await turns()


# --- 4. origins of coroutines ----------------------------------------------------------------------------------------


def forgets():
    a_coroutine_function()


@scenario
async def never_awaited(loop, seen):
    seen.add("depth", sys.get_coroutine_origin_tracking_depth())
    forgets()
    gc.collect()
    coro = a_coroutine_function()
    seen.add("origin", coro.cr_origin is not None, coro.cr_origin and coro.cr_origin[0][2])
    coro.close()


@scenario
async def never_awaited_methods(loop, seen):
    """Coroutines of the loop's own methods."""
    here, there = socket.socketpair()
    here.setblocking(False)

    def forgets_recv():
        loop.sock_recv(here, 1)

    def forgets_sleep():
        asyncio.sleep(1)

    def forgets_connect():
        loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)

    for forget in (forgets_recv, forgets_sleep, forgets_connect):
        forget()
        gc.collect()
    here.close()
    there.close()
