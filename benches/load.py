"""The load: the clients of the served rows, in one process for the whole run, and the stopwatch on the server.

    python -m benches.load

One JSON line per request on stdin, `{"port", "pid", "seconds", "load": fields of row.Load}`, one per answer on stdout: `{"figures": {name:
value}}` or `{"error": text}`; the port of a Unix socket is its name. A scenario is a function of that name below, or in `load_tls.py`. Those that measure CPU
time give the nanoseconds that the *server* used per request; the cost of this process is nobody's business, so plain epoll will do, and
where times matter it spins.
Bounded by time and by count, on loopback only.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median, quantiles
from typing import Any

from benches import load_tls
from benches.row import Load
from benches.stopwatch import (
    MAX_REQUESTS,
    RESET_AT_CLOSE,
    SILENCE_S,
    Broken,
    Figures,
    connect_to,
    cpu_ns_of,
    length_of_response,
    per_request,
    warm_up_rounds,
)

THINK_S = 0.02  # 100 clients that think so long ask 5000 times a second


class Clients:
    """Connections with at most one request each on its way."""

    def __init__(self, port: int | str, load: Load) -> None:
        self.request = load.request.encode("latin-1") * load.together
        self.answer = load.answer * load.together or len(self.request)
        self.echo = not load.answer
        self.epoll = select.epoll()
        self.by_fd: dict[int, socket.socket] = {}
        for _ in range(load.connections):
            sock = connect_to(port, load.network)
            self.by_fd[sock.fileno()] = sock
            self.epoll.register(sock, select.EPOLLIN)
        self.missing = dict.fromkeys(self.by_fd, 0)  # bytes of the answer still to come
        if load.answer < 0:
            self.answer = self.length_of_response()
        self.warm_up()

    def length_of_response(self) -> int:
        """Ask once: a response has the same length each time."""
        sock = next(iter(self.by_fd.values()))
        sock.sendall(self.request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.read(sock, 65536)
        length = length_of_response(got)
        while len(got) < length:
            got += self.read(sock, 65536)
        return length

    def warm_up(self) -> None:
        """Some full round trips, which also check the answer."""
        for _ in range(warm_up_rounds(len(self.by_fd))):
            for sock in self.by_fd.values():
                sock.sendall(self.request)
            for sock in self.by_fd.values():
                got = b""
                while len(got) < self.answer:
                    got += self.read(sock, self.answer - len(got))
                if self.echo and got != self.request:
                    raise Broken("the answer is not what was sent")

    @staticmethod
    def read(sock: socket.socket, size: int) -> bytes:
        data = sock.recv(size)
        if not data:
            raise Broken("the server closed a connection")
        return data

    def send(self, fd: int) -> None:
        self.missing[fd] = self.answer
        self.by_fd[fd].sendall(self.request)  # one message in flight: does not block

    def receive(self, wait_s: float = SILENCE_S) -> list[int]:
        """Read what has arrived within the time; the descriptors read from, which `missing` tells more about."""
        events = self.epoll.poll(wait_s)
        for fd, _ in events:
            self.missing[fd] -= len(self.read(self.by_fd[fd], self.answer))
        if not events and wait_s == SILENCE_S:
            raise Broken(f"no answer for {SILENCE_S:.0f} s")
        return [fd for fd, _ in events]

    def finish(self) -> None:
        """Take the answers under way: to close on unread bytes would be a reset for the server."""
        while any(self.missing.values()):
            self.receive()

    def close(self) -> None:
        self.epoll.close()
        for sock in self.by_fd.values():
            sock.close()


# -- CPU time of the server ------------------------------------------------------------------------------------------------------------


def ping_pong(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """Every client sends, waits for the whole of the answer, and sends again."""
    with closing(Clients(port, load)) as clients:
        answered = 0
        before = cpu_ns_of(pid)
        for fd in clients.by_fd:
            clients.send(fd)
        deadline = time.monotonic() + seconds
        while answered < MAX_REQUESTS and time.monotonic() < deadline:
            for fd in clients.receive():
                if not clients.missing[fd]:
                    answered += 1
                    clients.send(fd)
        used = cpu_ns_of(pid) - before
        clients.finish()
    return per_request(used, answered)


def connect(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """One client after the other: connect, send, read up to the end, which the server makes."""
    message = load.request.encode("latin-1")

    def visit() -> None:
        with connect_to(port) as sock:
            sock.sendall(message)
            got = b""
            try:
                while data := sock.recv(4096):
                    got += data
            except TimeoutError:
                raise Broken(f"a closed connection has no end for {SILENCE_S:.0f} s") from None
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        if got != message:
            raise Broken("the answer is not what was sent")

    for _ in range(20):
        visit()
    visits = 0
    before = cpu_ns_of(pid)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        visit()
        visits += 1
    return per_request(cpu_ns_of(pid) - before, visits)


def accept(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """The roles are exchanged: the measured loop is the client and connects to a server here, one connection after the other.

    The server greets with a byte, the client closes.
    """
    with connect_to(port) as order, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(SILENCE_S)
        visits = 0

        def take_visit() -> bool:
            """False when the measured loop has understood that it is enough."""
            ready = select.select([listener, order], [], [], SILENCE_S)[0]
            if not ready:
                raise Broken(f"no connection for {SILENCE_S:.0f} s")
            if listener not in ready:
                return False
            with listener.accept()[0] as sock:
                sock.settimeout(SILENCE_S)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                sock.sendall(b"-")
                try:
                    if sock.recv(1):
                        raise Broken("a client that sends")
                except TimeoutError:
                    raise Broken(f"a closed connection has no end for {SILENCE_S:.0f} s") from None
            return True

        order.sendall(b"%d" % listener.getsockname()[1])
        for _ in range(20):
            if not take_visit():
                raise Broken("the client gave up")
        before = cpu_ns_of(pid)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not take_visit():
                raise Broken("the client gave up")
            visits += 1
        used = cpu_ns_of(pid) - before
        order.shutdown(socket.SHUT_WR)
        while take_visit():
            pass
    return per_request(used, visits)


# -- latency ---------------------------------------------------------------------------------------------------------------------------


def percentiles(latencies: list[int]) -> Figures:
    if len(latencies) < 2:
        raise Broken("too few answers")
    hundredths = quantiles(latencies, n=100, method="inclusive")
    return {"p50": hundredths[49], "p99": hundredths[98]}


def think(port: int, pid: int, seconds: float, load: Load, think_s: float = THINK_S) -> Figures:
    """Every client thinks, for a random time of `think_s` on average, asks, and waits. The random times are the same for each loop."""
    rng = random.Random(1)
    clock = time.perf_counter_ns
    latencies: list[int] = []
    with closing(Clients(port, load)) as clients:
        sent = dict.fromkeys(clients.by_fd, 0)

        def pause() -> int:
            return round(rng.expovariate(1 / think_s) * 1e9) if think_s else 0

        due = [(clock() + pause(), fd) for fd in clients.by_fd]
        heapq.heapify(due)
        answered_at = now = clock()
        deadline = now + round(seconds * 1e9)
        while now < deadline:
            while due and due[0][0] <= now:
                fd = heapq.heappop(due)[1]
                sent[fd] = clock()
                clients.send(fd)
            for fd in clients.receive(0):
                if not clients.missing[fd]:
                    answered_at = clock()
                    latencies.append(answered_at - sent[fd])
                    heapq.heappush(due, (answered_at + pause(), fd))
            now = clock()
            if not due and now - answered_at > SILENCE_S * 1e9:
                raise Broken(f"no answer for {SILENCE_S:.0f} s")
        clients.finish()
    return percentiles(latencies)


def busy(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """As `think`, without a thought: the queue in the server is as long as it gets."""
    return think(port, pid, seconds, load, think_s=0)


def burst(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """All clients send at once; when all is answered, again. `first` is the time till the first answer of a burst."""
    clock = time.perf_counter_ns
    latencies: list[int] = []
    firsts: list[int] = []
    with closing(Clients(port, load)) as clients:
        answered = dict.fromkeys(clients.by_fd, 0)
        sent = dict.fromkeys(clients.by_fd, 0)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            first, started = 0, clock()
            for fd in clients.by_fd:
                answered[fd] = 0
                sent[fd] = clock()
                clients.send(fd)
            while any(clients.missing.values()):
                read_from = clients.receive()
                now = clock()
                for fd in read_from:
                    whole = (clients.answer - clients.missing[fd]) // load.answer
                    if whole > answered[fd]:
                        first = first or now - started
                        latencies += [now - sent[fd]] * (whole - answered[fd])
                        answered[fd] = whole
            firsts.append(first)
    return {"first": median(firsts), **percentiles(latencies)}


# -- memory ----------------------------------------------------------------------------------------------------------------------------


def hold(port: int, pid: int, seconds: float, load: Load) -> Figures:
    """Open `answer` connections, wait for a byte on the first, open the rest, wait for a byte again. The server measures itself."""
    socks = [connect_to(port) for _ in range(load.answer)]
    try:
        if not socks[0].recv(1):
            raise Broken("the server closed a connection")
        socks += [connect_to(port) for _ in range(load.connections - load.answer)]
        if not socks[0].recv(1):
            raise Broken("the server closed a connection")
    finally:
        for sock in socks:
            sock.close()
    return {}


SCENARIOS: dict[str, Callable[[int, int, float, Load], Figures]] = {
    scenario.__name__: scenario
    for scenario in (ping_pong, connect, accept, think, busy, burst, hold, *load_tls.SCENARIOS)
}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    load = Load(**request["load"])
    try:
        return {"figures": SCENARIOS[load.scenario](request["port"], request["pid"], request["seconds"], load)}
    except (Broken, OSError) as exc:
        return {"error": f"load: {exc or type(exc).__name__}"}


def main() -> None:
    gc.disable()  # no pauses among the latencies; there are no cycles to speak of
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
