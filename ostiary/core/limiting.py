"""The arithmetic of every limit, in integers and without I/O: what the Lua must agree with, and what a worker decides by
while Redis is away.

Times are microseconds since the epoch, UTC, given by the caller; the token bucket counts in whole milliseconds. Every
number stays under 2^53, so that Lua's doubles hold it exactly. A limit (`TokenBucket` ...) is a frozen value of the
configuration; a counter (`BucketCounter` ...) is what one subject has used of it. A counter whose limit is replaced keeps
what was used: a plan that changes in mid-period begins no new period."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import gcd
from typing import Protocol

from ostiary.core.model import LimitMode, Overage, Period, Quota, Rate, RefusedCalls, Window

SECOND_US = 1_000_000

# 121 slots are held at most, so a caller at its limit gets at least 120/121 = 99.2 % of it. Twice as many would win 0.4 %
# for twice the memory of a busy subject (12 bytes a slot); 60 would lose 1.6 %.
WINDOW_SLOTS = 120

INTEGER_MAX = 2**53

# A bucket owes at most this many units, whatever is settled: what is below zero stays exact too.
DEBT_MAX = 2**52

# How much of a quota is told when it is reached, in %.
QUOTA_SHARES = (50, 80, 90, 100)

PERIOD_NUMBERS = {Period.HOUR: 1, Period.DAY: 2, Period.MONTH: 3}


_SUFFIX = {LimitMode.ENFORCE: "", LimitMode.SHADOW: "s"}


class LimitOutOfRange(ValueError):
    """A limit that has no exact arithmetic, or admits nothing ever."""


# --- limits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A call that costs 1 takes `cost` units, `gain` units come back each millisecond, `capacity` units is full.

    The unit is the largest that makes all three integers, so nothing is ever rounded."""

    capacity: int
    cost: int
    gain: int
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE

    @classmethod
    def of(cls, rate: Rate, *, workers: int = 1, least: int = 1) -> TokenBucket:
        """The bucket of `rate`, or one worker's share of it: the exact part of the refill, at least a burst of `least`.

        Raises LimitOutOfRange when requests or burst are below one, or their arithmetic does not fit 53 bits."""
        if rate.requests < 1 or rate.burst < 1 or rate.per_seconds < 1:
            raise LimitOutOfRange("a rate needs requests, burst and period of at least 1")
        per_ms = rate.per_seconds * 1000 * workers
        unit = gcd(rate.requests, per_ms)
        cost = per_ms // unit
        capacity = share(rate.burst, workers, least) * cost
        if capacity >= INTEGER_MAX:
            raise LimitOutOfRange(
                f"a burst of {rate.burst} is too large to be counted exactly at a refill of {rate.requests} in "
                f"{rate.per_seconds} s"
            )
        return cls(capacity, cost, rate.requests // unit, rate.mode, rate.refused)

    @property
    def memory_us(self) -> int:
        """After this long without a call nothing is left to remember: the bucket is full."""
        return -(-self.capacity // self.gain) * 1000

    @property
    def identity(self) -> str:
        """Limits of one identity keep their counts when a plan changes; a bucket's has the unit it is counted in."""
        return f"b{self.cost}{_SUFFIX[self.mode]}"

    @property
    def measure(self) -> str:
        """What it counts in, whatever its numbers and its mode."""
        return "b"

    def counter(self, now_us: int) -> BucketCounter:
        return BucketCounter(self, self.capacity, now_us // 1000)


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """At most `limit` calls in any span of `window_us`.

    Calls are counted in slots of `slot_us`; a slot is forgotten when the last moment of it has left the window, so the
    oldest slot counts whole and the error is on the safe side. Limits up to WINDOW_SLOTS get slots of 1 µs, which is an
    exact log of calls and takes no more memory than the slots would."""

    limit: int
    window_us: int
    slot_us: int
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE

    @classmethod
    def of(cls, window: Window, *, workers: int = 1, least: int = 1) -> SlidingWindow:
        """The window, or one worker's share of it (see `share`)."""
        if window.requests < 0 or window.window_seconds < 1:
            raise LimitOutOfRange(f"a window needs at least one second and no negative limit: {window}")
        limit = share(window.requests, workers, least)
        window_us = window.window_seconds * SECOND_US
        slot_us = 1 if limit <= WINDOW_SLOTS else -(-window_us // WINDOW_SLOTS)
        return cls(limit, window_us, slot_us, window.mode, window.refused)

    @property
    def memory_us(self) -> int:
        return self.window_us + self.coarse_us

    @property
    def coarse_us(self) -> int:
        """The slots of what is counted without asking whether there is room: an exact log of it would have no bound."""
        return max(self.slot_us, -(-self.window_us // WINDOW_SLOTS))

    @property
    def identity(self) -> str:
        return f"{self.measure}{_SUFFIX[self.mode]}"

    @property
    def measure(self) -> str:
        return f"w{self.window_us // SECOND_US}"

    def counter(self, now_us: int) -> WindowCounter:
        return WindowCounter(self, 0, deque())


@dataclass(frozen=True, slots=True)
class CalendarQuota:
    """At most `limit` calls in a calendar period, UTC. Unless it `refuses`, calls past it are admitted as overage."""

    limit: int
    period: Period
    refuses: bool
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE

    @classmethod
    def of(cls, quota: Quota, overage: Overage, *, workers: int = 1, least: int = 1) -> CalendarQuota:
        if quota.requests < 0:
            raise LimitOutOfRange(f"a quota can't be negative: {quota}")
        refuses = (quota.overage or overage) is Overage.BLOCK
        return cls(share(quota.requests, workers, least), quota.period, refuses, quota.mode, quota.refused)

    @property
    def memory_us(self) -> int:
        hours = {Period.HOUR: 1, Period.DAY: 24, Period.MONTH: 31 * 24}[self.period]
        return hours * 3600 * SECOND_US

    @property
    def identity(self) -> str:
        return f"{self.measure}{_SUFFIX[self.mode]}"

    @property
    def measure(self) -> str:
        return f"q{PERIOD_NUMBERS[self.period]}"

    def counter(self, now_us: int) -> QuotaCounter:
        return QuotaCounter(self, 0, 0)


Limit = TokenBucket | SlidingWindow | CalendarQuota


def share(limit: int, workers: int, least: int = 1) -> int:
    """One worker's part of a limit: rounded down, but never less than `least`, what the dearest call costs.

    Over all workers this is at most the limit, or one call for each worker where the limit is smaller than that: refusing
    every call of a caller with a small limit would be worse than the few calls over it."""
    return min(limit, max(least, limit // workers))


def period_end_us(period: Period, now_us: int) -> int:
    """The first moment of the next hour, day or month in UTC: exact over month ends and leap days (Unix time has no leap
    seconds and UTC no daylight saving)."""
    if period is not Period.MONTH:
        length_us = (3600 if period is Period.HOUR else 86_400) * SECOND_US
        return now_us - now_us % length_us + length_us
    now = datetime.fromtimestamp(now_us // SECOND_US, UTC)
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * SECOND_US


def share_reached(limit: int, before: int, after: int) -> int:
    """How much of a quota is to be told, in %, after its count went from `before` to `after`; 0 if nothing is: the highest of
    QUOTA_SHARES that is reached, by the call that reaches it, and once more by the 1st, 2nd, 4th, 8th ... call past it."""
    for percent in reversed(QUOTA_SHARES):
        threshold = -(-limit * percent // 100)
        if after >= threshold:
            again = (after - threshold).bit_length() > max(0, before - threshold).bit_length()
            return percent if before < threshold or again else 0
    return 0


# --- counters -------------------------------------------------------------------------------------------------------


class Counter(Protocol):
    """What one subject has used of one limit. `settle` first, at the moment of the decision; then ask; then take.

    Costs are in calls: a call that costs 3 counts as three."""

    @property
    def limit(self) -> Limit: ...

    @property
    def refuses(self) -> bool:
        """False for a quota whose overage is admitted."""

    def settle(self, now_us: int) -> None:
        """Forgets what time has given back."""

    def left(self) -> int:
        """The highest cost that would be admitted at this moment. Below zero when the limit was lowered under its use, or
        calls turned out dearer than they were taken for."""

    def take(self, now_us: int, cost: int) -> None:
        """Counts a call of this cost, at least 1."""

    def charge(self, now_us: int, cost: int) -> None:
        """Counts what was not asked for: there may be no room for it."""

    def charge_refused(self, now_us: int, cost: int) -> None:
        """Counts a call that was refused: a bucket owes at most its burst for such calls, so that whoever stops calling is
        let in again after the time that two bursts take."""

    def give_back(self, now_us: int, cost: int, taken_us: int) -> None:
        """Takes back what a call was charged too much at `taken_us`, as far as that still counts; at least 1."""

    def wait_us(self, now_us: int, wanted: int) -> int:
        """How long until `left` is at least `wanted`, which is more than it is, if no call comes in between."""


def carry_over(old: Sequence[Counter], limits: Sequence[Limit], now_us: int) -> list[Counter]:
    """Counters of `limits` that keep what `old` counted of the same window, period or bucket: whole tokens of a bucket
    whose unit has changed, everything of the others. What is new begins unused."""
    counters: list[Counter] = []
    for limit in limits:
        fresh = limit.counter(now_us)
        same = [counter for counter in old if counter.limit.measure == limit.measure]
        # What goes into shadow, or comes out of it, keeps its count, unless there was one in its own mode already.
        counter = min(same, key=lambda counter: counter.limit.mode is not limit.mode, default=None)
        match fresh, counter:
            case BucketCounter(), BucketCounter():
                same_unit = fresh.limit.cost == counter.limit.cost
                fresh.level = counter.level if same_unit else counter.left() * fresh.limit.cost
                fresh.at_ms = counter.at_ms
            case WindowCounter(), WindowCounter():
                fresh.total, fresh.slots = counter.total, deque([*slot] for slot in counter.slots)
            case QuotaCounter(), QuotaCounter():
                fresh.count, fresh.ends_us = counter.count, counter.ends_us
        counters.append(fresh)
    return counters


@dataclass(slots=True)
class BucketCounter:
    limit: TokenBucket
    level: int
    at_ms: int

    @property
    def refuses(self) -> bool:
        return True

    def settle(self, now_us: int) -> None:
        elapsed_ms = now_us // 1000 - self.at_ms
        if elapsed_ms > 0:  # a clock set back gives nothing and takes nothing
            self.level += elapsed_ms * self.limit.gain
            self.at_ms += elapsed_ms
        self.level = min(self.level, self.limit.capacity)

    def left(self) -> int:
        return self.level // self.limit.cost

    def take(self, now_us: int, cost: int) -> None:
        self.level -= cost * self.limit.cost

    def charge(self, now_us: int, cost: int) -> None:
        self.level = max(-DEBT_MAX, self.level - cost * self.limit.cost)

    def charge_refused(self, now_us: int, cost: int) -> None:
        self.level = max(self.level - cost * self.limit.cost, min(self.level, -self.limit.capacity))

    def take_back(self, now_us: int, cost: int, taken_us: int) -> None:
        """As `give_back`, but no more than what is certain to be missing still: the bucket may have been full without the
        call, and whatever would have run over was gained since."""
        gained = max(0, now_us // 1000 - taken_us // 1000) * self.limit.gain
        self.level = min(self.limit.capacity, self.level + max(0, cost * self.limit.cost - gained))

    def give_back(self, now_us: int, cost: int, taken_us: int) -> None:
        self.level = min(self.limit.capacity, self.level + cost * self.limit.cost)

    def wait_us(self, now_us: int, wanted: int) -> int:
        missing = wanted * self.limit.cost - self.level
        return (self.at_ms + -(-missing // self.limit.gain)) * 1000 - now_us


@dataclass(slots=True)
class WindowCounter:
    """`slots` are [forgotten at, calls], oldest first."""

    limit: SlidingWindow
    total: int
    slots: deque[list[int]]

    @property
    def refuses(self) -> bool:
        return True

    def settle(self, now_us: int) -> None:
        while self.slots and self.slots[0][0] <= now_us:
            self.total -= self.slots.popleft()[1]

    def left(self) -> int:
        return self.limit.limit - self.total

    def take(self, now_us: int, cost: int) -> None:
        self._count(now_us, cost, self.limit.slot_us)

    def charge(self, now_us: int, cost: int) -> None:
        self._count(now_us, cost, self.limit.coarse_us)

    def charge_refused(self, now_us: int, cost: int) -> None:
        self.charge(now_us, cost)

    def _count(self, now_us: int, cost: int, slot_us: int) -> None:
        forgotten_us = self._forgotten_us(now_us, slot_us)
        if self.slots and forgotten_us <= self.slots[-1][0]:
            # The same slot; or the clock was set back, or the slots became finer: keep the call longer, never less.
            self.slots[-1][1] += cost
        else:
            self.slots.append([forgotten_us, cost])
        self.total += cost

    def give_back(self, now_us: int, cost: int, taken_us: int) -> None:
        """From the slot that it was counted in: in another one it would be missing after the call itself is forgotten."""
        forgotten_us = self._forgotten_us(taken_us, self.limit.slot_us)
        for slot in self.slots:
            if slot[0] == forgotten_us:
                given = min(cost, slot[1])
                slot[1] -= given
                self.total -= given
                if slot[1] == 0:
                    self.slots.remove(slot)
                return

    def _forgotten_us(self, moment_us: int, slot_us: int) -> int:
        return moment_us - moment_us % slot_us + slot_us + self.limit.window_us

    def wait_us(self, now_us: int, wanted: int) -> int:
        enough = self.limit.limit - wanted
        total = self.total
        if enough >= 0:
            for forgotten_us, calls in self.slots:
                total -= calls
                if total <= enough:
                    return forgotten_us - now_us
        return self.limit.window_us  # more than the limit: no wait helps


@dataclass(slots=True)
class QuotaCounter:
    limit: CalendarQuota
    count: int
    ends_us: int

    @property
    def refuses(self) -> bool:
        return self.limit.refuses

    def settle(self, now_us: int) -> None:
        if now_us >= self.ends_us:
            self.count = 0
            self.ends_us = period_end_us(self.limit.period, now_us)

    def left(self) -> int:
        return self.limit.limit - self.count

    def take(self, now_us: int, cost: int) -> None:
        self.count += cost

    def charge(self, now_us: int, cost: int) -> None:
        self.count += cost

    def charge_refused(self, now_us: int, cost: int) -> None:
        self.count += cost

    def give_back(self, now_us: int, cost: int, taken_us: int) -> None:
        if period_end_us(self.limit.period, taken_us) == self.ends_us:
            self.count = max(0, self.count - cost)

    def wait_us(self, now_us: int, wanted: int) -> int:
        return self.ends_us - now_us


def seconds_up(duration_us: int) -> int:
    return -(-duration_us // SECOND_US)
