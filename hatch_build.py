"""Compiles the request path with mypyc, for wheels that are built with OSTIARY_COMPILE, and for `scripts/compile`.

The code stays Python: the same modules, with the types they have anyway, as C extensions. Without a C compiler, or without
being asked, they are installed as they are, and do the same at about twice the CPU (docs/decisions/0007-compiled.md).

    OSTIARY_COMPILE=1 pip install .                  a compiled Ostiary
    OSTIARY_COMPILE=profiled pip install .           the same as a release is: compiled twice by gcc, which learns in between
                                                     what is done often (docs/decisions/0039-profiled.md)
    python hatch_build.py [--profiled] DIRECTORY     a compiled copy of this checkout's package, to be put on PYTHONPATH
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


# The compiled package before the checkout's. Not by PYTHONPATH: by that pip shows a build in isolation what it needs.
_TRAIN = "import runpy, sys; sys.path[:0] = sys.argv[1:]; runpy.run_module('benchmarks.training', run_name='__main__')"


def compile_into(directory: Path, *, profiled: bool = False) -> list[Path]:
    """Puts a copy of the package into `directory` and compiles it there; the result is the extensions, relative to it.

    Nothing is compiled in the checkout itself: an extension beside its source would hide every later edit."""
    shutil.rmtree(directory, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ostiary", directory / "ostiary", ignore=ignored)
    for data in ("lua", "config"):
        shutil.copytree(ROOT / data, directory / "ostiary" / data, ignore=ignored, dirs_exist_ok=True)
    (directory / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "problems.md", directory / "docs" / "problems.md")
    if not profiled:
        return _run_mypyc(directory)
    with tempfile.TemporaryDirectory(prefix="ostiary-profile-") as profile:
        counting = _run_mypyc(directory, f"-fprofile-generate={profile}")
        _run(
            [sys.executable, "-P", "-c", _TRAIN, str(directory), str(ROOT)],
            "the training",
            cwd=directory,
            environment={},
        )
        if not any(Path(profile).iterdir()):
            raise SystemExit(f"the training left no profile; gcc is needed, and CC is {os.environ.get('CC', 'gcc')}")
        for extension in counting:
            (directory / extension).unlink()
        # What the training did not come by is made as fast as ever, not small.
        return _run_mypyc(
            directory, f"-fprofile-use={profile} -fprofile-partial-training -Wno-missing-profile -Wno-coverage-mismatch"
        )


def _run_mypyc(directory: Path, flags: str = "") -> list[Path]:
    """The extensions, with `flags` for the C compiler."""
    # For the last of these warnings gcc goes back to the source for each statement: four minutes of five, in a file of 70 MB.
    flags = f"{os.environ.get('CFLAGS', '')} -fvisibility=hidden -Wno-misleading-indentation {flags}".strip()
    # The order of what mypyc writes goes by hashes; a profile is of one order.
    environment = {"CFLAGS": flags, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "mypyc", "--ignore-missing-imports", *compiled_modules()]
    _run(command, "mypyc", cwd=directory, environment=environment)
    shutil.rmtree(directory / "build", ignore_errors=True)
    return sorted(path.relative_to(directory) for path in directory.rglob("*.so"))


def _run(command: list[str], name: str, *, cwd: Path, environment: dict[str, str]) -> None:
    result = subprocess.run(  # noqa: S603  our own
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise SystemExit(f"{name} failed:\n{result.stdout[-4000:]}{result.stderr[-4000:]}")


def how_to_compile(asked: str) -> str:
    """What OSTIARY_COMPILE asks for: `1`, `profiled`, or nothing. Raises SystemExit for what it can't mean."""
    if asked not in ("", "0", "1", "profiled"):
        raise SystemExit(f"OSTIARY_COMPILE={asked} means nothing; say 1 or profiled, or leave it out")
    return "" if asked == "0" else asked


class CompiledBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only while it builds
    """Adds the extensions to a wheel; an editable installation is never compiled."""

    def _wanted(self) -> str:
        how = how_to_compile(os.environ.get("OSTIARY_COMPILE", ""))
        return how if self.target_name == "wheel" else ""

    def dependencies(self) -> list[str]:
        how = self._wanted()
        if not how:
            return []
        compiling = ["mypy>=1.18,<3", "setuptools>=75"]
        if how == "1":
            return compiling
        with (ROOT / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)["project"]
        training = [one for one in project["optional-dependencies"]["dev"] if one.startswith("joserfc")]
        return [*compiling, *project["dependencies"], *training]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        how = self._wanted()
        if not how or version == "editable":
            return
        self._directory = tempfile.mkdtemp(prefix="ostiary-compile-")
        for extension in compile_into(Path(self._directory) / "tree", profiled=how == "profiled"):
            build_data["force_include"][str(Path(self._directory) / "tree" / extension)] = str(extension)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if directory := getattr(self, "_directory", None):
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--profiled"]
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit("usage: python hatch_build.py [--profiled] DIRECTORY")
    compile_into(Path(arguments[0]).resolve(), profiled="--profiled" in sys.argv)
