"""What /metrics says: the series of all processes of the gateway as one, in the formats that Prometheus reads.

Apart from the rest of this package because workers must start fast, and prometheus_client is for the supervisor alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ostiary.gateway.telemetry.catalog import FAMILIES, Family, Kind, Merge
from ostiary.gateway.telemetry.layout import VALUES_AT, read_series
from ostiary.gateway.telemetry.process import ProcessUsage

_MERGE: dict[Merge, Callable[[float, float], float]] = {
    Merge.SUM: lambda one, other: one + other,
    Merge.MAX: max,
    Merge.MIN: min,
}
_Merged = dict[str, dict[tuple[str, ...], list[float]]]


class Exposition(Collector):
    """Merges the regions of several processes. `regions` and `processes` are asked anew for each scrape; a region may be
    written to meanwhile."""

    def __init__(
        self,
        *,
        regions: Callable[[], Iterable[memoryview]],
        processes: Callable[[], Mapping[str, ProcessUsage]] = dict,
    ) -> None:
        self._regions = regions
        self._processes = processes
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The body and its content type: OpenMetrics when `accept` asks for it, else the Prometheus text format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked by the catalog, and an empty answer keeps the registry from collecting at start."""
        return []

    def collect(self) -> Iterator[Metric]:
        merged = merge(self._regions())
        for family in FAMILIES.values():
            if (series := merged.get(family.name)) is not None:
                yield _metric(family, series)
        yield from _process_metrics(self._processes())


def merge(regions: Iterable[memoryview]) -> _Merged:
    """Metric name to label values to slots. Counters and histograms add up; gauges merge by the rule of their family."""
    merged: _Merged = {}
    for region in regions:
        values: memoryview[float] = region[VALUES_AT:].cast("d")
        for series, _ in read_series(region):
            family = FAMILIES.get(series.name)
            if family is None or family.width != series.width:
                continue
            slots = list(values[series.slot : series.slot + series.width])
            into = merged.setdefault(series.name, {})
            if (before := into.get(series.label_values)) is None:
                into[series.label_values] = slots
            else:
                combine = _MERGE[family.merge]
                into[series.label_values] = [combine(one, other) for one, other in zip(before, slots, strict=True)]
    return merged


def _metric(family: Family, series: dict[tuple[str, ...], list[float]]) -> Metric:
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        bounds = [*(repr(bound) for bound in family.bounds), "+Inf"]
        for label_values, slots in series.items():
            below = 0.0
            buckets = []
            for bound, count in zip(bounds, slots, strict=False):  # the last slot is the sum
                below += count
                buckets.append((bound, below))
            histogram.add_metric(label_values, buckets, sum_value=slots[-1])
        return histogram
    metric: CounterMetricFamily | GaugeMetricFamily
    if family.kind is Kind.COUNTER:
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    else:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for label_values, (value,) in series.items():
        metric.add_metric(label_values, value)
    return metric


def _process_metrics(processes: Mapping[str, ProcessUsage]) -> Iterator[Metric]:
    label = ("process",)
    memory = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", labels=label)
    seconds = CounterMetricFamily("process_cpu_seconds_total", "User and system CPU time.", labels=label)
    descriptors = GaugeMetricFamily("process_open_fds", "Open file descriptors.", labels=label)
    for name, usage in processes.items():
        memory.add_metric([name], usage.resident_bytes)
        seconds.add_metric([name], usage.cpu_seconds)
        descriptors.add_metric([name], usage.open_descriptors)
    yield from (memory, seconds, descriptors)
