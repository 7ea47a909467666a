"""Who used which generation of a key last: kept by the way of usage, once per segment, whoever ships what in which order."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

from ostiary.gateway.usage import caller_part
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import APP, ORGANIZATION, Observed, Rows, call, open_spool

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


def caller(generation: int, key_id: str = "ak_test_1") -> bytes:
    return caller_part(key_id, APP, ORGANIZATION, "test", generation)


def spool(directory: Path, *calls: bytes) -> None:
    spool = open_spool(directory)
    for each in calls:
        assert spool.append(each)
    spool.close()


async def uses(rows: Rows) -> list[tuple[str, int, float, str, str]]:
    found = await rows.fetch("SELECT * FROM key_uses ORDER BY key_id, generation")
    return [
        (row["key_id"], row["generation"], row["last_used_at"].timestamp(), str(row["last_used_ip"]),
         row["last_used_user_agent"])
        for row in found
    ]  # fmt: skip


async def test_each_generation_has_its_last_use_whatever_order_segments_arrive_in(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """An operator would end a secret that is in use, or keep one that nobody has used for a week."""
    for moment, ip in ((NOON + 60, "192.0.2.9"), (NOON, "192.0.2.7")):  # the later one first
        spool(
            spool_directory,
            call("a", caller=caller(1), occurred_at=moment - 1, user_agent=b"old/1"),
            call("b", caller=caller(1), occurred_at=moment, ip=ip, user_agent=b"late/1"),
            call("c", caller=caller(2), occurred_at=moment - 2, ip=ip, user_agent=b"new/2"),
            call("d", caller=caller_part(None, None, None, None, None), occurred_at=moment),
        )
        await shipper.ship()
    assert await uses(rows) == [
        ("ak_test_1", 1, NOON + 60, "192.0.2.9", "late/1"),
        ("ak_test_1", 2, NOON + 58, "192.0.2.9", "new/2"),
    ]


async def test_a_clock_that_is_ahead_does_not_hide_the_uses_after_it(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Row 59: a gateway an hour ahead would show a use in the future, and no other for an hour."""
    before = time.time()
    spool(spool_directory, call("a", caller=caller(1), occurred_at=before + 3600, ip="192.0.2.7"))
    await shipper.ship()
    ((_, _, moment, _, _),) = await uses(rows)
    assert before - 1 <= moment <= time.time() + 1


async def test_two_shippers_at_once_lose_no_use(tmp_path: Path, database: str, rows: Rows) -> None:
    """Of two nodes that ship at the same moment, the one that read first would write back what was before the other. In
    another order of rows they would wait for each other for ever."""
    directories = [tmp_path / "one", tmp_path / "two"]
    keys = [f"ak_test_{number}" for number in range(50)]
    for parity, directory in enumerate(directories):
        directory.mkdir()
        for turn in range(5):
            ordered = keys if parity else keys[::-1]
            moment = NOON + 2 * turn + parity
            spool(
                directory,
                *(call(f"{parity}.{turn}.{key}", caller=caller(1, key), occurred_at=moment) for key in ordered),
            )
    shippers = [Shipper(directory=each, sink=PostgresSink(database), observe=Observed()) for each in directories]
    assert await asyncio.gather(*(shipper.ship() for shipper in shippers)) == [250, 250]
    for shipper in shippers:
        await shipper.close()
    assert [(key_id, moment) for key_id, _, moment, _, _ in await uses(rows)] == [
        (key, NOON + 9) for key in sorted(keys)
    ]


async def test_calls_without_number_cost_a_row_for_each_generation_and_no_more(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """A write for each call would double what Postgres has to do."""
    spool(spool_directory, *(call(f"{n}", caller=caller(n % 2 + 1), occurred_at=NOON + n) for n in range(200)))
    await shipper.ship()
    # Where the rows lie: a row that was written again lies behind the first two.
    assert [row[0] for row in await rows.fetch("SELECT ctid::text FROM key_uses ORDER BY 1")] == ["(0,1)", "(0,2)"]
