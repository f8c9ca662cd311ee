"""What asyncio forbids: several threads call one loop, and its futures, tasks, handles, transports and coroutines:
`misuse.py [SECONDS [THREADS [SEED]]]`.

Nobody can say what such a program does. But whatever it is, it is a result or an exception of Python's: no crash, no
deadlock, and no internal error. The exit code is 0 if it was so.
"""

import asyncio
import faulthandler
import gc
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import warnings

import aioxide

LIMIT_S = 60
#: Of memory: what is not needed any more is freed while it goes on.
LIMIT_MIB = 500
KEPT = 30

failures = []
#: Per action: calls that gave a result, calls that raised.
outcomes = {}


def note(error):
    if isinstance(error, SystemError):
        failures.append("".join(traceback.format_exception(error)))


class Shared:
    """What all threads have hold of."""

    def __init__(self):
        self.loop = aioxide.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: note(context.get("exception")))
        self.futures, self.tasks, self.handles, self.transports, self.iterators = [], [], [], [], []
        self.datagrams, self.readers, self.writers, self.processes = [], [], [], []
        self.socket, self.peer = socket.socketpair()
        self.socket.setblocking(False)
        self.peer.setblocking(False)
        self.native = []


async def wait(future):
    try:
        return await future
    finally:
        await asyncio.sleep(0)


def keep(place, thing):
    place.append(thing)
    if len(place) > KEPT:
        del place[: KEPT // 2]
    return thing


def pick(rng, place):
    things = list(place)
    return rng.choice(things) if things else None


class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if len(data) < 100:
            self.transport.write(data[:1])


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if len(data) < 100:
            self.transport.sendto(data[:1], address)


class Child(asyncio.SubprocessProtocol):
    def connection_made(self, transport):
        keep(shared.processes, transport)

    def pipe_data_received(self, fd, data):
        pass


ACTIONS = []


def action(f):
    ACTIONS.append(f)
    return f


@action
def make_future(s, rng):
    keep(s.futures, s.loop.create_future())


@action
def finish(s, rng):
    future = pick(rng, s.futures)
    match rng.randrange(4):
        case 0:
            future.set_result([object()])
        case 1:
            future.set_exception(KeyError("planted"))
        case 2:
            future.cancel("message")
        case 3:
            future.__init__(loop=s.loop)


@action
def look_at_future(s, rng):
    future = pick(rng, s.futures + s.tasks)
    match rng.randrange(8):
        case 0:
            future.result()
        case 1:
            future.exception()
        case 2:
            repr(future)
        case 3:
            future._callbacks, future._state, future._loop, future._result, future._exception, future._source_traceback
        case 4:
            future._cancel_message = [object()]
            future._cancel_message
        case 5:
            future._make_cancelled_error()
        case 6:
            keep(s.iterators, iter(future))
        case 7:
            future._asyncio_future_blocking = rng.random() < 0.5


@action
def callbacks(s, rng):
    future = pick(rng, s.futures + s.tasks)

    more = [object()]

    def done(future):
        more.clear()

    future.add_done_callback(done)
    if rng.random() < 0.5:
        future.remove_done_callback(done)


@action
def iterate(s, rng):
    iterator = pick(rng, s.iterators + s.native)
    match rng.randrange(4):
        case 0:
            iterator.send(None)
        case 1:
            iterator.throw(KeyError("planted"))
        case 2:
            iterator.close()
        case 3:
            next(iterator)


@action
def make_task(s, rng):
    keep(s.tasks, s.loop.create_task(wait(pick(rng, s.futures) or asyncio.sleep(0)), name=rng.choice(("a", None))))


@action
def meddle_with_task(s, rng):
    task = pick(rng, s.tasks)
    match rng.randrange(7):
        case 0:
            task.cancel()
        case 1:
            task.uncancel(), task.cancelling()
        case 2:
            task.set_name(str(rng.random()))
            task.get_name()
        case 3:
            task.get_coro(), task.get_context()
        case 4:
            task._fut_waiter, task._must_cancel
        case 5:
            asyncio.all_tasks(s.loop), asyncio.current_task(s.loop)
        case 6:
            if rng.random() < 0.1:
                task.__init__(wait(asyncio.sleep(0)), loop=s.loop)


@action
def schedule(s, rng):
    argument = [object()]
    match rng.randrange(3):
        case 0:
            keep(s.handles, s.loop.call_soon(argument.append, 1))
        case 1:
            keep(s.handles, s.loop.call_later(rng.random() * 0.002, argument.append, 1))
        case 2:
            keep(s.handles, s.loop.call_soon_threadsafe(argument.append, 1))


@action
def meddle_with_handle(s, rng):
    handle = pick(rng, s.handles)
    match rng.randrange(4):
        case 0:
            handle.cancel()
        case 1:
            handle._run()
        case 2:
            repr(handle), handle._callback, handle._args, handle.get_context(), handle.cancelled()
        case 3:
            s.loop._ready, s.loop._scheduled


@action
def coroutine(s, rng):
    if rng.random() < 0.5:
        keep(s.native, s.loop.sock_recv(s.socket, 10))
    else:
        keep(s.native, s.loop.sock_sendall(s.socket, bytes(10)))
    s.peer.send(b"x")


@action
def connect(s, rng):
    if rng.random() < 0.1:
        for end in socket.socketpair():
            end.setblocking(False)
            keep(s.transports, s.loop._make_socket_transport(end, Protocol()))


@action
def write(s, rng):
    transport = pick(rng, s.transports)
    match rng.randrange(8):
        case 0:
            transport.write(bytes(rng.choice((10, 100_000))))
        case 1:
            transport.writelines([b"a", b"b"])
        case 2:
            transport.pause_reading()
        case 3:
            transport.resume_reading()
        case 4:
            transport.set_write_buffer_limits(rng.randrange(100))
            transport.get_write_buffer_size(), transport.get_write_buffer_limits()
        case 5:
            repr(transport), transport.get_extra_info("socket"), transport.is_closing()
        case 6:
            transport.set_protocol(Protocol())
        case 7:
            if rng.random() < 0.05:
                rng.choice((transport.close, transport.abort))()


@action
def open_more(s, rng):
    """Coroutines that end with a transport, which the loop's own thread keeps."""

    def kept(task, place):
        if not task.cancelled() and not task.exception():
            keep(place, task.result()[0])

    def start(coro, place):
        task = keep(s.tasks, s.loop.create_task(coro))
        task.add_done_callback(lambda task: kept(task, place))

    match rng.randrange(40):
        case 0 | 1:
            start(s.loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0)), s.datagrams)
        case 2 | 3:
            read, write = os.pipe()
            start(s.loop.connect_read_pipe(Protocol, os.fdopen(read, "rb", 0)), s.readers)
            start(s.loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0)), s.writers)
        case 4:
            start(s.loop.subprocess_exec(Child, "cat"), s.processes)


@action
def send_datagram(s, rng):
    transport = pick(rng, s.datagrams)
    other = pick(rng, s.datagrams)
    match rng.randrange(6):
        case 0 | 1:
            transport.sendto(b"x" * rng.choice((0, 1, 10_000)), other.get_extra_info("sockname"))
        case 2:
            transport.set_protocol(Datagrams())
        case 3:
            transport.set_write_buffer_limits(rng.randrange(100))
            transport.get_write_buffer_size(), transport.get_write_buffer_limits()
        case 4:
            repr(transport), transport.is_closing(), transport.get_protocol()
        case 5:
            if rng.random() < 0.2:
                rng.choice((transport.close, transport.abort))()


@action
def meddle_with_pipe(s, rng):
    match rng.randrange(6):
        case 0 | 1:
            pick(rng, s.writers).write(bytes(rng.choice((10, 100_000))))
        case 2:
            pick(rng, s.writers).write_eof() if rng.random() < 0.2 else pick(rng, s.writers).can_write_eof()
        case 3:
            reader = pick(rng, s.readers)
            rng.choice((reader.pause_reading, reader.resume_reading))()
        case 4:
            transport = pick(rng, s.readers + s.writers)
            repr(transport), transport.is_closing(), transport.get_extra_info("pipe"), transport.get_protocol()
        case 5:
            if rng.random() < 0.2:
                pick(rng, s.readers + s.writers).close()


@action
def meddle_with_process(s, rng):
    transport = pick(rng, s.processes)
    match rng.randrange(5):
        case 0:
            repr(transport), transport.get_pid(), transport.get_returncode(), transport.get_protocol()
        case 1:
            pipe = transport.get_pipe_transport(rng.randrange(3))
            pipe.write(b"x") if hasattr(pipe, "write") else pipe.pause_reading()
        case 2:
            transport.get_extra_info("subprocess").poll()
        case 3:
            if rng.random() < 0.2:
                transport.send_signal(rng.choice((signal.SIGTERM, signal.SIGCONT)))
        case 4:
            if rng.random() < 0.2:
                transport.close()


@action
def handle_signal(s, rng):
    if rng.random() < 0.5:
        s.loop.add_signal_handler(signal.SIGUSR1, len, "abc")
    else:
        s.loop.remove_signal_handler(signal.SIGUSR1)


@action
def watch(s, rng):
    match rng.randrange(3):
        case 0:
            keep(s.handles, s.loop._add_reader(s.peer, s.peer.recv, 100))
        case 1:
            s.loop.remove_reader(s.peer)
        case 2:
            s.loop._watched()


@action
def run(s, rng):
    match rng.randrange(6):
        case 0:
            s.loop.run_until_complete(asyncio.sleep(0.001))
        case 1:
            s.loop.stop()
        case 2:
            s.loop.call_soon_threadsafe(s.loop.stop)
        case 3:
            s.loop.set_debug(rng.random() < 0.1)
        case 4:
            s.loop.run_in_executor(None, len, "abc")
        case 5:
            if rng.random() < 0.02:
                s.loop.close()


shared = Shared()
ended = threading.Event()


def meddle(seed):
    rng = random.Random(seed)
    try:
        while not ended.is_set():
            act = rng.choice(ACTIONS)
            outcome = outcomes.setdefault(act.__name__, [0, 0])
            try:
                act(shared, rng)
                outcome[0] += 1
            except BaseException as error:
                note(error)
                outcome[1] += 1
    except BaseException:
        failures.append(traceback.format_exc())


def drive():
    """Runs the loop, and makes a new one when somebody has closed it."""
    global shared
    while not ended.is_set():
        try:
            while not ended.is_set() and not shared.loop.is_closed():
                shared.loop.call_later(0.01, shared.loop.stop)
                shared.loop.run_forever()
        except BaseException as error:
            note(error)
            time.sleep(0.001)
        if shared.loop.is_closed():
            shared.socket.close()
            shared.peer.close()
            shared = Shared()


def collect():
    while not ended.is_set():
        gc.collect()
        time.sleep(0.005)


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(2**32)
    if hasattr(sys, "_is_gil_enabled"):
        print(f"GIL: {sys._is_gil_enabled()}, seed {seed}", flush=True)
    warnings.simplefilter("ignore")
    logging.disable()
    sys.unraisablehook = threading.excepthook = lambda args: note(args.exc_value)
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + LIMIT_S, exit=True)
    jobs = [threading.Thread(target=meddle, args=(seed + i,), daemon=True) for i in range(threads)]
    jobs += [threading.Thread(target=drive, daemon=True), threading.Thread(target=collect, daemon=True)]
    for job in jobs:
        job.start()
    time.sleep(seconds)
    ended.set()
    for job in jobs:
        # A thread may sleep in a loop that another one has stopped for it: that is the program's own deadlock.
        while job.is_alive():
            try:
                shared.loop.call_soon_threadsafe(shared.loop.stop)
            except RuntimeError:
                pass
            job.join(0.05)
    print(", ".join(f"{name} {done}+{raised}" for name, (done, raised) in sorted(outcomes.items())))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{sum(map(sum, outcomes.values()))} calls, {used} MiB, {len(failures)} internal errors")
    if used > LIMIT_MIB:
        failures.append(f"{used} MiB of memory were used")
    for text in failures[:3]:
        print(text)
    sys.stdout.flush()
    os._exit(bool(failures))


if __name__ == "__main__":
    main()
