"""The tour: each example prints the same on aioxide as on asyncio, and what its README says."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_tour():
    """tools/ is no package: import the file by its path."""
    spec = importlib.util.spec_from_file_location("aioxide_tour", ROOT / "tools" / "tour.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


tour = load_tour()
EXAMPLES = tour.examples()
README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def readme_rows():
    """From the table: file name -> (command, expected first lines)."""
    rows = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and (file := re.fullmatch(r"\[(\S+\.py)\]\(\1\)", cells[1])):
            rows[file[1]] = cells[2].strip("`"), re.findall(r"`(.*?)`", cells[3])
    return rows


def outcome(loops=(("aioxide.EventLoop", "builtins.object"),), **changes):
    values = {"returncode": 0, "stdout": "hello\n", "stderr": "", "loops": loops, "seconds": 0.0}
    return tour.Outcome(**{**values, **changes})


STOCK = (("asyncio.unix_events._UnixSelectorEventLoop", tour.STOCK_BASE, "builtins.object"),)


# No timeout here: the runner ends each of the two runs after 25 s.
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_is_the_same_on_both_loops(example):
    if missing := example.missing():
        pytest.skip(f"needs {missing}")
    native, stock = tour.run_on_both(example)
    assert tour.problems(example, native, stock) == []
    _, expected = readme_rows()[example.name]
    if example.is_test:
        assert expected[0] in stock.stdout
    else:
        assert stock.stdout.splitlines()[: len(expected)] == expected


def test_readme_lists_every_example_with_its_command():
    rows = readme_rows()
    assert set(rows) == {example.name for example in EXAMPLES}
    for name, (command, expected) in rows.items():
        run = "-m pytest -q " if name.startswith("test_") else ""
        assert command == f"python -m aioxide {run}examples/{name}"
        assert expected


def test_examples_do_not_know_aioxide():
    for path in [*(example.path for example in EXAMPLES), ROOT / "examples" / "demo_crawl.py"]:
        assert "aioxide" not in path.read_text(encoding="utf-8"), path.name


def test_requires_header_names_versions_modules_and_programs(tmp_path):
    def missing(header):
        path = tmp_path / "01_example.py"
        path.write_text(f'{header}\n"""An example."""\n')
        return tour.Example(path).missing()

    assert missing('"""No header."""') is None
    assert missing("# requires: 3.10, asyncio") is None
    assert missing("# requires: 3.10, sh") is None
    assert missing("# requires: 99.1") == "Python 99.1"
    assert missing("# requires: 3.10, no_such_module") == "no_such_module"


@pytest.mark.parametrize(
    ("native", "stock", "problem"),
    [
        (outcome(), outcome(STOCK), None),
        (outcome(STOCK), outcome(STOCK), "on aioxide: the loop is asyncio."),
        (outcome(()), outcome(STOCK), "on aioxide: the loop is no loop"),
        (outcome(outcome().loops + STOCK), outcome(STOCK), "on aioxide: the loop is aioxide."),
        (outcome((("aioxide.Loop", tour.STOCK_BASE),)), outcome(STOCK), "on aioxide: the loop"),
        (outcome(), outcome(), "on asyncio: the loop is aioxide."),
        (outcome(stdout="bye\n"), outcome(STOCK), "differ: line 1: aioxide 'bye', asyncio 'hello'"),
        (outcome(stdout="hello"), outcome(STOCK), "the outputs differ"),
        (outcome(stderr="leak\n"), outcome(STOCK), "on aioxide: on stderr: leak"),
        (outcome(), outcome(STOCK, stdout=""), "on asyncio: no output"),
        (outcome(returncode=1, stderr="a\nboom\n"), outcome(STOCK), "exit code 1: boom"),
    ],
)
def test_problems_are_found(native, stock, problem):
    found = tour.problems(EXAMPLES[0], native, stock)
    assert len(found) == (problem is not None)
    if problem:
        assert problem in found[0]


def test_probe_reports_every_type_of_loop(tmp_path, monkeypatch):
    path = tmp_path / "01_example.py"
    path.write_text(
        "import asyncio\n"
        "class Other(asyncio.SelectorEventLoop): pass\n"
        "async def main(): print('ran')\n"
        "asyncio.run(main())\n"
        "loop = Other()\n"
        "loop.run_until_complete(main())\n"
        "loop.close()\n"
    )
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    outcome = tour.run(tour.Example(path))
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "ran\nran\n", "")
    assert [names[0] for names in outcome.loops] == [STOCK[0][0], "__main__.Other"]
    assert not outcome.is_stock and not outcome.is_native


def test_an_example_without_end_is_ended(tmp_path, monkeypatch):
    path = tmp_path / "01_example.py"
    path.write_text("import time; time.sleep(60)\n")
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    monkeypatch.setattr(tour, "RUN_TIMEOUT_S", 0.5)
    outcome = tour.run(tour.Example(path))
    assert outcome.returncode and "no end after 0.5 s" in outcome.stderr


def test_an_unknown_pattern_is_one_line(capsys):
    assert tour.main(["-k", "no such example"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
