"""Methods and attributes of asyncio's own Future and Task, called unbound on ours, never crash.

Our classes derive from `_asyncio`'s, whose C code reads the base's own storage: `asyncio.Task.get_coro(ours)` would
dereference an empty field. Each kind of object gets a process (`children/unbound_methods.py`).
"""

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "children" / "unbound_methods.py"

sys.path.insert(0, str(CHILD.parent))
try:
    from unbound_methods import KINDS
finally:
    sys.path.remove(str(CHILD.parent))


@pytest.mark.parametrize("kind", KINDS)
def test_no_unbound_method_or_attribute_crashes(kind):
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(CHILD), kind], capture_output=True, text=True, timeout=50
    )
    last = (run.stdout.splitlines() or ["nothing"])[-1]
    assert run.returncode == 0, f"exit code {run.returncode} after: {last}\n{run.stderr[-3000:]}"
    assert last.startswith("done: ")
    assert int(last.split()[1]) > 500
