"""What consistent hashing goes by: `key`, `ip`, `{header: X-Tenant}` or `{path_parameter: id}`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ostiary.core.config.fields import Kind, NameOrRecord, Record, Schema, Values, optional
from ostiary.core.config.kinds import Choice, TextKind
from ostiary.core.config.reading import REFUSED, Place, Reading, Refused
from ostiary.core.upstream import HashBy, HashSource

# A caller's credentials differ from call to call (signatures, nonces), and none of them should be worth a look-up.
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "x-timestamp", "x-nonce"})
# What the gateway makes of its own, or keeps to itself: a client's say in it is dropped (RFC 9110 §7.6.1).
_DROPPED: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "upgrade"}
    | {"transfer-encoding", "content-length", "expect", "http2-settings", "forwarded"}
    | {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip"}
)


class _Nameless(StrEnum):
    KEY = "key"
    IP = "ip"


class _Short(Kind[HashBy]):
    """The sources that need no name."""

    _SOURCE: Final = Choice(_Nameless)

    def read(self, place: Place, reading: Reading) -> HashBy | Refused:
        source = self._SOURCE.read(place, reading)
        return source if isinstance(source, Refused) else HashBy(HashSource(source.value))

    def schema(self) -> Schema:
        return self._SOURCE.schema()

    @property
    def words(self) -> str:
        return "`key` (the address for callers without one) or `ip`"


class _HeaderName(TextKind):
    def __init__(self) -> None:
        super().__init__(r"[A-Za-z0-9-]{1,64}", "the name of a header, as in `X-Tenant`")

    def read(self, place: Place, reading: Reading) -> str | Refused:
        name = super().read(place, reading)
        if isinstance(name, Refused):
            return name
        if name.lower() in _CREDENTIALS:
            return reading.problem(place, "is a credential", "write hash_by: key, which goes by the caller")
        if name.lower() in _DROPPED or name.lower().startswith("x-ostiary-"):
            return reading.problem(place, "is not taken from clients", "choose a header that the clients send")
        return name


_HEADER = optional("header", _HeaderName(), "By this header; calls without it go by their key.")
_PATH_PARAMETER = optional(
    "path_parameter",
    TextKind(r"[A-Za-z_][A-Za-z0-9_]{0,63}", "the name of a path parameter, as in `id` for `/v1/clients/{id}`"),
    "By this part of the path; every route to this upstream must have it.",
)


def _hash_by(values: Values) -> HashBy | Refused:
    header, parameter = values[_HEADER], values[_PATH_PARAMETER]
    if values.given(_HEADER) == values.given(_PATH_PARAMETER):
        return values.reading.problem(values.place, "must name one thing to hash by", "header or path_parameter")
    if header is not None:
        return HashBy(HashSource.HEADER, header)
    return REFUSED if parameter is None else HashBy(HashSource.PATH_PARAMETER, parameter)


HASH_BY: NameOrRecord[HashBy] = NameOrRecord(
    _Short(), Record("Hash by", "A header or a path parameter, by its name.", (_HEADER, _PATH_PARAMETER), _hash_by)
)
