"""Two counts over the last seconds: of all, and of those marked. A breaker marks errors, a budget the further tries."""

from __future__ import annotations

from typing import Final

# A part of the window is forgotten at once: a count reaches back the whole window, or up to a tenth less.
PARTS: Final = 10


class RollingCounts:
    """`total` and `marked` are right after `roll`. Time never goes back (it is the loop's clock)."""

    __slots__ = ("_at", "_marks", "_part_ends", "_part_seconds", "_totals", "marked", "total")

    def __init__(self, seconds: float) -> None:
        self._part_seconds = seconds / PARTS
        self._part_ends = 0.0
        self._totals = [0] * PARTS
        self._marks = [0] * PARTS
        self._at = 0
        self.total = 0
        self.marked = 0

    def roll(self, now: float) -> None:
        """Forgets what is older than the window."""
        if now < self._part_ends:
            return
        steps = 1 + int((now - self._part_ends) / self._part_seconds)
        if steps >= PARTS:
            self.clear()
            self._part_ends = now + self._part_seconds
            return
        for _ in range(steps):
            at = self._at = (self._at + 1) % PARTS
            self.total -= self._totals[at]
            self.marked -= self._marks[at]
            self._totals[at] = self._marks[at] = 0
        self._part_ends += steps * self._part_seconds

    def add(self, now: float) -> None:
        if now >= self._part_ends:
            self.roll(now)
        self._totals[self._at] += 1
        self.total += 1

    def mark(self, now: float) -> None:
        """One of those that were added is marked."""
        if now >= self._part_ends:
            self.roll(now)
        self._marks[self._at] += 1
        self.marked += 1

    def clear(self) -> None:
        self._totals = [0] * PARTS
        self._marks = [0] * PARTS
        self.total = self.marked = 0
