"""How an executor's threads end: shutdown, close, the last reference, a fork, the interpreter's exit."""

import asyncio
import concurrent.futures
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import aioxide
import pytest
from aioxide._executor import ThreadPool

LIMIT_S = 10


def pool_threads():
    names = ("asyncio_", "aioxide-dns_", "mine_")
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(names))


def is_joining():
    """Whether a `shutdown_default_executor` still waits for threads, in a thread of its own."""
    return any("_do_shutdown" in thread.name for thread in threading.enumerate())


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --- shutdown and close -----------------------------------------------------------------------------


def test_shutdown_waits_for_what_runs_and_what_is_queued(new_loop):
    loop = new_loop()
    ended = []

    def call(number):
        time.sleep(0.01)
        ended.append(number)

    async def main():
        loop.run_in_executor(None, int)
        loop._default_executor._max_workers = 1
        for number in range(3):
            loop.run_in_executor(None, call, number)
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())
    assert ended == [0, 1, 2]
    assert pool_threads() == []


def test_after_shutdown_and_after_close_calls_are_refused(new_loop):
    loop = new_loop()

    async def main():
        await loop.run_in_executor(None, int)
        executor = loop._default_executor
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
            loop.run_in_executor(None, int)
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            loop.run_in_executor(executor, int)
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            executor.submit(int)
        with concurrent.futures.ThreadPoolExecutor(1, "mine") as own:
            assert await loop.run_in_executor(own, int) == 0

    loop.run_until_complete(main())
    loop.close()
    assert loop._default_executor is None
    with pytest.raises(RuntimeError, match=r"^Event loop is closed$"):
        loop.run_in_executor(None, int)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no timeout")
def test_shutdown_gives_up_after_its_timeout(new_loop, is_ours):
    if not is_ours and sys.version_info < (3, 13):
        pytest.skip("early releases of 3.12 wait for the threads first")
    loop = new_loop()
    may_go = threading.Event()

    async def main():
        future = loop.run_in_executor(None, may_go.wait, LIMIT_S)
        with pytest.warns(RuntimeWarning, match="did not finishing joining its threads within 0.01 seconds"):
            await loop.shutdown_default_executor(0.01)
        may_go.set()
        return await future

    assert loop.run_until_complete(main()) is True
    wait_until(lambda: pool_threads() == [] and not is_joining())


def test_close_waits_for_nobody_and_the_threads_leave(new_loop):
    loop = new_loop()
    may_go, ran = threading.Event(), []

    async def main():
        loop.run_in_executor(None, may_go.wait, LIMIT_S)
        loop._default_executor._max_workers = 1
        loop.run_in_executor(None, ran.append, "queued")

    loop.run_until_complete(main())
    loop.close()
    assert pool_threads() == ["asyncio_0"]
    may_go.set()
    wait_until(lambda: pool_threads() == [])
    assert ran == ["queued"], "what was queued runs, and nobody hears of it"


@pytest.mark.parametrize("error", [None, ValueError("late")])
def test_a_result_that_comes_after_the_close_is_dropped_without_a_word(new_loop, caplog, error):
    loop = new_loop()
    may_go = threading.Event()

    def call():
        may_go.wait(LIMIT_S)
        if error is not None:
            raise error

    async def main():
        return loop.run_in_executor(None, call)

    future = loop.run_until_complete(main())
    loop.close()
    with caplog.at_level(logging.DEBUG):
        may_go.set()
        wait_until(lambda: pool_threads() == [])
    assert not future.done()
    del future
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


def test_shutdown_may_cancel_what_is_queued(new_loop):
    loop = new_loop()
    entered, may_go, ran = threading.Event(), threading.Event(), []

    def call():
        entered.set()
        return may_go.wait(LIMIT_S)

    async def main():
        running = loop.run_in_executor(None, call)
        assert entered.wait(LIMIT_S)
        loop._default_executor._max_workers = 1
        queued = loop.run_in_executor(None, ran.append, "queued")
        submitted = loop._default_executor.submit(ran.append, "submitted")
        loop._default_executor.shutdown(wait=False, cancel_futures=True)
        may_go.set()
        await asyncio.wait([queued, running])
        return queued.cancelled(), submitted.cancelled(), running.result()

    assert loop.run_until_complete(main()) == (True, True, True)
    assert ran == []


def test_an_executor_that_nobody_refers_to_lets_its_threads_go(new_loop):
    loop = new_loop()

    async def main():
        await loop.run_in_executor(None, int)
        loop._default_executor = None

    loop.run_until_complete(main())
    gc.collect()
    wait_until(lambda: pool_threads() == [])


def test_an_executor_is_a_context_manager(new_loop):
    loop = new_loop()

    async def main():
        await loop.run_in_executor(None, int)
        with loop._default_executor as executor:
            future = executor.submit(abs, -1)
        assert future.done()
        return pool_threads()

    assert loop.run_until_complete(main()) == []


# --- in a process of its own -------------------------------------------------------------------------

HEAD = textwrap.dedent("""
    import asyncio, atexit, os, signal, socket, sys, threading, time
    if sys.argv[1] == "aioxide":
        import aioxide
        new_loop = aioxide.EventLoop
    else:
        new_loop = asyncio.SelectorEventLoop
    loop = new_loop()

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())
""")


def outcome_of(loop_name, program):
    """What a program prints on this loop: its lines, its errors, its exit code."""
    # A debug build of the interpreter tells of the loop that is never closed.
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", HEAD + textwrap.dedent(program), loop_name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines(), done.stderr, done.returncode


def test_the_interpreter_waits_for_calls_of_a_loop_that_was_never_closed(loop_name):
    lines, errors, code = outcome_of(
        loop_name,
        """
        def call(number):
            time.sleep(0.1)
            say("call", number)

        async def main():
            for number in range(2):
                loop.run_in_executor(None, call, number)
            loop._default_executor._max_workers = 2
            loop.run_in_executor(None, call, 2)

        loop.run_until_complete(main())
        atexit.register(say, "at exit")
        say("end of the program")
        """,
    )
    assert lines[0] == "end of the program"
    assert sorted(lines[1:4]) == ["call 0", "call 1", "call 2"]
    assert lines[4] == "at exit"
    assert (errors, code) == ("", 0)


@pytest.mark.parametrize("is_used", [True, False])
def test_no_call_is_taken_once_the_interpreter_shuts_down(loop_name, is_used):
    lines, _, code = outcome_of(
        loop_name,
        f"""
        import concurrent.futures.thread
        if {is_used}:
            loop.run_until_complete(loop.run_in_executor(None, int))

        def late():
            try:
                loop.run_in_executor(None, say, "must not run")
            except RuntimeError as error:
                say(error)

        atexit.register(late)
        """,
    )
    # asyncio's threads have marked their executor as shut down by then.
    texts = [f"cannot schedule new futures after {what}" for what in ("interpreter shutdown", "shutdown")]
    assert lines in ([texts[0]], [texts[1]])
    assert code == 0


def test_a_process_ends_while_a_thread_waits_for_work(loop_name):
    lines, _, code = outcome_of(
        loop_name,
        """
        say(loop.run_until_complete(loop.run_in_executor(None, abs, -1)))
        sys.exit(3)
        """,
    )
    assert (lines, code) == (["1"], 3)


def test_an_interrupt_while_the_exit_waits_does_not_crash(loop_name):
    lines, _, code = outcome_of(
        loop_name,
        """
        async def main():
            loop.run_in_executor(None, time.sleep, 0.6)

        loop.run_until_complete(main())
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        say("end")
        """,
    )
    assert lines == ["end"]
    assert code in (0, 1)


IN_A_CHILD = """
    def child(loop):
        say(loop.run_until_complete(asyncio.wait_for(work(loop), 5)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    async def work(loop):
        answers = [await loop.run_in_executor(None, abs, -i) for i in range(3)]
        return answers, await asyncio.gather(*(loop.run_in_executor(None, abs, -i) for i in range(9)))

    loop.run_until_complete(work(loop))
    busy = [threading.Event() for _ in range(3)]
    async def block():
        for event in busy[1:]:
            loop.run_in_executor(None, event.wait, 20)
    loop.run_until_complete(block())
    pid = os.fork()
    if pid == 0:
        try:
            child(CHILDS_LOOP)
            code = 0
        finally:
            sys.exit(code)  # with all that the interpreter does at its end
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for event in busy:
        event.set()
    say("child", code)
    say("parent", loop.run_until_complete(work(loop))[0])
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_uses_a_loop_of_its_own(loop_name):
    lines, errors, code = outcome_of(loop_name, IN_A_CHILD.replace("CHILDS_LOOP", "new_loop()"))
    assert lines == ["([0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8])", "child 0", "parent [0, 1, 2]"], errors
    assert code == 0


@pytest.mark.parametrize("loop_name", ["aioxide"])  # asyncio's child waits for threads that it does not have
def test_a_forked_child_uses_its_parents_loop(loop_name):
    lines, errors, code = outcome_of(loop_name, IN_A_CHILD.replace("CHILDS_LOOP", "loop"))
    assert lines == ["([0, 1, 2], [0, 1, 2, 3, 4, 5, 6, 7, 8])", "child 0", "parent [0, 1, 2]"], errors
    assert code == 0


@pytest.mark.parametrize("loop_name", ["aioxide"])  # one of some hundred of asyncio's children hangs
def test_children_forked_in_mid_traffic_never_hang(loop_name):
    lines, errors, code = outcome_of(
        loop_name,
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        async def work(loop, n):
            for _ in range(n):
                await asyncio.gather(*(loop.run_in_executor(None, int) for _ in range(10)))

        def traffic():
            mine = new_loop()
            while not done.is_set():
                mine.run_until_complete(work(mine, 5))
            mine.run_until_complete(mine.shutdown_default_executor())
            mine.close()

        done = threading.Event()
        thread = threading.Thread(target=traffic)
        thread.start()
        codes = set()
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                childs = new_loop()
                childs.run_until_complete(work(childs, 1))
                childs.run_until_complete(childs.shutdown_default_executor())
                childs.close()
                os._exit(0)
            codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        done.set()
        thread.join()
        loop.close()
        say(codes)
        """,
    )
    assert (lines, code) == (["{0}"], 0), errors


def test_a_call_may_fork_itself(loop_name):
    lines, errors, code = outcome_of(
        loop_name,
        """
        def call():
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        say(loop.run_until_complete(loop.run_in_executor(None, call)))
        """,
    )
    assert (lines, code) == (["7"], 0), errors


# --- what is left behind -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_loop_with_an_outcome_that_it_never_took_is_collected(new_loop, is_closed):
    class Result:
        pass

    loop = type(new_loop())()  # one that the fixture does not hold
    kept = []

    def call():
        result = Result()
        kept.append(weakref.ref(result))
        return result

    async def main():
        return loop.run_in_executor(None, call)

    future = loop.run_until_complete(main())
    wait_until(lambda: kept)
    wait_until(lambda: loop._default_executor._work_queue.empty())
    time.sleep(0.02)
    if is_closed:
        loop.close()
    kept.append(weakref.ref(loop))
    del loop, future, main
    gc.collect()
    wait_until(lambda: pool_threads() == [])
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("mode", ["debug", "plain"])
def test_memory_does_not_grow_with_calls(run, mode):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(mode == "debug")

        async def calls(n):
            for i in range(n):
                future = loop.run_in_executor(None, divmod, i, i % 3)
                if i % 5 == 0:
                    future.cancel()
                await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()
            del future
            await loop.run_in_executor(None, int)
            gc.collect()

        await calls(200)
        before = len(gc.get_objects())
        await calls(2000)
        return len(gc.get_objects()) - before

    assert abs(run(main)) < 500


@pytest.mark.aioxide_only  # asyncio names its own handle
def test_debug_mode_names_a_slow_delivery(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        with caplog.at_level(logging.WARNING, "asyncio"):
            await loop.run_in_executor(None, int)

    run(main)
    slow = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("Executing <call in the executor for <Future") for message in slow)


@pytest.mark.aioxide_only
def test_two_loops_that_share_a_pool_get_a_thread_each():
    """Starting a thread lets the other loop run, which may take the new thread: one more is started then."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            pool, meet, begin, outcomes = ThreadPool(2), threading.Barrier(2), threading.Barrier(2), []

            def run_one(pool=pool, meet=meet, begin=begin, outcomes=outcomes):
                loop = aioxide.new_event_loop()

                async def main():
                    begin.wait(5)
                    outcomes.append(await loop.run_in_executor(pool, meet.wait, 5))

                loop.run_until_complete(main())
                loop.close()

            threads = [threading.Thread(target=run_one) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            pool.shutdown()
            assert sorted(outcomes) == [0, 1]
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.aioxide_only
def test_a_shutdown_while_another_thread_submits():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            pool, begun, refusals = ThreadPool(60), threading.Event(), []

            def submit_all(pool=pool, begun=begun, refusals=refusals):
                loop = aioxide.new_event_loop()

                async def main():
                    calls = []
                    try:
                        for _ in range(50):
                            calls.append(loop.run_in_executor(pool, time.sleep, 0.001))
                            begun.set()
                    except RuntimeError as error:
                        refusals.append(str(error))
                    await asyncio.gather(*calls)

                loop.run_until_complete(main())
                loop.close()

            thread = threading.Thread(target=submit_all)
            thread.start()
            assert begun.wait(5)
            pool.shutdown(wait=True)
            assert not any(one.is_alive() for one in list(pool._threads))
            thread.join()
            assert set(refusals) <= {"cannot schedule new futures after shutdown"}
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_debug_mode_that_cannot_name_a_delivery_makes_it_all_the_same(new_loop, error):
    class Callback:
        def __repr__(self):
            raise error

        def __call__(self, future):
            called.append(future)

    called = []
    loop = new_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    future = loop.run_in_executor(None, int)
    future.add_done_callback(Callback())
    for _ in range(20):
        stop = loop.call_later(0.01, loop.stop)
        try:
            loop.run_forever()
        except error:
            # It must not stop a later run.
            stop.cancel()
        if called:
            break
    assert (future.done(), called) == (True, [future])
    loop.run_until_complete(loop.shutdown_default_executor())
