"""One busy key against very many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.contestant import Contestant, RunningSide
from benchmarks.many_keys import TARGET, Keys, KeyStore
from benchmarks.measure import REQUESTS_PER_SECOND_MAX
from benchmarks.requests import bearer_request, write_in_turn
from benchmarks.rig import Rig
from benchmarks.sweeps.loads import Writing, by_wrk
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

COUNTS = (1, 1000, 100_000)


def _sides(_: Rig) -> Sequence[Contestant]:
    store = KeyStore(Keys(in_database=max(COUNTS), many=max(COUNTS)))
    return [
        _leaving_secrets(store, store.contestant(f"ostiary-{count}-keys", "Ostiary", known=count, called=count))
        for count in COUNTS
    ]


def _leaving_secrets(store: KeyStore, contestant: Contestant) -> Contestant:
    """Its start leaves the secrets where the loads find them."""
    start: Callable[[Rig], RunningSide] = contestant.start

    def start_and_leave(rig: Rig) -> RunningSide:
        side = start(rig)
        (rig.directory / "secrets").write_text("\n".join(store.secrets))
        return side

    return replace(contestant, start=start_and_leave)


def _writing(count: int) -> Writing:
    return lambda path, seconds: write_in_turn(
        path,
        [bearer_request(TARGET, secret) for secret in (path.parent / "secrets").read_text().split()[:count]],
        int(seconds * REQUESTS_PER_SECOND_MAX),
    )


KEYS = Sweep(
    "keys",
    "1 to 100 000 keys",
    "Bearer keys from Postgres, limits by rate, hour and day, usage: all calls with one key, or with as many in turn, each "
    "of which the worker knows already.",
    "keys that are called",
    AxisKind.NUMBERS,
    _sides,
    tuple(
        Case("Ostiary", f"{count:,}", f"ostiary-{count}-keys", by_wrk(_writing(count)), number=count)
        for count in COUNTS
    ),
    with_stores=True,
)
