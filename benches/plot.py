"""The plot: horizontal bars, how many times better than uvloop each loop does each row, by groups. An SVG, drawn by hand.

No plotting library: the suite runs on the standard library, and the file has to read well in a README, on a light and on a dark page,
at 900 pixels or less. So it paints its own card (a transparent one would trust that page and browser agree on the theme), styles by
classes that a media query recolours, and names only fonts that every system has a substitute for. Every axis is linear from 0, because
a bar is read by its length, and each group has its own, with its figures above it: a scheduler's factors of five would leave nothing to see of
a network's tenths. A bar beyond the axis is cut, visibly, and its figure tells the rest.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

from benches.report import OURS, REFERENCE, Ratio, figure, headline, ratio, typical
from benches.row import GROUPS

WIDTH = 900
MARGIN = 28
LABELS = 300  # the column of row titles
VALUES = 74  # room for the figure behind the longest bar
LEFT = MARGIN + LABELS
RIGHT = WIDTH - MARGIN - VALUES
TOP = 112
BAR, BAR_GAP, ROW_GAP = 9.5, 1.5, 9
LABEL = 29  # a row's title and the baseline's figure below it, however few the bars
GROUP_GAP, HEADING = 30, 26  # above a group's heading; between that and its bars
AXIS_MAX = 12.0  # a bar that needs more is cut

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
.card { fill: #ffffff; stroke: #d8dee4; }
.title { font-size: 21px; font-weight: 700; fill: #1f2328; }
.sub, .tick { font-size: 12.5px; fill: #59636e; }
.legend { font-size: 14px; fill: #1f2328; }
.group { font-size: 13px; font-weight: 700; letter-spacing: .06em; fill: #59636e; }
.what { font-weight: 400; letter-spacing: 0; }
.row { font-size: 13.5px; fill: #1f2328; }
.value { font-size: 11.5px; fill: #59636e; paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; }
.value.ours { font-size: 13px; font-weight: 700; fill: #b13a0b; }
.grid { stroke: #e6eaef; }
.base { stroke: #1f2328; stroke-width: 1.5; }
.spread { stroke: #1f2328; stroke-opacity: .55; stroke-width: 1.5; }
.cut { stroke: #ffffff; stroke-width: 3; fill: none; }
.bar0 { fill: #dd4814; } .bar1 { fill: #9aa5b1; } .bar2 { fill: #4c8fd6; } .bar3 { fill: #6aa84f; } .bar4 { fill: #a06cc8; } .bar5 { fill: #c2a032; }
@media (prefers-color-scheme: dark) {
.card { fill: #0d1117; stroke: #30363d; }
.title, .legend, .row { fill: #e6edf3; }
.sub, .tick, .group, .value { fill: #9198a1; }
.value { stroke: #0d1117; }
.value.ours { fill: #ff8a5c; }
.grid { stroke: #21262d; }
.base, .spread { stroke: #e6edf3; }
.cut { stroke: #0d1117; }
.bar0 { fill: #f0622d; } .bar1 { fill: #6e7781; } .bar2 { fill: #4493f8; } .bar3 { fill: #57ab5a; } .bar4 { fill: #b083f0; } .bar5 { fill: #d4b648; }
}
"""


class Axis:
    """Ratios to pixels; 0 at the left."""

    def __init__(self, longest: float) -> None:
        self.step = next(step for step in (0.5, 1, 2) if longest / step <= 8 or step == 2)
        self.end = min(AXIS_MAX, max(2.0, math.ceil(longest / self.step) * self.step))

    def x(self, value: float) -> float:
        return LEFT + min(value, self.end) / self.end * (RIGHT - LEFT)

    def ticks(self) -> list[float]:
        return [i * self.step for i in range(int(self.end / self.step) + 1)]


def text(x: float, y: float, css: str, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


class Plot:
    def __init__(self, run: dict[str, Any]) -> None:
        self.run = run
        names = list(run["loops"])
        self.baseline = REFERENCE if REFERENCE in names else names[0]
        # Ours on top and in its own colour, whoever else is there.
        others = [name for name in names if name not in (self.baseline, OURS)]
        self.bars = [(name, f"bar{i % 5 + 1}") for i, name in enumerate(others)]
        if OURS in names and OURS != self.baseline:
            self.bars.insert(0, (OURS, "bar0"))
        self.axis = Axis(1.0)
        self.y: float = TOP
        self.shapes: list[str] = []
        self.texts: list[str] = []  # above the lines, with a halo in the card's colour

    def speeds(self, row: dict[str, Any]) -> list[tuple[str, str, Ratio]]:
        return [(name, css, r) for name, css in self.bars if (r := ratio(row, self.baseline, name))]

    def draw(self) -> str:
        for group, meaning in GROUPS.items():
            rows = [row for row in self.run["rows"] if row["group"] == group and self.speeds(row)]
            if rows:
                self.group(group, meaning, rows)
        height = self.y + MARGIN
        body = "\n".join([*self.header(), *self.shapes, *self.texts])
        size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
            f"<title>{escape(self.title())}</title>\n<style>{STYLE}</style>\n"
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="10"/>\n{body}\n</svg>\n'
        )

    def title(self) -> str:
        return f"How many times better than {self.baseline}"

    def header(self) -> list[str]:
        out = [text(MARGIN, 40, "title", self.title())]
        for i, content in enumerate(headline(self.run)):
            out.append(text(MARGIN, 62 + 18 * i, "sub", content))
        x: float = MARGIN
        for name, css in self.bars:
            out.append(f'<rect class="{css}" x="{x}" y="94" width="14" height="14" rx="3"/>')
            out.append(text(x + 20, 106, "legend", name))
            x += 20 + 7.6 * len(name) + 16
        out.append(line(x + 4, 93, x + 4, 109, "base"))
        out.append(text(x + 14, 106, "legend", f"{self.baseline} = 1"))
        return [
            *out,
            text(
                WIDTH - MARGIN,
                40,
                "sub",
                f"median and quartiles of {self.run['rounds']} rounds",
                "end",
            ),
        ]

    def group(self, group: str, meaning: str, rows: list[dict[str, Any]]) -> None:
        self.axis = Axis(max(r.median for row in rows for _, _, r in self.speeds(row)))
        self.y += GROUP_GAP
        heading = text(MARGIN, self.y, "group", group.upper())
        self.texts.append(heading.replace("</text>", f'<tspan class="what" dx="10">{escape(meaning)}</tspan></text>'))
        self.y += HEADING
        top, bottom = self.y - 6, self.y + sum(map(self.height, rows)) + ROW_GAP * (len(rows) - 1) + 6
        for value in self.axis.ticks():
            x = self.axis.x(value)
            self.shapes.append(line(x, top, x, bottom, "grid"))
            self.texts.append(text(x, top - 3, "tick", f"{value:g}×", "middle"))
        for row in rows:
            self.row(row)
            self.y += ROW_GAP
        x = self.axis.x(1)
        self.shapes.append(line(x, top, x, bottom, "base"))
        self.y = bottom

    def height(self, row: dict[str, Any]) -> float:
        return max(LABEL, self.bars_height(row))

    def bars_height(self, row: dict[str, Any]) -> float:
        return len(self.speeds(row)) * (BAR + BAR_GAP) - BAR_GAP

    def row(self, row: dict[str, Any]) -> None:
        speeds = self.speeds(row)
        middle = self.y + self.height(row) / 2
        self.texts.append(text(LEFT - 14, middle + (-2 if len(speeds) > 1 else 5), "row", row["title"], "end"))
        if len(speeds) > 1:
            base = f"{self.baseline} {typical(row, self.baseline)}"
            self.texts.append(text(LEFT - 14, middle + 12, "value", base, "end"))
        bottom = self.y + self.height(row)
        self.y = middle - self.bars_height(row) / 2
        for name, css, speed in speeds:
            self.bar(name, css, speed)
            self.y += BAR + BAR_GAP
        self.y = bottom

    def bar(self, name: str, css: str, speed: Ratio) -> None:
        end, middle = self.axis.x(speed.median), self.y + BAR / 2
        self.shapes.append(
            f'<rect class="{css}" x="{LEFT}" y="{self.y:.1f}" width="{max(end - LEFT, 1):.1f}" height="{BAR}" rx="2"/>'
        )
        if speed.median > self.axis.end:
            self.shapes.append(f'<path class="cut" d="M{end - 22:.1f} {self.y + BAR + 1:.1f} l8 {-BAR - 2}"/>')
            tip = end
        else:
            tip = max(end, self.axis.x(speed.p75))
            self.shapes.append(line(self.axis.x(speed.p25), middle, tip, middle, "spread"))
        self.texts.append(
            text(tip + 6, middle + 4, "value ours" if name == OURS else "value", f"{figure(speed.median)}×")
        )


def draw(run: dict[str, Any]) -> str:
    """The SVG file's text."""
    return Plot(run).draw()
