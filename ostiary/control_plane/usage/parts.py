"""Which roll-ups answer for a span of time: the coarsest that fit, without a gap and without counting anything twice.

A month that begins at 10:37 is some minutes, some hours, many days and again some hours: a hundred times less to add up than
its minutes. Exact, because all three are written by the statement that writes the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import pairwise


class Granularity(Enum):
    """From fine to coarse; the value is the width."""

    MINUTE = timedelta(minutes=1)
    HOUR = timedelta(hours=1)
    DAY = timedelta(days=1)


_FINE_TO_COARSE = tuple(Granularity)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Part:
    """From `since` on, up to but without `until`; both on borders of the granularity."""

    granularity: Granularity
    since: datetime
    until: datetime


class NotKept(Exception):
    """The span reaches back to before `kept_from`, from which day on roll-ups as fine as needed are kept."""

    def __init__(self, granularity: Granularity, kept_from: date) -> None:
        super().__init__(granularity, kept_from)
        self.granularity = granularity
        self.kept_from = kept_from


def floor(moment: datetime, granularity: Granularity) -> datetime:
    return moment - (moment - _EPOCH) % granularity.value


def ceil(moment: datetime, granularity: Granularity) -> datetime:
    return moment + (_EPOCH - moment) % granularity.value


def divide(
    since: datetime,
    until: datetime,
    *,
    coarsest: Granularity = Granularity.DAY,
    kept_from: Mapping[Granularity, date],
) -> tuple[Part, ...]:
    """The parts in order of time. Borders between minutes are moved outwards; and further outwards, to an hour or a day,
    where finer roll-ups are no longer kept. Raises NotKept if `coarsest` itself is not kept that far back."""
    since = _border(since, floor, coarsest, kept_from)
    until = max(since, _border(until, ceil, coarsest, kept_from))
    if coarsest is not Granularity.DAY and (first := kept_from.get(coarsest)) is not None and since.date() < first:
        raise NotKept(coarsest, first)
    return _split(since, until, _FINE_TO_COARSE.index(coarsest))


def _border(
    moment: datetime,
    outwards: Callable[[datetime, Granularity], datetime],
    coarsest: Granularity,
    kept_from: Mapping[Granularity, date],
) -> datetime:
    for granularity, coarser in pairwise(_FINE_TO_COARSE):
        moment = outwards(moment, granularity)
        if granularity is coarsest:
            return moment
        needed = moment != outwards(moment, coarser)
        if needed and moment.date() >= kept_from.get(granularity, date.min):
            return moment
    return outwards(moment, coarsest)


def _split(since: datetime, until: datetime, at: int) -> tuple[Part, ...]:
    granularity = _FINE_TO_COARSE[at]
    if at == 0:
        return (Part(granularity, since, until),) if since < until else ()
    first, last = ceil(since, granularity), floor(until, granularity)
    if first >= last:
        return _split(since, until, at - 1)
    return (*_split(since, first, at - 1), Part(granularity, first, last), *_split(last, until, at - 1))
