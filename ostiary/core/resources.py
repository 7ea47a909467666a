"""Where the data files are: `lua/`, `config/` and `docs/` stand at the top of a checkout, and what of them is needed inside
the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def resource_directory(name: str) -> Path:
    """The directory of `lua`, `config` or `docs`. Raises FileNotFoundError if the installation is broken."""
    for candidate in (_PACKAGE / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the {name!r} directory of this Ostiary installation is missing; reinstall it")


def lua_script(name: str) -> str:
    """The text of `lua/<name>.lua`."""
    return (resource_directory("lua") / f"{name}.lua").read_text(encoding="utf-8")
