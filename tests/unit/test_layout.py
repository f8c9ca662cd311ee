"""The architecture's gate holds for this tree, and finds each violation that is planted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "layout.py"

sys.path.insert(0, str(TOOL.parent))
try:
    import layout
    import layout_selftest
finally:
    sys.path.remove(str(TOOL.parent))


def run(*arguments):
    return subprocess.run([sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_this_tree_has_no_findings():
    assert [str(finding) for finding in layout.findings(ROOT)] == []


def test_every_layer_of_the_tables_exists():
    for crate, rows in layout.LAYERS.items():
        for module in (module for row in rows for module in row):
            source = ROOT / crate
            assert (source / module).is_dir() or (source / f"{module}.rs").is_file(), f"{crate}/{module}"


def test_a_clean_tree_passes():
    assert layout_selftest.misses(None) == []


@pytest.mark.parametrize("plant", layout_selftest.PLANTS, ids=lambda plant: plant.title)
def test_a_violation_is_found_where_it_is(plant):
    assert layout_selftest.misses(plant) == []


def test_a_finding_is_a_line_and_makes_the_exit_code_1(tmp_path):
    for name, text in layout_selftest.CLEAN.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert run("--root", tmp_path).returncode == 0
    (tmp_path / "crates/core/src/time/mod.rs").write_text("//! Time.\n\nuse crate::net::Address;\n")
    done = run("--root", tmp_path)
    assert done.returncode == 1
    finding, closing = done.stdout.splitlines()
    assert finding == "crates/core/src/time/mod.rs:3: `time` uses `net`, a layer above it"
    assert closing.startswith("layout: 1 finding in ")


def test_the_command_line():
    assert run("--help").stdout.startswith("usage: tools/layout.py")
    assert run("--selftest").returncode == 0
    assert run("--root", ROOT / "docs").returncode == 2
    assert run("--unknown").returncode == 2
