"""What Prometheus reads."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.catalog import FAMILIES, Kind
from ostiary.gateway.telemetry.exposition import Exposition
from ostiary.gateway.telemetry.process import process_usage
from tests.support.samples import samples

CONTRACT = {
    "http_request_duration_seconds",
    "http_requests_total",
    "api_key_auth_attempts_total",
    "api_key_usage_total",
    "active_api_keys",
    "rate_limit_decisions_total",
    "rate_limit_store_duration_seconds",
    "rate_limit_store_failures_total",
    "upstream_requests_total",
    "upstream_request_duration_seconds",
    "upstream_healthy",
    "usage_events_accepted_total",
    "usage_events_written_total",
    "usage_events_dropped_total",
    "usage_spool_bytes",
    "config_generation",
    "config_reload_failures_total",
    "gateway_overhead_seconds",
}


def test_every_metric_of_the_contract_is_declared() -> None:
    """Dashboards and alerts outside this repository rely on these names."""
    assert set(FAMILIES) >= CONTRACT


def test_no_metric_has_a_label_for_keys_or_paths() -> None:
    """Key ids and raw paths are unbounded, and key ids are no business of whoever reads a dashboard."""
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert not labels & {"key", "key_id", "path", "url", "ip", "user_agent", "request_id"}


def test_the_counters_of_two_processes_add_up_and_gauges_follow_their_rule(tmp_path: Path) -> None:
    """A scrape sees one gateway, not the worker that happened to answer."""
    one, two = Metrics.open(tmp_path / "worker-0"), Metrics.open(tmp_path / "worker-1")
    for metrics, calls, keys, healthy in ((one, 3, 10, 1), (two, 4, 7, 0)):
        metrics.counter("http_requests_total", route="clients", method="GET", status="200").add(calls)
        metrics.values[metrics.gauge("active_api_keys")] = keys
        metrics.values[metrics.gauge("client_connections")] = keys
        metrics.values[metrics.gauge("upstream_healthy", upstream="clients", target="127.0.0.1:9000")] = healthy
        histogram = metrics.histogram(
            "http_request_duration_seconds", route="clients", method="GET", status_class="2xx"
        )
        for seconds in (0.0005, 0.00051, 99.0):  # on a bound, just above it, above all
            histogram.observe(seconds)
    exposition = Exposition(regions=lambda: (one.region, two.region))
    body, content_type = exposition.render()
    assert content_type.startswith("text/plain; version=")
    found = samples(body.decode())
    labels = (("method", "GET"), ("route", "clients"))
    assert found["http_requests_total", (*labels, ("status", "200"))] == 7
    assert found["active_api_keys", ()] == 10
    assert found["client_connections", ()] == 17
    assert found["upstream_healthy", (("target", "127.0.0.1:9000"), ("upstream", "clients"))] == 0
    duration = "http_request_duration_seconds"
    series = (*labels, ("status_class", "2xx"))
    buckets = {dict(key)["le"]: value for (name, key), value in found.items() if name == f"{duration}_bucket"}
    assert buckets["0.00025"] == 0
    assert buckets["0.0005"] == 2
    assert buckets["0.001"] == 4
    assert buckets["30.0"] == 4
    assert buckets["+Inf"] == found[f"{duration}_count", series] == 6
    assert abs(found[f"{duration}_sum", series] - 2 * (0.0005 + 0.00051 + 99.0)) < 1e-9


def test_all_families_render_in_both_formats_and_parse_back() -> None:
    """One malformed line makes Prometheus drop the whole scrape."""
    metrics = Metrics.in_memory()
    hostile = 'a"b\\c\nd é 👾'
    for family in FAMILIES.values():
        labels = dict.fromkeys(family.labels, hostile)
        if family.kind is Kind.HISTOGRAM:
            metrics.histogram(family.name, **labels).observe(0.01)
        elif family.kind is Kind.COUNTER:
            metrics.counter(family.name, **labels).add(1)
        else:
            metrics.values[metrics.gauge(family.name, **labels)] = 1
    exposition = Exposition(regions=lambda: [metrics.region])
    plain = {name for name, _ in samples(exposition.render()[0].decode())}
    body, content_type = exposition.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    for family in FAMILIES.values():
        assert family.name in plain or f"{family.name}_bucket" in plain
    assert {
        sample.labels[label]
        for family in openmetrics_families(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        for label in sample.labels
        if label != "le"
    } == {hostile}


def test_the_text_is_exactly_this() -> None:
    """The names, types and order of a scrape, as documented."""
    metrics = Metrics.in_memory()
    metrics.counter("config_reload_failures_total").add(2)
    metrics.values[metrics.gauge("config_generation")] = 5
    body, _ = Exposition(regions=lambda: [metrics.region]).render()
    text = body.decode().partition("# HELP process_")[0]
    assert text == (
        "# HELP config_generation Number of the configuration in force; 1 is the one at start.\n"
        "# TYPE config_generation gauge\n"
        "config_generation 5.0\n"
        "# HELP config_reload_failures_total Reloads refused; the configuration in force stayed.\n"
        "# TYPE config_reload_failures_total counter\n"
        "config_reload_failures_total 2.0\n"
    )


def test_a_process_reports_its_memory_time_and_descriptors_and_a_gone_one_nothing() -> None:
    """A worker may die between two scrapes; the scrape must not die with it."""
    usage = process_usage(os.getpid())
    assert usage is not None
    assert usage.resident_bytes > 1_000_000
    assert usage.cpu_seconds > 0
    assert usage.open_descriptors >= 3
    assert process_usage(2**22 + 1) is None
    body, _ = Exposition(regions=list, processes=lambda: {"worker-0": usage}).render()
    assert samples(body.decode())["process_open_fds", (("process", "worker-0"),)] == usage.open_descriptors
