"""What the moments of calls say of their limits."""

from __future__ import annotations

from collections.abc import Sequence


def most_in_any_span(moments: Sequence[int], span: int) -> int:
    """The largest number of moments, which are sorted, in any span of that length, in the same unit."""
    first, most = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most
