"""Medians and ratios of alternating runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest of some values, in the unit of the values."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError when there is no value."""
        if not values:
            raise ValueError("a spread needs at least one value")
        return cls(min(values), statistics.median(values), max(values))


def paired_ratios(subject: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Subject : peer, run by run.

    Runs of one round stand next to each other in time, so whatever slowed the machine in that minute slowed both, and
    most of it cancels; a ratio of two medians would keep it. Raises ValueError when the rounds do not match."""
    if len(subject) != len(peer):
        raise ValueError(f"{len(subject)} runs against {len(peer)}: ratios need the same rounds on both sides")
    return [mine / theirs for mine, theirs in zip(subject, peer, strict=True)]
