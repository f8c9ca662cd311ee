"""`aioxide.run` and `aioxide.Runner` do what asyncio's do, on our loop."""

import asyncio
import contextvars
import os
import signal
import sys
import threading

import aioxide
import pytest

# The same bodies run on both; 3.10 has no Runner of its own to compare with.
RUN = [asyncio.run, aioxide.run]
RUNNER = [aioxide.Runner, *([asyncio.Runner] if sys.version_info >= (3, 11) else [])]

each_run = pytest.mark.parametrize("run", RUN)
each_runner = pytest.mark.parametrize("Runner", RUNNER)


async def loop_of():
    return asyncio.get_running_loop()


@pytest.fixture(autouse=True)
def no_current_loop():
    asyncio.set_event_loop(None)
    yield
    asyncio.set_event_loop(None)


def current_loop():
    """What set_event_loop() was given last, without the warnings of get_event_loop()."""
    policy = getattr(asyncio.events, "_get_event_loop_policy", asyncio.get_event_loop_policy)()
    return policy._local._loop


# --- the loop ------------------------------------------------------------------------------------


def test_run_uses_our_loop_and_closes_it():
    loop = aioxide.run(loop_of())
    assert type(loop) is aioxide.EventLoop
    assert loop.is_closed()


def test_a_runner_uses_our_loop_and_closes_it():
    with aioxide.Runner() as runner:
        loop = runner.get_loop()
        assert type(loop) is aioxide.EventLoop
        assert runner.run(loop_of()) is loop is runner.run(loop_of())
        assert not loop.is_closed()
    assert loop.is_closed()


def test_the_given_loop_factory_is_used():
    for loop in (
        aioxide.run(loop_of(), loop_factory=asyncio.SelectorEventLoop),
        aioxide.Runner(loop_factory=asyncio.SelectorEventLoop).run(loop_of()),
    ):
        assert type(loop) is asyncio.SelectorEventLoop
        loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run has no loop_factory")
def test_our_factory_fits_asyncio_run():
    loop = asyncio.run(loop_of(), loop_factory=aioxide.new_event_loop)
    assert type(loop) is aioxide.EventLoop


@each_runner
def test_the_default_loop_is_the_current_one_while_the_runner_lives(Runner):
    runner = Runner()
    assert current_loop() is None
    loop = runner.get_loop()
    assert current_loop() is loop
    runner.close()
    assert current_loop() is None


@each_runner
def test_a_loop_of_the_users_factory_is_not_made_current(Runner):
    with Runner(loop_factory=aioxide.new_event_loop):
        assert current_loop() is None


@each_run
@pytest.mark.parametrize("debug", [True, False])
def test_debug_reaches_the_loop(run, debug):
    async def main():
        return asyncio.get_running_loop().get_debug()

    assert run(main(), debug=debug) is debug


# --- misuse --------------------------------------------------------------------------------------


@each_run
def test_run_within_a_running_loop_is_refused(run):
    async def main():
        coro = loop_of()
        try:
            with pytest.raises(RuntimeError) as caught:
                run(coro)
        finally:
            coro.close()
        return str(caught.value)

    assert run(main()) == "asyncio.run() cannot be called from a running event loop"


@each_runner
def test_a_runner_within_a_running_loop_is_refused(Runner):
    async def main():
        coro = loop_of()
        with pytest.raises(RuntimeError) as caught:
            Runner().run(coro)
        coro.close()
        return str(caught.value)

    assert aioxide.run(main()) == "Runner.run() cannot be called from a running event loop"


@each_run
def test_something_else_than_a_coroutine_is_refused(run):
    error = ValueError if sys.version_info < (3, 14) else TypeError
    text = "a coroutine was expected, got 1" if sys.version_info < (3, 14) else "is required"
    with pytest.raises(error, match=text):
        run(1)


@each_runner
def test_a_closed_runner_stays_closed(Runner):
    runner = Runner()
    runner.get_loop()
    runner.close()
    runner.close()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.get_loop()
    coro = loop_of()
    with pytest.raises(RuntimeError, match="Runner is closed"):
        runner.run(coro)
    coro.close()


@each_runner
def test_a_runner_closed_unused_makes_no_loop(Runner):
    made = []
    Runner(loop_factory=lambda: made.append(1)).close()
    assert made == []


# --- the end of a run ----------------------------------------------------------------------------


@each_run
def test_what_main_raises_comes_out(run):
    async def main():
        raise LookupError("of main")

    with pytest.raises(LookupError, match="of main"):
        run(main())


@each_run
def test_what_still_runs_is_cancelled_and_reported(run):
    seen = []

    async def fails():
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")
            raise ZeroDivisionError

    async def generates():
        try:
            yield 1
            yield 2
        finally:
            seen.append("generator finalised")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
        main.task = asyncio.create_task(fails())
        main.generator = generates()
        await main.generator.__anext__()
        await asyncio.sleep(0)

    run(main())
    assert seen == [
        "cancelled",
        "unhandled exception during asyncio.run() shutdown",
        "generator finalised",
    ]


# --- contexts ------------------------------------------------------------------------------------

var = contextvars.ContextVar("var", default="unset")


async def exchange(value):
    before = var.get()
    await asyncio.sleep(0)
    var.set(value)
    return before


@each_runner
def test_runs_of_one_runner_share_a_context(Runner):
    with Runner() as runner:
        assert runner.run(exchange(1)) == "unset"
        assert runner.run(exchange(2)) == 1
        assert var.get() == "unset"


@each_runner
def test_a_run_uses_the_given_context(Runner):
    context = contextvars.copy_context()
    context.run(var.set, "mine")
    with Runner() as runner:
        assert runner.run(exchange("changed"), context=context) == "mine"
        assert runner.run(exchange("")) == "unset"
    assert context[var] == "changed"


@each_run
def test_run_leaves_the_callers_context_alone(run):
    assert run(exchange(1)) == "unset"
    assert var.get() == "unset"


# --- Ctrl-C --------------------------------------------------------------------------------------


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_cancels_main_which_cleans_up():
    seen = []

    async def main():
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    with pytest.raises(KeyboardInterrupt):
        aioxide.run(main())
    assert seen == ["cleaned up"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@each_runner
def test_ctrl_c_in_a_long_wait_wakes_the_loop(Runner):
    async def main():
        await asyncio.get_running_loop().create_future()

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt), Runner() as runner:
        runner.run(main())
    timer.join()


@each_runner
def test_main_may_survive_ctrl_c(Runner):
    async def main():
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "survived"

    with Runner() as runner:
        assert runner.run(main()) == "survived"
        assert runner.run(loop_of()) is runner.get_loop()


@each_runner
def test_a_second_ctrl_c_interrupts_at_once(Runner):
    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(interrupt)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            loop.call_soon(interrupt)
            await asyncio.sleep(60)

    with pytest.raises(KeyboardInterrupt), Runner() as runner:
        runner.run(main())


@each_runner
def test_a_sigint_handler_of_the_users_own_stays(Runner):
    def handler(signum, frame):
        raise AssertionError("no signal is sent")

    async def main():
        return signal.getsignal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Runner() as runner:
            assert runner.run(main()) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


@each_runner
def test_a_runner_in_another_thread_leaves_signals_alone(Runner):
    seen = []

    async def main():
        seen.append(signal.getsignal(signal.SIGINT))

    def work():
        with Runner() as runner:
            runner.run(main())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
