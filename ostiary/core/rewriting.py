"""The path that an upstream sees in place of the one that was matched, authorized and signed.

Parameters are put in as they were sent. They are single segments of a plain path (the configuration refuses `rewrite` beside
`paths: raw`), so the result is plain too: none of them can step out of its place."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.core.paths import Parameter, Rest, parse_template


class Rewriting:
    """`rewrite` of a route, compiled against the path of its match."""

    __slots__ = ("_pieces", "_prefix_segments")

    def __init__(self, path: str, rewrite: str) -> None:
        taken = parse_template(path)
        # How many segments come before what `/**` takes; -1 where the whole path is replaced.
        self._prefix_segments = len(taken) - 1 if isinstance(taken[-1], Rest) else -1
        pieces: list[bytes | str] = []  # bytes as they are, str for a parameter
        for segment in parse_template(rewrite):
            if isinstance(segment, Rest):
                break
            pieces.append(b"/")
            pieces.append(segment.name if isinstance(segment, Parameter) else segment)
        self._pieces = tuple(pieces)

    def target(self, target: bytes, path: bytes, parameters: Mapping[str, bytes]) -> bytes:
        """The target for the upstream; `path` is what `target` begins with, and the query after it is kept."""
        parts = [parameters[piece] if isinstance(piece, str) else piece for piece in self._pieces]
        if self._prefix_segments >= 0:
            segments = path.split(b"/", self._prefix_segments + 1)
            if len(segments) > self._prefix_segments + 1:
                parts.append(b"/" + segments[-1])
        return (b"".join(parts) or b"/") + target[len(path) :]
