"""What all of the load's scenarios share: connecting, the server's CPU clock, and what is wrong with a server.

The server's CPU time is read from outside by its CPU clock, as clock_getcpuclockid(3) defines it: the value is what time.process_time()
would return over there, all threads of the server included, in nanoseconds, and the server runs no code for it.
"""

from __future__ import annotations

import socket
import struct
import time

MAX_REQUESTS = 1_000_000
WARM_UP_REQUESTS = 1000  # over all clients, but at least 2 each, and at most 20
SILENCE_S = 3.0  # a server that answers nothing for so long is broken
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, or a long run would use up the ports

Figures = dict[str, float]


class Broken(Exception):
    """The server did not do what its row says."""


def cpu_ns_of(pid: int) -> int:
    return time.clock_gettime_ns(~pid << 3 | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


def per_request(ns: int, requests: int) -> Figures:
    if not (ns and requests):
        raise Broken("nothing was done in time")
    return {"": ns / requests}


def warm_up_rounds(connections: int) -> int:
    return min(20, max(2, WARM_UP_REQUESTS // connections))


def connect_to(port: int | str, network: str = "tcp") -> socket.socket:
    if network != "tcp":
        sock = socket.socket(socket.AF_UNIX) if network == "unix" else socket.socket(type=socket.SOCK_DGRAM)
        sock.settimeout(SILENCE_S)
        sock.connect(port.encode("latin-1") if isinstance(port, str) else ("127.0.0.1", port))
        return sock
    sock = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def length_of_response(head: bytes) -> int:
    """Of a whole HTTP response whose head is there."""
    head = head.partition(b"\r\n\r\n")[0].lower()
    if not head.startswith(b"http/1.1 200") or b"content-length:" not in head:
        raise Broken(f"answered {head[:40]!r}")
    return len(head) + 4 + int(head.partition(b"content-length:")[2].split()[0])
