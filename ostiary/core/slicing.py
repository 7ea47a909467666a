"""Leased limits: how long a worker may go on spending what it took of a limit, so that the limit holds for certain.

A slice is a number of calls that a worker has taken at once, and spends by itself. It lasts until the end of the slot of
Redis's clock in which it was taken, and is given back, as far as it was not spent, as if those calls had never been:

- A sliding window counts by slots. Spent in the slot it was taken in, a call is exactly where the counter says, so what
  holds for calls that Redis counts one by one holds for these.
- A calendar quota is its own slot: the period.
- A token bucket has no slots, and is given some here, aligned to Redis's clock. A slice is taken of a bucket that is held to
  what its capacity leaves when the refill of one slot is kept free (`sliced`). So however much of the slot's slices lies
  unspent while the bucket refills, both together never pass the capacity: no span sees more than the burst and the refill.
  That needs slices to end with their slot, and nothing of them to come back to the bucket later (see lua/decide.lua).

docs/decisions/0018-leased-limits.md has the proof and what else was weighed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ostiary.core.limiting import (
    WINDOW_SLOTS,
    CalendarQuota,
    Limit,
    LimitOutOfRange,
    SlidingWindow,
    TokenBucket,
    period_end_us,
)
from ostiary.core.model import LimitMode, Quota, Rate, RefusedCalls, Window

# Of a window. In a shorter slot a worker would ask Redis nearly as often as without slices.
SLOT_US_MIN: Final = 50_000

# Longer ones would gain little: a slice holds what is needed in a tenth of a second anyway. Under a second, so that the state
# of a bucket that is held lower for a slice outlives the time in which it would have filled up (keyspace.STATE_MARGIN_MS).
BUCKET_SLOT_MS_MAX: Final = 500

# So much of the capacity is kept free for a slot's refill: 1/5 is 200 ms of a bucket that holds one second's refill. Each
# slot costs each worker some four questions: 0.015 a call at 5 000 calls a second over four workers, where 1/8 was up to
# 0.021.
BUCKET_PART: Final = 5
BUCKET_SLOT_MS_MIN: Final = 100


def slot_end_us(limit: Limit, now_us: int) -> int:
    """Until when calls that are taken of `limit` at this moment may be made; by the clock that counted them."""
    match limit:
        case CalendarQuota():
            return period_end_us(limit.period, now_us)
        case SlidingWindow():
            slot_us = limit.slot_us
        case TokenBucket():
            slot_us = 1000 * _bucket_slot_ms(limit)
    return now_us - now_us % slot_us + slot_us


def sliced(limit: Limit) -> Limit:
    """What a slice is taken of: the limit itself, or the bucket without the refill of a slot."""
    if not isinstance(limit, TokenBucket):
        return limit
    return replace(limit, capacity=limit.capacity - limit.gain * _bucket_slot_ms(limit))


def _bucket_slot_ms(bucket: TokenBucket) -> int:
    return max(1, min(BUCKET_SLOT_MS_MAX, bucket.capacity // (BUCKET_PART * bucket.gain)))


def why_not_leased(source: Rate | Window | Quota) -> tuple[str, str] | None:
    """What speaks against slices of a limit, and the mend; None where nothing does."""
    match source:
        case _ if source.mode is LimitMode.SHADOW:
            return (
                "is leased and in shadow: which calls it would have refused shows only where each is counted by itself",
                "remove counting, or mode",
            )
        case _ if source.refused is RefusedCalls.CHARGED:
            return (
                "is leased and charges refused calls: a worker would have to tell Redis of each",
                "remove counting, or refused",
            )
        case Window() if source.requests <= WINDOW_SLOTS:
            return (
                f"is leased, and has only {source.requests} calls to share: up to {WINDOW_SLOTS} are logged one by one",
                "remove counting, or raise the limit",
            )
        case Window() if SlidingWindow.of(source).slot_us < SLOT_US_MIN:
            return (
                "is leased, and its window is too short: a slice would be over before it is spent",
                "count per minute or longer, or remove counting; a leased rate may be per second",
            )
        case Rate():
            try:
                bucket = TokenBucket.of(source)
            except LimitOutOfRange:
                return None  # which is told by itself
            if bucket.capacity < BUCKET_PART * bucket.gain * BUCKET_SLOT_MS_MIN:
                least = -(-BUCKET_PART * BUCKET_SLOT_MS_MIN * source.requests // (source.per_seconds * 1000))
                return (
                    f"is leased, and its burst of {source.burst} is refilled too fast to take slices of",
                    f"raise burst to at least {least}, or remove counting",
                )
    return None
