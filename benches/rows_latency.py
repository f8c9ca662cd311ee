"""The latency rows: what a client waits, not what the server computes. They show the price of whatever a loop puts off.

A loop that collects writes to send them together saves CPU time in the rows of several writes, and may pay here: an answer that is
ready has to wait for other work. Hence the bursts: twenty requests at once, each with 100 µs of work before its answer, which is
written in two parts.
"""

from __future__ import annotations

import time
from functools import partial

from benches.row import Load, Row
from benches.rows_network import BODY, HEAD, KIB, REQUEST, RESPONSE, Echo, Requests, echo_load, protocol_server, served

BURST = 20
WORK_S = 100e-6


class Work(Requests):
    def request_received(self) -> None:
        done = time.perf_counter() + WORK_S
        while time.perf_counter() < done:
            pass
        self.transport.write(HEAD)
        self.transport.write(BODY)


def burst(key: str, title: str, connections: int, together: int) -> Row:
    load = Load("burst", connections, REQUEST, len(RESPONSE), together)
    return served(key, title, partial(protocol_server, Work), load, "latency", figures=("first", "p50", "p99"))


ROWS = [
    served(
        "latency-echo",
        "1 KiB echo, 100 clients, 5000/s:",
        partial(protocol_server, Echo),
        Load("think", 100, echo_load(KIB).request),
        "latency",
        figures=("p50", "p99"),
    ),
    served(
        "latency-full",
        "1 KiB echo, 100 clients, all busy:",
        partial(protocol_server, Echo),
        Load("busy", 100, echo_load(KIB).request),
        "latency",
        figures=("p50", "p99"),
    ),
    burst("burst", "20 × 100 µs, 20 connections:", BURST, 1),
    burst("burst-pipelined", "20 × 100 µs, 1 connection:", 1, BURST),
]
