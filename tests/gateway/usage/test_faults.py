"""A disk that is full or fails, under a worker, the shipper and Postgres: `scripts/prove spool-faults` in short."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.demo.stores import EmbeddedPostgres
from tests.endurance.site import fresh_database
from tests.gateway.usage.faults import CALLS, delivered, shipped_under, worker_under
from tests.support.directories import directory_for_all
from tests.support.strace import Injection

pytestmark = pytest.mark.full

NAMES = [f"req-{number}" for number in range(600)]


@pytest.mark.parametrize(
    "injection",
    [
        Injection("fallocate", "ENOSPC", "2+"),
        Injection("openat", "EIO", "3"),
        Injection("madvise", "ENOMEM", "1+"),
        Injection("rename", "EROFS", "1+"),
        Injection("newfstatat", "EIO", "1+"),
        Injection("close", "EIO", "1+"),
    ],
    ids=str,
)
async def test_what_a_failing_disk_takes_from_a_worker_stands_in_its_counter(
    spool_directory: Path, database: str, injection: Injection
) -> None:
    """Row 88: ENOSPC, EIO, a directory that is read-only. Without it: an exception on the request path or in the worker's
    timer, or calls that are neither rows nor counted."""
    outcome = await asyncio.to_thread(worker_under, injection, spool_directory, "life")
    assert outcome.failures == []
    assert outcome.injected > 0
    assert outcome.accepted == CALLS
    assert await delivered(spool_directory, database) == []


@pytest.fixture
def durable_postgres() -> Iterator[EmbeddedPostgres]:
    """One that makes what it writes durable: others make no fsync that could fail."""
    with directory_for_all() as directory, EmbeddedPostgres(directory / "postgres", keep=True) as server:
        yield server


@pytest.mark.parametrize("injection", [Injection("unlink", "EIO", "1"), Injection("read", "EIO", "1+")], ids=str)
def test_a_failing_disk_under_the_shipper_costs_no_call_and_doubles_none(
    spool_directory: Path, database: str, injection: Injection
) -> None:
    """Row 88: what was committed and can't be removed is not written again; what can't be read is set aside, not lost."""
    assert shipped_under(injection, spool_directory, database, NAMES).failures == []


def test_an_fsync_that_failed_under_postgres_is_no_success(
    spool_directory: Path, durable_postgres: EmbeddedPostgres
) -> None:
    """Row 88: fsync fails once. Without it: a segment is deleted on the strength of a commit that the disk never had."""
    injection = Injection("fdatasync", "EIO", "1")
    url = fresh_database(durable_postgres)
    outcome = shipped_under(injection, spool_directory, url, NAMES, postgres=durable_postgres)
    assert outcome.injected > 0  # the first of each process
    assert outcome.failures == []
