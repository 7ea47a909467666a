"""The books: they balance when nothing was lost, and they show it when something was."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.reconcile import RunPlace, count_by_request_id, reconcile
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import SMALL_SEGMENT_BYTES, Observed, Rows, call, open_spool, segment_files, spool_calls


def _names(count: int, prefix: str = "req") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


async def test_the_books_balance_at_every_stage(spool_directory: Path, shipper: Shipper, database: str) -> None:
    """Row 94: accepted = written + spooled + dropped, with a worker at work, one that has ended, one that was over the bound,
    before and after shipping."""
    spool_calls(spool_directory, _names(500), worker="ended")
    tight = open_spool(spool_directory, worker="tight", bytes_max=3 * SMALL_SEGMENT_BYTES)
    for name in _names(1000, "tight"):
        tight.append(call(name))
    live = open_spool(spool_directory, worker="live")
    for name in _names(100, "live"):
        live.append(call(name))
    assert tight.dropped > 0

    before = await reconcile(spool_directory, database)
    assert before.holds, before
    figures = {run.worker: (run.place, run.accepted, run.written, run.spooled, run.dropped) for run in before.runs}
    assert figures == {
        "ended": (RunPlace.ENDING, 500, 0, 500, 0),
        "tight": (RunPlace.LIVE, 1000, 0, 1000 - tight.dropped, tight.dropped),
        "live": (RunPlace.LIVE, 100, 0, 100, 0),
    }

    await shipper.ship()
    middle = await reconcile(spool_directory, database)
    assert middle.holds, middle
    places = {run.worker: run.place for run in middle.runs}
    assert places == {"ended": RunPlace.ENDED, "tight": RunPlace.LIVE, "live": RunPlace.LIVE}

    tight.close()
    live.close()
    await shipper.ship()
    after = await reconcile(spool_directory, database)
    assert after.holds, after
    assert {run.place for run in after.runs} == {RunPlace.ENDED}
    written = 1600 - tight.dropped
    assert sum(run.accepted for run in after.runs) == 1600
    assert after.written_by_runs == after.written_by_segments == after.rolled_up == written
    assert after.as_json()["holds"] is True


async def test_a_lost_segment_is_missed(spool_directory: Path, shipper: Shipper, database: str) -> None:
    """Row 94: a file deleted before it was shipped: every call in it is missing. Without it: the proof proves nothing."""
    spool = open_spool(spool_directory)
    for name in _names(300):
        spool.append(call(name))
    [first] = segment_files(spool_directory, "sealed")
    first.unlink()
    unshipped = await reconcile(spool_directory, database)
    assert not unshipped.holds
    [run] = unshipped.runs
    assert run.missing > 0
    assert run.accepted == 300 == run.spooled + run.missing
    spool.close()
    await shipper.ship()
    shipped = await reconcile(spool_directory, database)
    assert not shipped.holds
    [run] = shipped.runs
    assert (run.place, run.accepted, run.written + run.missing) == (RunPlace.ENDED, 300, 300)


async def test_a_segment_counted_twice_is_a_surplus(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 94: a segment written twice. Without it: a ledger that was tampered with goes unnoticed, and customers pay
    twice."""
    spool_calls(spool_directory, _names(50))
    kept = segment_files(spool_directory, "sealed")[0].read_bytes()
    path = segment_files(spool_directory, "sealed")[0]
    await shipper.ship()
    await rows.execute("TRUNCATE usage_segments")
    path.write_bytes(kept)
    await shipper.ship()
    result = await reconcile(spool_directory, database)
    assert not result.holds
    assert sum(run.surplus for run in result.runs) == 50
    assert result.written_by_runs != result.written_by_segments


@pytest.mark.parametrize(
    "tamper",
    [
        "DELETE FROM usage_events WHERE request_id = 'req-7'",
        "UPDATE usage_rollups_day SET calls = calls + 1",
        "DELETE FROM usage_segments",
        "UPDATE usage_runs SET written = written - 1",
    ],
)
async def test_tables_that_disagree_are_noticed(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, tamper: str
) -> None:
    """Row 94: the same rows are counted in four places. Without it: one of them can be wrong for ever."""
    spool_calls(spool_directory, _names(50))
    await shipper.ship()
    assert (await reconcile(spool_directory, database)).holds
    await rows.execute(tamper)
    assert not (await reconcile(spool_directory, database)).holds


async def test_a_day_whose_rows_are_gone_by_retention_is_no_fault(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Without it: the proof fails for ever on the first day that retention takes."""
    for day in (1, 2):
        spool = open_spool(spool_directory)
        spool.append(call(f"day-{day}", occurred_at=datetime(2026, 1, day, tzinfo=UTC).timestamp()))
        spool.close()
    await shipper.ship()
    await rows.execute("DROP TABLE usage_events_20260101")
    assert (await reconcile(spool_directory, database)).holds
    await rows.execute("DELETE FROM usage_events")
    result = await reconcile(spool_directory, database)
    assert [(day.day, day.rows, day.rolled_up) for day in result.days] == [("2026-01-02", 0, 1)]
    assert (await reconcile(spool_directory, database, since=date(2026, 1, 3))).days == ()


async def test_a_run_whose_file_has_vanished_proves_nothing(
    spool_directory: Path, shipper: Shipper, database: str
) -> None:
    """Without it: deleting a run's file hides what it had accepted."""
    spool = open_spool(spool_directory)
    spool.append(call("a"))
    spool.seal()
    await shipper.ship()
    [run] = look(spool_directory).runs.values()
    run.unlink()
    result = await reconcile(spool_directory, database)
    assert not result.holds
    assert [balance.place for balance in result.runs] == [RunPlace.VANISHED]


async def test_another_gateways_runs_are_left_to_it(
    spool_directory: Path, tmp_path: Path, shipper: Shipper, database: str, observed: Observed
) -> None:
    """Without it: with two gateways, neither can ever prove its own books."""
    other_directory = tmp_path / "other"
    live = open_spool(other_directory, worker="other")
    for name in _names(20, "other"):
        live.append(call(name))
    live.seal()
    live.append(call("still spooled there"))
    other = Shipper(directory=other_directory, sink=PostgresSink(database), observe=observed)
    await other.ship()
    await other.close()
    spool_calls(spool_directory, _names(10), worker="ours")
    await shipper.ship()
    result = await reconcile(spool_directory, database)
    assert result.holds
    assert {run.worker: run.place for run in result.runs} == {"other": RunPlace.ELSEWHERE, "ours": RunPlace.ENDED}
    live.close()


async def test_it_holds_while_calls_come_and_segments_go(
    spool_directory: Path, shipper: Shipper, database: str
) -> None:
    """Row 94: on a gateway at work. Without it: a proof that needs the gateway stopped, or cries wolf when it is not."""
    spool = open_spool(spool_directory)
    done = False

    async def work() -> None:
        number = 0
        while not done:
            for _ in range(40):
                spool.append(call(f"req-{number}"))
                number += 1
            spool.seal()
            await asyncio.sleep(0)

    async def ship() -> None:
        while not done:
            await shipper.ship()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work())
        tasks.create_task(ship())
        for _ in range(6):
            result = await reconcile(spool_directory, database)
            assert result.holds, result
        done = True
    spool.close()
    await shipper.ship()
    assert (await reconcile(spool_directory, database)).holds


async def test_calls_are_counted_by_request_id_wherever_they_are(
    spool_directory: Path, shipper: Shipper, database: str
) -> None:
    """Row 94: what an origin's log is held against. A segment that is both in the table and still on the disk counts once; a
    request id that was used twice counts twice."""
    spool_calls(spool_directory, ["a", "b", "b"])
    [path] = segment_files(spool_directory, "sealed")
    copy = spool_directory / "copy"
    shutil.copy(path, copy)
    await shipper.ship()
    copy.rename(path)
    live = open_spool(spool_directory)
    live.append(call("c"))
    assert await count_by_request_id(spool_directory, database) == Counter({"a": 1, "b": 2, "c": 1})
    assert (await reconcile(spool_directory, database)).holds
    live.close()
