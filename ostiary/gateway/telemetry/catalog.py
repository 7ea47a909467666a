"""Every metric of the gateway, declared once: name, kind, labels, bound on series, and how processes are merged.

Dashboards rely on these names. A name or label that does not stand here is a programming error, raised where the series
is asked for, never on the hot path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# From a quarter of a millisecond (a gateway beside its upstream) to the longest answer that a client still waits for.
REQUEST_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# The gateway's own share, and a round trip to Redis: tens of microseconds when all is well, its deadline (20 ms) when not.
OVERHEAD_SECONDS = (0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What one gauge of several processes means. Counters and histograms are always summed."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. Beyond `series_max` label sets in a process, all further ones share a series labelled `other`: what a
    client sends can't fill memory, and nothing is left out of a sum."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    series_max: int = 500
    merge: Merge = Merge.SUM
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Slots of one series: a value; or a bucket for each bound, one above the last, and the sum."""
        return len(self.bounds) + 2 if self.kind is Kind.HISTOGRAM else 1


_FAMILIES = (
    # Calls. Routes come from the configuration and methods and statuses are few, so the bounds hold for 10 000 routes
    # that each see two methods or statuses.
    Family(
        "http_request_duration_seconds",
        Kind.HISTOGRAM,
        "Time from the end of a request's head to the last byte of its answer.",
        ("route", "method", "status_class"),
        series_max=10_000,
        bounds=REQUEST_SECONDS,
    ),
    Family(
        "http_requests_total",
        Kind.COUNTER,
        "Finished calls.",
        ("route", "method", "status"),
        series_max=20_000,
    ),
    Family(
        "deprecated_requests_total",
        Kind.COUNTER,
        "Calls of routes with `deprecation`, by the app that still makes them; no app for keys of the file.",
        ("route", "app"),
        series_max=2_000,
    ),
    Family(
        "gateway_overhead_seconds",
        Kind.HISTOGRAM,
        "Time a call spent in the gateway itself, waits for client and upstream left out.",
        bounds=OVERHEAD_SECONDS,
    ),
    Family("gateway_errors_total", Kind.COUNTER, "Error answers made by the gateway itself, by code.", ("code",)),
    Family("client_connections", Kind.GAUGE, "Open connections of clients."),
    Family(
        "held_body_bytes", Kind.GAUGE, "Disk that bodies of signed calls take until their signatures have verified."
    ),
    Family(
        "client_connections_refused_total",
        Kind.COUNTER,
        "Connections refused at the door; the reason is the bound: connections, connections_per_address, handshakes.",
        ("reason",),
    ),
    Family("tls_handshakes_total", Kind.COUNTER, "TLS handshakes with clients: ok, failed or timeout.", ("result",)),
    Family(
        "tls_certificate_expiry_seconds",
        Kind.GAUGE,
        "Seconds until a certificate in force expires, by its first DNS name; below 0 once it has, NaN when it is gone.",
        ("certificate",),
    ),
    Family(
        "client_crl_expiry_seconds",
        Kind.GAUGE,
        "Seconds until a revocation list of client certificates is to be renewed; below 0 past that, when it holds on.",
    ),
    Family(
        "event_loop_lag_seconds",
        Kind.GAUGE,
        "How late the last tick of a process's event loop came; the worst process.",
        merge=Merge.MAX,
    ),
    Family("event_loop_stalls_total", Kind.COUNTER, "Times that an event loop stood still for 200 ms or more."),
    Family(
        "gateway_overloaded",
        Kind.GAUGE,
        "1 while a worker refuses calls because others wait too long or memory runs short, else 0.",
        merge=Merge.MAX,
    ),
    Family("requests_shed_total", Kind.COUNTER, "Calls refused in overload, by their route's priority.", ("priority",)),
    Family(
        "gateway_memory_ratio",
        Kind.GAUGE,
        "Memory in use, as a part of the nearest bound; the worst worker; 0 without a bound.",
        merge=Merge.MAX,
    ),
    Family("accept_pauses_total", Kind.COUNTER, "Times that a worker stopped accepting to keep descriptors free."),
    # Callers.
    Family("api_key_auth_attempts_total", Kind.COUNTER, "Credentials checked.", ("scheme", "result")),
    Family(
        "failed_attempts_barred_total",
        Kind.COUNTER,
        "Calls answered 429 because too many attempts to authenticate had failed: of their address, or of it with their key.",
        ("by",),
    ),
    Family(
        "key_attack_alarms_total", Kind.COUNTER, "Times that a key had more failed attempts in a minute than per_key."
    ),
    Family(
        "api_key_usage_total",
        Kind.COUNTER,
        "Calls with a valid key.",
        ("app", "plan", "environment"),
        series_max=10_000,
    ),
    Family(
        "active_api_keys",
        Kind.GAUGE,
        "Keys that a worker holds ready; the worker with the most.",
        merge=Merge.MAX,
    ),
    # Tokens of outside issuers; issuers come from the configuration.
    Family("token_key_fetches_total", Kind.COUNTER, "Fetches of an issuer's keys: ok or failed.", ("issuer", "result")),
    Family(
        "token_keys_fetched_timestamp_seconds",
        Kind.GAUGE,
        "When the keys of an issuer were last fetched, Unix time; of the worker that knows the newest.",
        ("issuer",),
        merge=Merge.MAX,
    ),
    # Limits.
    Family("rate_limit_decisions_total", Kind.COUNTER, "Decisions, by what decided.", ("limit", "decision")),
    Family(
        "rate_limit_store_duration_seconds",
        Kind.HISTOGRAM,
        "Round trip of one batch of decisions to Redis.",
        bounds=OVERHEAD_SECONDS,
    ),
    Family(
        "rate_limit_store_away",
        Kind.GAUGE,
        "Workers that decide without Redis at this moment, each call as its route chose (on_store_failure).",
    ),
    Family(
        "gateway_nodes",
        Kind.GAUGE,
        "Gateway nodes there were when Redis was last asked: without Redis, a limit is shared among so many.",
        merge=Merge.MAX,
    ),
    Family(
        "gateway_clock_offset_seconds",
        Kind.GAUGE,
        "How far this machine's clock is from Redis's, either way. Half of gateway.signature_skew is worth an alarm.",
        merge=Merge.MAX,
    ),
    Family(
        "gateway_clock_steps_total", Kind.COUNTER, "Times that a worker saw its clock set by half a second or more."
    ),
    Family("rate_limit_store_failures_total", Kind.COUNTER, "Batches that Redis did not decide.", ("kind",)),
    Family(
        "rate_limit_store_forgot_total",
        Kind.COUNTER,
        "Times that Redis was found to have lost what was counted there: `flushed`, `restarted`, `replaced`, `evicted`.",
        ("reason",),
    ),
    Family(
        "rate_limit_slices_total",
        Kind.COUNTER,
        "Slices of leased limits that were asked for: `taken`, `refused`, `unanswered`.",
        ("result",),
    ),
    Family(
        "rate_limit_settlements_total",
        Kind.COUNTER,
        "Calls whose upstream said what they cost; `lost` comes besides `more` or `less`.",
        ("result",),
    ),
    # Upstreams.
    Family(
        "upstream_requests_total",
        Kind.COUNTER,
        "Requests to upstreams; status is the answer's, or the name of the failure.",
        ("upstream", "status"),
        series_max=5_000,
    ),
    Family(
        "upstream_request_duration_seconds",
        Kind.HISTOGRAM,
        "Time from the request to the first byte of the upstream's answer.",
        ("upstream",),
        series_max=1_000,
        bounds=REQUEST_SECONDS,
    ),
    Family(
        "upstream_healthy",
        Kind.GAUGE,
        "1 while every worker regards the target as healthy, else 0: it fails its checks, or is ejected for failed calls.",
        ("upstream", "target"),
        series_max=5_000,
        merge=Merge.MIN,
    ),
    Family(
        "upstream_ejections_total",
        Kind.COUNTER,
        "Targets taken out for failed calls.",
        ("upstream", "target"),
        series_max=5_000,
    ),
    Family(
        "upstream_breaker_open",
        Kind.GAUGE,
        "1 while the breaker of any worker is open or lets trials through, else 0.",
        ("upstream",),
        series_max=1_000,
        merge=Merge.MAX,
    ),
    Family(
        "upstream_breaker_changes_total",
        Kind.COUNTER,
        "Changes of a breaker, by the state it went to.",
        ("upstream", "state"),
        series_max=3_000,
    ),
    Family(
        "upstream_breaker_refusals_total",
        Kind.COUNTER,
        "Calls refused by an open breaker.",
        ("upstream",),
        series_max=1_000,
    ),
    Family(
        "upstream_retries_total",
        Kind.COUNTER,
        "Further tries: made, or denied because the budget was used up.",
        ("upstream", "result"),
        series_max=2_000,
    ),
    Family(
        "upstream_connection_waits_total",
        Kind.COUNTER,
        "Calls that found all connections to a target in use: served, timed_out, or refused as too many waited.",
        ("upstream", "result"),
        series_max=3_000,
    ),
    # Metering.
    Family("usage_events_accepted_total", Kind.COUNTER, "Usage events of finished calls."),
    Family("usage_events_written_total", Kind.COUNTER, "Usage events that are in Postgres, or in the stream."),
    Family("usage_events_dropped_total", Kind.COUNTER, "Usage events dropped because the spool was at its bound."),
    Family("usage_calls_blocked_total", Kind.COUNTER, "Calls refused because there was no room to meter them."),
    Family("usage_spool_full", Kind.GAUGE, "1 while a worker can have no further segment.", merge=Merge.MAX),
    Family("usage_sync_failures_total", Kind.COUNTER, "Writes of the spool to the disk (fdatasync) that failed."),
    Family("usage_segments_quarantined_total", Kind.COUNTER, "Damaged spool segments set aside."),
    Family("usage_ship_failures_total", Kind.COUNTER, "Failed attempts to ship a segment.", ("kind",)),
    Family(
        "usage_spool_bytes",
        Kind.GAUGE,
        "Bytes that the segments of the spool take; one open segment of 4 MiB a worker when nothing waits.",
        merge=Merge.MAX,
    ),
    # The gateway's processes.
    Family("config_generation", Kind.GAUGE, "Number of the configuration in force; 1 is the one at start."),
    Family("config_reloads_total", Kind.COUNTER, "Reloads that took effect."),
    Family("config_reload_failures_total", Kind.COUNTER, "Reloads refused; the configuration in force stayed."),
    Family(
        "config_routes_version", Kind.GAUGE, "Number of the published version of the routes in force; 0 for none yet."
    ),
    Family("config_routes_refused", Kind.GAUGE, "1 while a newer published version can't be taken; /status says why."),
    Family("config_routes_silent_seconds", Kind.GAUGE, "How long ago Postgres was last heard of about routes."),
    Family("gateway_workers_ready", Kind.GAUGE, "Workers that serve."),
    Family("gateway_process_restarts_total", Kind.COUNTER, "Processes that ended unasked.", ("process",)),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}
