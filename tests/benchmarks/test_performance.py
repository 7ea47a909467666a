"""docs/performance.md and the figures of README.md: made of the results that are kept, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.findings import Bar, Finding, Unit
from benchmarks.performance import figures
from benchmarks.performance.__main__ import main
from benchmarks.performance.pages import Part, Results, Site, UnusableResults, kind_of, with_part
from benchmarks.performance.parts import PARTS, newest_of_each
from benchmarks.processes import REPOSITORY

JOB = "the whole job: CPU per request, against nginx+Lua+Redis"


def results(*cpu: float, rate: float = 6.0, quick: bool = False, model: str = "a CPU") -> dict[str, object]:
    """As a run of the bench writes them."""
    table = [
        Finding("1", JOB, Unit.RATIO, Bar(1.0, aim=0.8), cpu),
        Finding("2", "requests/s", Unit.RATIO, Bar(5.0, aim=7.0, less_is_better=False), (rate,)),
    ]
    return {
        "date": "2026-11-30",
        "machine": {
            "cpu": model,
            "cores": 2,
            "kernel": "6.1",
            "python": "3.11.7",
            "ostiary": "compiled",
            "interpreter_us": 7.0,
        },
        "versions": {"nginx": "1.22.1"},
        "runs": len(cpu),
        "seconds": 3.0,
        "quick": quick,
        "missing": {},
        "failed": [],
        "table": [finding.document() for finding in table],
        "scenarios": {"whole-job": {"samples": {"ostiary": [{"cpu_us": {"gateway": 33.0}}]}}},
    }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    (tmp_path / "docs").mkdir()
    for page in {part.page for part in PARTS}:
        places = [f"<!-- {part.name}: made -->\n<!-- end of {part.name} -->\n" for part in PARTS if part.page == page]
        (tmp_path / page).write_text("By hand.\n\n" + "\nAlso by hand.\n".join(places))
    return site


def written(tmp_path: Path, *documents: object) -> list[Path]:
    files = [tmp_path / f"result-{number}.json" for number in range(len(documents))]
    for file, document in zip(files, documents, strict=True):
        file.write_text(json.dumps(document))
    return files


def test_pages_are_made_of_all_runs_of_all_results(site: Site, tmp_path: Path) -> None:
    """Three measurements are one with more runs; the best of them alone would be a choice."""
    site.keep(written(tmp_path, results(0.7, 0.9), results(0.95)))
    site.write(PARTS)
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert f"| 1 | {JOB} | ≤ 1 | ≤ 0.8 | 0.70 | 0.90 | 0.95 | 0.80, 0.95 | bar |" in page
    assert "Of 2 lines 0 meet the aim, 2 the bar alone, 0 neither." in page
    assert "2 results of 2 runs of 3 s each" in page
    assert "**0.90 times**" in (tmp_path / "README.md").read_text()


def test_a_bar_that_one_of_several_results_missed_is_seen(site: Site, tmp_path: Path) -> None:
    """What is asked of three measurements is not met by two good ones."""
    site.keep(written(tmp_path, results(0.7), results(1.2), results(0.9)))
    site.write(PARTS)
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert "| min | median | max | each result | met |" in page
    assert "| 0.70 | 0.90 | 1.20 | 0.70, 1.20, 0.90 | bar |" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {10}
    site.keep(written(tmp_path, results(0.7)))
    site.write(PARTS)
    assert "each result" not in (tmp_path / "docs" / "performance.md").read_text()


def test_a_sweep_that_was_measured_again_takes_the_place_of_its_first() -> None:
    """Points that could not be measured need not cost a quarter of an hour of all others."""

    def swept(**sweeps: str) -> Results:
        return {"machine": results(0.7)["machine"], "runs": 3, "seconds": 2.0, "date": "", "sweeps": sweeps}

    found = newest_of_each([swept(sizes="first", tls="first"), swept(tls="again")])
    assert found["sweeps"] == {"sizes": "first", "tls": "again"}
    other = {**swept(tls="other"), "machine": results(0.7, model="another CPU")["machine"]}
    with pytest.raises(UnusableResults, match="two machines"):
        newest_of_each([swept(sizes="first"), other])


def test_what_people_wrote_stays(site: Site, tmp_path: Path) -> None:
    """The figures change; what stands around them is nobody's to write anew."""
    site.keep(written(tmp_path, results(0.9)))
    site.write(PARTS)
    before = (tmp_path / "docs" / "performance.md").read_text()
    site.write(PARTS)
    assert (tmp_path / "docs" / "performance.md").read_text() == before
    assert "By hand.\n" in before
    assert "Also by hand.\n" in before


def test_the_readme_has_the_figures_of_the_page(site: Site, tmp_path: Path) -> None:
    """Two documents with two figures for one thing: neither is believed."""
    site.keep(written(tmp_path, results(0.9)))
    site.write(PARTS)
    readme = tmp_path / "README.md"
    assert site.stale(PARTS) == []
    readme.write_text(readme.read_text().replace("0.90", "0.50"))
    assert site.stale(PARTS) == ["README.md"]


def test_new_results_take_the_place_of_those_before(site: Site, tmp_path: Path) -> None:
    """Figures of old code beside those of new code would be the figures of neither."""
    site.keep(written(tmp_path, results(0.7), results(0.8)))
    site.keep(written(tmp_path, results(0.9)))
    assert [figures.findings([kept])[0].values for kept in site.results("table")] == [(0.9,)]


@pytest.mark.parametrize("document", [results(0.9, quick=True), {"something": "else"}])
def test_what_is_no_result_is_refused_and_changes_nothing(site: Site, tmp_path: Path, document: Results) -> None:
    """Figures of a quick run mean nothing, and would stand there like any others."""
    site.keep(written(tmp_path, results(0.9)))
    with pytest.raises(UnusableResults, match="result-0"):
        site.keep(written(tmp_path, document))
    assert len(site.results("table")) == 1


def test_results_of_two_machines_make_no_table(tmp_path: Path) -> None:
    """A median over two machines is of none."""
    with pytest.raises(UnusableResults, match="two machines"):
        figures.machine([results(0.9), results(0.9, model="another CPU")], tmp_path)


def test_a_part_without_a_place_is_told() -> None:
    """A page that lost a comment would keep its figures for ever."""
    part = Part("table", "page.md", "table", figures.table)
    with pytest.raises(UnusableResults, match=r"page\.md has 0 places for `table`"):
        with_part("no comment", part, "made")


def test_a_file_that_a_part_draws_is_held_to_the_results_too(site: Site, tmp_path: Path) -> None:
    """A plot of old figures beside a table of new ones."""

    def draw(results: Sequence[Results], directory: Path) -> str:
        (directory / "plot.svg").write_text(str(results[0]["table"]))
        return "![plot](performance/plot.svg)"

    part = Part("machine", "docs/performance.md", "table", draw)
    site.keep(written(tmp_path, results(0.9)))
    site.write([part])
    assert site.stale([part]) == []
    (site.kept / "plot.svg").write_text("by hand")
    assert site.stale([part]) == ["docs/performance/plot.svg"]


def test_a_kind_is_told_by_what_a_document_has() -> None:
    assert kind_of("name", results(0.9)) == "table"
    assert kind_of("name", {"sweeps": {}}) == "sweeps"


def test_the_pages_of_this_checkout_are_what_its_results_make() -> None:
    """As `scripts/check` asks it."""
    assert Site(REPOSITORY).stale(PARTS) == []
    assert CliRunner().invoke(main, ["--check"]).exit_code == 0
