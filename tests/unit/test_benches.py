"""The benchmarks' command line, table and plot, from stored figures; each way to measure once, briefly. No figure is judged."""

import asyncio
import functools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT))
try:
    from benches import certificate, loops, report, report_tls
    from benches.contender import Contender, Failed, LoadProcess
    from benches.row import GROUPS
    from benches.rows import ROWS
    from benches.rows_tls import FLOORS, Floor
finally:
    sys.path.remove(str(ROOT))

BY_KEY = {row.key: row for row in ROWS}


def benches(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benches", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def row(key, group, unit, samples, errors=None):
    return {
        "key": key,
        "title": f"the {key}",
        "group": group,
        "unit": unit,
        "samples": samples,
        "errors": errors or {},
    }


@pytest.fixture
def stored(tmp_path):
    loops = {name: {"version": "1.0", "loop": "Loop", "task": "Task"} for name in ("uvloop", "rloop", "aioxide")}
    facts = {"implementation": "CPython", "python": "3.13.0", "cpu": "a CPU", "cores": 2}
    facts |= {"system": "Linux", "kernel": "6", "date": "2026-01-01"}
    rows = [
        row("sleep0", "scheduler", "ns", {"uvloop": [900, 1000, 1100], "rloop": [90] * 3, "aioxide": [100] * 3}),
        row("connection", "memory", "bytes", {"uvloop": [1000], "aioxide": [500]}, {"rloop": "it has no such thing"}),
    ]
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"machine": facts, "rounds": 3, "loops": loops, "rows": rows}))
    return path


def test_every_row_has_a_key_of_its_own_and_a_known_group():
    assert len(BY_KEY) == len(ROWS)
    assert {row.group for row in ROWS} == set(GROUPS)


def test_help_names_the_options():
    ran = benches("--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {"--quick", "--goals", "-k"} <= set(ran.stdout.replace(",", " ").split())


def test_list_shows_the_rows_that_match():
    ran = benches("--list", "-k", "memory,sleep0")
    assert ran.returncode == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [
        "sleep0",
        "sleep0-x10",
        "connection",
        "connection-rss",
        "task",
        "tls-idle-1k",
        "tls-idle-40k",
    ]


@pytest.mark.parametrize(
    "arguments",
    [("--rounds", "0"), ("--rounds", "x"), ("--nothing",), ("-k", "no such row"), ("--table-only", "no such file")],
)
def test_wrong_usage_is_told_in_one_line(arguments):
    ran = benches(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert len(ran.stderr.splitlines()) == 1
    assert ran.stderr.startswith("benches: ")


def test_a_file_that_is_no_run_is_refused(tmp_path):
    path = tmp_path / "other.json"
    for text in ("[]", "{", '{"machine": 1, "rounds": 1, "loops": {}, "rows": [{}]}'):
        path.write_text(text)
        ran = benches("--table-only", path)
        assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)


def test_the_tables_hold_medians_ratios_goals_and_reasons(stored):
    ran = benches("--table-only", stored, "--goals")
    assert ran.returncode == 0
    cells = cells_of(ran.stdout)
    assert cells["the sleep0"] == [
        "1.00 µs",
        "90 ns",
        "100 ns",
        "10.0 (9.50–10.5)",
        "0.90 (0.90–0.90)",
        "5× uvloop: reached; behind rloop",
    ]
    assert cells["the connection"] == ["1000 B", "—", "500 B", "2.00 (2.00–2.00)", "—", "below 893 B: reached"]
    assert "- rloop, it has no such thing: the connection" in ran.stdout


@pytest.fixture
def stored_tls(stored):
    """uvloop takes 20, of which 12 cannot be avoided; aioxide takes 13, and 13 again in the row whose floor is that of the first."""
    run = json.loads(stored.read_text())
    run["machine"]["openssl"] = "OpenSSL 3.0.1"
    names = ("uvloop", "aiofastnet", "aiofastnet-uvloop", "aioxide-fallback", "aioxide")
    run["loops"] = {name: {"version": "1.0", "loop": "Loop", "task": "Task"} for name in names}
    samples = {name: [1000 * us] * 3 for name, us in zip(names, (20, 18, 15.6, 16, 13))}
    run["rows"] = [row("one", "tls", "ns", samples), row("two", "tls", "ns", {**samples, "uvloop": [100_000] * 3})]
    return run


def cells_of(table):
    return {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table.splitlines()
        if line.startswith("| the")
    }


def test_the_tls_table_counts_above_the_floor(stored_tls):
    floors = {"one": Floor(0.6, "one"), "two": Floor(0.6, "one")}
    better = ["aiofastnet-uvloop 15.6 µs", "1.20 (1.20–1.20)"]
    assert cells_of(report_tls.table(stored_tls, floors)) == {
        "the one": ["12.0 µs", "88% (88%–88%)", "8.00", *better, "1.25 (1.25–1.25)"],
        "the two": ["12.0 µs", "99% (99%–99%)", "88.0", *better, "6.25 (6.25–6.25)"],
    }


def test_a_floor_of_another_openssl_is_none(stored_tls):
    stored_tls["machine"]["openssl"] = "OpenSSL 3.6.5"
    cells = cells_of(report_tls.table(stored_tls, {"one": Floor(0.6, "one")}))
    assert cells["the one"][:3] == ["—", "—", "—"]


def test_a_run_without_tls_has_no_such_table(stored):
    assert report_tls.table(json.loads(stored.read_text()), FLOORS) == ""


def test_every_floor_is_of_a_row():
    assert {floor.row for floor in FLOORS.values()} | FLOORS.keys() <= BY_KEY.keys()


def test_a_loop_that_is_not_what_its_name_says_is_refused():
    loop = asyncio.new_event_loop()
    try:
        loops.named("asyncio").check(loop)
        with pytest.raises(RuntimeError, match=r"^asked for .* runs$"):
            loops.named("aiofastnet").check(loop)
        loop.create_server = functools.partial(report.table)  # as if a package of this name had replaced it
        with pytest.raises(RuntimeError, match="patched by benches runs"):
            loops.named("asyncio").check(loop)
        loops.Loop("asyncio", patched_by="benches").check(loop)
    finally:
        loop.close()


def test_the_plot_is_drawn_by_groups(stored, tmp_path):
    ran = benches("--plot-only", stored, "--svg", tmp_path / "plot.svg")
    assert ran.returncode == 0
    texts = [
        "".join(text.itertext()) for text in ET.parse(tmp_path / "plot.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"SCHEDULERCPU time of the loop's thread per operation", "MEMORYbytes", "10.0×", "2.00×"} <= set(texts)


def test_the_published_figures_can_be_read():
    for path in (ROOT / "benches" / "results").glob("*.json"):
        report.check(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def load():
    load = LoadProcess()
    yield load
    load.stop()


@pytest.fixture(params=["asyncio", "aioxide"])
def contender(request):
    contender = Contender(request.param)
    yield contender
    contender.stop()


# A row for each scenario of the load and each way to measure; uvicorn and aiohttp are among what the tests need.
@pytest.mark.parametrize(
    "key", ["sleep0", "echo-64", "fan-in", "accept", "connect", "sock-recv", "threadsafe", "aiohttp", "burst", "task"]
)
def test_a_row_yields_its_figures(contender, load, key):
    figures = contender.sample(BY_KEY[key], load, 0.02)
    assert set(figures) == set(BY_KEY[key].figures)
    assert min(figures.values()) > 0


@pytest.mark.skipif(not certificate.folder(), reason="no openssl command that makes certificates")
@pytest.mark.parametrize(
    "key",
    [
        "tls-mapped-64",
        "tls-echo-10k",
        "tls-streams-1k",
        "tls-writes-8",
        "tls-accept",
        "tls-connect",
        "tls-start-tls",
        "tls-aiohttp",
        "tls-aiohttp-client",
    ],
)
def test_a_tls_row_yields_its_figures(contender, load, key):
    figures = contender.sample(BY_KEY[key], load, 0.02)
    assert set(figures) == {""}
    assert figures[""] > 0


def test_a_loop_that_is_not_there_fails_with_its_reason():
    contender = Contender("no_such_loop")
    with pytest.raises(Failed, match=r"^not installed$"):
        contender.ask(do="describe")
    contender.stop()
