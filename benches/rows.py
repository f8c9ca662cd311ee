"""All rows, in the order in which they run and are shown. Applications come late: what they import makes each collection longer."""

from __future__ import annotations

from benches import (
    rows_apps,
    rows_files,
    rows_latency,
    rows_memory,
    rows_network,
    rows_processes,
    rows_scheduler,
    rows_sock,
    rows_threads,
    rows_tls,
)
from benches.row import Row

ROWS: list[Row] = [
    *rows_scheduler.ROWS,
    *rows_network.ROWS,
    *rows_sock.ROWS,
    *rows_files.ROWS,
    *rows_network.SEVERAL_WRITES,
    *rows_threads.ROWS,
    *rows_processes.ROWS,
    *rows_apps.ROWS,
    *rows_tls.ROWS,
    *rows_latency.ROWS,
    *rows_memory.ROWS,
    *rows_tls.MEMORY,
]
