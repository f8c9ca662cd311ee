"""What debug mode costs when it is off: instructions per operation, of the extension as shipped and of one without it.

    python tools/debug_cost.py SHIPPED.so WITHOUT.so

Both are release builds (`make release`; `target/release/lib_native.so`). The second is of a copy of the checkout in which
every question for debug mode has a constant answer:

    grep -rl 'debug\\.get()' crates/python/src | xargs sed -i -E 's/([a-z]+(\\.[a-z]+)*\\.debug\\.get\\(\\))/(false \\&\\& \\1)/g'

Needs valgrind, whose callgrind counts. The figure is the difference of two runs of different length, divided by theirs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "aioxide"
SHORT, LONG = 2_000, 42_000

PROGRAM = """
import asyncio, socket, sys
import aioxide

loop = aioxide.EventLoop()

async def call_soon(n):
    over = loop.create_future()
    def tick(left):
        if left:
            loop.call_soon(tick, left - 1)
        else:
            over.set_result(None)
    loop.call_soon(tick, n)
    await over

async def task(n):
    async def nothing():
        pass
    for _ in range(n):
        await loop.create_task(nothing())

async def sleep(n):
    for _ in range(n):
        await asyncio.sleep(0)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def echo(n):
    here, there = socket.socketpair()
    there.setblocking(False)
    transport, _ = await loop.create_connection(Echo, sock=here)
    for _ in range(n):
        await loop.sock_sendall(there, b"x" * 100)
        await loop.sock_recv(there, 100)
    transport.close()
    there.close()

loop.run_until_complete(globals()[sys.argv[1]](int(sys.argv[2])))
loop.close()
"""
OPERATIONS = ("call_soon", "task", "sleep", "echo")


def instructions(path: Path, operation: str, n: int) -> int:
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-S", "-c", PROGRAM, operation,
         str(n)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(path), "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])


def main(extensions: list[str]) -> None:
    name = "_native" + str(sysconfig.get_config_var("EXT_SUFFIX"))
    with tempfile.TemporaryDirectory() as directory:
        paths = []
        for number, extension in enumerate(extensions):
            paths.append(Path(directory, str(number)))
            shutil.copytree(PACKAGE, paths[-1] / "aioxide", ignore=shutil.ignore_patterns("*.so"))
            shutil.copy(extension, paths[-1] / "aioxide" / name)
            instructions(paths[-1], "sleep", 1)  # compiles the package
        for operation in OPERATIONS:
            each = [
                (instructions(path, operation, LONG) - instructions(path, operation, SHORT)) / (LONG - SHORT)
                for path in paths
            ]
            print(
                f"{operation:10}", *(f"{figure:9.1f}" for figure in each), f"{each[0] / each[-1] - 1:+.2%}", flush=True
            )


if __name__ == "__main__":
    main(sys.argv[1:])
