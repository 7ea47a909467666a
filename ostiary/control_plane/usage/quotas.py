"""The rules of quotas in force: which hold for whom, under which name their counter stands, and what is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Literal

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import invalid
from ostiary.control_plane.usage import quota_calls, store
from ostiary.control_plane.usage.counters import Counters
from ostiary.control_plane.usage.model import GROUPS_MAX, QuotaInForce, QuotasInForce, QuotasQuery
from ostiary.control_plane.usage.parts import Granularity
from ostiary.control_plane.usage.quota_calls import Called, HeldKey
from ostiary.core import keyspace
from ostiary.core.limiting import CalendarQuota, period_end_us
from ostiary.core.model import Configuration, LimitBy, Overage, Period, Quota, Route, Scheme
from ostiary.core.quota_state import Counted, counted, quota_name, quotas_of_state, route_quota_name

# What gateways hold callers to. Raises Problem when that can't be told.
Limits = Callable[[Connection], Awaitable[Configuration]]

# Each key has some counters, and an answer is to be quick: whoever has more asks for one app, or one key.
KEYS_MAX = 200

_SUBJECTS = {
    LimitBy.ORGANIZATION: "organization",
    LimitBy.APP: "app",
    LimitBy.KEY: "key",
}
_ORDER = {by: number for number, by in enumerate(_SUBJECTS)}
_CALLERS = frozenset({Scheme.BEARER, Scheme.HMAC, Scheme.HMAC_BODY, Scheme.HTTP_SIGNATURE, Scheme.MTLS})

_AWAY = "Redis can't be asked now: what is used is from the roll-ups, some seconds late, and not exact."
_NONE = "No Redis is configured here: what is used is from the roll-ups, some seconds late, and not exact."


@dataclass(frozen=True, slots=True)
class _Held:
    """A quota as it holds for `key`, and others that are counted with it. `state` is where its counter stands in Redis."""

    by: LimitBy
    key: HeldKey
    name: str
    plan: str | None
    route: str | None
    quota: Quota
    overage: Overage
    state: str

    @property
    def subject_id(self) -> str:
        match self.by:
            case LimitBy.ORGANIZATION:
                return self.key.organization_id
            case LimitBy.APP:
                return self.key.app_id
            case _:
                return self.key.key_id

    @property
    def limit(self) -> CalendarQuota:
        return CalendarQuota.of(self.quota, self.overage)

    def counts(self, called: Called) -> bool:
        """Whether these calls were taken of it."""
        if called.environment is not self.key.environment or (self.route is not None and called.route != self.route):
            return False
        if self.by is LimitBy.KEY:
            return called.key_id == self.key.key_id
        if called.key_id is not None or (self.plan is not None and (called.plan != self.plan or called.own_limits)):
            return False
        mine, theirs = self.key, called
        return (
            mine.app_id == theirs.app_id if self.by is LimitBy.APP else mine.organization_id == theirs.organization_id
        )


class Quotas:
    """Works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(
        self, *, limits: Limits, counters: Counters, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._now = now

    async def in_force(self, connection: Connection, query: QuotasQuery) -> QuotasInForce:
        """Nothing for whom there is not, or who may not be seen."""
        keys = await quota_calls.keys_in_force(connection, query, limit=KEYS_MAX + 1)
        if len(keys) > KEYS_MAX:
            field = "app_id" if query.app_id is not None else "organization_id"
            raise invalid(field, f"has more than {KEYS_MAX} keys in force; ask for one of its apps, or for a key")
        held = _held(keys, await self._limits(connection))
        shown = held[:GROUPS_MAX]
        now = self._now()
        names = list(dict.fromkeys(each.state for each in shown))
        found = await self._counters.read(names)
        note = None
        if found is None:
            note = _AWAY if self._counters.configured else _NONE
            data = await self._by_roll_ups(connection, keys, shown, now)
        else:
            states = {name: _state(raw) for name, raw in zip(names, found, strict=True)}
            data = [_by_counter(each, states[each.state], now) for each in shown]
        return QuotasInForce(data=tuple(data), next_cursor=None, total=len(held), note=note if data else None)

    async def _by_roll_ups(
        self, connection: Connection, keys: Sequence[HeldKey], held: Sequence[_Held], now: datetime
    ) -> Sequence[QuotaInForce]:
        begins = {period: _begin(period, now) for period in Period}
        kept = (await store.kept_from(connection)).get(Granularity.HOUR, date.min)
        kept_from = datetime.combine(kept, time(), UTC)
        called: list[Called] = []
        if held:
            called += await quota_calls.called_by_keys(connection, keys, begins)
        apps = sorted({each.subject_id for each in held if each.by is LimitBy.APP})
        organizations = sorted({each.subject_id for each in held if each.by is LimitBy.ORGANIZATION})
        if apps or organizations:
            called += await quota_calls.called_together(connection, apps, organizations, begins)
        return [
            _shown(each, None, None, now)
            if begins[each.quota.period] < kept_from
            else _shown(
                each, sum(some.calls[each.quota.period] for some in called if each.counts(some)), "roll_ups", now
            )
            for each in held
        ]


def _held(keys: Sequence[HeldKey], limits: Configuration) -> list[_Held]:
    """Every quota that holds for one of these keys, each counter once: of two that count the same in the same period the
    smaller holds."""
    found: dict[tuple[str, str], _Held] = {}
    routes = [route for route in limits.routes if _takes_keys(route)]
    for key in keys:
        for each in (*_of_plan(key, limits), *(of for route in routes for of in _of_route(key, route))):
            place = each.state, each.limit.identity
            if place not in found or each.quota.requests < found[place].quota.requests:
                found[place] = each
    return sorted(
        found.values(), key=lambda each: (_ORDER[each.by], each.subject_id, each.key.environment.value, each.name)
    )


def _of_plan(key: HeldKey, limits: Configuration) -> Iterator[_Held]:
    plan = None if key.plan is None else limits.plans.get(key.plan)
    if key.limits is not None:
        plan = key.limits.applied_to(plan)
    if plan is None:
        return
    state = keyspace.plan_state(key.key_id)
    if plan.by is not LimitBy.KEY:
        state = keyspace.shared_plan_state(_subject(key, plan.by, ""), plan.name)
    for quota in plan.quotas:
        yield _Held(
            by=plan.by,
            key=key,
            name=quota_name(plan, quota),
            plan=plan.name or None,
            route=None,
            quota=quota,
            overage=quota.overage or plan.overage,
            state=state,
        )


def _of_route(key: HeldKey, route: Route) -> Iterator[_Held]:
    if key.environment not in route.upstreams:
        return
    for each in route.limits:
        if isinstance(each.limit, Quota) and each.by in _SUBJECTS:
            measure = each.by.value
            yield _Held(
                by=each.by,
                key=key,
                name=route_quota_name(route.name, measure, each.limit),
                plan=None,
                route=route.name,
                quota=each.limit,
                overage=each.limit.overage or Overage.BLOCK,
                state=keyspace.route_state(route.name, measure, _subject(key, each.by, route.name)),
            )


def _takes_keys(route: Route) -> bool:
    schemes = route.authentication.schemes
    return bool(schemes & _CALLERS) and Scheme.ANONYMOUS not in schemes


def _subject(key: HeldKey, by: LimitBy, route: str) -> str:
    return keyspace.subject(
        by,
        environment=key.environment,
        route=route,
        key_id=key.key_id,
        app_id=key.app_id,
        organization_id=key.organization_id,
        ip="",
    )


def _state(raw: bytes | None) -> Mapping[str, Counted]:
    """Of a state that another release wrote in another form, nothing is known."""
    try:
        return {} if raw is None else quotas_of_state(raw)
    except ValueError:
        return {}


def _by_counter(held: _Held, state: Mapping[str, Counted], now: datetime) -> QuotaInForce:
    found = counted(state, held.limit)
    if found is None or found.ends_us <= _microseconds(now):  # nobody has called since the period began
        return _shown(held, 0, "redis", now)
    shown = _shown(held, max(0, found.calls), "redis", now)
    return shown.model_copy(update={"resets_at": datetime.fromtimestamp(found.ends_us / 1_000_000, UTC)})


def _shown(held: _Held, used: int | None, source: Literal["redis", "roll_ups"] | None, now: datetime) -> QuotaInForce:
    limit = held.quota.requests
    ends_us = period_end_us(held.quota.period, _microseconds(now))
    return QuotaInForce.model_validate(
        {
            "subject_type": _SUBJECTS[held.by],
            "subject_id": held.subject_id,
            "environment": held.key.environment.value,
            "quota": held.name,
            "plan": held.plan,
            "route": held.route,
            "per": held.quota.period.value,
            "limit": limit,
            "used": used,
            "remaining": None if used is None else max(0, limit - used),
            "resets_at": datetime.fromtimestamp(ends_us / 1_000_000, UTC),
            "overage": held.overage.value,
            "mode": held.quota.mode.value,
            "counting": held.quota.counting.value,
            "source": source,
        }
    )


def _begin(period: Period, now: datetime) -> datetime:
    hour = now.replace(minute=0, second=0, microsecond=0)
    match period:
        case Period.HOUR:
            return hour
        case Period.DAY:
            return hour.replace(hour=0)
        case Period.MONTH:
            return hour.replace(day=1, hour=0)


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
