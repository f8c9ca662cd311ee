"""Loops in many threads at once, all doing their own work and talking to each other: `stress.py [SECONDS [THREADS [SEED]]]`.

Each thread makes a loop, does a round of work on it, closes it, and begins again. Meanwhile other threads send calls and
coroutines to the loops, list their tasks, and collect garbage. Each round checks its own results; the exit code is 0 if
all were right, nothing was reported to an exception handler, and no descriptor is left. Runs with and without a GIL.
"""

import asyncio
import gc
import os
import random
import sys
import threading
import time
import traceback

import aioxide

sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from certificates import contexts

CALLS = 40
LIMIT_S = 60

failures = []
counts = {}


def fail(text):
    failures.append(text)


def count(what):
    # A lost count does no harm: it is only shown.
    counts[what] = counts.get(what, 0) + 1


class Target:
    """A running loop that other threads send to, and what came of it. Closed to senders before the loop is."""

    def __init__(self, loop):
        self.loop = loop
        self.lock = threading.Lock()
        self.open = True
        self.sent = {}
        self.arrived = {}
        self.futures = []

    def send(self, sender, rng):
        with self.lock:
            if not self.open:
                return
            for _ in range(rng.randrange(1, 6)):
                number = self.sent[sender] = self.sent.get(sender, 0) + 1
                self.loop.call_soon_threadsafe(self.arrive, sender, number)
            if rng.random() < 0.5:
                n = rng.randrange(1000)
                self.futures.append((n, asyncio.run_coroutine_threadsafe(self.double(n), self.loop)))
            if rng.random() < 0.2:
                self.loop.call_soon_threadsafe(fail, "a cancelled call was made").cancel() if GUARDED else None

    def arrive(self, sender, number):
        if threading.get_ident() != self.thread:
            fail("a callback ran in another thread")
        before = self.arrived.get(sender, 0)
        if number != before + 1:
            fail(f"call {number} of {sender} came after {before}")
        self.arrived[sender] = number
        count("calls from other threads")

    async def double(self, n):
        await asyncio.sleep(0)
        return 2 * n

    async def end(self):
        with self.lock:
            self.open = False
        while self.arrived != self.sent:
            await asyncio.sleep(0.001)
        for n, future in self.futures:
            if await asyncio.wrap_future(future) != 2 * n:
                fail("a coroutine from another thread gave a wrong result")
            count("coroutines from other threads")


#: From 3.14 on `cancel` of such a handle excludes the call.
GUARDED = sys.version_info >= (3, 14)
targets = []
ended = threading.Event()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def echo(rng):
    loop = asyncio.get_running_loop()
    server_context, client_context = contexts() if rng.random() < 0.5 else (None, None)
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context)
    async with server:
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(),
            ssl=client_context,
            server_hostname="localhost" if client_context else None,
        )
        for _ in range(CALLS // 4):
            data = rng.randbytes(rng.choice((1, 100, 70_000)))
            writer.write(data)
            if await reader.readexactly(len(data)) != data:
                fail("the echo is not what was sent")
            count("echoes with TLS" if client_context else "echoes")
        writer.close()
        await writer.wait_closed()


async def datagrams(rng):
    """Both ends are this loop's; on loopback nothing that fits is lost."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Queue()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            arrived.put_nowait(data)

    receiver, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    address = receiver.get_extra_info("sockname")
    sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
    for _ in range(CALLS // 4):
        data = rng.randbytes(rng.choice((0, 1, 1000)))
        sender.sendto(data)
        if await arrived.get() != data:
            fail("the datagram is not what was sent")
        count("datagrams")
    sender.close()
    receiver.close()
    await asyncio.sleep(0)


async def pipe(rng):
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    stream = asyncio.StreamReader()
    reader, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", 0))
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
    data = rng.randbytes(100_000)
    writer.write(data)
    if await stream.readexactly(len(data)) != data:
        fail("the pipe gives what was not written")
    writer.close()
    await stream.read()
    reader.close()
    await asyncio.sleep(0)
    count("pipes")


async def child(rng):
    status = rng.randrange(256)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"cat; exit {status}", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    data = rng.randbytes(1000)
    if await process.communicate(data) != (data, None) or process.returncode != status:
        fail("the child gives what is not its own")
    count("children")


async def switches():
    queue = asyncio.Queue(1)

    async def produce():
        for i in range(CALLS):
            await queue.put(i)

    task = asyncio.create_task(produce())
    if [await queue.get() for _ in range(CALLS)] != list(range(CALLS)):
        fail("the queue's items are out of order")
    await task
    count("queues")


async def timers(rng):
    loop = asyncio.get_running_loop()
    fired = []
    handles = []
    for _ in range(CALLS):
        delay = rng.random() * 0.01
        when = loop.time() + delay
        handles.append(loop.call_at(when, lambda when=when: fired.append((when, loop.time()))))
    cancelled = rng.sample(handles, 10)
    for handle in cancelled:
        handle.cancel()
    await asyncio.sleep(0.02)
    while len(fired) < CALLS - 10:
        await asyncio.sleep(0.001)
    if len(fired) != CALLS - 10 or any(now + loop._clock_resolution < when for when, now in fired):
        fail("timers fired too early, or cancelled ones did")
    count("timers")


async def executor():
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(*(loop.run_in_executor(None, pow, i, 2) for i in range(CALLS)))
    if results != [i * i for i in range(CALLS)]:
        fail("calls in threads gave wrong results")
    count("calls in threads")


async def futures(rng):
    loop = asyncio.get_running_loop()
    made = [loop.create_future() for _ in range(CALLS)]

    async def wait(future):
        try:
            return await future
        except (asyncio.CancelledError, ZeroDivisionError) as error:
            return type(error)

    tasks = [asyncio.create_task(wait(f)) for f in made]
    await asyncio.sleep(0)
    expected = []
    for i, f in enumerate(made):
        match rng.randrange(3):
            case 0:
                f.set_result(i)
                expected.append(i)
            case 1:
                f.set_exception(ZeroDivisionError())
                expected.append(ZeroDivisionError)
            case 2:
                f.cancel()
                expected.append(asyncio.CancelledError)
    if await asyncio.gather(*tasks) != expected:
        fail("futures have wrong outcomes")
    # A cycle for the collector.
    for f in made:
        f.itself = f
    count("futures")


async def names():
    task = asyncio.current_task()
    for _ in range(CALLS // 4):
        if asyncio.current_task() is not task or task not in asyncio.all_tasks():
            fail("the current task is not the one that runs")
        await asyncio.sleep(0)


async def round_of(loop, rng):
    target = Target(loop)
    target.thread = threading.get_ident()
    targets.append(target)
    try:
        work = [echo(rng), switches(), timers(rng), executor(), futures(rng), names(), datagrams(rng), pipe(rng)]
        if rng.random() < 0.2:
            work.append(child(rng))
        rng.shuffle(work)
        await asyncio.wait_for(asyncio.gather(*work[: rng.randrange(1, len(work) + 1)]), LIMIT_S)
        for coro in work:
            coro.close()
        await asyncio.wait_for(target.end(), LIMIT_S)
    finally:
        targets.remove(target)
        target.open = False


def guarded(body):
    def run(*args):
        try:
            body(*args)
        except BaseException:
            fail(traceback.format_exc())
            ended.set()

    return run


@guarded
def work(seed):
    rng = random.Random(seed)
    while not ended.is_set():
        loop = aioxide.new_event_loop()
        loop.set_exception_handler(lambda loop, context: fail(f"reported: {context}"))
        try:
            loop.run_until_complete(round_of(loop, rng))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        count("rounds")


@guarded
def send(seed):
    rng = random.Random(seed)
    while not ended.is_set():
        for target in list(targets):
            target.send(seed, rng)
        time.sleep(0.0005)


@guarded
def look():
    while not ended.is_set():
        for target in list(targets):
            for task in asyncio.all_tasks(target.loop):
                try:
                    repr(task)
                except TypeError:  # asyncio's own function looks twice whether there are callbacks
                    pass
                task.done(), task.get_name(), task.get_coro(), task.get_context(), task._callbacks
                # Not get_stack(): on 3.13t the frames of a running thread are not safe to walk, with asyncio's own tasks neither.
                count("looks at tasks")
            target.loop.is_running(), asyncio.current_task(target.loop)
            for handle in target.loop._ready + target.loop._scheduled:
                handle is None or (handle.cancelled(), handle._callback, handle._args, handle.get_context())
        time.sleep(0.0005)


@guarded
def collect():
    while not ended.is_set():
        gc.collect()
        count("collections")
        time.sleep(0.002)


def descriptors():
    return set(os.listdir("/proc/self/fd"))


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(2**32)
    if hasattr(sys, "_is_gil_enabled"):
        print(f"GIL: {sys._is_gil_enabled()}, seed {seed}", flush=True)
    asyncio.run(asyncio.sleep(0))
    before = descriptors()
    jobs = [threading.Thread(target=work, args=(seed + i,)) for i in range(threads)]
    jobs += [threading.Thread(target=send, args=(seed - 1 - i,)) for i in range(2)]
    jobs += [threading.Thread(target=look), threading.Thread(target=collect)]
    for job in jobs:
        job.start()
    ended.wait(seconds)
    ended.set()
    for job in jobs:
        job.join(LIMIT_S)
        if job.is_alive():
            fail(f"{job} does not end")
    gc.collect()
    if left := descriptors() - before:
        fail(f"descriptors are left: {left}")
    print(", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    for text in failures[:5]:
        print(text)
    sys.stdout.flush()
    os._exit(bool(failures)) if any(job.is_alive() for job in jobs) else sys.exit(bool(failures))


if __name__ == "__main__":
    main()
