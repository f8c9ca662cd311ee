"""The TLS rows' second table: how far from the floor, against the better of aiofastnet's hosts, and what the fallback engine gives.

Of what uvloop takes, the floor cannot be avoided. `avoided` is the share of the rest that aioxide does not take either,
1 - (aioxide - floor) / (uvloop - floor), and `times` the same as a factor, (uvloop - floor) / (aioxide - floor): 85 % is 6.7 times.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from benches.loops import AIOFASTNET
from benches.report import OURS, REFERENCE, amount, figure, markdown, ratio

if TYPE_CHECKING:
    from benches.rows_tls import Floor

FALLBACK = "aioxide-fallback"
AVOIDED = 0.85  # of what uvloop takes above the floor: the goal
HEADER = [
    "tls",
    "floor",
    "avoided by aioxide",
    "times",
    "aiofastnet's better host",
    "it / aioxide",
    "uvloop / fallback",
]


def spread(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def floors_of(run: dict[str, Any], floor: Floor) -> list[float]:
    """One per round, from uvloop's figures of this run."""
    if not run["machine"].get("openssl", "").startswith(floor.openssl):
        return []
    samples = next((row["samples"] for row in run["rows"] if row["key"] == floor.row), {})
    return [floor.share * value for value in samples.get(REFERENCE, [])]


def above_floor(run: dict[str, Any], row: dict[str, Any], floor: Floor | None) -> list[str]:
    samples = row["samples"]
    floors = floors_of(run, floor) if floor else []
    if not floors:
        return ["—", "—", "—"]
    cells = [amount(median(floors), row["unit"])]
    if not (samples.get(OURS) and samples.get(REFERENCE)):
        return [*cells, "—", "—"]
    rounds = list(zip(samples[REFERENCE], samples[OURS], floors))
    low, middle, high = spread([(theirs - ours) / (theirs - least) for theirs, ours, least in rounds])
    left = 1 - middle
    return [*cells, f"{middle:.0%} ({low:.0%}–{high:.0%})", figure(1 / left) if left > 0.005 else "all"]


def better_host(row: dict[str, Any]) -> list[str]:
    measured = [loop for loop in AIOFASTNET if row["samples"].get(loop)]
    if not measured:
        return ["—", "—"]
    best = min(measured, key=lambda loop: median(row["samples"][loop]))
    return [f"{best} {amount(median(row['samples'][best]), row['unit'])}", str(ratio(row, best, OURS) or "—")]


def table(run: dict[str, Any], floors: Mapping[str, Floor]) -> str:
    """Empty if the run has no TLS rows."""
    rows = [row for row in run["rows"] if row["group"].startswith("tls")]
    if not rows:
        return ""
    lines = [
        [
            row["title"],
            *above_floor(run, row, floors.get(row["key"])),
            *better_host(row),
            str(ratio(row, REFERENCE, FALLBACK) or "—"),
        ]
        for row in rows
    ]
    note = (
        f"`floor`: OpenSSL, the kernel and the protocol's Python alone, as a share of what {REFERENCE} takes, measured once with {kinds(floors)}. "
        f"`avoided`: of what {REFERENCE} takes above it; the goal is {AVOIDED:.0%}, as `times` {figure(1 / (1 - AVOIDED))}."
    )
    return "\n".join([*markdown(HEADER, lines), "", note])


def kinds(floors: Mapping[str, Floor]) -> str:
    return ", ".join(dict.fromkeys(floor.openssl for floor in floors.values()))
