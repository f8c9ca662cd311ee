"""The unmodified programs beside the checkout (`../shared/apps`) end in PASS on the native loop.

They come with the project's workplace, not with the repository; without them each test is skipped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

APPS = Path(__file__).resolve().parents[3] / "shared" / "apps"

#: Those that need no feature of a later issue.
NAMES = ["basics.py", "scrape.py", "aiofiles_pipeline.py", "fastapi_app.py"]


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_pass(name: str) -> None:
    program = APPS / name
    if not program.exists():
        pytest.skip(f"{name} is not beside this checkout")
    if sys.version_info < (3, 11) and "except*" in program.read_text():
        pytest.skip(f"{name} is written for Python 3.11 and later")
    done = subprocess.run([sys.executable, "-m", "aioxide", str(program)], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "PASS"
