"""What `.ci/run` makes of tests that fail: the script itself, on a small suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# `scripts/test` as `.ci/run` calls it, with the small suite behind it.
TEST = f"""\
#!/usr/bin/env bash
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 exec {sys.executable} -m pytest -p xdist "${{@:2}}"
"""
PASSES = "def test_that_passes():\n    pass\n"
FAILS = "def test_that_fails():\n    raise AssertionError('again')\n"
FAILS_BESIDE_OTHERS = """
import os

def test_that_fails_beside_others():
    assert "PYTEST_XDIST_WORKER" not in os.environ
"""
CRASHES = """
import os

def test_that_crashes_beside_others():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(3)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for directory in (".ci", "scripts", "tests"):
        (tmp_path / directory).mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    _program(tmp_path / "scripts/check", "#!/bin/sh\necho all checks pass\n")
    _program(tmp_path / "scripts/test", TEST)
    (tmp_path / "tests/test_one.py").write_text(PASSES)
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def ci(checkout: Path) -> tuple[int, list[str]]:
    """Its exit status, and the lines that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        ["bash", ".ci/run"], cwd=checkout, env=kept, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.full
def test_all_that_pass_are_run_once(checkout: Path) -> None:
    status, lines = ci(checkout)
    assert status == 0
    assert "all checks pass" in lines
    assert "1 passed" in lines[-1]
    assert not any("UNSTEADY" in line for line in lines)


@pytest.mark.full
def test_failed_checks_fail_it_whatever_the_tests_do(checkout: Path) -> None:
    _program(checkout / "scripts/check", "#!/bin/sh\nexit 4\n")
    status, lines = ci(checkout)
    assert status == 4
    assert "1 passed" in lines[-1]


@pytest.mark.full
def test_one_that_passes_alone_is_named(checkout: Path) -> None:
    (checkout / "tests/test_two.py").write_text(FAILS_BESIDE_OTHERS)
    status, lines = ci(checkout)
    assert status == 0
    assert lines[-3:] == [
        "UNSTEADY: failed beside other tests, and passed alone:",
        "tests/test_two.py::test_that_fails_beside_others",
        "2 passed, 0 failed",
    ]


@pytest.mark.full
@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        pytest.param(FAILS_BESIDE_OTHERS + FAILS, 1, id="one of two fails again"),
        pytest.param("import missing_module\n", 2, id="a file that cannot be imported"),
        pytest.param(CRASHES, 1, id="a crash"),
        pytest.param(
            "\n".join(FAILS_BESIDE_OTHERS.replace("others()", f"others_{turn}()") for turn in range(6)),
            1,
            id="too many",
        ),
    ],
)
def test_these_fail_it(checkout: Path, failing: str, expected: int) -> None:
    (checkout / "tests/test_two.py").write_text(failing)
    status, lines = ci(checkout)
    assert status == expected
    assert not any("UNSTEADY" in line for line in lines)
    assert "failed" in lines[-1] or "error" in lines[-1]
