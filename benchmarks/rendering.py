"""Configuration files from templates: `@{name}` stands for a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATES = Path(__file__).parent / "peers"

# `@{…}` occurs in none of the languages rendered (nginx, Lua, YAML, HAProxy), where `$name`, `{name}` and `%s` all do.
_PLACEHOLDER = re.compile(r"@\{(\w+)\}")


def render(template: str, values: Mapping[str, object]) -> str:
    """The template with its placeholders filled in. Raises KeyError for one without a value: a file with a hole in it
    would fail later, and less clearly."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), template)


def render_file(name: str, directory: Path, values: Mapping[str, object], *, prefix: str = "") -> Path:
    """Renders `peers/<name>` into the directory, under the same name with `prefix`; returns where it is."""
    path = directory / f"{prefix}{name}"
    path.write_text(render((TEMPLATES / name).read_text(), values))
    return path
