"""Counters that outlive the process which counts, and a reader that never sees half of anything."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from pathlib import Path

import pytest

from ostiary.gateway.telemetry import Metrics, MetricsError
from ostiary.gateway.telemetry.catalog import FAMILIES, OVERHEAD_SECONDS
from ostiary.gateway.telemetry.exposition import merge
from ostiary.gateway.telemetry.layout import NAMES_AT, read_series
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.nameless import nameless_memory

LABELS = {"route": "clients", "method": "GET", "status": "200"}


def test_the_same_labels_give_the_same_series_in_any_order() -> None:
    """Otherwise one series would be exposed twice, and Prometheus refuse the scrape."""
    metrics = Metrics.in_memory()
    first = metrics.counter("http_requests_total", route="a", method="GET", status="200")
    assert metrics.counter("http_requests_total", status="200", method="GET", route="a") is first
    assert metrics.counter("http_requests_total", route="b", method="GET", status="200") is not first


@pytest.mark.parametrize(
    ("kind", "name", "labels"),
    [
        ("counter", "no_such_total", {}),
        ("counter", "http_requests_total", {"route": "a"}),
        ("counter", "http_requests_total", {**LABELS, "key": "ak_live_x"}),
        ("gauge", "http_requests_total", LABELS),
        ("histogram", "config_generation", {}),
    ],
)
def test_an_undeclared_metric_is_an_error_where_it_is_asked_for(kind: str, name: str, labels: dict[str, str]) -> None:
    """A typing error would otherwise make a metric that no dashboard reads."""
    with pytest.raises(MetricsError):
        getattr(Metrics.in_memory(), kind)(name, **labels)


def test_a_restarted_process_goes_on_from_its_counters(tmp_path: Path) -> None:
    """A counter that goes back looks like a new process to Prometheus, which then counts the calls twice."""
    before = Metrics.open(tmp_path / "worker-0")
    before.counter("http_requests_total", **LABELS).add(7)
    before.values[before.gauge("active_api_keys")] = 3
    before.histogram("rate_limit_store_duration_seconds").observe(0.0003)

    after = Metrics.open(tmp_path / "worker-0")
    after.counter("http_requests_total", **LABELS).add(1)
    after.histogram("rate_limit_store_duration_seconds").observe(0.0003)
    merged = merge([after.region])
    assert merged["http_requests_total"][tuple(LABELS.values())] == [8]
    assert sum(merged["rate_limit_store_duration_seconds"][()][:-1]) == 2
    assert merged["active_api_keys"][()] == [0], "what the dead process held is gone"


def test_what_a_process_that_is_gone_has_counted_is_added_to_what_is_counted_here() -> None:
    """A worker that is gone for good must not take its calls out of the sums, nor what was counted here before or after."""
    gone, here = Metrics.in_memory(), Metrics.in_memory()
    for metrics in (gone, here):
        metrics.counter("http_requests_total", **LABELS).add(7)
        for seconds in (0.0003, 0.0003, 0.02):
            metrics.histogram("rate_limit_store_duration_seconds").observe(seconds)
    here.add(gone.region)
    here.counter("http_requests_total", **LABELS).add(1)
    here.histogram("rate_limit_store_duration_seconds").observe(0.02)
    merged = merge([here.region])
    *buckets, total = merged["rate_limit_store_duration_seconds"][()]
    assert merged["http_requests_total"][tuple(LABELS.values())] == [15]
    assert sorted(buckets)[-2:] == [3, 4]
    assert total == pytest.approx(4 * 0.0003 + 3 * 0.02)


def test_a_new_series_after_a_restart_shares_no_slot(tmp_path: Path) -> None:
    """Two series in one slot would report each other's calls."""
    before = Metrics.open(tmp_path / "m")
    taken = {before.counter("gateway_errors_total", code=str(n)).slot for n in range(20)}
    before.histogram("gateway_overhead_seconds")
    after = Metrics.open(tmp_path / "m")
    fresh = after.counter("gateway_errors_total", code="another").slot
    used = [slot for series, _ in read_series(before.region) for slot in range(series.slot, series.slot + series.width)]
    assert fresh not in taken
    assert len(used) == len(set(used)) == 20 + FAMILIES["gateway_overhead_seconds"].width + 1


def test_labels_beyond_the_bound_share_one_series_and_no_count_is_lost() -> None:
    """What clients send must not fill memory, and sums over a metric must stay right."""
    metrics = Metrics.in_memory()
    bound = FAMILIES["gateway_errors_total"].series_max
    for number in range(bound + 300):
        metrics.counter("gateway_errors_total", code=f"code-{number}").add(1)
    series = merge([metrics.region])["gateway_errors_total"]
    assert len(series) == bound + 1
    assert series[("other",)] == [300]
    assert sum(value for (value,) in series.values()) == bound + 300


def test_a_series_that_finds_no_room_is_not_reported_and_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or memory limit must cost a series, never a call: the worker would die of SIGBUS at the addition."""
    metrics = Metrics.attach(nameless_memory("test"))
    kept = metrics.counter("gateway_errors_total", code="kept")

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    lost = [metrics.counter("http_requests_total", route="r" * 150, method=str(n), status="200") for n in range(1000)]
    for counter in lost:
        counter.add(1)
    slots = {counter.slot for counter in lost}
    assert 0 in slots
    assert metrics.values[kept.slot] == 0
    reported = {series.slot for series, _ in read_series(metrics.region)}
    assert reported == {kept.slot, *slots} - {0}


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 17, 30])
def test_a_record_cut_short_is_never_read_and_the_next_one_takes_its_place(tmp_path: Path, cut: int) -> None:
    """`kill -9` between two instructions must not give a metric with another one's name or values."""
    metrics = Metrics.open(tmp_path / "m")
    metrics.counter("gateway_errors_total", code="whole")
    end = [end for _, end in read_series(metrics.region)][-1]
    metrics.counter("gateway_errors_total", code="torn")
    last = [end for _, end in read_series(metrics.region)][-1]
    metrics.region[end + cut : last] = bytes(last - end - cut)  # as if the copy had stopped there
    assert [series.label_values for series, _ in read_series(metrics.region)] == [("whole",)]

    after = Metrics.open(tmp_path / "m")
    added = after.counter("gateway_errors_total", code="next")
    assert [series.label_values for series, _ in read_series(after.region)] == [("whole",), ("next",)]
    assert added.total == after.values[added.slot] == 0


def test_every_flipped_byte_of_a_record_ends_the_list_there(tmp_path: Path) -> None:
    """A damaged name or slot would show one series under another's labels."""
    metrics = Metrics.open(tmp_path / "m")
    metrics.counter("gateway_errors_total", code="one")
    (_, end), *_ = read_series(metrics.region)
    for offset in range(NAMES_AT, end):
        metrics.region[offset] ^= 0x55
        assert list(read_series(metrics.region)) == []
        metrics.region[offset] ^= 0x55
    assert len(list(read_series(metrics.region))) == 1


def test_another_file_is_refused(tmp_path: Path) -> None:
    """Counting into a file that is not ours would destroy it."""
    (tmp_path / "notes").write_bytes(b"my notes")
    with pytest.raises(MetricsError):
        Metrics.open(tmp_path / "notes")
    assert (tmp_path / "notes").read_bytes() == b"my notes"


def test_a_duration_counts_in_the_bucket_of_its_bound_whatever_came_before_it() -> None:
    """A bucket that is kept from the call before would take calls that are not its own."""
    metrics = Metrics.in_memory()
    histogram = metrics.histogram("gateway_overhead_seconds")
    chance = random.Random(7)
    near = [
        value for bound in OVERHEAD_SECONDS for value in (bound, math.nextafter(bound, 0), math.nextafter(bound, 1))
    ]
    durations = [chance.choice([*near, 0.0, -1e-9, 60.0]) for _ in range(2000)]
    expected = [0] * (len(OVERHEAD_SECONDS) + 1)
    for duration in durations:
        histogram.observe(duration)
        expected[bisect_left(OVERHEAD_SECONDS, duration)] += 1
    (counted,) = merge([metrics.region])["gateway_overhead_seconds"].values()
    assert list(counted[:-1]) == expected
    assert counted[-1] == pytest.approx(math.fsum(durations))


WRITER = """
import sys
import time
from pathlib import Path
from ostiary.gateway.telemetry import Metrics
metrics = Metrics.open(Path(sys.argv[1]))
histogram = metrics.histogram("gateway_overhead_seconds")
print("counting", flush=True)
number = 0
while True:
    number += 1
    metrics.counter("http_requests_total", route=f"r{number % 700}", method="GET", status="200").add(1)
    histogram.observe(0.00004)
"""


def test_a_reader_beside_a_writer_killed_at_work_sees_whole_series_and_counts_that_only_grow(tmp_path: Path) -> None:
    """The scrape runs while workers count and die: a wrong name, a wrong sum or a count that falls misleads an alert."""
    path = tmp_path / "m"
    reader = Metrics.open(path)
    last = 0.0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"counting\n"
        looks, before, until = 0, last, time.monotonic() + 10
        while looks < 15 or (last == before and time.monotonic() < until):
            looks += 1
            merged = merge([reader.region])
            for labels in merged.get("http_requests_total", {}):
                assert labels[0][0] == "r"
                assert labels[1:] == ("GET", "200")
            total = sum(value for (value,) in merged.get("http_requests_total", {}).values())
            assert total >= last
            last = total
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert last > before


def test_methods_that_clients_make_up_take_no_memory() -> None:
    """A client that calls with a new method each time would grow every worker without end."""
    metrics = Metrics.in_memory()
    meters = RouteMeters(metrics, "clients")
    for number in range(1000):
        meters.request(b"METHOD-%d" % number, 404, 0.001)
    meters.request(b"GET", 404, 0.001)
    other = metrics.counter("http_requests_total", route="clients", method="other", status="404")
    assert other.total == 1000
    assert len(meters._requests) == 2
