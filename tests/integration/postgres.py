"""A private PostgreSQL for the tests that need one: in a temporary directory, on a free port of loopback, gone at the end.

It never is the machine's own server. PostgreSQL does not run as root: then it runs as the user `postgres`, whom Debian's
package makes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_S = 30
STOP_S = 20


def programs() -> Path | None:
    """The directory with `initdb` and `postgres`: on the path, or where Debian has them. None if there are none."""
    found = shutil.which("initdb")
    if found and shutil.which("postgres", path=str(Path(found).resolve().parent)):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    return versions[-1].parent if versions else None


def required() -> Path:
    """The programs' directory; without one the test is skipped, or fails if PostgreSQL must be there (CI)."""
    binaries = programs()
    if binaries is None:
        if os.environ.get("AIOXIDE_REQUIRE_POSTGRES"):
            pytest.fail("PostgreSQL is required, but not installed (Debian: apt-get install postgresql)")
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return binaries


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def server(binaries: Path, tls: tuple[str, str] | None = None) -> Iterator[dict[str, str]]:
    """A running server; the environment that names it. With a certificate and its key it has TLS, too."""
    account: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    clean = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/"}
    directory = Path(tempfile.mkdtemp(prefix="aioxide-postgres-"))
    try:
        if account:
            shutil.chown(directory, account["user"], account["group"])
        data = directory / "data"
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "-N"],
            check=True, cwd=directory, env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **account,
        )  # fmt: skip
        settings = _with_tls(data, tls, account) if tls else []
        process, port = _start(binaries, data, settings, {"cwd": directory, "env": clean, **account})
        try:
            yield {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "postgres"}
        finally:
            process.send_signal(signal.SIGINT)  # "fast": ends sessions that are left, and itself
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)  # "immediate"
                process.wait(STOP_S)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _with_tls(data: Path, tls: tuple[str, str], account: dict[str, Any]) -> list[str]:
    """Copies of the files that only the server may read; the settings."""
    for source, name in zip(tls, ("server.crt", "server.key")):
        shutil.copy(source, data / name)
        os.chmod(data / name, 0o600)
        if account:
            shutil.chown(data / name, account["user"], account["group"])
    return ["-c", "ssl=on"]


def _start(
    binaries: Path, data: Path, settings: list[str], options: dict[str, Any]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server; again, should somebody have taken the port meanwhile."""
    log = data.parent / "log"
    for _ in range(5):
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", data.parent, "-F", *settings],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            if accepts(port) and b"ready to accept connections" in log.read_bytes():
                return process, port
            time.sleep(0.02)
        process.kill()
        process.wait()
    raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')}")
