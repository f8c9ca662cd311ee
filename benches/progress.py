"""Progress on stderr: a line per finished row; on a terminal also a line in place that tells where the run is."""

from __future__ import annotations

import sys
import time


class Progress:
    """`weights` are the rows' expected seconds: right in proportion, corrected by the time really taken."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights
        self.started = time.monotonic()
        self.done = 0.0
        self.tty = sys.stderr.isatty()

    def clock(self, within_row: float = 0.0) -> str:
        elapsed = time.monotonic() - self.started
        done = self.done + within_row
        total = sum(self.weights)
        left = (total - done) * (elapsed / done if elapsed > 5 and done else 1.0)
        return f"{elapsed:.0f} s elapsed, about {left:.0f} s left"

    def within(self, index: int, title: str, share: float) -> None:
        if self.tty:
            text = (
                f"[{index + 1:2}/{len(self.weights)}] {title}: {share:.0%}, {self.clock(share * self.weights[index])}"
            )
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def finished(self, index: int, results: list[tuple[str, str]]) -> None:
        """A row is done: its figures' titles and values."""
        self.done += self.weights[index]
        for title, values in results:
            self.note(f"[{index + 1:2}/{len(self.weights)}] {title:43} {values}   ({self.clock()})")

    def note(self, text: str) -> None:
        clear = "\r\x1b[K" if self.tty else ""
        print(f"{clear}{text}", file=sys.stderr, flush=True)
