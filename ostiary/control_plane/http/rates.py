"""Rate limits on the API itself: token buckets in this process, of each actor, and of each address for who is unknown.

Two processes count each by itself: behind a balancer of two, a caller gets up to twice as much. That suffices to keep one
caller from crowding out the others, which is all they are for; what a customer's keys may do is limited in the gateway."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from ostiary.control_plane.http.problems import Problem, ProblemCode
from ostiary.core.limiting import BucketCounter, TokenBucket, seconds_up
from ostiary.core.model import Rate

# Buckets of one kind, some 300 bytes each. Past it the one that was used longest ago is forgotten, and is full again when its
# caller comes back.
SUBJECTS_MAX = 10_000

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a call stands with its bucket. `reset_seconds`: refused, until a call is admitted; else until one more fits in."""

    refused: bool
    remaining: int
    reset_seconds: int


class Buckets:
    """The buckets of one kind of subject, all of the same `rate`. `clock` gives microseconds that never go back."""

    def __init__(self, name: str, rate: Rate, *, clock: Callable[[], int], subjects_max: int = SUBJECTS_MAX) -> None:
        self._bucket = TokenBucket.of(rate)
        self._clock = clock
        self._subjects_max = subjects_max
        self._counters: OrderedDict[str, BucketCounter] = OrderedDict()
        self._name = name
        burst = f";burst={rate.burst}" if rate.burst != rate.requests else ""
        self._policy = f'"{name}";q={rate.requests};w={rate.per_seconds}{burst}'

    def __len__(self) -> int:
        return len(self._counters)

    def take(self, subject: str) -> Headers:
        """Counts one call; what its answer says of it. Raises Problem `rate_limited`, and counts nothing then."""
        standing = self._take(subject)
        headers = (
            ("RateLimit-Policy", self._policy),
            ("RateLimit", f'"{self._name}";r={standing.remaining};t={standing.reset_seconds}'),
        )
        if standing.refused:
            retry = ("Retry-After", str(standing.reset_seconds))
            raise Problem(ProblemCode.RATE_LIMITED, headers=[*headers, retry])
        return headers

    def _take(self, subject: str) -> Standing:
        now_us = self._clock()
        counter = self._counters.get(subject)
        if counter is None:
            while len(self._counters) >= self._subjects_max:
                self._counters.popitem(last=False)
            counter = self._counters[subject] = self._bucket.counter(now_us)
        self._counters.move_to_end(subject)
        counter.settle(now_us)
        if counter.left() < 1:
            return Standing(True, 0, max(1, seconds_up(counter.wait_us(now_us, 1))))
        counter.take(now_us, 1)
        left = counter.left()
        return Standing(False, left, seconds_up(counter.wait_us(now_us, left + 1)))


class CallRates:
    """Both kinds; None is no limit."""

    def __init__(
        self,
        *,
        per_actor: Rate | None,
        per_address: Rate | None,
        clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._actors = None if per_actor is None else Buckets("actor", per_actor, clock=clock)
        self._addresses = None if per_address is None else Buckets("address", per_address, clock=clock)

    def known(self, principal: str) -> Headers:
        """A call of an actor. Raises Problem `rate_limited`."""
        return () if self._actors is None else self._actors.take(principal)

    def unknown(self, address: str | None) -> Headers:
        """A call of nobody known. Raises Problem `rate_limited`."""
        return () if self._addresses is None else self._addresses.take(counted_as(address))


def counted_as(address: str | None) -> str:
    """Whose calls are counted together: those of an address; for IPv6 of a /64, which is what one customer has at least
    (RFC 6177)."""
    if address is None:
        return ""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped is not None else parsed.packed[:8].hex()
