"""Steps that reach beyond the thread: other threads, forks, signals, child processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

from .connections import payload
from .operations import index, one_of, operation, up_to
from .world import describe

# --- threads ---------------------------------------------------------------------------------------


@operation(0.8, up_to(6), up_to(3), rests=True)
def from_threads(world, count, raises):
    """Threads call in, each several times: nothing is lost, and each one's order holds."""
    for _ in range(2):
        channel = f"thread{world.number('thread')}"
        come = world.awaiting()

        def call(number, channel=channel, come=come):
            world.note(channel, number)
            if number == count:
                come()
            elif number == raises:
                raise ValueError(number)

        def body(call=call):
            for number in range(count + 1):
                world.loop.call_soon_threadsafe(call, number)

        thread = threading.Thread(target=body)
        world.threads.append(thread)
        thread.start()


#: Before 3.13 a call that raises StopIteration never ends.
HOW_CALLS_END = one_of("result", "raise", "cancel", *(["stop"] if sys.version_info >= (3, 13) else []))


@operation(0.8, HOW_CALLS_END, up_to(3), rests=True)
def in_executor(world, how, more):
    for _ in range(more + 1):
        channel = f"executor{world.number('executor')}"

        gate = threading.Event()

        def work(channel=channel, gate=gate):
            gate.wait(10)
            if how == "raise":
                raise KeyError(channel)
            if how == "stop":
                raise StopIteration(channel)
            return channel

        come = world.awaiting()
        call = world.loop.run_in_executor(None, work)
        if how == "cancel":
            world.note(channel, call.cancel())
        gate.set()

        async def watched(call=call):
            return await call

        world.spawn(channel, watched()).add_done_callback(lambda task, come=come: come())


@operation(0.3, rests=True)
def resolve(world):
    come = world.awaiting()
    task = world.spawn("resolver", world.loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM), shows=type)
    task.add_done_callback(lambda task: come())


@operation(0.3, rests=True)
def promise_from_thread(world):
    """`run_coroutine_threadsafe`, whose result the thread waits for."""
    channel = f"promise{world.number('promise')}"
    come = world.awaiting()
    answers = []

    def body():
        answers.append(asyncio.run_coroutine_threadsafe(asyncio.sleep(0, channel), world.loop).result(10))
        world.loop.call_soon_threadsafe(told)

    def told():
        world.note(channel, *answers)
        come()

    thread = threading.Thread(target=body)
    world.threads.append(thread)
    thread.start()


# --- forks -----------------------------------------------------------------------------------------


@operation(0.06, one_of("exit", "loop", "inherited"))
def fork(world, what):
    """A child, forked in a callback of the running loop, makes a loop of its own, or lets go of the inherited one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        report = b"nothing"
        try:
            if what == "loop":
                report = _in_child(type(world.loop))
            elif what == "inherited":
                report = repr((world.loop.is_running(), world.loop.is_closed())).encode()
        except BaseException as error:
            report = repr(describe(error)).encode()
        finally:
            os.write(writer, report)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        report = file.read()
    world.note("fork", what, report, os.waitpid(pid, 0)[1])


def _in_child(make_loop):
    seen = []

    async def talk(reader, writer):
        writer.write(await reader.readexactly(3))
        writer.close()

    async def main():
        seen.append(len(asyncio.all_tasks()))
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"abc")
        seen.append(await reader.read())
        writer.close()
        server.close()
        seen.append(await asyncio.gather(*(asyncio.sleep(0.001 * at, at) for at in range(3))))

    loop = make_loop()
    loop.run_until_complete(main())
    loop.close()
    return repr(seen).encode()


# --- signals ---------------------------------------------------------------------------------------

SIGNALS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCHLD]


def signal_step(weight, *draws, **options):
    return operation(weight, index, *draws, feature="signals", channel="signals", **options)


@signal_step(2, one_of("note", "note", "raise", "remove"))
def add_signal_handler(world, at, does):
    number = SIGNALS[at % len(SIGNALS)]
    name = f"handler {world.number('handler')}"

    def handler(*args):
        world.note("signals", name, number.name, args)
        if does == "raise":
            raise ValueError(name)
        if does == "remove":
            world.note("signals", "removed", world.loop.remove_signal_handler(number))

    world.loop.add_signal_handler(number, handler, name)
    world.signals.add(number)


@signal_step(1)
def remove_signal_handler(world, at):
    number = SIGNALS[at % len(SIGNALS)]
    world.note("signals", "remove", world.loop.remove_signal_handler(number))
    world.signals.discard(number)
    world.note("signals", repr(signal.getsignal(number)))


@signal_step(3, up_to(3))
def raise_signal(world, at, more):
    """To ourselves, several in a row: while their handlers are not the loop's, those that end us are not sent.

    Nor while asyncio's pipe may be readable for another reason: with its reader in the queue already the signal is seen in
    this turn, else in the next, and its handler may be exchanged in between.
    """
    number = SIGNALS[at % len(SIGNALS)]
    if callable(signal.getsignal(number)) and not world.woken:
        for _ in range(more + 1):
            os.kill(os.getpid(), number)


@signal_step(1, outside=True)
def raise_signal_at_rest(world, at):
    """While the loop does not run: delivered when it does."""
    raise_signal(world, at, 0)


@signal_step(0.3, one_of("number", "kill", "coroutine", "text"))
def signal_wrong(world, at, what):
    async def coroutine():
        pass

    number = {"number": 1000, "kill": signal.SIGKILL, "text": "USR1"}.get(what, signal.SIGUSR1)
    world.loop.add_signal_handler(number, coroutine if what == "coroutine" else print)


# --- child processes -------------------------------------------------------------------------------


class Process(asyncio.SubprocessProtocol):
    """A child, each of its pipes a channel."""

    def __init__(self, world):
        self.world = world
        self.channel = f"process{world.number('process')}"
        self.transport = None
        self.gone = world.awaiting()
        world.processes.append(self)
        world.cleaning.append(self.clean)

    def clean(self):
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport):
        self.transport = transport
        self.world.note(self.channel, "made")

    def pipe_data_received(self, fd, data):
        self.world.note(f"{self.channel} {fd}", "data", data)

    def pipe_connection_lost(self, fd, error):
        self.world.note(f"{self.channel} {fd}", "lost", describe(error))

    def process_exited(self):
        self.world.note(self.channel, "exited", self.transport.get_returncode())

    def connection_lost(self, error):
        self.world.note(self.channel, "lost", describe(error))
        self.gone()


PROGRAMS = {
    "true": ["true"],
    "fails": ["sh", "-c", "exit 7"],
    "speaks": ["sh", "-c", "echo out; echo err >&2; exit 1"],
    "cat": ["cat"],
    "dies": ["sh", "-c", "kill -9 $$"],
    "deaf": ["sh", "-c", "exec <&-; echo closed; read x < /dev/null; exit 3"],
    "missing": ["/nonexistent/program"],
    "much": ["sh", "-c", "head -c 300000 /dev/zero"],
}


def process_step(weight, *draws, **options):
    return operation(weight, *draws, feature="subprocess", **options)


@process_step(0.3, one_of(*PROGRAMS), one_of("close", "kill", "terminate", "write and close", "abort"), rests=True)
def spawn_process(world, program, ending):
    """A child by `subprocess_exec`, and how its stdin, or it, is brought to an end."""
    process = Process(world)

    async def start():
        try:
            transport, _ = await world.loop.subprocess_exec(lambda: process, *PROGRAMS[program])
        except BaseException:
            process.gone()
            raise
        if program == "cat":  # any other may be over by now
            stdin = transport.get_pipe_transport(0)
            if ending.startswith("write"):
                stdin.write(payload(1, 3000))
            if ending in ("kill", "terminate"):
                getattr(transport, ending)()
            else:
                (stdin.abort if ending == "abort" else stdin.close)()
        return "started"

    world.spawn(process.channel + " start", start())


@process_step(0.2, one_of(*PROGRAMS), up_to(3), one_of("pipe", "null", "merged"), rests=True)
def communicate(world, program, size, err):
    """A child by `asyncio.create_subprocess_exec`, fed and read to its end."""
    come = world.awaiting()
    channel = f"child{world.number('child')}"
    pipe = subprocess.PIPE

    async def talk():
        process = await asyncio.create_subprocess_exec(
            *PROGRAMS[program], stdin=pipe, stdout=pipe,
            stderr={"pipe": pipe, "null": subprocess.DEVNULL, "merged": subprocess.STDOUT}[err],
        )  # fmt: skip
        # Given nothing, older versions leave the pipe open, and cat waits.
        none = b"x" if program == "cat" else None
        # 3.10 reports a broken pipe that nobody asked about, or not, as it comes.
        much = payload(2, 200_000) if program == "cat" or sys.version_info >= (3, 11) else b""
        out = await process.communicate([none, b"", much][size])
        return process.returncode, out, await process.wait()

    world.spawn(channel, talk()).add_done_callback(lambda task: come())


@process_step(0.15, one_of("exit 3", "cat", "kill -15 $$", "echo $0 $VARIABLE; pwd"), rests=True)
def shell(world, line):
    come = world.awaiting()
    channel = f"child{world.number('child')}"

    async def talk():
        process = await asyncio.create_subprocess_shell(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={"VARIABLE": "here"}, cwd="/"
        )
        return await process.communicate(), process.returncode

    world.spawn(channel, talk()).add_done_callback(lambda task: come())


@process_step(0.15, up_to(2), rests=True)
def wait_cancelled(world, kills):
    """A wait that is given up, and another one that is not."""
    come = world.awaiting()
    channel = f"child{world.number('child')}"

    async def talk():
        process = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        process.kill() if kills else process.stdin.close()
        return waiting.cancelled(), await process.wait()

    world.spawn(channel, talk()).add_done_callback(lambda task: come())
