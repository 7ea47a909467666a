from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import instructions
from benchmarks.instructions import CannotCount, build, compare, counted, text, total_of
from benchmarks.statistics import Spread

DUMP = (
    b"# callgrind format\nversion: 1\npid: 7\npart: 3\ndesc: Trigger: Client Request\nevents: Ir\n\nsummary: 3320516\n"
)


def test_the_total_of_a_dump_is_read_and_of_anything_else_is_not() -> None:
    """A run without callgrind would count nothing, and find that everything has become cheaper."""
    assert total_of(DUMP) == 3_320_516
    with pytest.raises(CannotCount, match="no summary"):
        total_of(b"events: Ir\n")


async def test_every_phase_of_a_signed_request_is_counted(tmp_path: Path) -> None:
    """A phase that has changed its shape is noticed here, not when someone needs its count."""
    called = 0

    def once(call: Callable[[], object]) -> Spread:
        nonlocal called
        called += 1
        call()
        return Spread.of([called])

    names = [line.name for line in await counted(tmp_path, once)]
    assert {"request head", "match", "authenticate", "respond", "open and record", "jwt, verified anew (RS256)"} <= set(
        names
    )


def test_more_than_the_tolerance_is_a_regression_and_is_shown() -> None:
    """A regression of a tenth must have an address."""
    baseline = {"match": 1000.0, "record": 1000.0, "gone": 1.0}
    lines = compare({"match": 1019.0, "record": 1100.0, "new": 5.0}, baseline)
    assert [(line.name, line.is_regression) for line in lines] == [("match", False), ("record", True), ("new", False)]
    assert "1,100     1,000  1.100  more than it may be" in text(lines)


@pytest.mark.parametrize(
    ("counted_now", "python", "status", "said"),
    [
        ({"match": 1010.0}, None, 0, "1.010"),
        ({"match": 1100.0}, None, 1, "more than it may be"),
        ({"match": 1100.0}, "2.7.18", 0, "not compared: the baseline is of another build (python 2.7.18)"),
    ],
)
def test_the_command_fails_on_a_regression_of_the_same_build_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted_now: dict[str, float],
    python: str | None,
    status: int,
    said: str,
) -> None:
    """Another interpreter counts otherwise: that would be taken for a change of the code."""
    baseline = tmp_path / "instructions.json"
    of = build() | ({"python": python} if python else {})
    baseline.write_text(json.dumps({"build": of, "instructions": {"match": 1000.0}}))
    monkeypatch.setattr(instructions, "BASELINE", baseline)
    monkeypatch.setattr(instructions, "count_all", lambda: counted_now)
    result = CliRunner().invoke(instructions.main, [])
    assert result.exit_code == status
    assert said in result.output


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback does not say what to install."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CannotCount, match="no-such-compiler is not installed; Debian: apt-get install gcc"):
        instructions.count_all()
