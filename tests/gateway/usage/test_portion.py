"""A segment is cut so that nothing is in two portions, however often and however it is cut; and the ledger takes each byte of
it once, whoever brings it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.gateway.usage.ledger import UsageLedger
from ostiary.gateway.usage.portion import Portion, cut, whole
from ostiary.gateway.usage.reconcile import reconcile
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import HEADER_BYTES, Segment, SegmentHeader, read_segment
from tests.gateway.usage.calls import Rows, call, open_spool, segment_files

SPOOL = uuid4()


def _segment(lengths: list[int], lost: int = 0) -> tuple[Segment, RunState]:
    header = SegmentHeader(uuid4(), uuid4(), "0", 1, 0, 0)
    records, offsets, at = [], [], HEADER_BYTES
    for length in lengths:
        records.append(bytes(length))
        offsets.append(at)
        at = (at + 8 + length + 7) & -8
    run = RunState(header.run_id, "0", 1, len(records) + lost, 0, closed=True)
    return Segment(header, records, offsets, lost, b""), run


@given(st.lists(st.integers(1, 16_000), max_size=60), st.integers(0, 3), st.integers(12, 18), st.integers(12, 18))
def test_every_record_is_in_one_portion_and_two_ways_to_cut_never_overlap_by_half(
    lengths: list[int], lost: int, one: int, other: int
) -> None:
    """Without it: a bound that is changed between two tries at one segment counts its calls twice."""
    segment, run = _segment(lengths, lost)
    cuts = [list(cut(SPOOL, segment, run, 1 << bits)) for bits in (one, other)]
    for portions in cuts:
        assert [record for portion in portions for record in portion.records] == segment.records
        assert sum(portion.lost for portion in portions) == lost
        for portion in portions:
            assert all((portion.first or 0) <= at < (portion.until or 1 << 40) for at in portion.offsets)
        assert all(portion.until is not None for portion in portions[:-1])
        assert not portions or portions[-1].until is None
    for this in cuts[0]:
        for that in cuts[1]:
            first, until = max(this.first or 0, that.first or 0), min(this.until or 1 << 40, that.until or 1 << 40)
            nested = (first, until) in [
                (this.first or 0, this.until or 1 << 40),
                (that.first or 0, that.until or 1 << 40),
            ]
            assert until <= first or nested


@pytest.fixture
async def ledger(database: str) -> AsyncIterator[UsageLedger]:
    ledger = await UsageLedger.connect(database)
    yield ledger
    await ledger.close()


def _spooled(directory: Path, names: list[str]) -> tuple[UUID, Segment, RunState]:
    """One segment of a run that is over, read as a shipper does."""
    spool = open_spool(directory, segment_bytes=1 << 20)
    for name in names:
        assert spool.append(call(name))
    spool.close()
    (path,) = segment_files(directory, "sealed")
    segment = read_segment(path, None)
    assert segment is not None
    header = segment.header
    return SPOOL, segment, RunState(header.run_id, "0", header.created_us, len(names), 0, closed=True)


async def _delivered(rows: Rows) -> Counter[str]:
    found = await rows.fetch("SELECT request_id, count(*) AS calls FROM usage_events GROUP BY request_id")
    return Counter({row["request_id"]: row["calls"] for row in found})


async def _books(rows: Rows) -> tuple[int, int, int]:
    found = await rows.fetchrow(
        "SELECT (SELECT sum(records) FROM usage_segments), (SELECT sum(written) FROM usage_runs), "
        "(SELECT sum(calls) FROM usage_rollups_day)"
    )
    assert found is not None
    return int(found[0]), int(found[1]), int(found[2])


NAMES = [f"req-{number}" for number in range(1000)]


async def test_portions_in_any_order_and_twice_are_written_once(
    spool_directory: Path, ledger: UsageLedger, rows: Rows
) -> None:
    """Row 90: redelivery, of some in the same transaction. Without it: a customer pays twice for what a stream repeats."""
    portions = list(cut(*_spooled(spool_directory, NAMES), 1 << 15))
    assert len(portions) > 4
    chance = random.Random(90)
    deliveries = portions * 3
    chance.shuffle(deliveries)
    rows_written = repeated = 0
    while deliveries:
        batch, deliveries = deliveries[:5], deliveries[5:]
        for written in await ledger.write(batch):
            rows_written += written.rows
            repeated += written.repeated
    assert (rows_written, repeated) == (1000, 2 * len(portions))
    assert await _delivered(rows) == Counter(NAMES)
    assert await _books(rows) == (1000, 1000, 1000)


@pytest.mark.parametrize("order", ["portions first", "whole first"])
async def test_a_segment_that_came_in_portions_and_whole_is_written_once(
    spool_directory: Path, ledger: UsageLedger, rows: Rows, order: str
) -> None:
    """Row 90: `usage.sink` is changed while a segment is half published. Without it: its first half is billed twice, or its
    second half not at all."""
    spooled = _spooled(spool_directory, NAMES)
    some: list[list[Portion]] = [[portion] for portion in list(cut(*spooled, 1 << 15))[1:7:2]]
    deliveries = [*some, [whole(*spooled)], *some]
    if order == "whole first":
        deliveries.reverse()
        deliveries.insert(0, [whole(*spooled)])
    for batch in deliveries:
        await ledger.write(batch)
    assert await _delivered(rows) == Counter(NAMES)
    assert await _books(rows) == (1000, 1000, 1000)


async def test_a_segment_cut_in_two_ways_is_written_once(
    spool_directory: Path, ledger: UsageLedger, rows: Rows
) -> None:
    """Row 90: `message_max` is changed while a segment is half published, and what is lost of it is told by each way's last
    portion. Without it: what lies in both is counted twice."""
    spool_id, segment, run = _spooled(spool_directory, NAMES)
    segment = Segment(segment.header, segment.records, segment.offsets, 3, segment.file)
    fine, coarse = (list(cut(spool_id, segment, run, 1 << bits)) for bits in (14, 16))
    batches = [[portion] for portion in [*fine[::3], *coarse, *fine]]
    random.Random(14).shuffle(batches)
    for batch in batches:
        await ledger.write(batch)
    assert await _delivered(rows) == Counter(NAMES)
    assert await _books(rows) == (1000, 1000, 1000)
    assert await rows.fetchval("SELECT lost FROM usage_segments") == 3
    assert await rows.fetchval("SELECT lost FROM usage_runs") == 3


async def test_writers_of_one_segment_at_once_write_it_once(spool_directory: Path, database: str, rows: Rows) -> None:
    """Row 93: several consumers get portions of the same segments, some of them twice. Without the lock on the segment, two
    that look at the same moment both find it untaken."""
    portions = list(cut(*_spooled(spool_directory, NAMES), 1 << 14))
    chance = random.Random(93)
    ledgers = [await UsageLedger.connect(database) for _ in range(4)]

    async def write(ledger: UsageLedger) -> None:
        mine = chance.sample(portions, len(portions))
        for at in range(0, len(mine), 4):
            await ledger.write(mine[at : at + 4])

    await asyncio.gather(*(write(ledger) for ledger in ledgers))
    for ledger in ledgers:
        await ledger.close()
    assert await _delivered(rows) == Counter(NAMES)
    assert await _books(rows) == (1000, 1000, 1000)


async def test_books_of_a_segment_that_is_half_written_balance(
    spool_directory: Path, database: str, ledger: UsageLedger
) -> None:
    """Without it: `reconcile` calls what a consumer wrote of a segment that is still in the spool a surplus."""
    _, segment, run = _spooled(spool_directory, NAMES)
    spool_id = UUID((spool_directory / "spool.id").read_text().strip())
    portions = list(cut(spool_id, segment, run, 1 << 15))
    await ledger.write(portions[:4])
    result = await reconcile(spool_directory, database)
    assert result.holds, result
    (balance,) = result.runs
    written = sum(len(portion.records) for portion in portions[:4])
    assert (balance.written, balance.spooled) == (written, 1000 - written)
