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
from typing import Any

from benches import machine, plot, report
from benches.contender import ROOT, Contender, Failed
from benches.progress import Progress
from benches.row import Row
from benches.rows_network import ROWS as NETWORK
from benches.rows_scheduler import ROWS as SCHEDULER

LOOPS = ["asyncio", "uvloop", "rloop", "aioxide"]
ROWS = [*SCHEDULER, *NETWORK]
SVG = ROOT / "docs" / "bench.svg"


def default_json() -> Path:
    return ROOT / "benches" / "results" / f"{sys.version_info.major}.{sys.version_info.minor}.json"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches",
        description="Event loops side by side: CPU time per operation, interleaved, median of ratios with spread.",
        epilog="A table goes to stdout, progress to stderr. A full run also writes benches/results/X.Y.json and docs/bench.svg; a run "
        "narrowed by --quick, --rounds, -k or --loops, or one without aioxide, writes files only where --json and --svg say so. "
        "benches/README.md tells what is measured and how to read it.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="5 rounds instead of 15 and shorter network rounds: below 90 s")
    add("--rounds", type=int, metavar="N", help="samples of each loop and row")
    add(
        "--loops",
        metavar="A,B,...",
        help=f"contenders, modules with new_event_loop() (default: {','.join(LOOPS)})",
    )
    add(
        "-k",
        dest="pattern",
        metavar="PATTERN",
        help="only rows whose key or title contains PATTERN (or one of P,Q,...)",
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
    """The rows that match and that this Python can run."""
    wanted = [p.strip().lower() for p in (pattern or "").split(",")]
    matching = [row for row in ROWS if any(p in row.key or p in row.title.lower() for p in wanted)]
    for row in matching:
        if sys.version_info < row.since:
            print(f"{row.title}: skipped, needs Python {row.since[0]}.{row.since[1]}", file=sys.stderr)
    return [row for row in matching if sys.version_info >= row.since]


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
    """One row over all loops: `samples[loop]` has one value per round, `errors[loop]` why there are none."""

    def __init__(self, row: Row, contenders: list[Contender], rounds: int, seconds: float) -> None:
        self.row = row
        self.contenders = contenders
        self.rounds = rounds
        self.seconds = seconds
        self.samples: dict[str, list[float]] = {c.name: [] for c in contenders}
        self.errors: dict[str, str] = {}
        self.repeats: dict[str, int] = {}

    @staticmethod
    def expected_s(row: Row, contenders: int, rounds: int, seconds: float) -> float:
        return contenders * (rounds * 0.035 + 0.08 if row.group == "scheduler" else rounds * (seconds + 0.06))

    def sample(self, contender: Contender) -> float:
        row = self.row
        if row.group == "network":
            return contender.cpu_per_request_ns(row.key, row.size, self.seconds)
        if contender.name not in self.repeats:
            self.repeats[contender.name] = contender.ask(do="calibrate", row=row.key)["repeats"]
        return float(contender.ask(do="sample", row=row.key, repeats=self.repeats[contender.name])["ns"])

    def take_round(self, number: int) -> None:
        shift = number % len(self.contenders)
        for contender in self.contenders[shift:] + self.contenders[:shift]:
            if contender.name in self.errors:
                continue
            try:
                self.samples[contender.name].append(self.sample(contender))
            except Failed as exc:
                self.errors[contender.name] = str(exc)
                del self.samples[contender.name]

    def result(self) -> dict[str, Any]:
        row = self.row
        samples = {name: [round(ns, 2) for ns in values] for name, values in self.samples.items()}
        return {
            "key": row.key,
            "title": row.title,
            "group": row.group,
            "samples_ns": samples,
            "errors": self.errors,
        }


def measure(
    rows: list[Row], contenders: list[Contender], rounds: int, seconds: float, results: list[dict[str, Any]]
) -> None:
    """Append the rows' results to `results` one by one, so that an interrupted run keeps what it has."""
    progress = Progress([Measurement.expected_s(row, len(contenders), rounds, seconds) for row in rows])
    for index, row in enumerate(rows):
        measurement = Measurement(row, contenders, rounds, seconds)
        for number in range(rounds):
            progress.within(index, row.title, number / rounds)
            measurement.take_round(number)
        results.append(measurement.result())
        progress.finished(index, row.title, report.one_line(results[-1]))
        for name, error in measurement.errors.items():
            progress.note(f"        {name}: {error}")


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


def bench(args: argparse.Namespace) -> int:
    rows = selected(args.pattern)
    if not rows:
        print(f"benches: no row to run for {args.pattern!r}; --list shows them", file=sys.stderr)
        return 2
    names = list(dict.fromkeys(args.loops.split(","))) if args.loops else LOOPS
    rounds = args.rounds or (5 if args.quick else 15)
    seconds = 0.5 if args.quick else 0.8
    contenders, described = present(names, args.verbose)
    if not contenders:
        print("benches: no loop to measure", file=sys.stderr)
        return 2
    run: dict[str, Any] = {"machine": machine.facts(), "rounds": rounds, "loops": described, "rows": []}
    interrupted = False
    try:
        measure(rows, contenders, rounds, seconds, run["rows"])
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: these rows were complete", file=sys.stderr)
    finally:
        for contender in contenders:
            contender.stop()
    narrowed = args.quick or args.rounds or args.pattern or args.loops or "aioxide" not in described
    publish = not (narrowed or interrupted)
    if json_path := args.json or (default_json() if publish else None):
        write(json_path, json.dumps(run, indent=1) + "\n")
    if svg_path := args.svg or (SVG if publish else None):
        write(svg_path, plot.draw(run))
    print(report.table(run, goals={row.key: row.goal for row in rows if row.goal} if args.goals else None))
    return 130 if interrupted else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.list:
        for row in selected(args.pattern):
            print(f"{row.key:14} {row.title}")
        return 0
    if args.plot_only:
        write(args.svg or SVG, plot.draw(load(args.plot_only)))
        return 0
    if args.table_only:
        goals = {row.key: row.goal for row in ROWS if row.goal} if args.goals else None
        print(report.table(load(args.table_only), goals))
        return 0
    return bench(args)
