"""Signal handlers of a loop."""

import asyncio
import contextvars
import ctypes
import os
import signal
import subprocess
import sys
import threading

import aioxide
import pytest
from differential import plain
from signalling import send, until, wakeup_fd

pytestmark = pytest.mark.usefixtures("signals_untouched")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_each_signal_is_one_call(run, number):
    async def main():
        loop, calls = asyncio.get_running_loop(), []
        assert loop.add_signal_handler(number, calls.append, "called") is None
        for _ in range(5):
            send(number)
        await until(lambda: len(calls) == 5)
        assert loop.remove_signal_handler(number) is True
        assert loop.remove_signal_handler(number) is False
        await asyncio.sleep(0.01)
        return calls

    # SIGCHLD and SIGTERM and the real-time ones fall back to the default, SIGINT to KeyboardInterrupt.
    assert run(main) == ["called"] * 5
    assert signal.getsignal(number) == (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def test_a_child_that_ends_is_told_of(run):
    async def main():
        loop, calls = asyncio.get_running_loop(), []
        loop.add_signal_handler(signal.SIGCHLD, calls.append, "child")
        process = subprocess.Popen([sys.executable, "-S", "-c", ""])
        await until(lambda: calls)
        process.wait()
        loop.remove_signal_handler(signal.SIGCHLD)
        return calls

    assert run(main) == ["child"]


def test_one_that_came_before_the_loop_ran(new_loop):
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
    send(signal.SIGUSR1)
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1]
    # And one between two runs.
    send(signal.SIGUSR1)
    send(signal.SIGUSR1)
    assert calls == [1]
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1, 1, 1]
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_one_that_came_without_a_handler_is_nobodys(new_loop):
    """The wake-up pipe has had its byte: the handler that is installed later must not be called for it."""
    loop, calls = new_loop(), []
    signal.signal(signal.SIGUSR1, lambda number, frame: calls.append("python"))

    async def main():
        send(signal.SIGUSR1)
        loop.stop()

    task = loop.create_task(main())
    loop.run_forever()
    assert task.done()
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "loop")
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == ["python"]
    loop.close()


def test_the_handler_of_the_time_when_it_is_seen_counts(new_loop):
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "first")
    send(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR1)
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "second")
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == ["second"]
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "third")
    send(signal.SIGUSR1)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == ["second", "third"]
    loop.close()


def test_order_among_other_callbacks(run):
    """The signal is read in its turn, and the handler is called in the next one."""

    async def main():
        loop, order = asyncio.get_running_loop(), []

        def spin(n):
            order.append(n)
            if n < 6:
                loop.call_soon(spin, n + 1)

        loop.add_signal_handler(signal.SIGUSR1, order.append, "handler")
        loop.call_soon(spin, 0)
        send(signal.SIGUSR1)
        loop.call_soon(order.append, "soon")
        await asyncio.sleep(0.02)
        loop.remove_signal_handler(signal.SIGUSR1)
        return order

    assert run(main) == [0, "soon", 1, "handler", 2, 3, 4, 5, 6]


def test_context_and_handle(run):
    variable = contextvars.ContextVar("variable", default="none")

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        variable.set("when added")
        loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get()))
        variable.set("later")
        handle = loop._signal_handlers[signal.SIGUSR1]
        assert isinstance(handle, asyncio.Handle)
        assert list(loop._signal_handlers) == [signal.SIGUSR1]
        send(signal.SIGUSR1)
        await until(lambda: seen)
        # A handle that was cancelled is removed when its signal comes.
        handle.cancel()
        send(signal.SIGUSR1)
        await until(lambda: not loop._signal_handlers)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        return seen

    assert run(main) == ["when added"]


def test_one_that_is_queued_already_runs_although_it_is_removed(run):
    async def main():
        loop, calls = asyncio.get_running_loop(), []
        loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
        send(signal.SIGUSR1)
        loop._handle_signal(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR1)
        loop._handle_signal(signal.SIGUSR1)
        await asyncio.sleep(0.01)
        return calls

    assert run(main) == [1]


def test_a_handler_that_fails_is_reported_and_stays(run, reports):
    async def main():
        loop, calls = asyncio.get_running_loop(), []

        def handler():
            calls.append(1)
            raise ZeroDivisionError(len(calls))

        loop.add_signal_handler(signal.SIGUSR1, handler)
        for _ in range(2):
            send(signal.SIGUSR1)
            await asyncio.sleep(0.01)
        loop.remove_signal_handler(signal.SIGUSR1)
        return calls

    assert run(main) == [1, 1]
    assert [(kind, others) for _, kind, _, others in reports.take_whole()] == [(ZeroDivisionError, ("handle",))] * 2


def test_one_that_ends_the_program(new_loop):
    loop = new_loop()

    def handler():
        raise SystemExit(3)

    loop.add_signal_handler(signal.SIGTERM, handler)
    send(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        loop.run_until_complete(asyncio.sleep(1))
    assert caught.value.code == 3
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def coroutine_function():
    pass


BAD = [
    ("add", (None, print)),
    ("add", ("SIGINT", print)),
    ("add", (1.5, print)),
    ("add", (0, print)),
    ("add", (-1, print)),
    ("add", (signal.NSIG + 1, print)),
    ("add", (1 << 70, print)),
    ("add", (signal.SIGKILL, print)),
    ("add", (signal.SIGSTOP, print)),
    ("add", (signal.SIGUSR1, coroutine_function)),
    ("add", ()),
    ("add", (signal.SIGUSR1,)),
    ("remove", (None,)),
    ("remove", (signal.NSIG + 1,)),
    ("remove", (signal.SIGKILL,)),
    ("remove", (signal.SIGUSR1,)),
    ("remove", ()),
    ("both", (signal.SIGUSR1, "no callable")),
]


def test_what_is_refused():
    """The same texts on both loops, and nothing is left of it."""
    seen = []
    for make in (asyncio.SelectorEventLoop, aioxide.EventLoop):
        loop, outcomes = make(), []
        for what, args in BAD:
            try:
                if what == "both":
                    outcomes.append(loop.add_signal_handler(*args))
                    outcomes.append(loop.remove_signal_handler(args[0]))
                else:
                    outcomes.append(getattr(loop, f"{what}_signal_handler")(*args))
            except Exception as error:
                text = plain(str(error)).replace("_UnixSelectorEventLoop", "EventLoop").replace("Signals", "EventLoop")
                outcomes.append((type(error), text, type(error.__context__)))
        coro = coroutine_function()
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.add_signal_handler(signal.SIGUSR1, coro)
        coro.close()
        assert dict(loop._signal_handlers) == {}
        outcomes.append(wakeup_fd())
        loop.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.add_signal_handler(signal.SIGUSR1, print)
        outcomes.append(loop.remove_signal_handler(signal.SIGUSR1))
        seen.append(outcomes)
    assert seen[0] == seen[1]


def test_another_thread_is_refused(new_loop):
    loop, errors = new_loop(), []

    def body():
        async def main():
            try:
                loop.add_signal_handler(signal.SIGUSR1, print)
            except RuntimeError as error:
                errors.append((str(error), type(error.__context__)))

        loop.run_until_complete(main())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert errors == [
        ("set_wakeup_fd only works in main thread of the main interpreter", ValueError),
    ]
    assert dict(loop._signal_handlers) == {}
    loop.close()


def test_close_restores_everything(new_loop):
    loop = new_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        loop.add_signal_handler(number, print)
    assert wakeup_fd() != -1
    loop.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert wakeup_fd() == -1
    assert dict(loop._signal_handlers) == {}
    loop.close()


def test_close_in_another_thread(new_loop):
    """Only the main thread may restore the handlers: a second close does."""
    loop, errors = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, print)

    def body():
        try:
            loop.close()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert errors == ["signal only works in main thread of the main interpreter"]
    assert loop.is_closed()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def test_interrupted_calls_are_restarted(new_loop, own_pipe):
    """`signal.siginterrupt(sig, False)`: C code that blocks does not see the signal."""
    reader, writer = own_pipe
    os.set_blocking(reader, True)
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGALRM, calls.append, 1)
    later = threading.Timer(0.2, os.write, (writer, b"x"))
    later.start()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1) == 1
    later.join()
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1]
    loop.close()
