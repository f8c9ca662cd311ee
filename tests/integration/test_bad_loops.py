"""Bad input: callbacks and handlers that raise, stop or exit; loops run twice, from elsewhere, or closed.

asyncio's exception and message, nothing leaked, never an abort.
"""

import asyncio
import gc
import logging
import re
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from peers import close, connect, raises, turns


def test_a_loop_cannot_be_run_twice(run):
    async def main():
        loop = asyncio.get_running_loop()
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            loop.run_until_complete(coroutine)
        coroutine.close()
        with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
            loop.close()

    run(main)


def test_another_loop_cannot_be_run_in_the_same_thread(run, new_loop):
    other = new_loop()

    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"^Cannot run the event loop while another loop is running$"):
            other.run_until_complete(coroutine)
        coroutine.close()

    run(main)


@pytest.mark.aioxide_only  # asyncio 3.13.0 refuses, but takes the thread's running loop away
def test_run_forever_is_refused_twice_too(run, new_loop):
    other = new_loop()

    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
                loop.run_forever()
            with pytest.raises(RuntimeError, match=r"^Cannot run the event loop while another loop is running$"):
                other.run_forever()
            error = in_thread(loop.run_forever)()
            assert type(error) is RuntimeError and str(error) == "This event loop is already running"
            assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)

    run(main)


def in_thread(function):
    """What it returned or raised."""
    outcome = []

    def work():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return lambda: (thread.join(10), outcome[0])[1]


def test_a_running_loop_cannot_be_run_or_closed_from_another_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        for function, message in [
            (lambda: loop.run_until_complete(future), "This event loop is already running"),
            (loop.close, "Cannot close a running event loop"),
        ]:
            error = in_thread(function)()
            assert type(error) is RuntimeError and str(error) == message

    run(main)


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_scheduling_from_another_thread_is_noticed_in_debug_mode(run, method):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        arguments = [print] if method == "call_soon" else [1, print]
        error = in_thread(lambda: getattr(loop, method)(*arguments))()
        assert type(error) is RuntimeError
        assert str(error) == "Non-thread-safe operation invoked on an event loop other than the current one"

    run(main)


def test_a_loop_may_be_run_by_one_thread_after_another(new_loop):
    loop = new_loop()
    protocol, peer = loop.run_until_complete(connect())

    async def receive():
        await protocol.until_received(1)
        return threading.get_ident()

    peer.sendall(b"x")
    assert in_thread(lambda: loop.run_until_complete(receive()))() != threading.get_ident()
    loop.run_until_complete(close(protocol, peer))


def test_a_closed_loop_does_nothing(new_loop):
    loop = new_loop()
    loop.close()
    loop.close()
    coroutine = asyncio.sleep(0)
    for call in (
        lambda: loop.run_forever(),
        lambda: loop.run_until_complete(coroutine),
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.create_task(coroutine),
        lambda: loop.run_in_executor(None, print),
    ):
        with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
            call()
    coroutine.close()


def test_a_callback_that_raises_is_reported_and_the_loop_goes_on(run, reports):
    async def main():
        loop = asyncio.get_running_loop()

        def fail():
            raise ZeroDivisionError("callback")

        loop.call_soon(fail)
        loop.call_later(0, fail)
        loop.call_soon_threadsafe(fail)
        await turns(3)
        for report in reports.take_whole():
            assert re.match(r"Exception in callback .*fail\(\)", report.message)
            assert (report.exception, report.text, report.others) == (
                ZeroDivisionError,
                "callback",
                ("handle",),
            )

    run(main)


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_callback_ends_the_run_and_the_rest_runs_later(new_loop, exception):
    loop = new_loop()
    seen = []

    def leave():
        raise exception

    loop.call_soon(leave)
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    with pytest.raises(exception):
        loop.run_forever()
    assert not loop.is_running() and asyncio._get_running_loop() is None
    loop.run_forever()
    assert seen == [1]


def test_a_callback_that_stops_the_loop_ends_its_turn(new_loop):
    loop = new_loop()
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(seen.append, 2)
    loop.call_soon(lambda: loop.call_soon(seen.append, 3))
    loop.run_forever()
    assert seen == [1, 2]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [1, 2, 3]
    loop.stop()
    loop.run_forever()  # once round
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)


def test_an_exception_handler_that_raises_is_logged_and_the_loop_goes_on(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        calls = []

        def handler(loop, context):
            calls.append(context["message"])
            raise ValueError("handler")

        loop.set_exception_handler(handler)
        with caplog.at_level(logging.ERROR, logger="asyncio"):
            loop.call_soon(lambda: 1 / 0)
            protocol, peer = await connect(raises("data_received"))
            peer.sendall(b"x")
            assert type(await protocol.lost) is ZeroDivisionError
        assert len(calls) == 2
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 2 and all("Unhandled error in exception handler" in text for text in told)
        caplog.clear()
        peer.close()

    run(main)


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_an_exception_handler_that_exits_still_loses_the_connection(new_loop, exception):
    loop = new_loop()

    def handler(loop, context):
        raise exception("handler")

    protocol, peer = loop.run_until_complete(connect(raises("data_received")))
    loop.set_exception_handler(handler)
    peer.sendall(b"x")
    with pytest.raises(exception, match="handler"):
        loop.run_forever()
    loop.run_until_complete(close(protocol, peer))


DYING = """
import asyncio, socket, sys
if sys.argv[1] == "aioxide":
    import aioxide
    loop = aioxide.EventLoop()
else:
    loop = asyncio.SelectorEventLoop()
class P(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(bytes(1 << 24))
a, b = socket.socketpair()
keep = loop.run_until_complete(loop.create_connection(P, sock=a))
loop.run_until_complete(loop.create_server(P, "127.0.0.1", 0))
loop.call_later(60, print)
loop.call_soon(print)
task = loop.create_task(asyncio.sleep(60))
print("end")
"""


def test_an_interpreter_that_ends_with_everything_open_ends_well(loop_name):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(DYING), loop_name],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "unclosed event loop <" in done.stderr
    assert "Fatal Python error" not in done.stderr and "SystemError" not in done.stderr


def test_a_loop_closed_over_open_connections(new_loop):
    loop = new_loop()
    protocol, peer = loop.run_until_complete(connect())
    loop.close()
    transport = protocol.transport
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        transport.close()
    transport.write(b"x")
    assert transport.is_closing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del protocol, transport
        gc.collect()
    assert peer.recv(1) == b""
    peer.close()
