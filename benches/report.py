"""The report: from samples to medians, ratios and a Markdown table. Pure functions over the run's JSON.

A run is {"machine": facts, "rounds": n, "loops": {name: {"version", "loop", "task"}}, "rows": [{"key", "title", "group", "samples_ns":
{loop: [one per round]}, "errors": {loop: text}}]}.
"""

from __future__ import annotations

from statistics import median, quantiles
from typing import Any, NamedTuple

OURS = "aioxide"
REFERENCE = "uvloop"  # the goals and the plot count in its times


class Ratio(NamedTuple):
    """How many times longer `theirs` takes than `ours`: quartiles over the rounds."""

    p25: float
    median: float
    p75: float

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.p25)}–{figure(self.p75)})"


def figure(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}"


def ratio(row: dict[str, Any], theirs: str, ours: str) -> Ratio | None:
    """None when one of the two has no samples."""
    samples = row["samples_ns"]
    ratios = [a / b for a, b in zip(samples.get(theirs, []), samples.get(ours, []))]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(low, middle, high)


def duration(ns: float) -> str:
    """Three digits: more would be noise."""
    if ns < 1000:
        return f"{ns:.0f} ns"
    return f"{ns / 1000:.2f} µs" if ns < 10_000 else f"{ns / 1000:.1f} µs"


def typical(row: dict[str, Any], loop: str) -> str:
    samples = row["samples_ns"].get(loop)
    return duration(median(samples)) if samples else "—"


def one_line(row: dict[str, Any]) -> str:
    return " · ".join(f"{loop} {typical(row, loop)}" for loop in [*row["samples_ns"], *row["errors"]])


def check(run: dict[str, Any]) -> None:
    """Raise ValueError unless it is one of our files."""
    if not isinstance(run, dict) or not {"machine", "rounds", "loops", "rows"} <= run.keys():
        raise ValueError("not a result file of these benchmarks")


def ours_in(run: dict[str, Any]) -> str:
    """The loop the others are compared with: aioxide, or in its absence the last one."""
    loops = list(run["loops"])
    return OURS if OURS in loops else loops[-1]


def verdict(row: dict[str, Any], goal: float | None, loops: list[str], ours: str) -> str:
    """The goal's cell: the goal against uvloop and whether it is reached, and who is ahead of us."""
    if ours != OURS:
        return f"{goal:g}× {REFERENCE}" if goal else "—"  # nobody here to be judged
    parts = []
    reached = ratio(row, REFERENCE, ours)
    if goal and reached:
        text = f"{goal:g}× {REFERENCE}: "
        if reached.median >= goal:
            parts.append(text + "reached")
        elif reached.p75 >= goal:
            parts.append(text + "within the spread")
        else:
            parts.append(text + f"not reached ({figure(reached.median)})")
    ahead = [loop for loop in loops if (r := ratio(row, loop, ours)) and r.p75 < 1]
    if ahead:
        parts.append("behind " + ", ".join(ahead))
    return "; ".join(parts) or "—"


def headline(run: dict[str, Any]) -> list[str]:
    facts = run["machine"]
    versions = ", ".join(
        name if name == "asyncio" else f"{name} {loop['version']}" for name, loop in run["loops"].items()
    )
    gil = "" if facts.get("gil", True) else " free-threaded"
    return [
        f"{facts['implementation']} {facts['python']}{gil}; {versions}",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']} {facts['kernel']}, {facts['date']}",
    ]


def table(run: dict[str, Any], goals: dict[str, float] | None = None) -> str:
    """The Markdown table; with `goals` (row key to times uvloop) one column more."""
    ours = ours_in(run)
    loops = list(run["loops"])
    others = [loop for loop in loops if loop != ours]
    header = ["CPU time per operation", *loops, *(f"{loop} / {ours}" for loop in others)]
    if goals is not None:
        header.append("goal")
    lines = []
    for row in run["rows"]:
        cells = [row["title"], *(typical(row, loop) for loop in loops)]
        cells += [str(ratio(row, loop, ours) or "—") for loop in others]
        if goals is not None:
            cells.append(verdict(row, goals.get(row["key"]), others, ours))
        lines.append(cells)
    return "\n".join([*markdown(header, lines), "", *footnotes(run, ours)])


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
    text = f"`x / {ours}`: median (p25–p75) over {run['rounds']} interleaved rounds; above 1, {ours} is that many times faster."
    explained = [text] if len(run["loops"]) > 1 else []
    errors = [f"- {row['title']}, {name}: {error}" for row in run["rows"] for name, error in row["errors"].items()]
    return [*explained, *headline(run), *errors]
