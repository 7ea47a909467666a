"""The limits of one plan on one route, compiled at load: what to ask Redis, under which names, and how to say it.

A request adds the caller to the names and the numbers to the headers; everything else is fixed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ostiary.core import keyspace
from ostiary.core.limiting import (
    CalendarQuota,
    Limit,
    SlidingWindow,
    TokenBucket,
)
from ostiary.core.model import Environment, LimitBy, Overage, Period, Plan, Quota, Rate, Route, Window
from ostiary.gateway.limits import script

_WINDOW_NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}

# `w` of a month in RateLimit-Policy: the longest, because a client that spreads its quota over 28 days would run dry.
_PERIOD_SECONDS = {Period.HOUR: 3600, Period.DAY: 86_400, Period.MONTH: 31 * 86_400}

# A gateway has one nonce life (twice the skew); a second one appears when the configuration changes it.
_SPECIFICATIONS_MAX = 8

Source = Rate | Window | Quota


@dataclass(frozen=True, slots=True)
class Part:
    """The limits that count the same subject: those of the plan (`by` is None) or those of the route by one measure."""

    by: LimitBy | None
    sources: tuple[Source, ...]
    limits: tuple[Limit, ...]
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """How one limit is told: `template` takes remaining, reset, remaining, reset."""

    kind: str
    template: bytes

    def headers(self, remaining: int, reset_seconds: int) -> bytes:
        return self.template % (remaining, reset_seconds, remaining, reset_seconds)


class LimitPolicy:
    """What `compile_policy` makes. Immutable to its users; it keeps the specifications and shares it has made.

    `cost` is what a call takes of every limit. `by_method` has the policies of methods with a cost of their own; empty on
    most routes. `settles`: the upstream says afterwards what a call cost."""

    __slots__ = (
        "_dearest",
        "_of_route",
        "_shares",
        "_specifications",
        "by_method",
        "cost",
        "empty",
        "environment",
        "labels",
        "leased",
        "overage",
        "parts",
        "pieces",
        "route",
        "settles",
    )

    def __init__(
        self, parts: tuple[Part, ...], route: Route, overage: Overage, *, cost: int, environment: Environment
    ) -> None:
        self.parts = parts
        self.environment = environment
        self.route = route.name
        self.overage = overage
        self.cost = cost
        self.settles = route.cost.response_header is not None and any(part.limits for part in parts)
        self.by_method: Mapping[bytes, LimitPolicy] = {}
        self._of_route = route
        self._dearest = max(1, route.cost.dearest)
        self.empty = not parts
        self.leased = any(part.concurrency is not None for part in parts)
        self.labels = _labels(parts)
        self._specifications: dict[int, bytes] = {}
        self._shares: dict[int, tuple[tuple[Limit, ...], ...]] = {}
        self.pieces: dict[tuple[int, ...], LimitPolicy] = {}  # see `piece`; at most one for each set of parts
        self.specification(0)  # what can't be told to Redis is refused at load, not at the first request

    def specification(self, nonce_seconds: int) -> bytes:
        """What lua/decide.lua is told of a request under this policy; `nonce_seconds` is 0 when it has no nonce."""
        known = self._specifications.get(nonce_seconds)
        if known is None:
            if len(self._specifications) >= _SPECIFICATIONS_MAX:
                self._specifications.clear()
            known = self._specifications[nonce_seconds] = script.specification(
                ((part.limits, part.concurrency) for part in self.parts), nonce_seconds, self.cost
            )
        return known

    def shares(self, workers: int) -> tuple[tuple[Limit, ...], ...]:
        """The limits of each part, as one of `workers` holds to them by itself."""
        shares = self._shares.get(workers)
        if shares is None:
            shares = tuple(
                compile_limits(part.sources, self.overage, workers=workers, least=self._dearest) for part in self.parts
            )
            self._shares = {workers: shares}  # one number of workers a process: nothing more is kept
        return shares

    def piece(self, parts: tuple[int, ...]) -> LimitPolicy:
        """Some of the parts (their places, in order) as a policy of their own, for a Redis Cluster that has the others
        elsewhere. What it tells the client is what the whole would tell of the same limit."""
        piece = self.pieces.get(parts)
        if piece is None:
            some = tuple(self.parts[place] for place in parts)
            piece = LimitPolicy(some, self._of_route, self.overage, cost=self.cost, environment=self.environment)
            piece.labels = tuple(label for place in parts for label in self._labels_of(place, leases=False)) + tuple(
                label for place in parts for label in self._labels_of(place, leases=True)
            )
            self.pieces[parts] = piece
        return piece

    def _labels_of(self, place: int, *, leases: bool) -> tuple[Label, ...]:
        """Those of the limits of a part, or that of its bound on calls under way, which stand after all limits."""
        if not leases:
            first = sum(len(part.limits) for part in self.parts[:place])
            return self.labels[first : first + len(self.parts[place].limits)]
        if self.parts[place].concurrency is None:
            return ()
        first = sum(len(part.limits) for part in self.parts)
        first += sum(part.concurrency is not None for part in self.parts[:place])
        return self.labels[first : first + 1]

    def names(self, key_id: str | None, app_id: str | None, organization_id: str | None, ip: str) -> list[str]:
        """The Redis keys of a request, in the order of the parts: state, then leases."""
        names: list[str] = []
        for part in self.parts:
            if part.by is not None:
                who = keyspace.subject(
                    part.by,
                    environment=self.environment,
                    route=self.route,
                    key_id=key_id,
                    app_id=app_id,
                    organization_id=organization_id,
                    ip=ip,
                )
                names.append(keyspace.route_state(self.route, part.by, who))
                continue
            holder = ip if key_id is None else key_id
            if part.limits:
                names.append(keyspace.plan_state(holder))
            if part.concurrency is not None:
                names.append(keyspace.leases(holder))
        return names


def compile_policy(plan: Plan | None, route: Route, environment: Environment = Environment.LIVE) -> LimitPolicy:
    """Everything a request of this environment with this plan on this route is held to.

    Raises LimitOutOfRange for a limit that can't be counted exactly. Of limits that count the same thing over the same
    time the smaller holds; the other could never refuse anything."""
    parts: list[Part] = []
    overage = plan.overage if plan is not None else Overage.BLOCK
    if plan is not None:
        sources: list[Source] = [] if plan.rate is None else [plan.rate]
        sources += _smallest_windows(plan.windows)
        smallest = {quota.period: quota for quota in sorted(plan.quotas, key=lambda quota: -quota.requests)}
        sources += [smallest[period] for period in Period if period in smallest]
        if sources or plan.concurrency is not None:
            parts.append(Part(None, tuple(sources), compile_limits(sources, overage), plan.concurrency))
    for by in LimitBy:
        windows = [Window(limit.requests, limit.window_seconds) for limit in route.limits if limit.by is by]
        if windows:
            kept = _smallest_windows(windows)
            parts.append(Part(by, tuple(kept), compile_limits(kept, overage)))
    policy = LimitPolicy(tuple(parts), route, overage, cost=route.cost.default, environment=environment)
    if parts and route.cost.methods:
        policies = {
            cost: LimitPolicy(policy.parts, route, overage, cost=cost, environment=environment)
            for cost in route.cost.methods.values()
        }
        policy.by_method = {method.encode(): policies[cost] for method, cost in route.cost.methods.items()}
    return policy


def compile_limits(
    sources: Sequence[Source], overage: Overage, *, workers: int = 1, least: int = 1
) -> tuple[Limit, ...]:
    """The arithmetic of limits as they are configured, or of one worker's share of them: at least `least`."""
    limits: list[Limit] = []
    for source in sources:
        match source:
            case Rate():
                limits.append(TokenBucket.of(source, workers=workers, least=least))
            case Window():
                limits.append(SlidingWindow.of(source, workers=workers, least=least))
            case Quota():
                limits.append(CalendarQuota.of(source, overage, workers=workers, least=least))
    return tuple(limits)


def _smallest_windows(windows: Sequence[Window]) -> list[Window]:
    smallest = {window.window_seconds: window for window in sorted(windows, key=lambda window: -window.requests)}
    return [smallest[seconds] for seconds in sorted(smallest)]


# --- for the client (draft-ietf-httpapi-ratelimit-headers-10, RFC 9651) ---------------------------------------------


def _labels(parts: Sequence[Part]) -> tuple[Label, ...]:
    """One label a limit, in the order of the parts, then that of concurrency: so lua/decide.lua numbers them."""
    told: list[tuple[str, str, str, int]] = []  # kind, name, its item in RateLimit-Policy, most that can remain
    taken: set[str] = set()
    for part in parts:
        for source in part.sources:
            match source:
                case Rate():
                    kind, name, most = "rate", "rate", source.burst
                    item = f"q={source.requests};w={source.per_seconds}"
                    if source.burst != source.requests:
                        item += f";burst={source.burst}"
                case Window():
                    kind, most = "window", source.requests
                    name = _WINDOW_NAMES.get(source.window_seconds, f"{source.window_seconds}s")
                    if part.by is not None:
                        name = f"{name}-by-{part.by}"
                    item = f"q={source.requests};w={source.window_seconds}"
                case Quota():
                    kind, most = "quota", source.requests
                    name = f"{source.period}-quota" if source.period.value in taken else source.period.value
                    item = f"q={source.requests};w={_PERIOD_SECONDS[source.period]}"
            taken.add(name)
            told.append((kind, name, f'"{name}";{item}', most))
    for part in parts:
        if part.concurrency is not None:
            item = f'"concurrency";q={part.concurrency};qu="concurrent-requests"'
            told.append(("concurrency", "concurrency", item, part.concurrency))
    policy = ", ".join(item for _, _, item, _ in told)
    return tuple(
        Label(
            kind,
            (
                f'RateLimit-Policy: {policy}\r\nRateLimit: "{name}";r=%d;t=%d\r\nX-RateLimit-Limit: {most}\r\n'
                "X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
            ).encode(),
        )
        for kind, name, _, most in told
    )
