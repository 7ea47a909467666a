from __future__ import annotations

import json

from benchmarks.memory import BODY_BYTES, MemoryResult, MemoryRun
from tests.acceptance.large_bodies import MIB


def run(rest: int, connection: int, *bodies: int) -> MemoryRun:
    return MemoryRun(rest, rest // 2, connection, {f"way {number}": body for number, body in enumerate(bodies)})


def test_each_kind_of_memory_is_held_against_its_bar() -> None:
    """A megabyte read as a kilobyte would meet every bar."""
    measured = MemoryResult(5000, BODY_BYTES, (run(58_000_000, 7_000, 100_000, 900_000), run(58_000_000, 7_000, 0, 0)))
    rest, connection, body = measured.findings()
    assert (rest.values[0], rest.verdict) == (58.0, "bar")
    assert (connection.values[0], connection.verdict) == (7.0, "bar")
    assert (body.values, body.verdict) == ((0.9, 0.0), "aim")


def test_a_body_counts_by_the_way_that_takes_most() -> None:
    """An average over ways would hide the one that gathers."""
    assert MemoryResult(1, BODY_BYTES, (run(1, 1, 0, 3_000_000),)).findings()[2].verdict == "missed"


def test_a_smaller_body_is_told() -> None:
    """A quick run must not read as one with a whole gibibyte."""
    measured = MemoryResult(500, 64 * MIB, (run(1, 1, 0),))
    assert "64 MiB" in measured.findings()[2].measure
    assert "64 MiB" in measured.text()
    json.dumps(measured.document())
