"""The driver: asks every loop for a sample in turn, round after round, and hands the samples to the report and the plot.

Interleaving is the point. The machine's speed drifts by more than the differences that matter (frequency, neighbours, caches), but
samples taken within the same second see the same machine: so each round takes one sample of every loop, in an order that rotates,
and a ratio is only ever formed within a round.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benches import loops, machine, plot, report, report_tls
from benches.contender import ROOT, Contender, Failed, LoadProcess
from benches.progress import Progress
from benches.row import Row
from benches.rows import ROWS
from benches.rows_tls import FLOORS

ROUNDS, QUICK_ROUNDS = 15, 5
SECONDS, QUICK_SECONDS = 0.3, 0.1  # of a served sample
TLS_SETUP_S = 0.25  # of one with TLS, on average: handshakes, and records made ahead
GOALS = {row.key: report.Goal(row.goal, row.below, row.unit) for row in ROWS if row.goal or row.below}
SVG = ROOT / "docs" / "bench.svg"


def default_json() -> Path:
    return ROOT / "benches" / "results" / f"{sys.version_info.major}.{sys.version_info.minor}.json"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"benches: {message}; --help shows the options\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benches",
        description="Event loops side by side: CPU time, latency and memory, interleaved, median of ratios with spread.",
        epilog="A table goes to stdout, progress to stderr. A full run also writes benches/results/X.Y.json and docs/bench.svg; a run "
        "narrowed by --quick, --rounds, -k or --loops, or one without aioxide, writes files only where --json and --svg say so. "
        "benches/README.md tells what is measured and how to read it.",
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="5 rounds instead of 15 and shorter ones: below 3 minutes on a quiet machine",
    )
    add("--rounds", type=int, metavar="N", help="samples of each loop and row")
    add(
        "--loops",
        metavar="A,B,...",
        help=f"contenders: modules with new_event_loop(), or of {','.join(loops.CIRCUMSTANCES)} (default: each row's own, "
        f"of {','.join(loops.ALL)})",
    )
    add(
        "-k",
        dest="pattern",
        metavar="PATTERN",
        help="only rows whose key, title or group contains PATTERN (or one of P,Q,...)",
    )
    add("--list", action="store_true", help="list the rows and exit")
    add(
        "--goals",
        action="store_true",
        help="add a column: the goal against uvloop, and whether it is reached",
    )
    add("--json", type=Path, metavar="FILE", help="write all samples there")
    add("--svg", type=Path, metavar="FILE", help="draw the plot there")
    add("--plot-only", type=Path, metavar="FILE.json", help="measure nothing: draw the plot of an earlier run")
    add(
        "--table-only",
        type=Path,
        metavar="FILE.json",
        help="measure nothing: print the table of an earlier run",
    )
    add("--verbose", action="store_true", help="show what the workers write to stderr")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def selected(pattern: str | None) -> list[Row]:
    """The rows that match and that this Python on this machine can run."""
    wanted = [p.strip().lower() for p in (pattern or "").split(",") if p.strip()] or [""]
    matching = [
        row for row in ROWS if any(p in text for p in wanted for text in (row.key, row.title.lower(), row.group))
    ]
    limit = machine.raise_descriptor_limit(max((row.descriptors for row in matching), default=0))
    fit = []
    for row in matching:
        if sys.version_info < row.since:
            print(f"{row.title}: skipped, needs Python {row.since[0]}.{row.since[1]}", file=sys.stderr)
        elif row.descriptors > limit:
            print(
                f"{row.title}: skipped, needs {row.descriptors} descriptors, the hard limit is {limit}", file=sys.stderr
            )
        else:
            fit.append(row)
    return fit


def present(names: list[str], verbose: bool) -> tuple[list[Contender], dict[str, dict[str, str]]]:
    """Start a worker for each loop; those that do not answer are reported in one line and left out."""
    contenders, described = [], {}
    for name in names:
        contender = Contender(name, verbose)
        try:
            described[name] = contender.ask(do="describe")
        except Failed as exc:
            contender.stop()
            print(f"{name}: skipped, {exc}", file=sys.stderr)
            continue
        contenders.append(contender)
        facts = described[name]
        print(f"{name} {facts['version']}: {facts['loop']}, tasks are {facts['task']}", file=sys.stderr)
    return contenders, described


class Measurement:
    """One row over all loops: `samples[loop]` has the figures of each round, `errors[loop]` says why there are none."""

    def __init__(self, row: Row, contenders: list[Contender], load: LoadProcess, rounds: int, seconds: float) -> None:
        self.row = row
        self.contenders = contenders
        self.load = load
        self.rounds = self.rounds_of(row, rounds)
        self.seconds = self.seconds_of(row, seconds)
        self.samples: dict[str, list[dict[str, float]]] = {c.loop: [] for c in contenders}
        self.errors: dict[str, str] = {}

    @staticmethod
    def rounds_of(row: Row, rounds: int) -> int:
        return min(rounds, row.most_rounds or rounds)

    @staticmethod
    def seconds_of(row: Row, seconds: float) -> float:
        return seconds * 2 if row.group == "latency" else seconds  # a percentile needs many answers

    @classmethod
    def expected_s(cls, row: Row, contenders: int, rounds: int, seconds: float) -> float:
        if row.way == "memory":
            sample, before = 2.0 if row.group == "tls memory" else 0.5, 0.0
        elif row.group == "tls":
            sample, before = seconds + TLS_SETUP_S, 0.0
        elif row.load:
            sample, before = cls.seconds_of(row, seconds) + 0.06, 0.0
        else:
            sample, before = 0.035, 0.08
        return contenders * (cls.rounds_of(row, rounds) * sample + before)

    def take_round(self, number: int) -> None:
        shift = number % len(self.contenders)
        for contender in self.contenders[shift:] + self.contenders[:shift]:
            if contender.loop in self.errors:
                continue
            try:
                self.samples[contender.loop].append(contender.sample(self.row, self.load, self.seconds))
            except Failed as exc:
                self.errors[contender.loop] = str(exc)
                del self.samples[contender.loop]

    def results(self) -> list[dict[str, Any]]:
        """One for each figure of the row."""
        row = self.row
        return [
            {
                "key": f"{row.key}-{figure}" if figure else row.key,
                "title": f"{row.title} {figure}" if figure else row.title,
                "group": row.group,
                "unit": row.unit,
                "samples": {
                    loop: [round(figures[figure], 2) for figures in samples] for loop, samples in self.samples.items()
                },
                "errors": self.errors,
            }
            for figure in row.figures
        ]


def measure(
    rows: list[Row],
    contenders: list[Contender],
    load: LoadProcess,
    rounds: int,
    seconds: float,
    done: list[dict[str, Any]],
    all_loops: bool,
) -> None:
    """Append the rows' results to `done` one by one, so that an interrupted run keeps what it has. `all_loops`: not only the row's own."""

    def taking_part(row: Row) -> list[Contender]:
        return [contender for contender in contenders if all_loops or contender.loop in row.loops]

    progress = Progress([Measurement.expected_s(row, len(taking_part(row)), rounds, seconds) for row in rows])
    for index, row in enumerate(rows):
        measurement = Measurement(row, taking_part(row), load, rounds, seconds)
        for number in range(measurement.rounds):
            progress.within(index, row.title, number / measurement.rounds)
            measurement.take_round(number)
        results = measurement.results()
        done += results
        progress.finished(index, [(result["title"], report.one_line(result)) for result in results])
        for loop, error in measurement.errors.items():
            progress.note(f"        {loop}: {error}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}", file=sys.stderr)


def load(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(path.read_text())
        report.check(run)
    except (OSError, ValueError) as exc:
        print(f"benches: cannot read {path}: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
    return run


def show(run: dict[str, Any], goals: bool) -> None:
    print(report.table(run, GOALS if goals else None))
    if text := report_tls.table(run, FLOORS):
        print("\n" + text)


def bench(args: argparse.Namespace) -> int:
    rows = selected(args.pattern)
    if not rows:
        print(f"benches: no row to run for {args.pattern!r}; --list shows them", file=sys.stderr)
        return 2
    if args.loops:
        names = list(dict.fromkeys(args.loops.split(",")))
    else:
        names = [name for name in loops.ALL if any(name in row.loops for row in rows)]
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    seconds = QUICK_SECONDS if args.quick else SECONDS
    contenders, described = present(names, args.verbose)
    if not contenders:
        print("benches: no loop to measure", file=sys.stderr)
        return 2
    run: dict[str, Any] = {"machine": machine.facts(), "rounds": rounds, "loops": described, "rows": []}
    interrupted = False
    load = LoadProcess(args.verbose)
    try:
        measure(rows, contenders, load, rounds, seconds, run["rows"], bool(args.loops))
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: these rows were complete", file=sys.stderr)
    finally:
        for child in (*contenders, load):
            child.stop()
    narrowed = args.quick or args.rounds or args.pattern or args.loops or "aioxide" not in described
    publish = not (narrowed or interrupted)
    if json_path := args.json or (default_json() if publish else None):
        write(json_path, json.dumps(run, indent=1) + "\n")
    if svg_path := args.svg or (SVG if publish else None):
        write(svg_path, plot.draw(run))
    show(run, args.goals)
    return 130 if interrupted else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        for row in selected(args.pattern):
            print(f"{row.key:18} {row.group:15} {row.title}")
        return 0
    if args.plot_only:
        write(args.svg or SVG, plot.draw(load(args.plot_only)))
        return 0
    if args.table_only:
        show(load(args.table_only), args.goals)
        return 0
    return bench(args)
