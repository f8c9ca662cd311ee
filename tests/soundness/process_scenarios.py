"""Scenarios of the refleak hunt: child processes, signal handlers."""

import asyncio
import gc
import os
import signal
import subprocess
import threading

from scenario import Loop, run, scenario

# --- child processes -------------------------------------------------------------------------------------


def spawn(*command, **options):
    return asyncio.create_subprocess_exec(*command, **options)


def await_waiting_threads():
    """Of children that outlived their loop; up to 3.11 asyncio has one for each child."""
    for thread in threading.enumerate():
        if thread.name.startswith(("waitpid", "asyncio-waitpid")):
            thread.join(10)


@scenario
def process_with_pipes():
    async def main():
        process = await spawn("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(b"line\n")
        await process.stdin.drain()
        assert await process.stdout.readline() == b"line\n"
        repr(process._transport)
        process.stdin.close()
        assert await process.wait() == 0
        assert await process.stdout.read() == await process.stderr.read() == b""

    run(main)
    await_waiting_threads()


@scenario
def process_communicates():
    async def main():
        process = await spawn("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = await process.communicate(b"x" * 200_000)
        assert len(out) == 200_000
        process = await asyncio.create_subprocess_shell("exit 3", stderr=subprocess.PIPE)
        await process.communicate()
        assert process.returncode == 3

    run(main)
    await_waiting_threads()


@scenario
def process_is_killed():
    async def main():
        process = await spawn("sleep", "100", stdout=subprocess.PIPE)
        process.send_signal(0)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        try:
            process.terminate()
        except ProcessLookupError:
            pass

    run(main)
    await_waiting_threads()


@scenario
def process_wait_is_cancelled():
    async def main():
        process = await spawn("sleep", "100")
        waiting = [asyncio.ensure_future(process.wait()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[:4]:
            task.cancel()
        await asyncio.wait(waiting[:4])
        process.terminate()
        await waiting[4]

    run(main)
    await_waiting_threads()


@scenario
def process_start_fails_or_is_cancelled():
    async def main():
        for wrong in ({"stdin": subprocess.PIPE, "text": True}, {"bufsize": 1}):
            try:
                await spawn("true", **wrong)
            except ValueError:
                pass
        try:
            await spawn("/nonexistent/program", stdout=subprocess.PIPE)
        except OSError:
            pass
        task = asyncio.ensure_future(spawn("sleep", "100", stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass

    run(main)
    await_waiting_threads()


@scenario
def process_transport_is_closed_while_the_child_runs():
    async def main():
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        class Protocol(asyncio.SubprocessProtocol):
            def connection_lost(self, error):
                ended.set_result(error)

        transport, _ = await loop.subprocess_exec(Protocol, "sleep", "100")
        transport.close()
        await ended

    run(main)
    await_waiting_threads()


@scenario
def process_outlives_its_loop():
    with Loop() as loop:
        process = loop.run_until_complete(spawn("sleep", "100"))
    os.kill(process.pid, signal.SIGKILL)
    await_waiting_threads()
    process._transport.close()
    del process, loop
    gc.collect()


# --- signal handlers -------------------------------------------------------------------------------------


def send(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


@scenario
def signals_are_received():
    with Loop() as loop:
        loop.add_signal_handler(signal.SIGUSR1, id, object())
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        loop.add_signal_handler(signal.SIGUSR2, loop.stop)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            send(number)
            loop.run_forever()
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        for wrong in (0, signal.SIGKILL):
            try:
                loop.add_signal_handler(wrong, id, loop)
            except (ValueError, RuntimeError, OSError):
                pass


@scenario
def signal_handler_raises():
    def fail():
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        raise ValueError("planted")

    with Loop() as loop:
        loop.add_signal_handler(signal.SIGUSR1, fail)
        send()
        loop.run_forever()


@scenario
def signal_handlers_left_at_close():
    with Loop() as loop:
        loop.add_signal_handler(signal.SIGUSR1, id, loop)
        loop.add_signal_handler(signal.SIGUSR2, id, loop)
        send()
