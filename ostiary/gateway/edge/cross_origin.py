"""CORS (Fetch standard §3.3), rendered at load: what a request adds is its Origin, once that is known to be allowed."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.edge import CrossOrigin

# scheme, host of at most 253 characters, port: what is longer is no origin that a list could hold.
ORIGIN_BYTES_MAX: Final = 300


class CrossOriginRules:
    """`CrossOrigin` of a route, compiled."""

    __slots__ = ("_every", "_exact", "_exposed", "_wildcard", "granted", "varies")

    def __init__(self, cors: CrossOrigin) -> None:
        self._every = cors.origins == ("*",)
        self._exact = frozenset(origin.encode() for origin in cors.origins if "*" not in origin)
        self._wildcard = _compile_wildcards(cors.origins)
        credentials = [b"Access-Control-Allow-Credentials: true"] if cors.credentials else []
        self._exposed = (*credentials, f"Access-Control-Expose-Headers: {', '.join(cors.expose)}".encode())
        # What a preflight's answer says besides; the browser holds the call against it. It is not for caches (RFC 9110
        # §9.3.7), so it needs no Vary for what it was asked.
        self.granted = (
            f"Access-Control-Allow-Methods: {', '.join(cors.methods)}\r\n"
            f"Access-Control-Allow-Headers: {', '.join(cors.headers)}\r\n"
            f"Access-Control-Max-Age: {cors.max_age_seconds}\r\n"
        ).encode()
        # Where the answer is the same for every origin, caches need not keep one for each.
        self.varies = not self._every

    def allows(self, origin: bytes) -> bool:
        if self._every or origin in self._exact:
            return True
        if self._wildcard is None or len(origin) > ORIGIN_BYTES_MAX:
            return False
        return self._wildcard.fullmatch(origin) is not None

    def lines(self, origin: bytes | None) -> tuple[bytes, ...]:
        """What an answer to `origin` carries; nothing for a request from no page, or from one that may not read it."""
        if origin is None or not self.allows(origin):
            return ()
        return (b"Access-Control-Allow-Origin: %b" % (b"*" if self._every else origin), *self._exposed)


def _compile_wildcards(origins: tuple[str, ...]) -> re.Pattern[bytes] | None:
    """`https://*.example.com` takes any host below, of that scheme and port, and nothing that merely ends so."""
    forms = []
    for origin in origins:
        scheme, star, rest = origin.partition("*.")
        if star and scheme:
            forms.append(rf"{re.escape(scheme)}(?:[a-z0-9_-]{{1,63}}\.){{1,32}}{re.escape(rest)}")
    return re.compile("|".join(forms).encode()) if forms else None
