"""The methods that a configuration may name."""

from __future__ import annotations

from typing import Final

from ostiary.core.config.kinds import TextKind
from ostiary.core.config.reading import Place, Reading, Refused

# The methods that the HTTP parser knows. Not CONNECT and TRACE: no gateway should pass these on (RFC 9110 §9.3.6, §9.3.8).
METHODS: Final = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    *("ACL", "BIND", "CHECKOUT", "COPY", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE"),
    *(
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
    ),
    *("UNSUBSCRIBE",),
)


class Method(TextKind):
    def __init__(self, *, or_star: bool = False) -> None:
        words = "a method in capitals, such as GET"
        super().__init__(
            "|".join(METHODS) + (r"|\*" if or_star else ""), words + (", or `*` for those not named" if or_star else "")
        )

    def read(self, place: Place, reading: Reading) -> str | Refused:
        if place.shown[1:-1].upper() in METHODS and place.shown[1:-1] not in METHODS:
            upper = place.shown[1:-1].upper()
            return reading.problem(place, f"must be a method in capitals, not {place.shown}", f"write {upper}")
        return super().read(place, reading)
