"""What the gateway says of itself after a scenario: was every call metered, was every call decided by Redis? A figure of
work that was left undone is no figure."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.gateway import status
from benchmarks.load import CONNECTIONS, LoadFailed

# Workers report once a second.
STATUS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class JobCheck:
    """`answered` calls as the load generator counted them, `rows` of usage in Postgres, and of all calls those that were
    decided without Redis. The load generator stops in the middle of its last requests, so there may be up to
    `surplus_max` rows more than calls."""

    answered: int
    rows: int
    surplus_max: int
    decided_without_redis: int

    @property
    def reconciles(self) -> bool:
        return self.answered <= self.rows <= self.answered + self.surplus_max


def check_job(
    *,
    answered: int,
    rows: int,
    runs: int,
    probes: int,
    admin_port: int,
    patience_seconds: float = STATUS_SECONDS,
) -> JobCheck:
    """`answered` and `rows` over all `runs` of the load and all `probes`. Raises LoadFailed when the gateway does not
    report within `patience_seconds`."""
    alone = _decided_without_redis(admin_port, rows, patience_seconds)
    return JobCheck(answered, rows, CONNECTIONS * runs + probes, alone)


def _decided_without_redis(admin_port: int, rows: int, patience_seconds: float) -> int:
    """As the worker reports it, once its report is as new as the last row."""
    deadline = time.monotonic() + patience_seconds
    while True:
        (worker,) = status(admin_port)["workers"]
        reported = worker["reported"] or {}
        if reported and reported["spool"]["accepted"] >= rows:
            return int(reported["limiter"]["decided_without_store"])
        if time.monotonic() > deadline:
            raise LoadFailed(f"the gateway's /status does not speak of the {rows} calls that it has metered")
        time.sleep(0.1)
