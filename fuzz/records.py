"""Bad records: streams of TLS bytes, mutated by seed, against a connection of a loop that runs.

  python -m fuzz.records                       400 cases on each engine, the same ones each time
  python -m fuzz.records --seed 7 --minutes 5  as long as that, from that seed on
  python -m fuzz.records --one 7 --engine direct  one case again, in this process
  python -m fuzz.records --loop asyncio        asyncio's own: it must pass as well

A case is of two kinds. "replay": a stream of `corpus/tls` (`fuzz.record` makes them), to a server or to a client; it ends
at the latest where the random numbers of the handshake do not fit. "live": OpenSSL on memory buffers shakes hands and
talks, and what it sends passes through the mutations. In both the bytes arrive in pieces of random sizes.

Of each case is asked: it ends within a bounded number of turns; as asyncio says that connections end (SSLError,
ConnectionError, TimeoutError, or cleanly); what the program got is what the peer wrote, from the beginning on; nothing
goes to the exception handler; no descriptor and no protocol is left; the loop rests when nothing comes; nothing crashes.
A replayed case must end on asyncio in the same words. Exit status 0: all of that; 1: not; 2: wrong usage.
"""

import argparse
import asyncio
import faulthandler
import gc
import json
import os
import random
import socket
import ssl
import subprocess
import sys
import time
import weakref

from .mutations import Mutator
from .tls_peers import FOLDER, Peer, context
from .worker import loop_class
from .world import describe, descriptors

#: Turns of the loop after which a case does not end.
MOST_TURNS = 5000
#: Seconds of a handshake or a shutdown that does not go on, where the peer stays silent.
SLOW_S = 0.03
#: Seconds after which a case hangs.
LIMIT_S = 20
#: asyncio's TLS of 3.10 is another one: no timer for the shutdown, and none who can ask whether it reads.
IS_NEW = sys.version_info >= (3, 11)
TIMEOUTS = ["ssl_handshake_timeout", "ssl_shutdown_timeout"][: 1 + IS_NEW]
#: Seconds after which a timer of the loop counts as lost.
LATE_S = 4
ENGINES = ("direct", "fallback")
#: Every so many cases the loop is watched doing nothing.
WATCHED = 20
#: How a connection may end.
ENDS = (ssl.SSLError, ConnectionError, TimeoutError, asyncio.TimeoutError, ssl.CertificateError)


class Wrong(Exception):
    """What a case must not do."""


class Program(asyncio.Protocol):
    """Answers with what it gets; pauses now and then."""

    def __init__(self, chance):
        self.chance = chance
        self.received = self.written = b""
        self.transport = self.end = None
        self.ends = []

    def connection_made(self, transport):
        self.ends.append("made")
        self.transport = transport
        self.write(b"hello\n")

    def write(self, data):
        self.written += data
        self.transport.write(data)

    def data_received(self, data):
        if not data:
            raise Wrong("data_received got nothing")
        self.received += data
        if len(self.received) < 100_000:
            self.write(data)
        if self.chance.random() < 0.1 and IS_NEW:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    def eof_received(self):
        self.ends.append("eof")

    def connection_lost(self, error):
        self.ends.append("lost")
        self.end = error


class BufferedProgram(Program, asyncio.BufferedProtocol):
    def __init__(self, chance):
        super().__init__(chance)
        self.space = bytearray(chance.choice([60, 1000, 20_000]))

    def get_buffer(self, sizehint):
        return memoryview(self.space)

    def buffer_updated(self, count):
        self.data_received(bytes(self.space[:count]))


class Sender:
    """Sends bytes in pieces of random sizes."""

    def __init__(self, sock, chance):
        self.sock, self.chance, self.unsent = sock, chance, b""
        self.most = chance.choice([1, 7, 100, 5000, 1 << 20])

    def send(self, data):
        """Of a socket whose other side is not asked."""
        self.unsent += data
        return len(data)

    def push(self):
        """One piece; False if there is none, or nobody takes it."""
        # A trickle takes its time only as long as it is short.
        most = max(self.most, len(self.unsent) // 200)
        piece = self.unsent[: self.chance.randint(1, most)]
        if not piece:
            return False
        try:
            count = self.sock.send(piece)
        except BlockingIOError:
            return False
        except OSError:
            self.unsent = b""
            return False
        self.unsent = self.unsent[count:]
        return True

    def __getattr__(self, name):
        return getattr(self.sock, name)


class MutatingPeer(Peer):
    def __init__(self, sender, mutator, made, server_side):
        super().__init__(sender, made, server_side)
        self.mutator = mutator

    def flush(self):
        data = self.outgoing.read()
        if data:
            self.sock.send(self.mutator.pass_on(data))


class Case:
    """One connection on `loop`, with all that a seed says of it."""

    def __init__(self, loop, seed):
        self.loop, self.seed = loop, seed
        self.chance = chance = random.Random(seed)
        self.turns = 0
        self.here, self.there = socket.socketpair()
        self.here.setblocking(False)
        self.there.setblocking(False)
        self.program = (BufferedProgram if chance.random() < 0.3 else Program)(chance)
        self.sender = Sender(self.there, chance)
        self.serves = chance.random() < 0.5
        self.is_live = chance.random() < 0.6
        self.closes = chance.random() < 0.2
        self.stays_silent = chance.random() < 0.1
        self.mutator = Mutator(chance)
        self.outcome = None

    def __repr__(self):
        kinds = "live" if self.is_live else "replay", "server" if self.serves else "client"
        return f"{kinds}, {type(self.program).__name__}, {self.outcome!r}, {self.program.ends}, {self.mutator.plan}"

    def turn(self):
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Wrong(f"it does not end in {MOST_TURNS} turns: {self}")
        self.loop.stop()
        self.loop.run_forever()

    async def connect(self, version):
        make, loop = (lambda: self.program), self.loop
        timeouts = dict.fromkeys(TIMEOUTS, SLOW_S) if self.stays_silent else {}
        try:
            if self.serves:
                await loop.connect_accepted_socket(make, self.here, ssl=context("server", version), **timeouts)
            else:
                mine = context("client", version)
                await loop.create_connection(make, sock=self.here, ssl=mine, server_hostname="localhost", **timeouts)
        except (Exception, asyncio.CancelledError) as error:
            self.outcome = error

    def run(self):
        """None, or what asyncio must say as well: not of a race with a timer, nor of keys that differ."""
        version = self.chance.choice(["1.2", "1.3"])
        self.task = self.loop.create_task(self.connect(version))
        self.turn()
        (self.talk if self.is_live else self.replay)(version)
        self.finish()
        self.judge()
        if self.is_live or self.stays_silent:
            return None
        return [describe(self.outcome), self.program.ends, describe(self.program.end)]

    def replay(self, version):
        side = "client" if self.serves else "server"
        names = sorted(path.name for path in FOLDER.glob(f"*-{side}.bin"))
        self.sender.unsent = self.mutator.pass_on((FOLDER / self.chance.choice(names)).read_bytes())
        while self.sender.push():
            self.listen()
            self.turn()

    def listen(self):
        """Take what the loop has sent, without a look."""
        try:
            return self.there.recv(1 << 20)
        except OSError:
            return b""

    def talk(self, version):
        side = "client" if self.serves else "server"
        peer = self.peer = MutatingPeer(self.sender, self.mutator, context(side, version), not self.serves)
        self.said = self.heard = b""
        left = [bytes(self.chance.choices(b"abc\n", k=7)) * self.chance.choice([1, 10, 3000]) for _ in range(4)]
        idle = 0
        while idle < 4:
            self.mutator.is_sealed = peer.is_ready and self.is_wrapped()
            moved = self.exchange(peer)
            if peer.is_ready and left and peer.failure is None and self.chance.random() < 0.5:
                moved = True
                data = left.pop()
                try:
                    peer.send(data)
                    self.said += data
                except ssl.SSLError as error:
                    peer.failure = error
            if self.sender.push() or moved:
                idle = 0
            else:
                idle += 1
            self.turn()
        if self.closes and self.program.transport is not None:
            self.program.transport.close()
        elif peer.is_ready and peer.failure is None and self.chance.random() < 0.7:
            try:
                peer.notify()
            except ssl.SSLError as error:
                peer.failure = error
        for _ in range(20):
            self.sender.push()
            self.turn()
            self.exchange(peer)

    def exchange(self, peer):
        """Whatever the peer can do now."""
        if peer.failure is not None:
            return bool(self.listen())
        moved = peer.pump()
        while peer.is_ready:
            try:
                data = peer.object.read(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                break
            except ssl.SSLError as error:
                peer.failure = error
                break
            if not data:
                break
            self.heard += data
            moved = True
        peer.flush()
        return moved

    def finish(self):
        """The peer goes, unless the loop is to find out by its timers that it says no more."""
        deadline = time.monotonic() + LATE_S
        if not self.stays_silent:
            while self.sender.push():
                self.turn()
                self.listen()
            try:
                self.there.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        elif self.is_wrapped() and not IS_NEW:
            self.program.transport.abort()
        elif self.is_wrapped() and not self.program.transport.is_closing():
            self.program.transport.close()
        while not self.is_over():
            self.listen()
            if self.stays_silent:
                time.sleep(0.001)
                self.turns -= 1
                if time.monotonic() > deadline:
                    raise Wrong("its timers do not end it")
            if IS_NEW and self.is_wrapped() and not self.program.transport.is_reading():
                self.program.transport.resume_reading()
            self.turn()
        self.there.close()
        for _ in range(4):
            self.turn()

    def is_wrapped(self):
        return "made" in self.program.ends and "lost" not in self.program.ends

    def is_over(self):
        return self.task.done() and not self.is_wrapped()

    def judge(self):
        program = self.program
        for error in (self.outcome, program.end):
            if error is not None and not isinstance(error, ENDS):
                raise Wrong(f"it ends with {error!r}")
        if program.ends not in ([], ["made", "lost"], ["made", "eof", "lost"]):
            raise Wrong(f"the protocol was told {program.ends}")
        if self.is_live:
            if not self.said.startswith(program.received):
                raise Wrong("it got what the peer did not write")
            if not program.written.startswith(self.heard):
                raise Wrong("the peer got what it did not write")
            if not self.mutator.has_mutated and not self.stays_silent:
                self.judge_unharmed()
            if self.mutator.has_broken and not self.closes and not self.stays_silent:
                self.judge_broken()
        elif program.received:
            raise Wrong("it got data from a replay")

    def judge_unharmed(self):
        program = self.program
        if self.outcome is not None or program.end is not None or self.peer.failure is not None:
            raise Wrong(f"nothing was wrong, but {self.outcome!r}, {program.end!r}, {self.peer.failure!r}")
        if program.received != self.said:
            raise Wrong(f"{len(self.said)} bytes were written, {len(program.received)} came")
        if program.written != self.heard:
            raise Wrong(f"{len(program.written)} bytes were answered, {len(self.heard)} came")

    def judge_broken(self):
        if not isinstance(self.program.end, ssl.SSLError):
            raise Wrong(f"a record was broken, and it ends with {self.program.end!r}")


class Bench:
    """A loop on which case follows case, and what must be the same after each."""

    def __init__(self, name):
        self.loop = loop_class(name)()
        # What it opens at its first run stays.
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.reports = []
        self.loop.set_exception_handler(lambda loop, told: self.reports.append(told))
        self.programs = weakref.WeakSet()

    def try_case(self, seed):
        before = descriptors()
        case = Case(self.loop, seed)
        self.programs.add(case.program)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        try:
            verdict = case.run()
            if seed % WATCHED == 0:
                self.watch_rest()
        finally:
            faulthandler.cancel_dump_traceback_later()
        if self.reports:
            raise Wrong(f"reported: {self.reports}")
        del case
        if descriptors() != before or seed % WATCHED == 0:
            gc.collect()
            if descriptors() != before:
                raise Wrong(f"descriptors are left: {descriptors() - before}")
            if self.programs:
                raise Wrong("protocols are left")
        return verdict

    def watch_rest(self):
        """A loop that has nothing to do sleeps."""
        start = time.process_time()
        self.loop.call_later(0.05, self.loop.stop)
        self.loop.run_forever()
        took_s = time.process_time() - start
        if took_s > 0.025:
            raise Wrong(f"the loop is busy with nothing: {took_s * 1000:.0f} of 50 ms")


def work(options):
    """The cases of one engine, in this process: says which one it is at before each."""
    gc.collect()
    ours, theirs = Bench(options.loop), Bench("asyncio")
    deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
    # Modules and caches come at the first use, and stay.
    ours.try_case(0), theirs.try_case(0)
    seed, count = options.seed, 0
    while count < options.cases if deadline is None else time.monotonic() < deadline:
        print(json.dumps({"seed": seed}), flush=True)
        try:
            said = ours.try_case(seed)
            expected = None if said is None else theirs.try_case(seed)
            if said != expected:
                raise Wrong(f"asyncio says {expected}, this loop {said}")
        except Wrong as wrong:
            print(json.dumps({"seed": seed, "wrong": str(wrong)}), flush=True)
            return 1
        seed, count = seed + 1, count + 1
    ours.loop.close()
    theirs.loop.close()
    print(json.dumps({"done": count}), flush=True)
    return 0


def supervise(options, engine):
    """A process for one engine: its crash or hang is that of the last seed it named. Returns how it failed, or None."""
    command = [sys.executable, "-X", "faulthandler", "-m", "fuzz.records", "--work", "--loop", options.loop]
    command += ["--seed", str(options.seed), "--cases", str(options.cases)]
    if options.minutes is not None:
        command += ["--minutes", str(options.minutes)]
    environment = {**os.environ, "AIOXIDE_TLS": "" if engine == "direct" else engine}
    start = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, cwd=FOLDER.parents[2]
    ) as process:
        last = {}
        for line in process.stdout:
            last = json.loads(line)
        errors = process.stderr.read()
    if "done" in last:
        print(f"records: {engine}: {last['done']} cases from seed {options.seed}, {time.monotonic() - start:.0f} s")
        return None
    how = last.get("wrong") or f"ended with {process.returncode}\n{errors[-5000:]}"
    again = f"python -m fuzz.records --loop {options.loop} --engine {engine} --one {last.get('seed')}"
    return f"{engine}, seed {last.get('seed')}: {how}\nagain: {again}"


def parse(arguments):
    parser = argparse.ArgumentParser(
        "fuzz.records", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=1, help="of the first case; the next ones count on from it (default: 1)")
    add("--cases", type=int, default=400, help="stop after so many, of each engine (default: %(default)s)")
    add("--minutes", type=float, help="stop after this time instead, for each engine")
    add("--engine", choices=[*ENGINES, "both"], default="both")
    add("--loop", default="aioxide", help="the loop to be tried: aioxide, asyncio or module:class")
    add("--one", type=int, metavar="SEED", help="one case, in this process")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    if options.work:
        return work(options)
    if options.one is not None:
        os.environ["AIOXIDE_TLS"] = "" if options.engine != "fallback" else options.engine
        options.seed, options.cases, options.minutes = options.one, 1, None
        return work(options)
    failures = [
        failure
        for engine in (ENGINES if options.engine == "both" else [options.engine])
        if (failure := supervise(options, engine)) is not None
    ]
    for failure in failures:
        print(f"records: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
