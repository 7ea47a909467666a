"""What waits is delivered several segments at once: how many, what one that fails costs the others, and where calls go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from ostiary.gateway.usage import caller_part, told_part
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.ledger import Written
from ostiary.gateway.usage.record import request_id_of
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.sink import Finished, SinkFailed
from tests.gateway.usage.calls import APP, ORGANIZATION, Observed, Rows, call, open_spool, spool_calls

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
TABLES = tuple(f"usage_rollups_{unit}" for unit in ("minute", "hour", "day", "all_minute", "all_hour", "all_day"))


class Remembering:
    """A sink that keeps what it was given, in lists of what came together; it refuses whatever has a call `bad` in it."""

    def __init__(self, *, together_bytes_max: int = 1 << 30, removes: Path | None = None) -> None:
        self.together_bytes_max = together_bytes_max
        self.delivered: list[list[str]] = []
        self.refused: list[list[str]] = []
        self._removes = removes

    async def deliver(self, spool_id: UUID, finished: Sequence[Finished]) -> list[Written]:
        names = [request_id_of(segment.records[0]) for segment, _ in finished]
        if "bad" in names:
            self.refused.append(names)
            raise SinkFailed("other", "Refused")
        self.delivered.append(names)
        if self._removes is not None:
            look(self._removes).segments[0].path(self._removes).unlink()
        return [Written(len(segment.records), segment.lost, repeated=False) for segment, _ in finished]

    async def end_run(self, spool_id: UUID, run: RunState) -> None: ...

    async def close(self) -> None: ...


def spool_segments(directory: Path, *names: str) -> None:
    """A segment for each, in this order."""
    for name in names:
        spool_calls(directory, [name])


async def test_as_many_segments_go_together_as_have_succeeded_before(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Each transaction counts up the same roll-ups: with one for each segment a backlog takes longer than it need."""
    spool_segments(spool_directory, *(f"req-{number}" for number in range(20)))
    assert await shipper.ship() == 20
    transactions = await rows.fetch(
        "SELECT count(*) FROM usage_segments GROUP BY xmin::text::bigint ORDER BY min(shipped_at)"
    )
    assert [row[0] for row in transactions] == [1, 2, 4, 8, 5]


@pytest.mark.parametrize(("segments", "expected"), [(0, [1, 1, 1, 1, 1, 1]), (2, [1, 2, 2, 1]), (9, [1, 2, 3])])
async def test_no_more_go_together_than_the_sink_takes(
    spool_directory: Path, observed: Observed, segments: int, expected: list[int]
) -> None:
    """A backlog of hours would be in memory at once."""
    spool_segments(spool_directory, *(f"req-{number}" for number in range(6)))
    segment = look(spool_directory).segments[0].path(spool_directory)
    used_bytes = 4096 + 8 + len(call("req-0"))
    assert segment.stat().st_size >= used_bytes
    sink = Remembering(together_bytes_max=segments * used_bytes)
    assert await Shipper(directory=spool_directory, sink=sink, observe=observed).ship() == 6
    assert [len(names) for names in sink.delivered] == expected


async def test_a_segment_that_fails_is_tried_alone_and_holds_up_none_before_it(
    spool_directory: Path, observed: Observed
) -> None:
    """One that Postgres chokes on would take the three with it that it was tried with, at each try."""
    names = ["a", "b", "c", "d", "bad", "e"]
    spool_segments(spool_directory, *names)
    sink = Remembering()
    shipper = Shipper(directory=spool_directory, sink=sink, observe=observed)
    for _ in range(2):
        assert not await shipper._try_pass()
    assert sink.delivered == [["a"], ["b", "c"], ["d"]]
    assert sink.refused[0][:2] == ["d", "bad"]
    assert not await shipper._try_pass()
    assert sink.refused[-1] == ["bad"]
    assert observed.rows == 4


async def test_what_was_delivered_is_counted_though_a_file_can_t_be_removed(
    spool_directory: Path, observed: Observed
) -> None:
    """The segments behind it would be repeated, and be in no counter of rows."""
    spool_segments(spool_directory, "a")
    shipper = Shipper(directory=spool_directory, sink=Remembering(), observe=observed)
    await shipper.ship()
    spool_segments(spool_directory, "b", "c")
    shipper._sink = Remembering(removes=spool_directory)
    assert not await shipper._try_pass()
    assert observed.rows == 3


@pytest.mark.parametrize("days", [1, 2])
async def test_calls_are_taken_in_alike_by_a_partition_s_name_and_by_the_table_s(
    spool_directory: Path, shipper: Shipper, rows: Rows, days: int
) -> None:
    """What is written straight into a partition would be in no roll-up, and so on no bill; or it would be there twice. Around
    midnight there are two partitions, and one statement for both."""
    await rows.execute(
        "CREATE TABLE by_table (calls integer);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO by_table VALUES (1); RETURN NULL; END $$;"
        "CREATE TRIGGER note AFTER INSERT ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION note()"
    )
    quota: dict[str, str | int] = {
        "subject": "k:ak", "quota": "standard:day", "period_ends_us": 1_782_950_400_000_000, "percent": 80, "calls_max": 9,
    }  # fmt: skip
    spool = open_spool(spool_directory)
    for number in range(60):
        moment = MIDNIGHT - 30 * (days - 1) + number
        caller = caller_part(f"ak_{number % 3}", APP, ORGANIZATION, "live", 1)
        told = told_part([], [quota] if number == 40 else [])
        spool.append(call(f"req-{number}", caller=caller, occurred_at=moment, ip=f"192.0.2.{number}", told=told))
    spool.close()
    assert await shipper.ship() == 60
    assert await rows.fetchval("SELECT count(*) FROM by_table") == days - 1
    for table in TABLES:
        assert await rows.fetchval(f"SELECT sum(calls)::int FROM {table}") == 60, table  # noqa: S608  names from above
    uses = await rows.fetch("SELECT key_id, last_used_ip::text FROM key_uses ORDER BY 1")
    assert [tuple(row) for row in uses] == [(f"ak_{number}", f"192.0.2.{57 + number}/32") for number in range(3)]
    assert await rows.fetchval("SELECT array_agg(threshold ORDER BY 1) FROM quota_events") == [50, 80]
