"""A version on its way out: the lines that say so, rendered at load, and whether it is over."""

from __future__ import annotations

from email.utils import formatdate

from ostiary.core.edge import AfterSunset, Deprecation


class Farewell:
    """`lines` are Deprecation (RFC 9745: a structured date), Sunset (RFC 8594: an HTTP-date) and Link."""

    __slots__ = ("_ends_at", "lines")

    def __init__(self, deprecation: Deprecation) -> None:
        lines = [f"Deprecation: @{deprecation.since}"]
        relations = ["deprecation"]
        if deprecation.sunset is not None:
            lines.append(f"Sunset: {formatdate(deprecation.sunset, usegmt=True)}")
            relations.append("sunset")
        if deprecation.link is not None:
            targets = ", ".join(f'<{deprecation.link}>; rel="{relation}"' for relation in relations)
            lines.append(f"Link: {targets}")
        self.lines = tuple(line.encode("ascii") for line in lines)
        ends = deprecation.after_sunset is AfterSunset.NOT_FOUND
        self._ends_at = deprecation.sunset if ends else None

    def is_over(self, now: float) -> bool:
        """`now` is Unix time. False for a route that serves on after its sunset."""
        return self._ends_at is not None and now >= self._ends_at
