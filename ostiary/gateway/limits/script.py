"""What lua/decide.lua is told, and what it answers. The formats are described at the head of the script."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

from ostiary.core import keyspace
from ostiary.core.limiting import (
    PERIOD_NUMBERS,
    CalendarQuota,
    Limit,
    LimitOutOfRange,
    SlidingWindow,
    TokenBucket,
)
from ostiary.core.model import Concurrency, LimitMode, RefusedCalls
from ostiary.core.resources import lua_script
from ostiary.gateway.limits.connection import Command

DECIDE = lua_script("decide")
DECIDE_SHA = hashlib.sha1(DECIDE.encode(), usedforsecurity=False).hexdigest().encode()
RENEW = lua_script("renew")

# The outcome of an answer; OVERAGE is added to ALLOWED.
ALLOWED: Final = 0
RATE_LIMITED: Final = 1
QUOTA_EXCEEDED: Final = 2
CROWDED: Final = 3
NONCE_USED: Final = 4
OVERAGE: Final = 16
NO_LIMIT: Final = 255

_CLOCK = struct.Struct("<Q")
_ANSWER = struct.Struct("<BBQI")
_NOTE = struct.Struct("<HBBBQ")
_SETTLEMENT = struct.Struct("<ddd")
_COST = struct.Struct("<d")

# When what is settled for less comes back to a bucket whenever that is: all but slices.
ALWAYS_US = 1 << 53

# Refusals that say that nothing was counted: Redis does not begin a script then, or ends it at its first write.
NOTHING_COUNTED: Final = ("LOADING", "BUSY", "OOM", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF")

# What a note says; see the head of the script.
WOULD_REFUSE: Final = 1
QUOTA_REACHED: Final = 2

# The terms of a limit, in a specification.
_SHADOW, _CHARGED, _WITHOUT, _CROSSING = 1, 2, 4, 8


class Request(Protocol):
    """`names` and `nonce` are names in Redis; `specification` is what the policy of the request says of it."""

    @property
    def specification(self) -> bytes: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def nonce(self) -> str | None: ...


class Settlement(Protocol):
    """What a call that was taken at `taken_us` (Redis's clock) turned out to cost more, or less. From `ends_us` on (usually
    ALWAYS_US) nothing of it comes back to a bucket."""

    @property
    def specification(self) -> bytes: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def difference(self) -> int: ...

    @property
    def taken_us(self) -> int: ...

    @property
    def ends_us(self) -> int: ...


def arguments(
    requests: Iterable[Request], batch_name: str, clock_us: bytes = b"", settlements: Sequence[Settlement] = ()
) -> Command:
    """All of EVALSHA after the hash. Requests that follow the same specification send it once. Only tests give a clock."""
    indexes: dict[bytes, int] = {}
    references = bytearray()
    names: list[str] = []
    settled = b""
    for settlement in settlements:
        references.append(indexes.setdefault(settlement.specification, len(indexes)))
        names += settlement.names
        settled += _SETTLEMENT.pack(settlement.difference, settlement.taken_us, settlement.ends_us)
    for request in requests:
        specification = request.specification
        index = indexes.get(specification)
        if index is None:
            index = indexes[specification] = len(indexes)
        references.append(index)
        names += request.names
        if request.nonce is not None:
            names.append(request.nonce)
    return (len(names), *names, bytes(references), clock_us, batch_name, settled, *indexes)


def is_reply(reply: object, requests_n: int) -> bool:
    if not isinstance(reply, bytes):
        return False
    more = len(reply) - _CLOCK.size - _ANSWER.size * requests_n
    return more == 0 or (more > 0 and more % _NOTE.size == 0)


def clock_us(reply: bytes) -> int:
    """When Redis decided, by its own clock."""
    return int(_CLOCK.unpack_from(reply)[0])


def answers(reply: bytes, requests_n: int) -> Iterator[tuple[int, int, int, int]]:
    """Outcome, limit, remaining, reset in seconds, for each request."""
    # Of bytes, not of a memoryview: an iterator over one that becomes part of a reference cycle (by the traceback of a
    # request that failed, say) ends the process with SIGSEGV when it is collected, in CPython before 3.13.
    return _ANSWER.iter_unpack(reply[_CLOCK.size : _CLOCK.size + _ANSWER.size * requests_n])


def notes(reply: bytes, requests_n: int) -> list[tuple[int, int, int, int, int]]:
    """Whose (from 0 over settlements and requests), what, which limit, how much in %, when its period ends (µs)."""
    begin = _CLOCK.size + _ANSWER.size * requests_n
    return list(_NOTE.iter_unpack(reply[begin:])) if len(reply) > begin else []


def lease_id(batch_name: str, number: int) -> str:
    """The member of the lease that request `number` of a batch (from 1) took."""
    return f"{batch_name}:{number}"


def specification(
    parts: Iterable[tuple[Sequence[Limit], Concurrency | None]],
    nonce_seconds: int,
    cost: int,
    *,
    without: Collection[int] = (),
    crossing: bool = False,
) -> bytes:
    """`parts` are the limits of one subject each, and how many of its calls may be under way. `nonce_seconds` is 0 for a
    request without a nonce; `cost` is what it takes of every limit. In settlements, the limits in `without` (from 0 over
    all parts) are left as they are; those of a `crossing` are of a call that was refused.

    Raises LimitOutOfRange when there are more limits than the format holds."""
    rendered: list[bytes] = []
    terms: list[int] = []
    of_leases: list[int] = []
    for limits, concurrency in parts:
        rendered.append(_part(limits, None if concurrency is None else concurrency.at_most))
        terms += [_terms(limit) for limit in limits]
        if concurrency is not None:
            of_leases.append(_SHADOW if concurrency.mode is LimitMode.SHADOW else 0)
    if len(terms) + len(of_leases) >= NO_LIMIT:
        raise LimitOutOfRange(f"{len(terms)} limits on one request; at most {NO_LIMIT - 1} can be told apart")
    for place in without:
        terms[place] |= _WITHOUT
    if crossing:
        terms = [each | _CROSSING for each in terms]
    head = _text(str(nonce_seconds * 1000) if nonce_seconds else "") + struct.pack("<dB", cost, len(rendered))
    terms += of_leases
    return head + b"".join(rendered) + (bytes(terms) if any(terms) else b"")


def with_cost(specification: bytes, cost: int) -> bytes:
    """The same `specification`, of a request without a nonce, for a call of another cost."""
    return specification[:1] + _COST.pack(cost) + specification[1 + _COST.size :]


def _terms(limit: Limit) -> int:
    in_shadow = _SHADOW if limit.mode is LimitMode.SHADOW else 0
    return in_shadow | (_CHARGED if limit.refused is RefusedCalls.CHARGED else 0)


def _part(limits: Sequence[Limit], concurrency: int | None) -> bytes:
    described: list[float] = []
    numbers = 0
    for limit in limits:
        described += (*_limit(limit), numbers + 1)
        numbers += 5 if isinstance(limit, SlidingWindow) else 2
    return b"".join(
        (
            _text(str(keyspace.state_ttl_ms(limits)) if limits else ""),
            _text("".join(f"{limit.identity};" for limit in limits) + "|"),
            _text("<" + "d" * numbers),
            _text("<" + "d" * len(described)),
            struct.pack(
                "<Bdd",
                len(limits),
                -1 if concurrency is None else concurrency,
                keyspace.LEASE_SECONDS * 1_000_000,
            ),
            struct.pack(f"<{len(described)}d", *described),
        )
    )


def _limit(limit: Limit) -> tuple[int, int, int, int]:
    match limit:
        case TokenBucket():
            return 1, limit.capacity, limit.cost, limit.gain
        case SlidingWindow():
            return 2, limit.limit, limit.window_us, limit.slot_us
        case CalendarQuota():
            untold = 2 if limit.mode is LimitMode.SHADOW else 0
            return 3, limit.limit, PERIOD_NUMBERS[limit.period], limit.refuses + untold


def _text(text: str) -> bytes:
    if len(text) > 255:
        raise LimitOutOfRange("too many limits count the same calls; about 30 windows fit")
    return bytes([len(text)]) + text.encode()
