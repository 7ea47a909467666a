"""`usage.spool`: what a full spool does, and how often it is written to the disk."""

from __future__ import annotations

import pytest

from ostiary.core.config.difference import compare
from ostiary.core.usage import SpoolSettings, WhenFull
from ostiary.gateway.reload import needs_restart
from tests.core.config.loading import VALID, load, only_problem


def test_nothing_changes_for_who_says_nothing() -> None:
    """An upgrade would begin to refuse calls, or to wait for disks."""
    assert load(VALID).usage.spool == SpoolSettings(WhenFull.SHED, None)
    assert load(VALID + "usage: {spool: {when_full: shed, sync: off}}\n").usage.spool == SpoolSettings()


def test_both_are_read_and_may_come_from_the_environment() -> None:
    """What an operator has written would not be what holds."""
    text = "usage: {spool: {when_full: block, sync: '${SYNC:-off}'}}\n"
    assert load(VALID + text).usage.spool == SpoolSettings(WhenFull.BLOCK, None)
    assert load(VALID + text, {"SYNC": "250ms"}).usage.spool == SpoolSettings(WhenFull.BLOCK, 0.25)


@pytest.mark.parametrize(
    ("spool", "field", "message"),
    [
        ("{when_full: blok}", "usage.spool.when_full", "must be `shed` or `block`, not 'blok' (did you mean 'block'?)"),
        ("{sync: never}", "usage.spool.sync", "must be `off`, or a duration from `100ms` to `1h`, not 'never'"),
        ("{sync: 10ms}", "usage.spool.sync", "must be `off`, or a duration from `100ms` to `1h`, not '10ms'"),
        ("{sync: 1}", "usage.spool.sync", "(give it a unit: ms, s, m, h or d)"),
        ("{fsync: 1s}", "usage.spool", "there is no field 'fsync'"),
    ],
)
def test_a_mistake_is_told_with_its_mend(spool: str, field: str, message: str) -> None:
    """A policy that was mistyped would be the default, and found out when the disk is full."""
    problem = only_problem(VALID + f"usage: {{spool: {spool}}}\n")
    assert problem.path == field
    assert message in str(problem)


def test_a_change_takes_a_restart_and_says_so() -> None:
    """An operator would believe that calls are blocked from now on."""
    before, after = load(VALID), load(VALID + "usage: {spool: {when_full: block, sync: 1s}}\n")
    assert needs_restart(before, after) == ("usage.spool",)
    changes = {change.field: (change.before, change.after, change.meaning) for change in compare(before, after)}
    restart = "takes effect at a restart, not at a reload"
    assert changes == {
        "usage.spool.when_full": ("shed", "block", restart),
        "usage.spool.sync": ("off", "1s", restart),
    }
