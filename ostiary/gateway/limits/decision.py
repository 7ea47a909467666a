"""What a decision is, and who watches decisions."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from ostiary.gateway.limits.settling import Charge


class Outcome(Enum):
    """The value is the metric label `decision`."""

    ALLOWED = "allowed"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    TOO_MANY_CONCURRENT = "too_many_concurrent"
    NONCE_REPLAYED = "nonce_replayed"
    UNAVAILABLE = "unavailable"


WOULD_REFUSE = "would_refuse"


class Decision:
    """The answer to one request.

    `headers` are ready for the response head, each line with its CRLF; empty when no limit was counted.
    `retry_after_seconds` is 0 unless refused; after a refusal by a rate, window or quota, a call made this many seconds
    later is within the limits if none came in between. `overage`: past a quota that warns or charges.
    `lease`, when there is one, goes to `Limiter.release` at the end of the call; one that is dropped instead frees its
    slot within LEASE_SECONDS. `limit` says what refused: rate, window, quota, concurrency, nonce, or none. `charge`, where
    the route's upstream says what a call cost, goes to `Limiter.settle` when it has answered. `would_refuse`: the limits in
    shadow, by their labels' names, that would have refused a call that was let in."""

    __slots__ = ("charge", "headers", "lease", "limit", "outcome", "overage", "retry_after_seconds", "would_refuse")

    # Written out: what `dataclass` makes is not compiled, and there is one for each call.
    def __init__(
        self,
        outcome: Outcome,
        headers: bytes,
        retry_after_seconds: int,
        overage: bool,
        lease: object | None,
        limit: str,
        charge: Charge | None = None,
        would_refuse: tuple[str, ...] = (),
    ) -> None:
        self.outcome = outcome
        self.headers = headers
        self.retry_after_seconds = retry_after_seconds
        self.overage = overage
        self.lease = lease
        self.limit = limit
        self.charge = charge
        self.would_refuse = would_refuse


class LimiterObserver(Protocol):
    """Metrics of a limiter; called on the event loop, must not block. Labels are bounded."""

    def decided(self, limit: str, decision: str) -> None:
        """`limit` as in Decision, `decision` a value of Outcome; or WOULD_REFUSE, of a limit in shadow, besides the decision
        about the call."""

    def round_trip(self, seconds: float) -> None:
        """One batch was answered by Redis in this time."""

    def store_failed(self, kind: str) -> None:
        """connect: no connection could be made; lost: it ended; timeout: no answer within the deadline; refused: Redis
        answered with an error."""

    def settled(self, result: str) -> None:
        """The cost of a call was settled: same, more, less; invalid: what the upstream said is no cost, so what was charged
        stays; lost: Redis was away, or gave no answer."""

    def slice_asked(self, result: str) -> None:
        """A slice of a leased limit was asked for: taken, refused, unanswered."""

    def store_forgot(self, reason: str) -> None:
        """Redis has lost what was counted there: flushed, restarted, replaced, evicted."""


class UnobservedLimiter:
    """A LimiterObserver that watches nothing."""

    def decided(self, limit: str, decision: str) -> None:
        pass

    def round_trip(self, seconds: float) -> None:
        pass

    def store_failed(self, kind: str) -> None:
        pass

    def settled(self, result: str) -> None:
        pass

    def slice_asked(self, result: str) -> None:
        pass

    def store_forgot(self, reason: str) -> None:
        pass
