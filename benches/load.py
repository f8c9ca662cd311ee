"""The load: 100 ping-pong clients in one process, and the stopwatch on the server.

    python -m benches.load PORT SERVER_PID SIZE CONNECTIONS SECONDS MAX_REQUESTS PROCESSOR

Every client sends a message, waits for the whole of it to come back, and sends the next. One JSON line on stdout tells the number of
requests and the CPU seconds that the *server* used for them; the cost of this process is nobody's business, so plain epoll will do.
Bounded by time and by count, on loopback only.

The server's CPU time is read from outside by its CPU clock, as clock_getcpuclockid(3) defines it: the value is what time.process_time()
would return over there, all threads of the server included, in nanoseconds, and the server runs no code for it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

WARM_UP_ROUNDS = 20
SILENCE_S = 10  # a server that answers nothing for so long is broken


def cpu_seconds_of(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


def connect(port: int, connections: int) -> dict[int, socket.socket]:
    clients = {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        clients[sock.fileno()] = sock
    return clients


def receive(sock: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (part := sock.recv(size - len(answer))):
        answer += part
    return answer


def warm_up(clients: dict[int, socket.socket], message: bytes) -> None:
    """Some full round trips, which also check that it is an echo server indeed."""
    for _ in range(WARM_UP_ROUNDS):
        for sock in clients.values():
            sock.sendall(message)
        for sock in clients.values():
            if receive(sock, len(message)) != message:
                raise SystemExit("the server's answer is not what was sent")


class Load:
    """Keeps every client busy: as soon as an answer is complete, that client sends again."""

    def __init__(self, clients: dict[int, socket.socket], message: bytes) -> None:
        self.clients = clients
        self.message = message
        self.missing = dict.fromkeys(clients, 0)  # bytes of the answer still to come
        self.epoll = select.epoll()
        for fd, sock in clients.items():
            sock.setblocking(True)  # one message in flight per client: neither send nor a signalled recv blocks
            self.epoll.register(fd, select.EPOLLIN)

    def run(self, seconds: float, max_requests: int) -> int:
        """Ping-pong till the time or the count is over; return the number of answered requests."""
        for fd in self.clients:
            self.send(fd)
        answered = 0
        deadline = time.monotonic() + seconds
        while answered < max_requests and time.monotonic() < deadline:
            for fd in self.answers():
                answered += 1
                self.send(fd)
        return answered

    def finish(self) -> None:
        """Take the answers under way: to close on unread bytes would be a reset for the server."""
        while any(self.missing.values()):
            self.answers()

    def send(self, fd: int) -> None:
        self.missing[fd] = len(self.message)
        self.clients[fd].sendall(self.message)

    def answers(self) -> list[int]:
        """Wait for something to read and read it; return the clients whose answer is complete now."""
        events = self.epoll.poll(SILENCE_S)
        if not events:
            raise SystemExit(f"no answer for {SILENCE_S} s")
        complete = []
        for fd, _ in events:
            received = len(self.clients[fd].recv(len(self.message)))
            if not received:
                raise SystemExit("the server closed a connection")
            self.missing[fd] -= received
            if not self.missing[fd]:
                complete.append(fd)
        return complete


def main(argv: list[str]) -> None:
    port, pid, size, connections, max_requests, processor = (int(argv[i]) for i in (0, 1, 2, 3, 5, 6))
    seconds = float(argv[4])
    os.sched_setaffinity(0, {processor})
    message = bytes(range(256)) * (size // 256)
    clients = connect(port, connections)
    warm_up(clients, message)
    load = Load(clients, message)
    before = cpu_seconds_of(pid)
    requests = load.run(seconds, max_requests)
    cpu_s = cpu_seconds_of(pid) - before
    load.finish()
    for sock in clients.values():
        sock.close()
    print(json.dumps({"requests": requests, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main(sys.argv[1:])
