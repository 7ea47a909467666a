"""What consistent hashing goes by, compiled per route and caller: the key, the address, a header, or a segment of the path.

The hash is of bytes that a client chooses, and may choose anew for every call: a way to spread load, no way to separate
callers."""

from __future__ import annotations

from typing import Final

from ostiary.core.model import Key, Route
from ostiary.core.paths import Parameter, equivalent_path, parse_template
from ostiary.core.upstream import HashBy, HashSource
from ostiary.gateway.exchange import Exchange

_IP: Final = HashSource.IP
_HEADER: Final = HashSource.HEADER
_PATH_PARAMETER: Final = HashSource.PATH_PARAMETER


class Affinity:
    """`of` a call is the text that is hashed: the header or the parameter where there is one, else the key's id, else the
    address."""

    __slots__ = ("_caller", "_name", "_position", "_source")

    def __init__(self, by: HashBy, route: Route, key: Key | None) -> None:
        self._source = by.source
        self._name = by.name.lower().encode()
        self._caller = "" if key is None or by.source is _IP else key.id
        self._position = _position(route, by.name) if by.source is _PATH_PARAMETER else 0

    def of(self, exchange: Exchange) -> str:
        value = b""
        if self._source is _HEADER:
            value = self._header(exchange)
        elif self._source is _PATH_PARAMETER:
            path = exchange.head.path
            # As the path is matched: two spellings of one segment are one caller.
            value = (equivalent_path(path) if b"%" in path else path).split(b"/")[self._position]
        if value:
            return value.decode("latin-1")
        return self._caller or exchange.ip

    def _header(self, exchange: Exchange) -> bytes:
        """Most headers pass unread, as lines; the first of several counts."""
        name = self._name
        known = exchange.head.values.get(name)
        if known is not None:
            return known
        length = len(name)
        for line in exchange.head.lines:
            if line[length : length + 1] == b":" and line[:length].lower() == name:
                return line[length + 1 :].strip(b" \t")
        return b""


def _position(route: Route, name: str) -> int:
    """Which part of a path, split at its slashes, the parameter is. Raises ValueError: a checked configuration has it."""
    for at, segment in enumerate(parse_template(route.match.path)):
        if isinstance(segment, Parameter) and segment.name == name:
            return at + 1
    raise ValueError(f"the path of the route {route.name!r} has no parameter {name!r}")
