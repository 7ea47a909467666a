"""Compiles the request path with mypyc, for wheels that are built with OSTIARY_COMPILE=1, and for `scripts/compile`.

The code stays Python: the same modules, with the types they have anyway, as C extensions. Without a C compiler, or without
being asked, they are installed as they are, and do the same at about twice the CPU (docs/decisions/0007-compiled.md).

    OSTIARY_COMPILE=1 pip install .        a compiled Ostiary
    python hatch_build.py DIRECTORY        a compiled copy of this checkout's package, to be put on PYTHONPATH
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside a build
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent


def compiled_modules() -> list[str]:
    """The modules of `[tool.ostiary.compiled]` in pyproject.toml, as paths in the checkout."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["ostiary"]["compiled"]["modules"]
    modules = {path for pattern in patterns for path in ROOT.glob(pattern) if path.name != "__init__.py"}
    return sorted(str(path.relative_to(ROOT)) for path in modules)


def compile_into(directory: Path) -> list[Path]:
    """Puts a copy of the package into `directory` and compiles it there; the result is the extensions, relative to it.

    Nothing is compiled in the checkout itself: an extension beside its source would hide every later edit."""
    shutil.rmtree(directory, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ostiary", directory / "ostiary", ignore=ignored)
    for data in ("lua", "config"):
        shutil.copytree(ROOT / data, directory / "ostiary" / data, ignore=ignored, dirs_exist_ok=True)
    (directory / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "problems.md", directory / "docs" / "problems.md")
    command = [sys.executable, "-m", "mypyc", "--ignore-missing-imports", *compiled_modules()]
    # For this warning gcc goes back to the source for each statement: four minutes of five, in one file of 70 MB.
    environment = os.environ | {"CFLAGS": f"{os.environ.get('CFLAGS', '')} -Wno-misleading-indentation".strip()}
    result = subprocess.run(  # noqa: S603  our own
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise SystemExit(f"mypyc failed:\n{result.stdout[-4000:]}{result.stderr[-4000:]}")
    shutil.rmtree(directory / "build", ignore_errors=True)
    return sorted(path.relative_to(directory) for path in directory.rglob("*.so"))


class CompiledBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only while it builds
    """Adds the extensions to a wheel; an editable installation is never compiled."""

    def _wanted(self) -> bool:
        return os.environ.get("OSTIARY_COMPILE") == "1" and self.target_name == "wheel"

    def dependencies(self) -> list[str]:
        return ["mypy>=1.18,<3", "setuptools>=75"] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not self._wanted() or version == "editable":
            return
        self._directory = tempfile.mkdtemp(prefix="ostiary-compile-")
        for extension in compile_into(Path(self._directory) / "tree"):
            build_data["force_include"][str(Path(self._directory) / "tree" / extension)] = str(extension)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if directory := getattr(self, "_directory", None):
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python hatch_build.py DIRECTORY")
    compile_into(Path(sys.argv[1]).resolve())
