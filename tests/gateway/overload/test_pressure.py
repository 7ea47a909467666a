"""Who is let in under which pressure. Invariant: whoever ranks higher is let in wherever a lower one is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.model import Priority
from ostiary.gateway.overload.pressure import ALWAYS, MEMORY_PART_MAX, NEVER, NOBODY, RANKS, Pressure, patience

LOW, NORMAL, HIGH = (RANKS[each] for each in (Priority.LOW, Priority.NORMAL, Priority.HIGH))


def test_without_pressure_everybody_is_let_in_however_long_they_waited() -> None:
    """A single slow turn is no overload: nothing may be refused for it."""
    assert patience(Pressure()) == (ALWAYS, ALWAYS, ALWAYS)


@given(st.builds(Pressure, st.booleans(), st.booleans(), st.integers(NOBODY, HIGH), st.floats(0, 1.2)))
def test_a_higher_priority_is_never_less_patiently_met(pressure: Pressure) -> None:
    """Row 115: else the calls that must go through would give way to those that need not."""
    low, normal, high = patience(pressure)
    assert low <= normal <= high


def test_a_refused_rank_shuts_those_below_it_and_not_itself() -> None:
    """Row 115: a low call served while a normal one is refused was served in its place."""
    low, normal, high = patience(Pressure(waiting=True, refused=NORMAL))
    assert low == NEVER
    assert 0 < normal < high < ALWAYS


def test_a_stall_shuts_low_calls_alone() -> None:
    """Row 113: what piled up during a stall is worked off; low calls leave the room for it, others need not know of it."""
    assert patience(Pressure(stalled=True)) == (NEVER, ALWAYS, ALWAYS)


def test_memory_refuses_one_rank_after_the_other_and_in_the_end_all() -> None:
    """Row 116: at the bound itself nothing can be refused any more, because the process is gone."""
    shut = [[bound == NEVER for bound in patience(Pressure(memory=part))] for part in (0.79, *MEMORY_PART_MAX)]
    assert shut == [[False, False, False], [True, False, False], [True, True, False], [True, True, True]]
    assert MEMORY_PART_MAX[-1] < 0.95
