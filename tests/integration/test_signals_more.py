"""Signals: who has the wake-up descriptor; storms, forks, the end of the program."""

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import aioxide
import pytest
from signalling import LIMIT_S, ME, send, until, wakeup_fd

pytestmark = pytest.mark.usefixtures("signals_untouched")


@pytest.mark.aioxide_only  # asyncio leaves -1
def test_the_programs_own_comes_back(new_loop, own_pipe):
    reader, writer = own_pipe
    loop, calls = new_loop(), []
    signal.set_wakeup_fd(writer)
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, calls.append, 2)
    assert wakeup_fd() not in (-1, writer)
    send(signal.SIGUSR1)
    send(signal.SIGUSR2)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1, 2]
    loop.remove_signal_handler(signal.SIGUSR1)
    assert wakeup_fd() != writer
    loop.remove_signal_handler(signal.SIGUSR2)
    assert signal.set_wakeup_fd(-1) == writer
    assert not select.select([reader], [], [], 0)[0]
    loop.close()


@pytest.mark.aioxide_only  # asyncio's handlers are deaf then
def test_what_the_program_sets_meanwhile_stays_and_handlers_are_called(new_loop, own_pipe):
    reader, writer = own_pipe
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)

    async def main():
        signal.set_wakeup_fd(writer)
        for n in range(1, 4):
            send(signal.SIGUSR1)
            await until(lambda n=n: len(calls) == n)
        await asyncio.sleep(0.01)
        assert os.read(reader, 100) == bytes([signal.SIGUSR1] * 3)

    loop.run_until_complete(main())
    send(signal.SIGUSR1)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1] * 4
    loop.close()
    assert signal.set_wakeup_fd(-1) == writer


@pytest.mark.aioxide_only
def test_it_ends_the_wait_although_the_program_has_its_own(new_loop, own_pipe):
    """No byte comes to the loop; what wakes it is the interrupted wait."""
    loop = new_loop()
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, done.set_result, 1)
    signal.set_wakeup_fd(own_pipe[1])
    killer = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import os, time; time.sleep(0.3); os.kill({ME}, {int(signal.SIGUSR1)})"]
    )
    assert loop.run_until_complete(asyncio.wait_for(done, LIMIT_S)) == 1
    killer.wait()
    loop.close()
    assert signal.set_wakeup_fd(-1) == own_pipe[1]


@pytest.mark.aioxide_only  # asyncio takes none to run
def test_a_run_takes_what_nobody_has(new_loop, own_pipe):
    loop = new_loop()

    async def main():
        running = wakeup_fd()
        assert running not in (-1, loop._wake_pipe[1])
        loop.add_signal_handler(signal.SIGUSR1, print)
        assert wakeup_fd() not in (-1, running)
        loop.remove_signal_handler(signal.SIGUSR1)
        assert wakeup_fd() == running

    loop.run_until_complete(main())
    assert wakeup_fd() == -1
    signal.set_wakeup_fd(own_pipe[1])

    async def own():
        assert wakeup_fd() == own_pipe[1]

    loop.run_until_complete(own())
    assert signal.set_wakeup_fd(-1) == own_pipe[1]


@pytest.mark.aioxide_only
def test_a_handler_that_outlives_the_run_that_installed_it(new_loop):
    loop, calls = new_loop(), []

    async def main():
        loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)

    loop.run_until_complete(main())
    handlers = wakeup_fd()
    assert handlers != -1
    send(signal.SIGUSR1)

    async def remove():
        await asyncio.sleep(0.01)
        assert wakeup_fd() == handlers
        loop.remove_signal_handler(signal.SIGUSR1)
        assert wakeup_fd() not in (-1, handlers)

    loop.run_until_complete(remove())
    assert calls == [1]


@pytest.mark.aioxide_only  # asyncio lets it be -1
def test_the_descriptor_of_a_run_may_be_put_back_at_any_time(new_loop, own_pipe, tmp_path):
    """As libraries do that save the old one: its number is never another file's."""
    loop = new_loop()

    async def save():
        return signal.set_wakeup_fd(own_pipe[1])

    saved = loop.run_until_complete(save())
    assert saved != -1
    loop.close()
    files = [os.open(tmp_path / str(n), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK) for n in range(20)]
    assert signal.set_wakeup_fd(saved) == own_pipe[1]
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        send(signal.SIGUSR1)
        again = new_loop()
        again.run_until_complete(asyncio.sleep(0))
        send(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.set_wakeup_fd(-1)
    sizes = [os.fstat(file).st_size for file in files]
    for file in files:
        os.close(file)
    assert sizes == [0] * 20


def test_no_signal_is_lost_where_a_run_begins_or_ends(new_loop):
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)

    async def turns():
        for _ in range(3):
            await asyncio.sleep(0)

    for n in range(150):
        thread = threading.Thread(target=send, args=(signal.SIGUSR1,))
        thread.start()
        while thread.is_alive():
            loop.run_until_complete(turns())
        thread.join()
        deadline = time.monotonic() + 5
        while len(calls) <= n:
            assert time.monotonic() < deadline, f"signal {n} is lost"
            loop.run_until_complete(turns())
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.aioxide_only  # asyncio's run leaves it alone
def test_no_byte_of_the_programs_own_descriptor_is_lost(new_loop, own_pipe):
    loop, handled = new_loop(), []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    signal.set_wakeup_fd(own_pipe[1])
    try:

        async def turns():
            for _ in range(3):
                await asyncio.sleep(0)

        for _ in range(100):
            thread = threading.Thread(target=send, args=(signal.SIGUSR1,))
            thread.start()
            while thread.is_alive():
                loop.run_until_complete(turns())
            thread.join()
        loop.run_until_complete(turns())
        assert handled
        assert len(os.read(own_pipe[0], 1000)) == 100
        assert wakeup_fd() == own_pipe[1]
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.set_wakeup_fd(-1)


@pytest.mark.aioxide_only  # asyncio's first loop is deaf from then on
def test_two_loops(new_loop):
    first, second, calls = new_loop(), new_loop(), []
    first.add_signal_handler(signal.SIGUSR1, calls.append, "first")
    of_first = wakeup_fd()
    second.add_signal_handler(signal.SIGUSR2, calls.append, "second")
    of_second = wakeup_fd()
    assert len({of_first, of_second, -1}) == 3
    send(signal.SIGUSR2)
    second.run_until_complete(asyncio.sleep(0.01))
    second.close()
    assert wakeup_fd() == of_first
    send(signal.SIGUSR1)
    first.run_until_complete(asyncio.sleep(0.01))
    assert calls == ["second", "first"]
    first.close()
    assert wakeup_fd() == -1


def test_loops_of_other_threads_leave_it_alone(new_loop, own_pipe):
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, 1)
    mine = wakeup_fd()

    def body():
        other = new_loop()
        other.run_until_complete(asyncio.sleep(0))
        other.close()

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert wakeup_fd() == mine
    send(signal.SIGUSR1)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert calls == [1]
    loop.close()


def test_a_loop_with_handlers_may_run_in_another_thread(new_loop):
    loop, calls = new_loop(), []
    done = loop.create_future()

    def handler():
        calls.append(threading.get_ident())
        if len(calls) == 3:
            done.set_result(None)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    thread = threading.Thread(target=loop.run_until_complete, args=(done,))
    thread.start()
    for n in range(3):
        send(signal.SIGUSR1)
        deadline = time.monotonic() + LIMIT_S
        while len(calls) <= n:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    thread.join()
    assert set(calls) == {thread.ident}
    loop.close()


def test_a_loop_that_nobody_closes_is_collected(loop_name):
    """Through the handle the loop refers to itself."""
    loop = {"asyncio": asyncio.SelectorEventLoop, "aioxide": aioxide.EventLoop}[loop_name]()
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    gone = weakref.ref(loop)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert gone() is None
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


# Storms.

STORM = """
import os, sys, time
pid, count = int(sys.argv[1]), int(sys.argv[2])
numbers = [int(n) for n in sys.argv[3:]]
for _ in range(count):
    for number in numbers:
        os.kill(pid, number)
"""


def storm(count, *numbers, to=ME):
    return subprocess.Popen([sys.executable, "-S", "-c", STORM, str(to), str(count), *(str(int(n)) for n in numbers)])


@pytest.mark.aioxide_only  # asyncio's pipe takes 278 signals, of whatever kind
def test_a_storm_with_handlers(run):
    async def main():
        loop, calls = asyncio.get_running_loop(), {signal.SIGINT: 0, signal.SIGTERM: 0}

        def handler(number):
            calls[number] += 1

        for number in calls:
            loop.add_signal_handler(number, handler, number)
        process = storm(3000, *calls)
        while process.poll() is None:
            await asyncio.sleep(0.001)
            sum(range(1000))
        await asyncio.sleep(0.05)
        assert all(calls.values())
        before = dict(calls)
        for number in calls:
            send(number)
        await until(lambda: all(calls[number] > before[number] for number in calls))
        for number in calls:
            loop.remove_signal_handler(number)

    run(main)


@pytest.mark.aioxide_only  # asyncio's socket holds 278 bytes
def test_real_time_signals_are_all_delivered(new_loop):
    loop, calls = new_loop(), []
    loop.add_signal_handler(signal.SIGRTMIN, calls.append, 1)
    for _ in range(20_000):
        send(signal.SIGRTMIN)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(calls) == 20_000
    loop.close()


@pytest.mark.aioxide_only  # asyncio loses the second one
def test_a_full_pipe_loses_no_kind_of_signal(new_loop):
    loop, first, second = new_loop(), [], []
    loop.add_signal_handler(signal.SIGRTMIN, first.append, 1)
    loop.add_signal_handler(signal.SIGTERM, second.append, 1)
    for _ in range(70_000):
        send(signal.SIGRTMIN)
    send(signal.SIGTERM)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(first) == 65_536
    assert second == [1]
    send(signal.SIGTERM)
    send(signal.SIGRTMIN)
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(first) == 65_537
    assert second == [1, 1]
    loop.close()


INTERRUPTED = textwrap.dedent("""
    import asyncio, os, signal, sys
    if sys.argv[1] == "aioxide":
        import aioxide
        make = aioxide.EventLoop
    else:
        make = asyncio.SelectorEventLoop
    loop = make()
    async def main():
        await asyncio.sleep(60)
    interrupts = 0
    try:
        print("ready", flush=True)
        while interrupts < 50:
            task = None
            try:
                task = loop.create_task(main())
                loop.run_until_complete(task)
            except KeyboardInterrupt:
                interrupts += 1
            finally:
                try:
                    if task is not None:
                        task.cancel()
                except KeyboardInterrupt:
                    interrupts += 1
    except KeyboardInterrupt:
        interrupts += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    async def end():
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)
    loop.run_until_complete(end())
    loop.close()
    print("interrupted", flush=True)
""")


def test_a_storm_of_keyboard_interrupts(loop_name):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, loop_name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            for _ in range(10):
                process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        process.kill()
        assert process.stdout.read() == "interrupted\n", process.stderr.read()
        assert process.returncode == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is of 3.11")
def test_the_runners_own_handler(loop_name):
    """Ctrl-C cancels the main task; a loop's own handler takes its place and gives it back."""
    make = {"asyncio": asyncio.SelectorEventLoop, "aioxide": aioxide.EventLoop}[loop_name]
    calls = []

    async def interrupted():
        try:
            send(signal.SIGINT)
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            calls.append("cancelled")
            raise

    async def own():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, calls.append, "own")
        loop.add_signal_handler(signal.SIGTERM, calls.append, "term")
        send(signal.SIGINT)
        send(signal.SIGTERM)
        await until(lambda: len(calls) == 3)
        loop.remove_signal_handler(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    with asyncio.Runner(loop_factory=make) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(interrupted())
        runner.run(own())
        with pytest.raises(KeyboardInterrupt):
            runner.run(interrupted())
    assert calls == ["cancelled", "own", "term", "cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


FORKED = textwrap.dedent("""
    import asyncio, os, signal, sys, time
    if sys.argv[1] == "aioxide":
        import aioxide
        make = aioxide.EventLoop
    else:
        make = asyncio.SelectorEventLoop
    loop, calls = make(), []

    async def child():
        mine, loop = [], asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, mine.append, "child")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not mine:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert mine == ["child"], mine

    async def main():
        loop.add_signal_handler(signal.SIGTERM, calls.append, "parent")
        loop.add_signal_handler(signal.SIGUSR1, calls.append, "parent")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio._set_running_loop(None)
                own = make()
                own.run_until_complete(asyncio.wait_for(child(), 10))
                own.close()
                code = 0
            finally:
                os._exit(code)
        deadline = time.monotonic() + 15
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert status == 0, status
        assert calls == [], calls
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert calls == ["parent"], calls

    loop.run_until_complete(main())
    loop.close()
    print("well")
""")


def test_a_forked_child_has_its_own(loop_name):
    if loop_name == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("the child shares the pipe of its parent")
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, loop_name]
    done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


ON_WITH_PARENTS = textwrap.dedent("""
    import aioxide, asyncio, os, signal
    loop, calls = aioxide.EventLoop(), []
    async def main():
        loop.add_signal_handler(signal.SIGTERM, calls.append, os.getpid())
        pid = os.fork()
        asyncio._set_running_loop(loop)
        os.kill(os.getpid(), signal.SIGTERM)
        while not calls:
            await asyncio.sleep(0.001)
        assert len(calls) == 1
        if pid == 0:
            before = signal.set_wakeup_fd(-1)
            assert before == -1, before
            loop.remove_signal_handler(signal.SIGTERM)
            os._exit(0)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            await asyncio.sleep(0.001)
        loop.remove_signal_handler(signal.SIGTERM)
        return "well"
    print(loop.run_until_complete(asyncio.wait_for(main(), 10)))
    loop.close()
""")


def test_a_forked_child_that_goes_on_with_its_parents_loop():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", ON_WITH_PARENTS]
    done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def test_at_the_end_of_the_program(loop_name):
    """A loop that dies with the interpreter does not touch the handlers."""
    program = textwrap.dedent("""
        import asyncio, signal, sys
        if sys.argv[1] == "aioxide":
            import aioxide as module
        else:
            import asyncio as module
        loop = module.EventLoop() if sys.argv[1] == "aioxide" else asyncio.SelectorEventLoop()
        loop.add_signal_handler(signal.SIGHUP, print)
        sys.keep = loop
        del loop
    """)
    command = [sys.executable, "-W", "always", "-c", program, loop_name]
    done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
