"""The limits of one plan on one route, compiled at load: what to ask Redis, under which names, and how to say it.

A request adds the caller to the names and the numbers to the headers; everything else is fixed here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ostiary.core import keyspace
from ostiary.core.limiting import (
    PERIOD_NUMBERS,
    CalendarQuota,
    Limit,
    SlidingWindow,
    TokenBucket,
)
from ostiary.core.model import (
    Concurrency,
    Counting,
    Environment,
    LimitBy,
    LimitMode,
    Overage,
    Period,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    Route,
    Window,
)
from ostiary.gateway.limits import script
from ostiary.gateway.limits.slicing import Slicing

_WINDOW_NAMES = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}

# `w` of a month in RateLimit-Policy: the longest, because a client that spreads its quota over 28 days would run dry.
_PERIOD_SECONDS = {Period.HOUR: 3600, Period.DAY: 86_400, Period.MONTH: 31 * 86_400}

# A gateway has one nonce life (twice the skew); a second one appears when the configuration changes it.
_SPECIFICATIONS_MAX = 8

# How the parts of a route stand: by the measures' names in the configuration, as they are listed there.
_ORDER = {by: number for number, by in enumerate(LimitBy)}

Source = Rate | Window | Quota


@dataclass(frozen=True, slots=True)
class Part:
    """The limits that count the same subject: those of the plan of this name, or (`plan` is None) those of the route by one
    measure. `header` is whose values are counted, in lower case."""

    by: LimitBy
    plan: str | None
    sources: tuple[Source, ...]
    limits: tuple[Limit, ...]
    concurrency: Concurrency | None = None
    header: str | None = None

    @property
    def measure(self) -> str:
        """As it stands in names: `ip`, `header-x-tenant`."""
        return self.by.value if self.header is None else f"header-{self.header}"

    @property
    def names_n(self) -> int:
        """How many names in Redis it has: of its state, of its calls under way."""
        return (1 if self.limits else 0) + (1 if self.concurrency is not None else 0)

    @property
    def leased(self) -> bool:
        return self.concurrency is None and all(
            source.counting is Counting.LEASED
            and source.mode is LimitMode.ENFORCE
            and source.refused is RefusedCalls.FREE
            for source in self.sources
        )


_DIGITS_MAX: Final = 4096
_DIGITS: Final = tuple(b"%d" % number for number in range(_DIGITS_MAX))  # 150 kB


@dataclass(frozen=True, slots=True)
class Label:
    """How one limit is told: to clients by `text`, between whose parts stand remaining, reset, remaining, reset; to the
    operator by `name`, as in `minute-by-ip` of a route, `standard:minute` of a plan, `key:minute` of a key without one."""

    kind: str
    name: str
    text: tuple[bytes, bytes, bytes, bytes, bytes]

    def headers(self, remaining: int, reset_seconds: int) -> bytes:
        # A third of what `%` costs.
        left = _DIGITS[remaining] if 0 <= remaining < _DIGITS_MAX else b"%d" % remaining
        reset = _DIGITS[reset_seconds] if 0 <= reset_seconds < _DIGITS_MAX else b"%d" % reset_seconds
        text = self.text
        return b"".join([text[0], left, text[1], reset, text[2], left, text[3], reset, text[4]])


class LimitPolicy:
    """What `compile_policy` makes. Immutable to its users; it keeps the specifications and shares it has made.

    `cost` is what a call takes of every limit. `of_caller`: the names in Redis depend on the key alone. `by_method` has the
    policies of methods with a cost of their own; empty on most routes. `settles`: the upstream says afterwards what a call
    cost. `slicing`, where all limits are leased, is how a worker takes slices of them."""

    __slots__ = (
        "_dearest",
        "_of_route",
        "_shares",
        "_specifications",
        "by_method",
        "cost",
        "empty",
        "environment",
        "headers",
        "labels",
        "leased",
        "limits_n",
        "of_caller",
        "overage",
        "parts",
        "pieces",
        "route",
        "settles",
        "slicing",
    )

    def __init__(
        self, parts: tuple[Part, ...], route: Route, overage: Overage, *, cost: int, environment: Environment
    ) -> None:
        _refuse_one_name_twice(parts)
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
        self.of_caller = all(part.by is not LimitBy.IP and part.by is not LimitBy.HEADER for part in parts)
        self.leased = any(part.concurrency is not None for part in parts)
        self.headers = tuple({part.header.encode(): None for part in parts if part.header is not None})
        self.labels = _labels(parts)
        self.limits_n = sum(len(part.limits) for part in parts)
        self._specifications: dict[int, bytes] = {}
        self._shares: dict[int, tuple[tuple[Limit, ...], ...]] = {}
        self.pieces: dict[tuple[int, ...], LimitPolicy] = {}  # see `piece`; at most one for each set of parts
        self.slicing: Slicing | None = None
        if parts and all(part.leased for part in parts):
            self.slicing = Slicing([part.limits for part in parts])
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

    def specification_without(self, places: Collection[int], *, crossing: bool = False) -> bytes:
        """For settlements that these limits have no part in; `crossing` for those of a call that was refused elsewhere."""
        of_limits = [place for place in places if place < self.limits_n]
        parts = ((part.limits, part.concurrency) for part in self.parts)
        return script.specification(parts, 0, self.cost, without=of_limits, crossing=crossing)

    def charged(self) -> list[int]:
        """The places of limits that refused calls are charged to."""
        limits = [limit for part in self.parts for limit in part.limits]
        return [place for place, limit in enumerate(limits) if limit.refused is RefusedCalls.CHARGED]

    def quota_at(self, place: int) -> tuple[str, int, Period]:
        """Of the quota at this place: its name among all quotas, its limit and its period. Raises IndexError, ValueError
        for no quota."""
        first = 0
        for part in self.parts:
            if place < first + len(part.limits):
                break
            first += len(part.limits)
        limit, name = part.limits[place - first], self.labels[place].name
        if not isinstance(limit, CalendarQuota):
            raise ValueError(f"{name} is no quota")
        return name if part.plan is not None else f"{self.route}/{name}", limit.limit, limit.period

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
        first = self.limits_n + sum(part.concurrency is not None for part in self.parts[:place])
        return self.labels[first : first + 1]

    def names(
        self,
        key_id: str | None,
        app_id: str | None,
        organization_id: str | None,
        ip: str,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> list[str]:
        """The Redis keys of a request, in the order of the parts: state, then leases. `headers` has the values of those in
        `self.headers` that the request has."""
        names: list[str] = []
        for part in self.parts:
            plan = part.plan
            if plan is not None and part.by is LimitBy.KEY:
                holder = ip if key_id is None else key_id
                if part.limits:
                    names.append(keyspace.plan_state(holder))
                if part.concurrency is not None:
                    names.append(keyspace.leases(holder))
                continue
            header, value = part.header or "", b""
            if headers is not None and header:
                value = headers.get(header.encode(), b"")
            who = keyspace.subject(
                part.by,
                environment=self.environment,
                route=self.route,
                key_id=key_id,
                app_id=app_id,
                organization_id=organization_id,
                ip=ip,
                header=header,
                value=value,
            )
            if part.limits:
                state = keyspace.route_state(self.route, part.measure, who)
                names.append(state if plan is None else keyspace.shared_plan_state(who, plan))
            if part.concurrency is not None:
                leases = keyspace.route_leases(self.route, part.measure, who)
                names.append(leases if plan is None else keyspace.shared_leases(who, plan))
        return names

    def names_by_part(self, names: Sequence[str]) -> list[Sequence[str]]:
        """`names` of a request, those of each part together."""
        of_parts, at = [], 0
        for part in self.parts:
            of_parts.append(names[at : at + part.names_n])
            at += part.names_n
        return of_parts

    def lease_names(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that calls under way stand in, in the order of their labels."""
        leases, at = [], 0
        for part in self.parts:
            at += part.names_n
            if part.concurrency is not None:
                leases.append(names[at - 1])
        return leases

    def state_name(self, names: Sequence[str], place: int) -> str:
        """Which of `names` has the state of the limit at this place."""
        at = first = 0
        for part in self.parts:
            first += len(part.limits)
            if place < first:
                break
            at += part.names_n
        return names[at]


def compile_policy(plan: Plan | None, route: Route, environment: Environment = Environment.LIVE) -> LimitPolicy:
    """Everything a request of this environment with this plan on this route is held to.

    Raises LimitOutOfRange for a limit that can't be counted exactly. Of limits that count the same thing over the same
    time, both in force or both in shadow, the smaller holds; the other could never refuse anything."""
    parts: list[Part] = []
    overage = plan.overage if plan is not None else Overage.BLOCK
    if plan is not None:
        sources: list[Source] = [] if plan.rate is None else [plan.rate]
        sources += _kept([*plan.windows, *plan.quotas])
        concurrency = None if plan.concurrency is None else Concurrency(plan.concurrency, plan.concurrency_mode)
        if sources or concurrency is not None:
            limits = compile_limits(sources, overage)
            parts.append(Part(plan.by, plan.name, tuple(sources), limits, concurrency))
    measures = {(limit.by, limit.header): None for limit in route.limits}
    for by, header in sorted(measures, key=lambda measure: (_ORDER[measure[0]], measure[1] or "")):
        mine = [limit.limit for limit in route.limits if (limit.by, limit.header) == (by, header)]
        kept = _kept([limit for limit in mine if not isinstance(limit, Concurrency)])
        bounds = sorted((limit for limit in mine if isinstance(limit, Concurrency)), key=lambda bound: bound.at_most)
        concurrency = bounds[0] if bounds else None
        parts.append(Part(by, None, tuple(kept), compile_limits(kept, Overage.BLOCK), concurrency, header))
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


def _refuse_one_name_twice(parts: Sequence[Part]) -> None:
    """Each part counts in a state of its own: what follows the subject in its name is `plan`, or the measure and the route
    (see keyspace). lua/decide.lua would take the numbers of one for those of the other.

    Raises ValueError: a fault of whoever made the parts, not of a configuration."""
    told = ["plan" if part.plan is not None else part.measure for part in parts]
    twice = sorted({each for each in told if told.count(each) > 1})
    if twice:
        raise ValueError(f"two parts of one policy count in the same state: {', '.join(twice)}")


def _kept(sources: Sequence[Source]) -> list[Source]:
    """One of each kind, time and mode, the smallest: rates, then windows from short to long, then quotas."""
    smallest: dict[tuple[int, int, LimitMode], Source] = {}
    for source in sorted(sources, key=lambda source: -source.requests):
        smallest[_time_of(source)] = source
    return [smallest[time] for time in sorted(smallest)]


def _time_of(source: Source) -> tuple[int, int, LimitMode]:
    match source:
        case Rate():
            return 0, 0, source.mode
        case Window():
            return 1, source.window_seconds, source.mode
        case Quota():
            return 2, PERIOD_NUMBERS[source.period], source.mode


# --- for the client (draft-ietf-httpapi-ratelimit-headers-10, RFC 9651) ---------------------------------------------


def _labels(parts: Sequence[Part]) -> tuple[Label, ...]:
    """One label a limit, in the order of the parts, then those of concurrency: so lua/decide.lua numbers them. Clients are
    told nothing of what is in shadow."""
    told: list[tuple[Part, str, str, int]] = []  # its part, kind, name, most that can remain
    items: list[str] = []
    taken: set[str] = set()
    for part in parts:
        for source in part.sources:
            kind, name, item, most = _told(source)
            if kind == "quota" and (name in taken or part.plan is None):
                name += "-quota"
            if part.plan is None:
                name += f"-by-{part.measure}"
            if source.mode is LimitMode.ENFORCE:
                taken.add(name)
                items.append(f'"{name}";{item}')
            told.append((part, kind, name, most))
    for part in parts:
        if (bound := part.concurrency) is not None:
            name = "concurrency" if part.plan is not None else f"concurrency-by-{part.measure}"
            if bound.mode is LimitMode.ENFORCE:
                items.append(f'"{name}";q={bound.at_most};qu="concurrent-requests"')
            told.append((part, "concurrency", name, bound.at_most))
    policy = ", ".join(items)
    return tuple(
        Label(
            kind,
            name if part.plan is None else f"{part.plan or 'key'}:{name}",
            (
                f'RateLimit-Policy: {policy}\r\nRateLimit: "{name}";r='.encode(),
                b";t=",
                f"\r\nX-RateLimit-Limit: {most}\r\nX-RateLimit-Remaining: ".encode(),
                b"\r\nX-RateLimit-Reset: ",
                b"\r\n",
            ),
        )
        for part, kind, name, most in told
    )


def _told(source: Source) -> tuple[str, str, str, int]:
    """Kind, name, parameters in RateLimit-Policy, and the most that can remain."""
    match source:
        case Rate():
            item = f"q={source.requests};w={source.per_seconds}"
            if source.burst != source.requests:
                item += f";burst={source.burst}"
            return "rate", "rate", item, source.burst
        case Window():
            name = _WINDOW_NAMES.get(source.window_seconds, f"{source.window_seconds}s")
            return "window", name, f"q={source.requests};w={source.window_seconds}", source.requests
        case Quota():
            item = f"q={source.requests};w={_PERIOD_SECONDS[source.period]}"
            return "quota", source.period.value, item, source.requests
