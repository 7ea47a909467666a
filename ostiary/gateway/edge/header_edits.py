"""Header lines that a route takes away and adds, rendered at load."""

from __future__ import annotations

from ostiary.core.edge import HeaderEdits


class LineEdits:
    """`HeaderEdits`, compiled: names to take away (what is set is taken away first), and the lines to add."""

    __slots__ = ("added", "removed")

    def __init__(self, edits: HeaderEdits) -> None:
        self.removed = frozenset(
            (*(name.lower().encode() for name, _ in edits.set), *(name.lower().encode() for name in edits.remove))
        )
        self.added = tuple(f"{name}: {value}".encode("ascii") for name, value in (*edits.set, *edits.add))


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """`lines` but for those of `names`, in lower case."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]
