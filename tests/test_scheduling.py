"""A parallel run: what the marks promise, on a small suite of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """\
[pytest]
testpaths = tests
addopts = -p tests.scheduling -p no:asyncio -p no:aiohttp -p no:hypothesispytest --strict-markers
markers =
    full
    long
    short
    alone
"""
# Each test says when it begins and when it ends, and in which worker.
FILE = """\
import os, time
import pytest

def say(what):
    with open(os.environ["SAID"], "a") as file:
        file.write(f"{NUMBER} {what} {os.environ.get('PYTEST_XDIST_WORKER')}\\n")

@pytest.mark.alone
def test_that_runs_alone():
    say("alone-begins")
    time.sleep(0.05)
    say("alone-ends")

@pytest.mark.parametrize("turn", range(3))
@pytest.mark.MARK
def test_that_runs_beside_others(turn):
    say("begins")
    time.sleep(0.05)
    say("ends")
"""
FILES = 6
LONG = 4
TESTS = FILES * 4


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    for number in range(FILES):
        text = FILE.replace("{NUMBER}", str(number)).replace("MARK", "long" if number == LONG else "short")
        (tmp_path / "tests" / f"test_{number}.py").write_text(text)
    return tmp_path


def run(suite: Path, *arguments: str) -> tuple[int, str, list[list[str]]]:
    """Its exit status, its last line, and what its tests have said: number of the file, what happens, worker."""
    said = suite / "said"
    said.write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=suite,
        env=kept | {"PYTHONPATH": str(ROOT), "SAID": str(said)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, done.stdout.splitlines()[-1], [line.split() for line in said.read_text().splitlines()]


def test_tests_marked_alone_have_no_other_beside_them_and_long_files_begin_first(suite: Path) -> None:
    """A bound of a second, asserted beside two other workers, would fail on a busy day and hide a real failure."""
    status, last, said = run(suite, "-n", "3")
    assert (status, re.sub(r" in .*", "", last)) == (0, f"{TESTS} passed")
    assert len({worker for _, _, worker in said}) == 3, "it is a parallel run"
    begun_with = {worker: number for number, _, worker in reversed(said)}
    assert str(LONG) in begun_with.values()
    workers: dict[str, set[str]] = {}
    for number, what, worker in said:
        if not what.startswith("alone"):
            workers.setdefault(number, set()).add(worker)
    assert all(len(of_file) == 1 for of_file in workers.values()), "a file's tests share what it sets up"
    first_alone = next(index for index, (_, what, _) in enumerate(said) if what == "alone-begins")
    alone = said[first_alone:]
    assert [what for _, what, _ in alone] == ["alone-begins", "alone-ends"] * FILES
    assert len({worker for _, _, worker in alone}) == 1


def test_a_failure_in_any_worker_fails_the_run_and_one_that_crashes_loses_no_test(suite: Path) -> None:
    """The status is what CI goes by; and what is left to another worker must not come beside those that run alone."""
    fails, crashes = suite / "tests" / "test_1.py", suite / "tests" / "test_2.py"
    fails.write_text(fails.read_text() + "\ndef test_that_fails():\n    raise AssertionError\n")
    crashes.write_text("import os\n\ndef test_that_kills_its_worker():\n    os._exit(3)\n\n" + crashes.read_text())
    status, last, said = run(suite, "-n", "2")
    assert (status, re.sub(r" in .*", "", last)) == (1, f"2 failed, {TESTS} passed")
    happened = [what for _, what, _ in said]
    assert happened[happened.index("alone-begins") :] == ["alone-begins", "alone-ends"] * FILES


@pytest.mark.parametrize("picked", [["tests/test_1.py"], ["-k", "alone"]])
def test_tests_that_are_picked_run_in_one_process(suite: Path, picked: list[str]) -> None:
    """Who runs one file wants no workers started for it, and its output in order."""
    status, _, said = run(suite, "-n", "auto", *picked)
    assert status == 0
    assert {worker for _, _, worker in said} == {"None"}


def test_the_whole_suite_runs_in_workers_that_fit_the_machine(suite: Path) -> None:
    status, last, said = run(suite, "-n", "auto", "-m", "not full")
    assert status == 0, last
    assert len({worker for _, _, worker in said}) == min(len(os.sched_getaffinity(0)) + 1, 6)
