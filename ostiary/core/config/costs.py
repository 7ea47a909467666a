"""What a call costs: the field `cost` of a route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ostiary.core.config.fields import At, Kind, MapOf, NameOrRecord, Record, Schema, Values, defaulted, optional
from ostiary.core.config.header_edits import RESERVED_IN_ANSWERS, HeaderName
from ostiary.core.config.kinds import Integer
from ostiary.core.config.methods import METHODS, Method
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import Cost, Counting, LimitMode, Overage, Plan, Quota, Rate, Route, RouteLimit, Scheme, Window

# Sums of it stay far below 2^53, up to which Redis's Lua counts exactly.
_COST_MAX: Final = 1_000_000
_WHOLE: Final = Integer(0, _COST_MAX)


class _Short(Kind[Cost]):
    """One number: the cost of every call."""

    def read(self, place: Place, reading: Reading) -> Cost | Refused:
        number = _WHOLE.read(place, reading)
        return number if isinstance(number, Refused) else Cost(number)

    def schema(self) -> Schema:
        return _WHOLE.schema()

    @property
    def words(self) -> str:
        return _WHOLE.words


_DEFAULT = defaulted("default", _WHOLE, "What a call costs, unless its method says otherwise.", 1)
_METHODS = defaulted(
    "methods",
    MapOf(Method(), _WHOLE, high=len(METHODS)),
    "What calls with these methods cost (GET says it of HEAD too). 0 is a call that takes nothing.",
    {},
)
_RESPONSE_HEADER = optional(
    "response_header",
    HeaderName(RESERVED_IN_ANSWERS),
    "A header in which the upstream says, as a whole number, what the call really cost. The call is charged before it is "
    "passed on, and the difference is settled when the upstream answers; limits may owe then, and refuse until that is paid.",
)
_AT_MOST = optional("at_most", Integer(1, _COST_MAX), "The most that `response_header` may say; more counts as this.")


def _cost(values: Values) -> Cost:
    header, at_most = values[_RESPONSE_HEADER], values[_AT_MOST]
    if header is not None and at_most is None and not values.given(_AT_MOST):
        values.problem(_RESPONSE_HEADER, "may say any number", "add at_most: the most that one call may be charged")
    if at_most is not None and not values.given(_RESPONSE_HEADER):
        values.problem(_AT_MOST, "bounds what response_header says, and there is none", "add it, or remove at_most")
    methods = dict(values[_METHODS])
    if "GET" in methods:
        methods.setdefault("HEAD", methods["GET"])
    return Cost(
        default=values[_DEFAULT],
        methods=methods,
        response_header=header.lower() if header is not None else None,
        at_most=at_most or 0,
    )


COST: NameOrRecord[Cost] = NameOrRecord(
    _Short(),
    Record(
        "Cost",
        "What a call takes of every limit and quota of its caller and its route; not of `concurrency`, where it is one.",
        (_DEFAULT, _METHODS, _RESPONSE_HEADER, _AT_MOST),
        _cost,
    ),
)


def check_costs(reading: Reading, routes: tuple[At[Route], ...], plans: Mapping[str, Plan]) -> None:
    """A call whose cost is above the whole of a limit could never be admitted."""
    of_plans = [each for plan in plans.values() for each in _most(plan)]
    for route, place in routes:
        dearest = route.cost.dearest
        most = [each for limit in route.limits for each in _most_of_route(limit)]
        if Scheme.ANONYMOUS not in route.authentication.schemes:  # where everyone may call, nobody has a plan
            most += of_plans
        if dearest > 1 and most and (smallest := min(most))[0] < dearest:
            reading.problem(
                place,
                f"has calls that cost {dearest}, and {smallest[1]} never has more than {smallest[0]}: they could never pass",
                "lower the cost, or raise the limit",
            )


def check_leasing(reading: Reading, routes: tuple[At[Route], ...], plans: Mapping[str, Plan]) -> None:
    """Where a route has limits that are not leased, those of a plan are leased for nothing."""
    leased = sorted(name for name, plan in plans.items() if _is_leased(plan))
    for route, place in routes:
        exact = [each for each in route.limits if getattr(each.limit, "counting", None) is not Counting.LEASED]
        if leased and exact and Scheme.ANONYMOUS not in route.authentication.schemes:
            reading.warn(
                place,
                f"has limits that are not leased: its calls ask Redis also where those of the plan {leased[0]!r} are",
            )


def _is_leased(plan: Plan) -> bool:
    limits: list[Rate | Window | Quota] = [*plan.windows, *plan.quotas]
    if plan.rate is not None:
        limits.append(plan.rate)
    return any(limit.counting is Counting.LEASED for limit in limits)


def _most(plan: Plan) -> list[tuple[int, str]]:
    """What the limits of a plan admit at most at once, and their names."""
    most = [(plan.rate.burst, "the rate")] if plan.rate is not None and plan.rate.mode is LimitMode.ENFORCE else []
    most += [(window.requests, "a limit") for window in plan.windows if window.mode is LimitMode.ENFORCE]
    if plan.overage is Overage.BLOCK:
        most += [(quota.requests, "a quota") for quota in plan.quotas if quota.mode is LimitMode.ENFORCE]
    return [(requests, f"{what} of the plan {plan.name!r}") for requests, what in most]


def _most_of_route(limit: RouteLimit) -> list[tuple[int, str]]:
    match limit.limit:
        case Rate(mode=LimitMode.ENFORCE, burst=burst):
            return [(burst, "a rate of the route")]
        case Window(mode=LimitMode.ENFORCE, requests=requests):
            return [(requests, "a limit of the route")]
        case Quota(mode=LimitMode.ENFORCE, requests=requests, overage=Overage.BLOCK):
            return [(requests, "a quota of the route")]
        case _:
            return []
