"""The declared fields as a JSON Schema, for editors, and as a reference, for readers: `ostiary config schema`."""

from __future__ import annotations

from collections.abc import Iterator

from ostiary.core.config.fields import (
    Kind,
    ListOf,
    MapOf,
    NameOrRecord,
    OneOrMany,
    Placed,
    Presence,
    Record,
    Schema,
)
from ostiary.core.config.load import FILE


def json_schema() -> Schema:
    """JSON Schema 2020-12 of the file. It accepts every file that the loader accepts; the loader refuses more."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ostiary configuration",
        "description": FILE.says,
        **FILE.schema(),
    }


def reference() -> str:
    """Every record with its fields, as Markdown tables."""
    sections = []
    for record in _records(FILE, set()):
        rows = [
            f"| `{field.name}` | {_cell(field.kind.words)} | {_default(field.default)} | {_cell(field.says)} |"
            for field in record.fields
        ]
        table = "\n".join(("| field | value | default | |", "|---|---|---|---|", *rows))
        sections.append(f"### {record.title}\n\n{record.says}\n\n{table}\n")
    return "\n".join(sections)


def _records(kind: Kind[object], seen: set[str]) -> Iterator[Record[object]]:
    """Every record within `kind`, each once, in the order in which a reader meets them."""
    if isinstance(kind, Record):
        if kind.title in seen:
            return
        seen.add(kind.title)
        yield kind
        for field in kind.fields:
            yield from _records(field.kind, seen)
    elif isinstance(kind, ListOf | OneOrMany):
        yield from _records(kind.item, seen)
    elif isinstance(kind, MapOf):
        yield from _records(kind.value, seen)
    elif isinstance(kind, NameOrRecord):
        yield from _records(kind.short, seen)
        yield from _records(kind.long, seen)
    elif isinstance(kind, Placed):
        yield from _records(kind.kind, seen)


def _default(default: object) -> str:
    if default is Presence.REQUIRED:
        return "required"
    if default is Presence.OPTIONAL:
        return ""
    if default == "":
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "" if default in ([], {}) else f"`{default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
