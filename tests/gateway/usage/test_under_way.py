"""Calls under way in a worker that is killed: each is a row, once, and the books know of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ostiary.gateway.usage import Spool
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.reconcile import reconcile
from ostiary.gateway.usage.rescue import rescue
from ostiary.gateway.usage.run import is_alive, read_run, write_rescued
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.under_way import NO_SLOT, SLOT_BYTES, SLOTS
from tests.gateway.usage.calls import Observed, Rows, begin, call, open_spool, segment_files

Life: TypeAlias = Callable[[Path], None]


def _three_of_five(directory: Path) -> None:
    """Five calls begin and two end; then it is killed."""
    spool = open_spool(directory)
    slots = {name: begin(spool, name) for name in ("a", "b", "c", "d", "e")}
    for name in ("b", "d"):
        assert spool.append_ended(call(name), slots[name])


def _many(directory: Path) -> None:
    """More calls at once than there are slots, and one that is too long for one."""
    spool = open_spool(directory)
    assert begin(spool, "r" * SLOT_BYTES) == NO_SLOT
    slots = [begin(spool, f"call-{number}") for number in range(SLOTS + 10)]
    assert slots.count(NO_SLOT) == 10


def _killed(life: Life, directory: Path) -> Path:
    """The file of the run."""
    child = os.fork()
    if child == 0:
        try:
            life(directory)
            os._exit(0)  # as kill -9 would end it, with all that it holds
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    [run] = look(directory).runs.values()
    assert not is_alive(run)
    return run


async def _statuses(rows: Rows) -> dict[str, int]:
    found = await rows.fetch("SELECT request_id, status FROM usage_events")
    assert len(found) == len({row["request_id"] for row in found})
    return {row["request_id"]: row["status"] for row in found}


async def test_calls_that_a_killed_worker_had_under_way_are_rows_that_say_so(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed
) -> None:
    """Row 87: every request that got upstream bytes has an event. Without it: the upstream has done the work of each call
    that a kill cuts, and nobody can be billed for it or told of it."""
    _killed(_three_of_five, spool_directory)
    assert await shipper.ship() == 5
    assert await _statuses(rows) == {"a": 499, "b": 200, "c": 499, "d": 200, "e": 499}
    assert await rows.fetchval("SELECT array_agg(request_id ORDER BY 1) FROM usage_events WHERE NOT complete") == [
        *("a", "c", "e")
    ]
    assert observed.quarantines == 0
    assert (look(spool_directory).segments, look(spool_directory).runs) == ([], {})
    books = await reconcile(spool_directory, database)
    assert books.holds, books
    assert [(run.accepted, run.written, run.lost) for run in books.runs] == [(5, 5, 0)]


async def test_a_rescue_that_is_cut_short_is_done_again_and_counts_once(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 90: the shipper is killed between the segment and the note that it was made. Without it: every call that was under
    way is billed twice."""
    run = _killed(_three_of_five, spool_directory)
    contents = look(spool_directory)
    [run_id] = contents.runs
    rescue(spool_directory, contents, run_id)
    [made] = segment_files(spool_directory, "sealed")
    kept = made.read_bytes()
    assert (read_run(run).accepted, read_run(run).stored, read_run(run).rescued) == (5, 2, 3)
    rescue(spool_directory, contents, run_id)  # noted: nothing more is done
    assert segment_files(spool_directory, "sealed") == [made]
    with run.open("r+b") as file:  # not noted
        file.seek(2048 + 24)
        file.write(bytes(8))
    rescue(spool_directory, look(spool_directory), run_id)
    assert len(segment_files(spool_directory, "sealed")) == 2
    assert await shipper.ship() == 5
    made.write_bytes(kept)  # as if it had not been deleted
    assert await shipper.ship() == 0
    assert len(await _statuses(rows)) == 5
    assert (await reconcile(spool_directory, database)).holds


async def test_calls_beyond_the_slots_are_none_that_break(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """A worker with very many calls at once would fail them; or a call of another would be overwritten."""
    _killed(_many, spool_directory)
    assert await shipper.ship() == SLOTS
    assert len(await _statuses(rows)) == SLOTS
    assert (await reconcile(spool_directory, database)).holds


def test_slots_are_used_again(spool_directory: Path) -> None:
    """After some thousand calls none would be kept any more."""
    spool = open_spool(spool_directory)
    for number in range(2 * SLOTS):
        assert spool.append_ended(call(f"{number}"), begin(spool, f"{number}"))
    spool.close()


def test_what_ends_after_the_spool_was_closed_is_refused_and_breaks_nothing(spool_directory: Path) -> None:
    """A worker that drains would end with an exception."""
    spool: Spool = open_spool(spool_directory)
    slot = begin(spool, "late")
    spool.close()
    assert not spool.append_ended(call("late"), slot)
    assert begin(spool, "later") == NO_SLOT


async def test_after_a_loss_of_power_nothing_is_rescued(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """The disk may have the record of a call and not that its slot was freed: the call would be there twice."""
    run = _killed(_three_of_five, spool_directory)
    with run.open("r+b") as file:
        file.seek(1024)
        file.write(b"another life of this machine, as it were"[:36])
    assert await shipper.ship() == 2
    assert await _statuses(rows) == {"b": 200, "d": 200}
    assert (await reconcile(spool_directory, database)).holds


async def test_a_run_of_a_gateway_of_before_has_no_calls_under_way(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """An upgrade would set aside what the gateway of before has left."""
    run = _killed(_three_of_five, spool_directory)
    os.truncate(run, 4096)
    assert await shipper.ship() == 2
    assert (await reconcile(spool_directory, database)).holds


def test_a_note_stands_beside_the_counts(spool_directory: Path) -> None:
    """The counts of the worker would be changed by whoever reads them."""
    run = _killed(_three_of_five, spool_directory)
    before = run.read_bytes()
    write_rescued(run, 3)
    after = run.read_bytes()
    assert struct.unpack_from("@Q", after, 2048 + 24) == (4,)
    assert after[: 2048 + 24] == before[: 2048 + 24]
    assert after[2048 + 32 :] == before[2048 + 32 :]
