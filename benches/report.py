"""The report: from samples to medians, ratios and a Markdown table. Pure functions over the run's JSON.

A run is {"machine": facts, "rounds": n, "loops": {name: {"version", "loop", "task"}}, "rows": [{"key", "title", "group", "unit": "ns" or
"bytes", "samples": {loop: [one per round]}, "errors": {loop: text}}]}. Less is better in all of them.
"""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any, NamedTuple

from benches.row import GROUPS

OURS = "aioxide"
REFERENCE = "uvloop"  # the goals and the plot count in its times


class Goal(NamedTuple):
    times: float | None  # as many times faster than uvloop
    below: float | None  # an absolute one
    unit: str


class Ratio(NamedTuple):
    """How many times what `ours` takes `theirs` takes: quartiles over the rounds."""

    p25: float
    median: float
    p75: float

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.p25)}–{figure(self.p75)})"


def figure(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}"


def ratio(row: dict[str, Any], theirs: str, ours: str) -> Ratio | None:
    """None when one of the two has no samples."""
    samples = row["samples"]
    ratios = [a / b for a, b in zip(samples.get(theirs, []), samples.get(ours, []))]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(low, middle, high)


def amount(value: float, unit: str) -> str:
    """Three digits: more would be noise."""
    if unit == "bytes":
        return f"{value:.0f} B" if value < 10_000 else f"{value / 1024:.1f} KiB"
    for size, name in ((1, "ns"), (1e3, "µs"), (1e6, "ms")):
        if value < 1000 * size or name == "ms":
            break
    scaled = value / size
    digits = 0 if name == "ns" or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f} {name}"


def typical(row: dict[str, Any], loop: str) -> str:
    samples = row["samples"].get(loop)
    return amount(median(samples), row["unit"]) if samples else "—"


def one_line(row: dict[str, Any]) -> str:
    return " · ".join(f"{loop} {typical(row, loop)}" for loop in [*row["samples"], *row["errors"]])


def check(run: dict[str, Any]) -> None:
    """Raise ValueError unless it is one of our files."""
    if not isinstance(run, dict) or not {"machine", "rounds", "loops", "rows"} <= run.keys():
        raise ValueError("not a result file of these benchmarks")
    if not all({"key", "title", "group", "unit", "samples", "errors"} <= row.keys() for row in run["rows"]):
        raise ValueError("a result file of another version of these benchmarks")


def ours_in(run: dict[str, Any]) -> str:
    """The loop the others are compared with: aioxide, or in its absence the last one."""
    loops = list(run["loops"])
    return OURS if OURS in loops else loops[-1]


def judged(reached: bool, within_spread: bool, got: str) -> str:
    return "reached" if reached else "within the spread" if within_spread else f"not reached ({got})"


def verdict(row: dict[str, Any], goal: Goal | None, loops: list[str], ours: str) -> str:
    """The goal's cell: the goal and whether it is reached, and who is ahead of us."""
    parts = []
    if goal and goal.times:
        text, r = f"{goal.times:g}× {REFERENCE}", ratio(row, REFERENCE, ours)
        if r and ours == OURS:  # with a loop that is not ours there is nobody to be judged
            text += ": " + judged(r.median >= goal.times, r.p75 >= goal.times, figure(r.median))
        parts.append(text)
    if goal and goal.below:
        text, samples = f"below {amount(goal.below, goal.unit)}", row["samples"].get(OURS)
        if samples:
            text += ": " + judged(median(samples) < goal.below, min(samples) < goal.below, typical(row, OURS))
        parts.append(text)
    rivals = [loop for loop in loops if not loop.startswith(OURS)]  # our other engine is none
    ahead = [loop for loop in rivals if (r := ratio(row, loop, ours)) and r.p75 < 1]
    if ahead and ours == OURS:
        parts.append("behind " + ", ".join(ahead))
    return "; ".join(parts) or "—"


def headline(run: dict[str, Any]) -> list[str]:
    facts = run["machine"]
    versions = ", ".join(
        name if name == "asyncio" else f"{name} {loop['version']}"
        for name, loop in run["loops"].items()
        if name.partition("-")[0] not in run["loops"].keys() - {name}  # the same package under other circumstances
    )
    openssl = f"; {facts['openssl']}" if any(row["group"].startswith("tls") for row in run["rows"]) else ""
    gil = "" if facts.get("gil", True) else " free-threaded"
    return [
        f"{facts['implementation']} {facts['python']}{gil}; {versions}",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']} {facts['kernel']}, {facts['date']}{openssl}",
    ]


def table(run: dict[str, Any], goals: dict[str, Goal] | None = None) -> str:
    """A Markdown table for each group; with `goals` (by a row's key) one column more."""
    ours = ours_in(run)
    text = []
    for group, meaning in GROUPS.items():
        lines = []
        rows = [row for row in run["rows"] if row["group"] == group]
        loops = [loop for loop in run["loops"] if any(loop in row["samples"] or loop in row["errors"] for row in rows)]
        others = [loop for loop in loops if loop != ours]
        for row in rows:
            cells = [row["title"], *(typical(row, loop) for loop in loops)]
            cells += [str(ratio(row, loop, ours) or "—") for loop in others]
            if goals is not None:
                cells.append(verdict(row, goals.get(row["key"]), others, ours))
            lines.append(cells)
        if lines:
            header = [f"{group}: {meaning}", *loops, *(f"{loop} / {ours}" for loop in others)]
            text += [*markdown([*header, "goal"] if goals is not None else header, lines), ""]
    return "\n".join([*text, *footnotes(run, ours)])


def markdown(header: list[str], lines: list[list[str]]) -> list[str]:
    """Padded, so that it reads well in a terminal too."""
    widths = [max(len(cells[i]) for cells in [header, *lines]) for i in range(len(header))]

    def join(cells: list[str]) -> str:
        return (
            "| " + " | ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:]))]) + " |"
        )

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return [join(header), rule, *map(join, lines)]


def footnotes(run: dict[str, Any], ours: str) -> list[str]:
    text = f"`x / {ours}`: median (p25–p75) over {run['rounds']} interleaved rounds (memory: 3 at most); above 1, {ours} takes that many times less."
    explained = [text] if len(run["loops"]) > 1 else []
    return [*explained, *headline(run), *dashes(run)]


def dashes(run: dict[str, Any]) -> list[str]:
    """Why there is no figure: once for all rows of which a loop says the same."""
    titles: dict[tuple[str, str], list[str]] = {}
    for row in run["rows"]:
        for loop, error in row["errors"].items():
            titles.setdefault((loop, error), []).append(row["title"])
    return [f"- {loop}, {error}: {', '.join(rows)}" for (loop, error), rows in titles.items()]
