"""How much each of many has failed lately, in memory of a fixed size that all workers of a node read and write.

For each mark one number, its debt: the seconds in which what was counted is forgotten (a leaky bucket, as in GCRA, ITU-T
I.371). A failure adds to it, and it falls by one a second by itself, so nothing has to be swept. A mark has WAYS places,
where it may be; who finds none free takes the one with the least debt: a flood of marks displaces those that have failed
least.

Nobody locks anything. Two workers that count the same mark in the same microsecond may count one failure instead of two, and
that is all it costs."""

from __future__ import annotations

from typing import Final

# 65 536 marks, in a megabyte: as many addresses, and keys, may be failing at once on a node before they displace each other.
WAYS: Final = 4
SETS: Final = 16_384
_PLACES: Final = WAYS * SETS
TABLE_BYTES: Final = _PLACES * 16 + 64


class AttemptTable:
    """Over `memory` of TABLE_BYTES, zeros at first. A mark is a signed number of 64 bits, such as Python's hash of a text
    where all workers have one seed (`node`). Times are monotonic seconds."""

    __slots__ = ("_marks", "_untils", "_urgent")

    def __init__(self, memory: memoryview) -> None:
        self._marks: memoryview[int] = memory[: _PLACES * 8].cast("q")
        self._untils: memoryview[float] = memory[_PLACES * 8 : _PLACES * 16].cast("d")
        self._urgent: memoryview[float] = memory[_PLACES * 16 : _PLACES * 16 + 8].cast("d")

    @classmethod
    def alone(cls) -> AttemptTable:
        """One that no other process sees."""
        return cls(memoryview(bytearray(TABLE_BYTES)))

    def debt(self, mark: int, now: float) -> float:
        """0 for a mark that owes nothing, or that is not known."""
        first = (mark % SETS) * WAYS
        marks = self._marks
        for place in range(first, first + WAYS):
            if marks[place] == mark:
                return max(0.0, self._untils[place] - now)
        return 0.0

    def add(self, mark: int, seconds: float, now: float, *, most: float) -> float:
        """The debt before. Afterwards it is more by `seconds`, and at most `most`."""
        first = (mark % SETS) * WAYS
        marks, untils = self._marks, self._untils
        chosen = first
        for place in range(first, first + WAYS):
            if marks[place] == mark:
                debt = max(0.0, untils[place] - now)
                untils[place] = now + max(debt, min(debt + seconds, most))
                return debt
            if untils[place] < untils[chosen]:
                chosen = place
        marks[chosen] = mark
        untils[chosen] = now + min(seconds, most)
        return 0.0

    @property
    def urgent_until(self) -> float:
        """A time that any worker may put off, for all to read."""
        return self._urgent[0]

    def is_urgent(self, until: float) -> None:
        if until > self._urgent[0]:
            self._urgent[0] = until
