"""What lua/decide.lua is told, and what it answers. The formats are described at the head of the script."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ostiary.core import keyspace
from ostiary.core.limiting import (
    PERIOD_NUMBERS,
    CalendarQuota,
    Limit,
    LimitOutOfRange,
    SlidingWindow,
    TokenBucket,
)
from ostiary.core.resources import lua_script
from ostiary.gateway.limits.connection import Command

DECIDE = lua_script("decide")
DECIDE_SHA = hashlib.sha1(DECIDE.encode(), usedforsecurity=False).hexdigest().encode()
RENEW = lua_script("renew")

# The outcome of an answer; OVERAGE is added to ALLOWED.
ALLOWED, RATE_LIMITED, QUOTA_EXCEEDED, CROWDED, NONCE_USED, OVERAGE = 0, 1, 2, 3, 4, 16
NO_LIMIT = 255

_CLOCK = struct.Struct("<Q")
_ANSWER = struct.Struct("<BBQI")
_SETTLEMENT = struct.Struct("<ddd")
_COST = struct.Struct("<d")

# When what is settled for less comes back to a bucket whenever that is: all but slices.
ALWAYS_US = 1 << 53


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
    return isinstance(reply, bytes) and len(reply) == _CLOCK.size + _ANSWER.size * requests_n


def clock_us(reply: bytes) -> int:
    """When Redis decided, by its own clock."""
    return int(_CLOCK.unpack_from(reply)[0])


def answers(reply: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Outcome, limit, remaining, reset in seconds, for each request."""
    return _ANSWER.iter_unpack(memoryview(reply)[_CLOCK.size :])


def lease_id(batch_name: str, number: int) -> str:
    """The member of the lease that request `number` of a batch (from 1) took."""
    return f"{batch_name}:{number}"


def specification(parts: Iterable[tuple[Sequence[Limit], int | None]], nonce_seconds: int, cost: int) -> bytes:
    """`parts` are the limits of one subject each, and how many of its calls may be under way. `nonce_seconds` is 0 for a
    request without a nonce; `cost` is what it takes of every limit. Raises LimitOutOfRange when there are more limits than
    the format holds."""
    rendered, limits_n = [], 0
    for limits, concurrency in parts:
        rendered.append(_part(limits, concurrency))
        limits_n += len(limits)
    if limits_n >= NO_LIMIT:
        raise LimitOutOfRange(f"{limits_n} limits on one request; at most {NO_LIMIT - 1} can be told apart")
    head = _text(str(nonce_seconds * 1000) if nonce_seconds else "") + struct.pack("<dB", cost, len(rendered))
    return head + b"".join(rendered)


def with_cost(specification: bytes, cost: int) -> bytes:
    """The same `specification`, of a request without a nonce, for a call of another cost."""
    return specification[:1] + _COST.pack(cost) + specification[1 + _COST.size :]


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
            return 3, limit.limit, PERIOD_NUMBERS[limit.period], limit.refuses


def _text(text: str) -> bytes:
    if len(text) > 255:
        raise LimitOutOfRange("too many limits count the same calls; about 30 windows fit")
    return bytes([len(text)]) + text.encode()
