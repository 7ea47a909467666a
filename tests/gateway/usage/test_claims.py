"""Claims on the spool: what is let in is stored, whatever becomes of bound and disk meanwhile; what can't be, is not."""

from __future__ import annotations

import logging
import os
import random
import resource
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ostiary.core.usage import SpoolSettings, WhenFull
from ostiary.gateway.usage import Spool, caller_part, route_part, told_part
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.reconcile import reconcile
from ostiary.gateway.usage.segment import RECORD_BYTES_MAX
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.spool import CLAIM_BYTES
from tests.gateway.usage.calls import (
    APP,
    ORGANIZATION,
    SMALL_SEGMENT_BYTES,
    Observed,
    Rows,
    call,
    open_spool,
    segment_files,
)

BLOCK = SpoolSettings(when_full=WhenFull.BLOCK)
LONGEST = b"x" * RECORD_BYTES_MAX
QUOTA: dict[str, str | int] = {
    "subject": "k:" + "k" * 64,
    "quota": "p" * 64 + "/month-quota-by-header",
    "period_ends_us": 10**16,
    "percent": 100,
    "calls_max": 10**15,
}


def _blocking(directory: Path, *, segments: int, worker: str = "0") -> Spool:
    return open_spool(directory, worker=worker, bytes_max=segments * SMALL_SEGMENT_BYTES, settings=BLOCK)


def _end(spool: Spool, record: bytes) -> None:
    """A call that was let in ends: its record must find its room."""
    spool.release()
    assert spool.append(record)


@pytest.mark.parametrize("seed", range(2))
def test_what_was_let_in_is_stored_whatever_its_record_takes(
    spool_directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Row 88: policy `block`. Calls of two workers begin and end in any order, with short records and the longest, while
    their spool is sealed, filled and emptied. Without it: a call is served, and nobody is billed for it."""
    monkeypatch.setattr("ostiary.gateway.usage.spool._RETRY_SECONDS", 0.0)
    chance = random.Random(seed)
    spools = [_blocking(spool_directory, segments=4, worker=str(number)) for number in range(2)]
    under_way = [0, 0]
    stored = blocked = 0
    for step in range(600):
        which = chance.randrange(2)
        spool = spools[which]
        if chance.random() < 0.55:
            if spool.claim():
                under_way[which] += 1
            else:
                blocked += 1
        elif under_way[which]:
            under_way[which] -= 1
            _end(spool, LONGEST if chance.random() < 0.3 else call())
            stored += 1
        if chance.random() < 0.05:
            spool.seal()
        if step % 150 == 149:
            for path in segment_files(spool_directory, "sealed"):
                path.unlink()  # as the shipper would
    for spool, left in zip(spools, under_way, strict=True):
        for _ in range(left):
            _end(spool, LONGEST)
            stored += 1
        spool.close()
    assert blocked > 0
    assert sum(spool.blocked for spool in spools) == blocked
    assert sum(spool.accepted for spool in spools) == stored
    assert [spool.dropped for spool in spools] == [0, 0]


def test_calls_are_let_in_again_as_soon_as_there_is_room(
    spool_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A spool that was full once would refuse for ever; or tell of it four times a second, and of its end never."""
    monkeypatch.setattr("ostiary.gateway.usage.spool._RETRY_SECONDS", 0.0)
    spool = _blocking(spool_directory, segments=2)
    with caplog.at_level(logging.WARNING, "ostiary.gateway.usage"):
        calls = 0
        while spool.claim():
            _end(spool, call())
            calls += 1
            if calls % 200 == 0:
                spool.seal()
        assert calls > 250
        assert [spool.claim() for _ in range(10)] == [False] * 10
        assert spool.full
        assert [record.message for record in caplog.records] == ["usage_spool_full"]
        for path in segment_files(spool_directory, "sealed"):
            path.unlink()  # as the shipper would
        spool.seal()
        assert not spool.full
    told = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    assert [message for message, _ in told] == ["usage_spool_full", "usage_spool_has_room"]
    assert (told[1][1]["blocked"], told[1][1]["dropped"]) == (11, 0)
    assert spool.claim()
    spool.release()
    status = spool.status()
    assert (status["blocked"], status["claims"], status["full"], status["dropped"]) == (11, 0, False, 0)
    spool.close()


def test_a_call_that_ends_makes_room_for_another(spool_directory: Path) -> None:
    """A worker would stay shut although its calls have ended and hardly used what was kept for them."""
    spool = _blocking(spool_directory, segments=1)
    under_way = 0
    while spool.claim():
        under_way += 1
    assert under_way >= 2
    assert not spool.claim()
    _end(spool, call())
    assert spool.claim()
    spool.close()


def test_a_bound_that_is_all_in_use_does_not_lock_itself_up(spool_directory: Path) -> None:
    """All that the bound allows is in the segments that workers write: no shipper may take one, none may be made, and no call
    would ever be let in again."""
    spools = [_blocking(spool_directory, segments=2, worker=str(number)) for number in range(2)]
    for spool in spools:
        while spool.claim():
            _end(spool, call())
    assert spools[0].claim() is False
    for spool in spools:
        spool.seal()
    assert len(segment_files(spool_directory, "sealed")) == 2
    assert len(look(spool_directory).segments) == 4  # one more for each, and no more however often it is asked
    for spool in spools:
        spool.seal()
    assert len(look(spool_directory).segments) == 4
    assert spools[0].claim()
    for spool in spools:
        spool.close()


def test_a_claim_is_longer_than_any_record(spool_directory: Path) -> None:
    """A record that needs more than its claim takes the room of another call's."""
    spool = _blocking(spool_directory, segments=4)
    before = spool.bytes
    assert spool.append(LONGEST)
    assert spool.bytes - before <= CLAIM_BYTES
    spool.close()
    every_field_too_long = call(
        "r" * 200,
        caller=caller_part("\U0001f600" * 600, APP, ORGANIZATION, "test", 1),
        route=route_part("\U0001f600" * 600, "\U0001f600" * 600),
        method=b"\xff" * 40,
        ip="2001:db8::1",
        user_agent=b"\xff" * 600,
        told=told_part(["x" * 200] * 20, [QUOTA] * 20),
    )
    assert len(LONGEST) * 3 / 4 < len(every_field_too_long) <= len(LONGEST)


def _claim_on_a_disk_that_fills(directory: str, answers: Connection) -> None:
    spool = open_spool(Path(directory), settings=BLOCK)
    under_way = sum(spool.claim() for _ in range(20))  # more than one segment has room for
    # From here on no file may grow: to a spool that is what a full disk is, EFBIG in the place of ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    let_in = under_way
    for number in range(2000):
        if number % 2 and under_way:
            spool.release()
            assert spool.append(call(f"req-{number}"))
            under_way -= 1
        elif spool.claim():
            under_way += 1
            let_in += 1
    for number in range(under_way):
        spool.release()
        assert spool.append(call(f"last-{number}"))
    answers.send((let_in, spool.accepted, spool.dropped, spool.blocked))
    os._exit(0)  # as kill -9 would: spare segments and an open one stay


async def test_a_disk_that_fills_refuses_calls_and_loses_none_that_it_let_in(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed
) -> None:
    """Row 88: no room on the disk, policy `block`. Without it: calls that were under way when the disk filled are served for
    nothing; or what a killed worker kept ready is taken for a segment that has lost its records."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_claim_on_a_disk_that_fills, args=(str(spool_directory), theirs))
    process.start()
    assert ours.poll(30)
    let_in, accepted, dropped, blocked = ours.recv()
    process.join(10)
    assert process.exitcode == 0
    assert let_in == accepted > 20
    assert dropped == 0
    assert blocked > 0
    assert await shipper.ship() == accepted
    assert await rows.fetchval("SELECT count(*) FROM usage_events") == accepted
    assert observed.quarantines == 0
    assert look(spool_directory).segments == []
    assert (await reconcile(spool_directory, database)).holds
