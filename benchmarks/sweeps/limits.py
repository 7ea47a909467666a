"""What each algorithm of limits takes, as a whole request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contestant import Contestant, Credential
from benchmarks.gateway import start_ostiary
from benchmarks.requests import plain_request
from benchmarks.rig import Rig
from benchmarks.sweeps.loads import Writing, by_wrk, in_turn, repeated
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

ALGORITHMS = ("none", "bucket", "slots", "log", "quota", "in-flight", "leased")
# So many that a log of 120 calls a second is never full: no side makes 120 000 requests a second.
CALLERS = 1000


def _sides(_: Rig) -> Sequence[Contestant]:
    return (Contestant("ostiary-limits", "Ostiary", Credential.UNCHANGING, (), start_ostiary("ostiary-limits.yaml")),)


def _request(algorithm: str, caller: int) -> bytes:
    return plain_request(f"/v1/{algorithm}/1", f"X-Tenant: tenant-{caller:04}\r\n")


def _cases() -> Iterator[Case]:
    for algorithm in ALGORITHMS:
        many = [_request(algorithm, caller) for caller in range(CALLERS)]
        loads: dict[str, Writing] = {"one caller": repeated(many[0]), f"{CALLERS:,} callers in turn": in_turn(many)}
        for curve, writing in loads.items():
            # A log of one caller is full after 120 calls.
            if algorithm != "log" or curve != "one caller":
                yield Case(curve, algorithm, "ostiary-limits", by_wrk(writing))


LIMITS = Sweep(
    "limits",
    "algorithms of limits",
    "A route that is open to everyone with one limit, counted by a header, that is never reached: a token bucket, a sliding "
    "window in slots and as a log (some calls of each caller in it), a daily quota, calls in flight, and a bucket that is "
    "leased, to callers that make some 80 calls a second.",
    "algorithm",
    AxisKind.NAMES,
    _sides,
    tuple(_cases()),
    with_stores=True,
)
