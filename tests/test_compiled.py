"""A release is compiled: it must do what the sources say, not nearly."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What stores, clocks and dead processes do to it is asked of the sources only: there is little compiled code in between.
REQUEST_PATH = (
    "tests/fuzz",
    "tests/gateway/wire",
    "tests/gateway/edge",
    "tests/gateway/test_request_path.py",
    "tests/gateway/test_upstream_faults.py",
    "tests/gateway/test_target_tls.py",
    "tests/gateway/test_credentials_on_the_wire.py",
    "tests/gateway/test_changed_requests.py",
    "tests/gateway/test_held_bodies.py",
    "tests/gateway/test_http_signatures.py",
    "tests/gateway/test_signed_origins.py",
    "tests/gateway/test_upstreams.py",
    "tests/gateway/test_affinity.py",
    "tests/gateway/resilience",
    "tests/gateway/limits/test_cluster.py",
    "tests/gateway/limits/test_costs.py",
    "tests/gateway/limits/test_kinds.py",
    "tests/gateway/limits/test_limiter.py",
    "tests/gateway/limits/test_local.py",
    "tests/gateway/limits/test_names.py",
    "tests/gateway/limits/test_nonces.py",
    "tests/gateway/limits/test_slices.py",
    "tests/gateway/limits/test_slots.py",
    "tests/gateway/limits/test_told.py",
    "tests/gateway/test_signal.py",
    "tests/gateway/usage/test_spool.py",
    "tests/core/test_http_signatures.py",
    "tests/core/test_signing.py",
    "tests/core/test_structured_fields.py",
    "tests/core/test_request_paths.py",
    "tests/core/test_rewriting.py",
)
WHERE = "import ostiary.gateway.wire.client as c, ostiary.gateway.pipeline as p; print(c.__file__, p.__file__)"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled copy of the package."""
    directory = tmp_path_factory.mktemp("compiled") / "package"
    # What mypyc makes of the sources is what a release has; the C compiler may take the short way, in a quarter of the time.
    environment = os.environ | {"MYPYC_OPT_LEVEL": "0", "MYPYC_DEBUG_LEVEL": "0"}
    command = [sys.executable, str(ROOT / "hatch_build.py"), str(directory)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=900)
    return directory


@pytest.mark.full
@pytest.mark.long
def test_the_compiled_request_path_passes_the_tests_of_the_sources(compiled: Path, tmp_path: Path) -> None:
    """mypyc is a second implementation of Python: early binding, machine integers, native classes."""
    environment = os.environ | {"PYTHONPATH": str(compiled)}
    command = [sys.executable, "-P", "-c", WHERE]
    where = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert where.count(str(compiled)) == where.count(".so") == 2
    options = [
        "-q",
        "-o",
        f"pythonpath={compiled} .",
        f"--basetemp={tmp_path / 'tests'}",
        "-p",
        "no:cacheprovider",
    ]
    command = [sys.executable, "-m", "pytest", *options, *REQUEST_PATH]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout[result.stdout.find("= FAILURES =") :][:20_000]


def compiled_modules() -> list[str]:
    command = [sys.executable, "-c", "import hatch_build; print(*hatch_build.compiled_modules())"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_no_coroutine_gives_exceptions_of_two_types_one_name() -> None:
    """Once compiled, a name in a coroutine has one type: the second handler would end in a TypeError."""
    found = []
    for module in compiled_modules():
        for function in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if isinstance(function, ast.AsyncFunctionDef):
                handlers = [each for each in ast.walk(function) if isinstance(each, ast.ExceptHandler) and each.name]
                kinds = {(each.name, ast.unparse(each.type)) for each in handlers if each.type is not None}
                if len(kinds) > len({name for name, _ in kinds}):
                    found.append(f"{module}: {function.name}")
    assert found == []


def test_every_module_that_is_to_be_compiled_exists() -> None:
    """A renamed module would silently be interpreted."""
    listed = compiled_modules()
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    named = [line.strip(' ",') for line in lines if line.startswith('    "ostiary/')]
    assert named
    for pattern in named:
        assert any(Path(module).match(pattern) for module in listed), pattern
