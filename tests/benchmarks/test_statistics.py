from __future__ import annotations

import pytest

from benchmarks.statistics import Spread, paired_ratios


def test_a_spread_is_least_median_and_most() -> None:
    """A mean in place of the median would let one disturbed run move the figure."""
    assert Spread.of([5.0, 1.0, 100.0]) == Spread(1.0, 5.0, 100.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that was half as fast in the second round must not show in the ratio."""
    assert paired_ratios([10.0, 20.0, 10.0], [20.0, 40.0, 20.0]) == [0.5, 0.5, 0.5]


def test_figures_of_unequal_rounds_are_refused() -> None:
    """A run that is missing on one side would pair the others wrongly."""
    with pytest.raises(ValueError, match="same rounds"):
        paired_ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])
