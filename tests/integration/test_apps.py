"""The unmodified programs beside the checkout (`../shared/apps`) end in PASS on the native loop.

They come with the project's workplace, not with the repository; without them each test is skipped, unless
AIOXIDE_REQUIRE_APPS=1 says that they must be there. What a program needs must be installed; AIOXIDE_REQUIRE_POSTGRES=1 says
that PostgreSQL must be there, too (CI sets it).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest

APPS = Path(__file__).resolve().parents[3] / "shared" / "apps"

#: Each program with the modules that it imports beside the standard library's.
PROGRAMS = {
    "basics.py": [],
    "scrape.py": ["aiohttp", "bs4"],
    "aiofiles_pipeline.py": ["aiofiles"],
    "fastapi_app.py": ["fastapi", "uvicorn", "httpx", "websockets", "multipart"],
    "subprocess_pipeline.py": [],
    "graceful_shutdown.py": [],
    "aiopg_app.py": ["aiopg", "psycopg2"],
}


#: aiopg may deliver a statement's error to the next reader of its connection; seen in 4 of 50 runs on stock asyncio, and in
#: 6 of 50 here. Such a run is repeated.
AIOPG_RACE = 'psycopg2.errors.UndefinedColumn: column "nonsense" does not exist'


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[dict[str, str]]:
    with postgres.server(postgres.required()) as environment:
        yield environment


def program(name: str) -> Path:
    path = APPS / name
    if not path.exists():
        assert not os.environ.get("AIOXIDE_REQUIRE_APPS"), f"{name} is not beside this checkout"
        pytest.skip(f"{name} is not beside this checkout")
    if sys.version_info < (3, 11) and any(word in path.read_text() for word in ("except*", "TaskGroup", "timeout(")):
        pytest.skip(f"{name} is written for Python 3.11 and later")
    for module in PROGRAMS[name]:
        if importlib.util.find_spec(module) is None:
            assert sys.version_info >= (3, 15), f"{module} is not installed"
            pytest.skip(f"{module} has no wheel for this Python")
    return path


@pytest.mark.parametrize("name", PROGRAMS)
def test_ends_in_pass(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = program(name)
    # Pythons that a program starts itself run on aioxide, too.
    (tmp_path / "sitecustomize.py").write_text("import aioxide; aioxide.install()\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    if name == "aiopg_app.py":
        environment |= request.getfixturevalue("postgres_server")
    for _ in range(4):
        done = subprocess.run(
            [sys.executable, "-m", "aioxide", str(path)], capture_output=True, text=True, timeout=50, env=environment
        )
        if AIOPG_RACE not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "PASS"


def test_no_program_is_forgotten() -> None:
    if not APPS.exists():
        pytest.skip("the programs are not beside this checkout")
    assert {path.name for path in APPS.glob("*.py")} == set(PROGRAMS)
