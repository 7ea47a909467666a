"""What is compared, and which ratio is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.findings import Bar
from benchmarks.rig import BLOB_BYTES, SMALL_ANSWER_BYTES, Role


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one side. CPU is microseconds a request, by role; shares are of a whole core, 0 to 1. Latencies of a load in
    turns have the pauses in them."""

    requests: int
    requests_per_second: float
    cpu_us: Mapping[Role, float]
    latency_p50_us: int
    latency_p99_us: int
    proxy_core_busy: float
    proxy_core_foreign: float
    other_core_busy: float

    @property
    def proxy_share(self) -> float:
        """How much of its core the proxy used itself."""
        return self.proxy_core_busy - self.proxy_core_foreign


@dataclass(frozen=True, slots=True)
class Figure:
    """What a ratio is of, taken from each sample."""

    title: str
    of: Callable[[Sample], float]


GATEWAY_CPU = Figure("CPU per request", lambda sample: sample.cpu_us[Role.GATEWAY])
GATEWAY_AND_REDIS_CPU = Figure(
    "CPU per request, Redis included",
    lambda sample: sample.cpu_us[Role.GATEWAY] + sample.cpu_us[Role.REDIS],
)
REQUESTS_PER_SECOND = Figure("requests/s", lambda sample: sample.requests_per_second)


# Row 7 asks for routes that there are and keys that are known. That each is called as often as any other is our own addition:
# no cache of a processor holds what belongs to it then (docs/decisions/0042-cold-routes.md).
OWN_ROW = "7, all called"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio subject : peer. `asked` and `row`, its line in the table, where something is asked of it."""

    figure: Figure
    peer: str
    asked: Bar | None = None
    row: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`subject` and the peers of the comparisons stand before the same target; answers are `answer_bytes` long."""

    name: str
    title: str
    subject: str
    target: str
    answer_bytes: int
    with_stores: bool
    comparisons: tuple[Comparison, ...]
    # A peer that is Ostiary too writes into the same database: its rows can't be told from the subject's.
    subject_alone_is_metered: bool = True

    @property
    def short(self) -> str:
        return self.title.partition(":")[0]

    def peers(self) -> list[str]:
        """Each peer once, in the order of the comparisons."""
        return list(dict.fromkeys(comparison.peer for comparison in self.comparisons))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "whole-job",
            "the whole job: signature, nonce, rate + hour + day, usage, metrics, identity headers",
            subject="ostiary",
            target="/v1/clients?limit=10",
            answer_bytes=SMALL_ANSWER_BYTES,
            with_stores=True,
            comparisons=(
                Comparison(GATEWAY_CPU, "nginx-lua", Bar(1.0, aim=0.8), "1"),
                Comparison(GATEWAY_AND_REDIS_CPU, "nginx-lua", Bar(0.9, aim=0.65), "1b"),
                Comparison(GATEWAY_CPU, "nginx-lua-nonce"),
                Comparison(GATEWAY_AND_REDIS_CPU, "nginx-lua-nonce"),
                Comparison(REQUESTS_PER_SECOND, "nginx-lua"),
                Comparison(REQUESTS_PER_SECOND, "hand-rolled", Bar(5.0, aim=7.0, less_is_better=False), "2"),
            ),
        ),
        Scenario(
            "leased",
            "the whole job with leased limits: signature over the body, rate + hour + day, usage, metrics, identity headers",
            subject="ostiary-leased",
            target="/v1/clients?limit=10",
            answer_bytes=SMALL_ANSWER_BYTES,
            with_stores=True,
            comparisons=(
                Comparison(GATEWAY_CPU, "nginx-lua", Bar(0.7, aim=0.55), "5"),
                Comparison(GATEWAY_AND_REDIS_CPU, "nginx-lua"),
                Comparison(REQUESTS_PER_SECOND, "nginx-lua"),
            ),
        ),
        Scenario(
            "plain",
            "plain proxying: anonymous route, no limits, metrics on",
            subject="ostiary-plain",
            target="/v1/clients?limit=10",
            answer_bytes=SMALL_ANSWER_BYTES,
            with_stores=False,
            comparisons=(
                Comparison(GATEWAY_CPU, "nginx", Bar(2.0, aim=1.4), "3"),
                Comparison(GATEWAY_CPU, "envoy", Bar(1.0, aim=0.6), "3"),
                Comparison(GATEWAY_CPU, "haproxy"),
                Comparison(REQUESTS_PER_SECOND, "nginx"),
            ),
        ),
        Scenario(
            "body",
            "an answer of 1 MiB: anonymous route, no limits, metrics on",
            subject="ostiary-plain",
            target="/blobs/1m",
            answer_bytes=BLOB_BYTES,
            with_stores=False,
            comparisons=(
                Comparison(GATEWAY_CPU, "nginx", Bar(1.2, aim=0.9), "4"),
                Comparison(GATEWAY_CPU, "nginx-large-buffers"),
                Comparison(GATEWAY_CPU, "envoy"),
                Comparison(GATEWAY_CPU, "haproxy"),
            ),
        ),
        Scenario(
            "routes",
            "10 000 routes, ten of them asked for: plain proxying, against 10 routes",
            subject="ostiary-10-of-10000-routes",
            target="/v1/clients?limit=10",
            answer_bytes=SMALL_ANSWER_BYTES,
            with_stores=False,
            comparisons=(Comparison(GATEWAY_CPU, "ostiary-10-routes", Bar(1.1, aim=1.03), "7"),),
        ),
        Scenario(
            "routes-cold",
            "10 000 routes, all asked for: plain proxying, each route equally often, against 10 routes",
            subject="ostiary-10000-routes",
            target="/v1/clients?limit=10",
            answer_bytes=SMALL_ANSWER_BYTES,
            with_stores=False,
            comparisons=(Comparison(GATEWAY_CPU, "ostiary-10-routes", Bar(1.1, aim=1.03), OWN_ROW),),
        ),
    )
}
