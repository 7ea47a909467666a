"""Lists for people: aligned columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, heading: bool = True) -> str:
    """The rows, under the names of their columns unless `heading` is False. Absent values are `-`; a character that could
    move the cursor or colour the terminal is `?`, since names come from other people."""
    cells = [[column.replace("_", " ").upper() for column in columns]] if heading else []
    cells += [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def cell(value: object) -> str:
    """A value as text for a terminal: `-` for nothing, `?` for what could move the cursor."""
    match value:
        case None | "":
            return "-"
        case list() | tuple():
            return ",".join(cell(item) for item in value) or "-"
        case _:
            return "".join(character if character.isprintable() else "?" for character in str(value))
