"""The field `limits` of a route: limits of every kind, counted by every measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ostiary.core.config.fields import Record, Values, optional, required
from ostiary.core.config.header_edits import HeaderName
from ostiary.core.config.kinds import Choice, Integer
from ostiary.core.config.plans import (
    BURST,
    CONCURRENCY_MAX,
    COUNT_MAX,
    COUNTING,
    MODE,
    OVERAGE_SAYS,
    PER,
    PERIOD,
    REFUSED_CALLS,
    REQUESTS,
    Span,
    check_leased,
)
from ostiary.core.config.reading import Refused
from ostiary.core.limiting import CalendarQuota, LimitOutOfRange, SlidingWindow, TokenBucket
from ostiary.core.model import Concurrency, Counting, LimitBy, LimitMode, Overage, Quota, Rate, RouteLimit, Window

# Headers that name a caller, or differ from call to call: a limit by them would be one by key, or none at all; and what is
# not taken from clients. The name of a header that is a credential would also invite to put others beside it.
_UNFIT: Final = frozenset(
    (
        *("authorization", "cookie", "x-api-key", "x-timestamp", "x-nonce", "signature", "signature-input"),
        *("connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"),
        *("x-real-ip", "x-request-id", "client-cert", "client-cert-chain"),
    )
)

_RATE: Record[Rate] = Record(
    "Route rate",
    "A token bucket: `burst` calls at once, refilled with `requests` in every span.",
    (REQUESTS, PER, BURST),
    lambda values: Rate(values[REQUESTS], values[PER].seconds, values[BURST] or values[REQUESTS]),
)
_QUOTA: Record[Quota] = Record(
    "Route quota",
    "At most `requests` calls in a calendar period, UTC.",
    (REQUESTS, PERIOD),
    lambda values: Quota(values[REQUESTS], values[PERIOD]),
)

_WINDOW_REQUESTS = optional("requests", Integer(1, COUNT_MAX), "A sliding window of so many calls, with `per`.")
_WINDOW_PER = optional("per", Choice(Span), "The span of the sliding window.")
_AS_RATE = optional("rate", _RATE, "A token bucket in its place.")
_AS_QUOTA = optional("quota", _QUOTA, "A calendar quota in its place.")
_AS_CONCURRENCY = optional("concurrency", Integer(1, CONCURRENCY_MAX), "Most calls under way at once in its place.")
_BY = required("by", Choice(LimitBy), "Whose calls are counted together.")
_HEADER = optional(
    "header",
    HeaderName(_UNFIT),
    "With `by: header`: calls with one value of this header are counted together. A call without it, or with more than 256 "
    "bytes in it, counts by its key, or else by its address.",
)
_OVERAGE = optional("overage", Choice(Overage), f"Of `quota`. {OVERAGE_SAYS} Refused if not given.")

_KINDS: Final = "requests and per, rate, quota, or concurrency"


def _limit(values: Values) -> RouteLimit | Refused:
    given = [field for field in (_WINDOW_REQUESTS, _AS_RATE, _AS_QUOTA, _AS_CONCURRENCY) if values.given(field)]
    if not given and not values.given(_WINDOW_PER):
        return values.reading.problem(values.place, "limits nothing", f"give one of {_KINDS}")
    if len(given) > 1 or (given not in ([], [_WINDOW_REQUESTS]) and values.given(_WINDOW_PER)):
        return values.reading.problem(
            values.place, "is several limits in one", f"give one of {_KINDS}, and another limit"
        )
    by, header = values[_BY], values[_HEADER]
    if by is LimitBy.HEADER and not values.given(_HEADER):
        values.problem(_BY, "counts by a header, and does not say which", "add header: X-Tenant")
    if by is not LimitBy.HEADER and values.given(_HEADER):
        values.problem(_HEADER, f"means nothing with by: {by}", "say by: header, or remove it")
    if values.given(_OVERAGE) and not values.given(_AS_QUOTA):
        values.problem(_OVERAGE, "says what happens past a quota, and this is none", "remove it")
    overage, mode, refused = values[_OVERAGE] or Overage.BLOCK, values[MODE], values[REFUSED_CALLS]
    counting = values[COUNTING]
    if mode is LimitMode.SHADOW and overage is not Overage.BLOCK:
        values.problem(
            MODE, f"tells what would have been refused, and overage: {overage} refuses nothing", "remove one"
        )
    limit: Rate | Window | Quota | Concurrency
    rate, quota, concurrency = values[_AS_RATE], values[_AS_QUOTA], values[_AS_CONCURRENCY]
    requests, per = values[_WINDOW_REQUESTS], values[_WINDOW_PER]
    if rate is not None:
        limit = Rate(rate.requests, rate.per_seconds, rate.burst, mode, refused, counting)
    elif quota is not None:
        limit = Quota(quota.requests, quota.period, mode, refused, overage, counting)
    elif concurrency is not None:
        if values.given(REFUSED_CALLS):
            values.problem(REFUSED_CALLS, "means nothing here: a refused call is not under way", "remove it")
        if counting is Counting.LEASED:
            values.problem(COUNTING, "means nothing here: calls under way are counted in Redis one by one", "remove it")
        limit = Concurrency(concurrency, mode)
    elif requests is not None and per is not None:
        limit = Window(requests, per.seconds, mode, refused, counting)
    elif values.given(_WINDOW_PER) == values.given(_WINDOW_REQUESTS):
        return values.reading.problem(values.place, "has a mistake in its numbers", "mend them")
    else:
        missing, says = ("requests", "how many calls") if requests is None else ("per", "the span")
        return values.reading.problem(values.place, f"the field {missing!r} is missing", says)
    try:
        _check_exact(limit)
    except LimitOutOfRange as error:
        return values.reading.problem(values.place, str(error), "make the numbers smaller or rounder")
    if not isinstance(limit, Concurrency):
        check_leased(values, limit)
    return RouteLimit(limit, by, header.lower() if header is not None else None)


def _check_exact(limit: Rate | Window | Quota | Concurrency) -> None:
    """Raises LimitOutOfRange for a limit whose arithmetic is not exact."""
    match limit:
        case Rate():
            TokenBucket.of(limit)
        case Window():
            SlidingWindow.of(limit)
        case Quota():
            CalendarQuota.of(limit, Overage.BLOCK)


def problem_of_twins(limits: Sequence[RouteLimit]) -> str | None:
    """What two limits of a route have in common, if one of the two could never refuse anything. Windows may be twins, as they
    always might: the smaller one holds."""
    seen: set[tuple[object, ...]] = set()
    for each in limits:
        match each.limit:
            case Rate(mode=mode):
                what: tuple[object, ...] = "rates", mode
            case Quota(mode=mode, period=period):
                what = f"quotas per {period}", mode
            case Concurrency():
                what = ("bounds on calls under way",)
            case _:
                continue
        if (*what, each.by, each.header) in seen:
            return f"two {what[0]} count by {each.header or each.by}"
        seen.add((*what, each.by, each.header))
    return None


def are_leased_in_vain(limits: Sequence[RouteLimit]) -> bool:
    """Some are and some are not: each call asks Redis for those that are not, and is counted there for all."""
    leased = [not isinstance(each.limit, Concurrency) and each.limit.counting is Counting.LEASED for each in limits]
    return any(leased) and not all(leased)


ROUTE_LIMIT: Record[RouteLimit] = Record(
    "Route limit",
    "A limit of this route, besides the plan of the key: a sliding window, or `rate`, `quota` or `concurrency`.",
    (
        *(_WINDOW_REQUESTS, _WINDOW_PER, _AS_RATE, _AS_QUOTA, _AS_CONCURRENCY),
        *(_BY, _HEADER, _OVERAGE, MODE, REFUSED_CALLS, COUNTING),
    ),
    _limit,
)
