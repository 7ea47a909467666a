"""Counters of one process, in memory that the supervisor reads: counting is an addition in place, no call to the kernel.

A series is looked up once, off the hot path; there it is `counter.add`, `histogram.observe`, or, of a gauge,
`metrics.values[slot] = x`.
The memory outlives the process: whoever replaces it opens the same region and goes on from its values, so that no counter
ever goes back while the gateway runs."""

from __future__ import annotations

import math
import mmap
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ostiary.gateway.telemetry.catalog import FAMILIES, Family, Kind
from ostiary.gateway.telemetry.layout import (
    LABEL_CHARACTERS_MAX,
    MAGIC,
    NAMES_AT,
    REGION_BYTES,
    SLOTS_MAX,
    VALUES_AT,
    Series,
    encode_series,
    read_series,
)

_bucket_of: Final = bisect_left  # a name of this module is a look-up for each call, once compiled; a constant is none
OTHER = "other"
_SCRATCH_SLOTS = 64  # slots that are never reported, for a series that found no room; wider than any histogram
_CHUNK_BYTES = 64 * 1024  # memory is committed in steps of this


class MetricsError(Exception):
    """A metric that is not declared in the catalog, labels that are not its own, or a region that is not ours."""


class Counter:
    """One series of a counter. The sum so far is kept as a number beside its slot: an addition is a store, and reads nothing.
    So there is one object a slot, which alone writes to it."""

    __slots__ = ("_values", "slot", "total")

    def __init__(self, values: memoryview[float], slot: int) -> None:
        self._values = values
        self.slot = slot  # its place among the values
        self.total: float = values[slot]

    def add(self, amount: float) -> None:
        """Counts `amount` more."""
        self.total = total = self.total + amount
        self._values[self.slot] = total


class Histogram:
    """One series of a histogram; as of a counter, one object a series.

    Most durations fall into the bucket of the one before: its place, its count and its bounds are kept, as floats that need
    no object, and are two comparisons where a search is fifteen."""

    __slots__ = ("_above", "_at", "_bounds", "_count", "_first", "_sum", "_total", "_up_to", "_values")

    def __init__(self, values: memoryview[float], first: int, bounds: tuple[float, ...]) -> None:
        self._above = self._up_to = self._count = 0.0
        self._at = first
        self._values = values
        self._sum = first + len(bounds) + 1
        self._total: float = values[self._sum]
        self._first = first
        self._bounds = bounds
        self._find(0.0)

    def observe(self, seconds: float) -> None:
        """Counts one duration. A bound belongs to its bucket, as Prometheus' `le` says. The number of observations is
        the sum of the buckets, so a process killed between the two stores leaves a histogram that agrees with itself."""
        if not self._above < seconds <= self._up_to:
            self._find(seconds)
        values = self._values
        self._count = count = self._count + 1.0
        values[self._at] = count
        self._total = total = self._total + seconds
        values[self._sum] = total

    def merge(self, theirs: Sequence[float]) -> None:
        """Adds another's buckets and sum."""
        values = self._values
        for offset, amount in enumerate(theirs):
            values[self._first + offset] += amount
        self._total = values[self._sum]
        self._find(0.0)

    def _find(self, seconds: float) -> None:
        bounds = self._bounds
        bucket = _bucket_of(bounds, seconds)
        self._at = self._first + bucket
        self._count = self._values[self._at]
        self._above = bounds[bucket - 1] if bucket else -math.inf
        self._up_to = bounds[bucket] if bucket < len(bounds) else math.inf


class Metrics:
    """The series of one process. `values` is a view of doubles, stable for the life of the object: gauges are set in it."""

    def __init__(self, memory: mmap.mmap, descriptor: int | None) -> None:
        self._memory = memory
        self._region = memoryview(memory)
        self._descriptor = descriptor
        self._committed: dict[int, int] = {}  # start of a part: offset up to which its memory is committed
        self._series: dict[tuple[str, tuple[str, ...]], int] = {}
        self._series_of: dict[str, int] = {}
        self._counters: dict[int, Counter] = {}  # by slot
        self._histograms: dict[tuple[str, int], Histogram] = {}  # by slot, and in the scratch slots by name
        self._names_end = NAMES_AT
        self._slots_used = _SCRATCH_SLOTS
        self.values: memoryview[float] = self._region[VALUES_AT:].cast("d")
        self._take_over()

    @classmethod
    def open(cls, path: Path) -> Metrics:
        """The file at `path`, made (0600) if it is not there. A process that was restarted goes on from its values;
        gauges begin at 0. Raises MetricsError for a file of another kind, OSError when there is no room."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return cls.attach(descriptor)

    @classmethod
    def attach(cls, descriptor: int) -> Metrics:
        """As `open`, for a file that is open already (`nameless_memory`). Keeps the descriptor."""
        if os.fstat(descriptor).st_size == 0:
            os.truncate(descriptor, REGION_BYTES)
        if os.fstat(descriptor).st_size != REGION_BYTES:
            raise MetricsError("this is not a metrics file of this version; remove it")
        return cls(mmap.mmap(descriptor, REGION_BYTES), descriptor)

    @classmethod
    def in_memory(cls) -> Metrics:
        """Counters that no other process reads."""
        return cls(mmap.mmap(-1, REGION_BYTES), None)

    def counter(self, name: str, **labels: str) -> Counter:
        """A series of a counter, made on first use; the same labels give the same object. Raises MetricsError."""
        return self._counter_at(self._slot(_declared(name, Kind.COUNTER), labels))

    def gauge(self, name: str, **labels: str) -> int:
        """The slot of a gauge, made on first use; the same labels give the same slot. Raises MetricsError."""
        return self._slot(_declared(name, Kind.GAUGE), labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """A series of a histogram, made on first use; the same labels give the same object. Raises MetricsError."""
        family = _declared(name, Kind.HISTOGRAM)
        return self._histogram_at(self._slot(family, labels), family)

    @property
    def region(self) -> memoryview:
        """What `layout.read_series` reads."""
        return self._region

    def add(self, other: memoryview) -> None:
        """Adds the counters and histograms of a region whose process is gone, so that sums over the gateway never go back. A
        series that this version does not have is left out; gauges say what was, and count for nothing."""
        theirs: memoryview[float] = other[VALUES_AT:].cast("d")
        for series, _ in read_series(other):
            family = FAMILIES.get(series.name)
            if family is None or family.kind is Kind.GAUGE or family.width != series.width:
                continue
            if len(family.labels) != len(series.label_values):
                continue
            slot = self._slot(family, dict(zip(family.labels, series.label_values, strict=True)))
            if family.kind is Kind.COUNTER:
                self._counter_at(slot).add(theirs[series.slot])
            else:
                self._histogram_at(slot, family).merge(theirs[series.slot : series.slot + series.width].tolist())

    def _counter_at(self, slot: int) -> Counter:
        counter = self._counters.get(slot)
        if counter is None:
            counter = self._counters[slot] = Counter(self.values, slot)
        return counter

    def _histogram_at(self, slot: int, family: Family) -> Histogram:
        histogram = self._histograms.get((family.name, slot))
        if histogram is None:
            histogram = self._histograms[family.name, slot] = Histogram(self.values, slot, family.bounds)
        return histogram

    def _take_over(self) -> None:
        """Reads what a predecessor left. What it was writing when it died is wiped: those slots were in no one's hands."""
        self._commit(0, NAMES_AT)
        self._commit(VALUES_AT, VALUES_AT + 8 * self._slots_used)
        found = bytes(self._region[: len(MAGIC)])
        if found == bytes(len(MAGIC)):
            self._region[: len(MAGIC)] = MAGIC
        elif found != MAGIC:
            raise MetricsError("this is not a metrics file; remove it")
        for series, end in read_series(self._region):
            self._names_end = end
            self._slots_used = max(self._slots_used, series.slot + series.width)
            family = FAMILIES.get(series.name)
            if family is None or family.width != series.width:
                raise MetricsError(f"the metrics file has {series.name} of another version; remove it")
            self._series[series.name, series.label_values] = series.slot
            self._series_of[series.name] = self._series_of.get(series.name, 0) + 1
            if family.kind is Kind.GAUGE:
                self.values[series.slot] = 0.0
        torn = self._region[self._names_end : min(self._names_end + _CHUNK_BYTES, VALUES_AT)]
        if any(torn):
            self._commit(0, self._names_end + len(torn))
            torn[:] = bytes(len(torn))

    def _slot(self, family: Family, labels: dict[str, str]) -> int:
        if len(labels) != len(family.labels) or not all(label in labels for label in family.labels):
            raise MetricsError(f"{family.name} has the labels {family.labels}, not {tuple(labels)}")
        values = tuple(labels[label][:LABEL_CHARACTERS_MAX] for label in family.labels)
        known = self._series.get((family.name, values))
        if known is not None:
            return known
        if self._series_of.get(family.name, 0) >= family.series_max and values != (OTHER,) * len(values):
            return self._slot(family, dict.fromkeys(family.labels, OTHER))
        return self._append(family, values)

    def _append(self, family: Family, values: tuple[str, ...]) -> int:
        slot = self._slots_used
        record = encode_series(Series(family.name, values, slot, family.width))
        names_end = self._names_end + len(record)
        if names_end > VALUES_AT or slot + family.width > SLOTS_MAX or not self._room(names_end, slot + family.width):
            return 0  # scratch: the call is served, and this series is not reported
        self._region[self._names_end : names_end] = record
        self._names_end = names_end
        self._slots_used += family.width
        self._series[family.name, values] = slot
        self._series_of[family.name] = self._series_of.get(family.name, 0) + 1
        return slot

    def _room(self, names_end: int, slots: int) -> bool:
        try:
            self._commit(0, names_end)
            self._commit(VALUES_AT, VALUES_AT + 8 * slots)
        except OSError:
            return False
        return True

    def _commit(self, start: int, end: int) -> None:
        """Makes the file's memory up to `end` exist. Without it a full disk would end the process (SIGBUS) on the next
        addition; with it, it is an error here. Raises OSError."""
        committed = self._committed.get(start, start)
        if end <= committed:
            return
        target = min(-(-end // _CHUNK_BYTES) * _CHUNK_BYTES, REGION_BYTES)
        if self._descriptor is not None and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, committed, target - committed)
        self._committed[start] = target


def foreign_region(descriptor: int) -> memoryview | None:
    """The region of a process that is not ours to write to, for `Metrics.add` and the exposition. None if another version
    lays it out in another way."""
    if os.fstat(descriptor).st_size != REGION_BYTES:
        return None
    region = memoryview(mmap.mmap(descriptor, REGION_BYTES, access=mmap.ACCESS_READ))
    return region if bytes(region[: len(MAGIC)]) == MAGIC else None


def _declared(name: str, kind: Kind) -> Family:
    family = FAMILIES.get(name)
    if family is None:
        raise MetricsError(f"no metric is named {name!r}; declare it in ostiary/gateway/telemetry/catalog.py")
    if family.kind is not kind:
        raise MetricsError(f"{name} is a {family.kind}, not a {kind}")
    return family
