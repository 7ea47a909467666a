"""The shipper against what goes wrong between it and Postgres, and on the disk between it and the workers."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.usage import SEGMENT_BYTES, caller_part, route_part
from ostiary.gateway.usage.directory import LOCK_NAME, look
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.reconcile import count_by_request_id, reconcile
from ostiary.gateway.usage.segment import HEADER_BYTES
from ostiary.gateway.usage.shipper import Shipper, run_shipper
from ostiary.gateway.usage.sink import SinkFailed
from tests.gateway.usage.calls import (
    APP,
    ORGANIZATION,
    SCHEMA,
    Observed,
    Rows,
    call,
    open_spool,
    segment_files,
    spool_calls,
    until,
)

pytestmark = pytest.mark.long

SEGMENTS = int(os.environ.get("OSTIARY_SEGMENTS", "300"))  # 10 000 in the full proof


def _names(count: int, prefix: str = "req") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


async def _rows(rows: Rows) -> int:
    return int(await rows.fetchval("SELECT count(*) FROM usage_events") or 0)


@asynccontextmanager
async def _shipping(directory: Path, url: str, observed: Observed) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_shipper(directory=directory, sink=PostgresSink(url), stop=stop, observe=observed))
        yield stop
        stop.set()


# --- delivery ---------------------------------------------------------------------------------------------------------


async def test_a_segment_is_rows_rollup_and_ledger_at_once(
    spool_directory: Path, shipper: Shipper, rows: Rows, observed: Observed
) -> None:
    """Without it: a dashboard that disagrees with the invoice."""
    spool = open_spool(spool_directory)
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    for number in range(100):
        spool.append(
            call(
                f"req-{number}",
                occurred_at=noon,
                status=404 if number < 10 else 200,
                latency_us=1000 if number < 90 else 100_000,
                upstream_us=900 if number % 2 else -1,
                bytes_in=7,
                bytes_out=100,
                overage=number < 5,
                complete=number >= 3,
            )
        )
    spool.close()
    assert await shipper.ship() == 100
    ok, failed = await rows.fetch("SELECT * FROM usage_rollups_day ORDER BY status_class")
    assert (ok["day"].isoformat(), ok["status_class"], ok["calls"], ok["errors"]) == ("2026-03-01", 2, 90, 0)
    assert (failed["status_class"], failed["calls"], failed["errors"]) == (4, 10, 10)
    assert (failed["overage"], failed["incomplete"], ok["overage"], ok["incomplete"]) == (5, 3, 0, 0)
    assert ok["bytes_in"] + failed["bytes_in"] == 700
    assert ok["bytes_out"] + failed["bytes_out"] == 10_000
    assert ok["latency_us_sum"] + failed["latency_us_sum"] == 90 * 1000 + 10 * 100_000
    assert ok["upstream_us_sum"] + failed["upstream_us_sum"] == 50 * 900
    bounds = await rows.fetchval("SELECT usage_latency_bounds_us()")
    counts = [await rows.fetchval("SELECT usage_latency_calls($1)", row["latency_histogram"]) for row in (ok, failed)]
    histogram = [one + other for one, other in zip(*counts, strict=True)]
    assert len(histogram) == len(bounds) + 1
    buckets = {index: calls for index, calls in enumerate(histogram) if calls}
    assert list(buckets.values()) == [90, 10]
    for index, latency_us in zip(buckets, (1000, 100_000), strict=True):
        assert bounds[index - 1] <= latency_us < bounds[index]
    ledger = await rows.fetchrow("SELECT sum(records) AS records, sum(lost) AS lost FROM usage_segments")
    assert ledger is not None
    assert (ledger["records"], ledger["lost"]) == (100, 0)
    assert observed.rows == 100
    assert observed.bytes[-1] == 0


async def test_rollups_add_up_over_many_segments(spool_directory: Path, shipper: Shipper, rows: Rows) -> None:
    """Without it: a day's total that is that of its last segment."""
    for run in range(3):
        spool_calls(spool_directory, _names(600, f"run{run}"))
        await shipper.ship()
    totals = await rows.fetchrow("SELECT sum(calls) AS calls, count(*) AS groups FROM usage_rollups_day")
    assert totals is not None
    assert totals["calls"] == 1800 == await _rows(rows)
    units = ("minute", "hour", "day", "all_minute", "all_hour", "all_day")
    for table in (f"usage_rollups_{unit}" for unit in units):
        found = await rows.fetchrow(
            f"SELECT sum(calls), usage_latency_calls(sum(latency_histogram)) FROM {table}"  # noqa: S608  a name from above
        )
        assert found is not None
        assert found[0] == sum(found[1]) == 1800, table


@pytest.mark.parametrize("days", [1, 2])
async def test_shippers_that_count_up_the_same_rollups_never_deadlock(
    tmp_path: Path, database: str, rows: Rows, days: int
) -> None:
    """Row 93: several gateways meter the same keys at the same time, each in another order. Without it: one of them is undone
    every few seconds, and ships its segment again and again. Around midnight as well, when calls go into two partitions."""
    first = 1_767_225_600.0 - 60 * (days - 1)  # midnight, or a minute before it
    callers = [caller_part(f"ak_test_{key:03}", APP, None, "test", 1) for key in range(60)]
    observed = [Observed() for _ in range(4)]
    shippers = []
    for number, each in enumerate(observed):
        spool = open_spool(tmp_path / f"gateway-{number}")
        chance = random.Random(number)
        for _ in range(4):
            for caller in chance.sample(callers, len(callers)):
                for minute in chance.sample(range(3), 3):
                    spool.append(call(caller=caller, occurred_at=first + 60 * minute))
        spool.close()
        shippers.append(Shipper(directory=tmp_path / f"gateway-{number}", sink=PostgresSink(database), observe=each))
    await asyncio.gather(*(shipper.ship() for shipper in shippers))
    for shipper in shippers:
        await shipper.close()
    assert sum(each.rows for each in observed) == await _rows(rows) == 4 * 4 * 60 * 3
    expected = {"minute": 180, "hour": 60 * days, "day": 60 * days, "all_minute": 3, "all_hour": days, "all_day": days}
    for table, groups in expected.items():
        found = await rows.fetchrow(f"SELECT count(*), sum(calls) FROM usage_rollups_{table}")  # noqa: S608  names from above
        assert found is not None
        assert tuple(found) == (groups, 2880), table


async def test_shipping_goes_on_until_stopped_and_drains(
    spool_directory: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Without it: rows that wait for the next start of the gateway."""
    spool = open_spool(spool_directory)
    async with _shipping(spool_directory, database, observed):
        for number in range(50):
            spool.append(call(f"early-{number}"))
        spool.seal()

        async def early_ones_are_there() -> bool:
            return await _rows(rows) == 50

        await until(early_ones_are_there, "the first segment is written")
        for number in range(50):
            spool.append(call(f"late-{number}"))
        spool.close()
    assert await _rows(rows) == 100
    assert look(spool_directory).segments == []
    assert look(spool_directory).runs == {}


async def test_a_living_worker_keeps_its_open_segment(spool_directory: Path, shipper: Shipper, rows: Rows) -> None:
    """Without it: a segment shipped half, and its second half lost with the file."""
    spool = open_spool(spool_directory)
    spool.append(call("first"))
    assert await shipper.ship() == 0
    spool.append(call("second"))
    spool.close()
    assert await shipper.ship() == 2


# --- Postgres goes wrong ----------------------------------------------------------------------------------------------


async def test_a_backend_ended_in_the_middle_of_a_copy_leaves_nothing_half_done(
    spool_directory: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Row 86: terminate backend mid-COPY. The transaction is undone, the segment stays, the next try writes it once."""
    names = _names(800)
    spool_calls(spool_directory, names)
    await rows.execute("SELECT usage_partition((now() AT TIME ZONE 'UTC')::date)")
    async with rows.transaction():
        await rows.execute("LOCK TABLE usage_events IN EXCLUSIVE MODE")
        async with _shipping(spool_directory, database, observed):
            other = await asyncpg.connect(database)

            async def copying() -> bool:
                return bool(
                    await other.fetchval(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                        "'ostiary-shipper' AND wait_event_type = 'Lock' AND query LIKE 'COPY%'"
                    )
                )

            await until(copying, "the shipper is in the middle of a COPY, and is ended there")

            async def failed() -> bool:
                return "unavailable" in observed.failures

            await until(failed, "the shipper notices")
            await rows.execute("ROLLBACK; BEGIN")

            async def written() -> bool:
                return await _rows(rows) == len(names)

            await until(written, "all rows are written")
            await other.close()
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert (await reconcile(spool_directory, database)).holds


async def _prepared(own_postgres: EmbeddedPostgres) -> str:
    connection = await asyncpg.connect(own_postgres.url())
    await connection.execute(SCHEMA)
    await connection.close()
    return own_postgres.url()


async def test_postgres_that_crashes_and_comes_back_loses_and_doubles_nothing(
    spool_directory: Path, own_postgres: EmbeddedPostgres, observed: Observed
) -> None:
    """Rows 85, 86: `pg_ctl stop -m immediate` under way, back later; the worker goes on appending all the while."""
    url = await _prepared(own_postgres)
    spool = open_spool(spool_directory)
    names = _names(4000)
    async with _shipping(spool_directory, url, observed):
        for number, name in enumerate(names):
            assert spool.append(call(name))
            if number % 200 == 0:
                spool.seal()
                await asyncio.sleep(0)
            if number == 1500:

                async def some_written() -> bool:
                    return observed.rows > 0

                await until(some_written, "the first rows are written")
                await asyncio.to_thread(own_postgres.pg_ctl, "stop", "-m", "immediate")

        async def failed() -> bool:
            return observed.failures.count("unavailable") >= 2

        await until(failed, "the shipper has found Postgres away, twice")
        await asyncio.to_thread(own_postgres.start_again)
        spool.close()

        async def drained() -> bool:
            return not look(spool_directory).segments

        await until(drained, "the spool is empty")
    assert await count_by_request_id(spool_directory, url) == Counter(names)
    assert (await reconcile(spool_directory, url)).holds


async def test_postgres_that_hangs_is_left_after_the_deadline(
    spool_directory: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Row 86: SIGSTOP. Without it: a shipper that waits for a server that will never answer. The hanging statement may still
    end well after it was given up; the ledger keeps the second try from counting twice."""
    names = _names(200)
    spool_calls(spool_directory, names)
    sink = PostgresSink(database, statement_seconds=0.3)
    hasty = Shipper(directory=spool_directory, sink=sink, observe=observed)
    await sink.connected()
    pid = await rows.fetchval("SELECT pid FROM pg_stat_activity WHERE application_name = 'ostiary-shipper'")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(SinkFailed, match="unavailable"):
            await hasty.ship()
        assert len(segment_files(spool_directory, "sealed")) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    await hasty.close()
    patient = Shipper(directory=spool_directory, sink=PostgresSink(database), observe=observed)
    await patient.ship()
    await patient.close()
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert (await reconcile(spool_directory, database)).holds


@pytest.mark.parametrize("lost", [True, False], ids=["backend terminated", "backend hangs"])
async def test_a_copy_that_postgres_stops_reading_is_left(
    spool_directory: Path, database: str, rows: Rows, observed: Observed, lost: bool
) -> None:
    """Row 86: terminate backend mid-COPY, SIGSTOP. Without it: a shipper that waits for ever for a socket that takes no more,
    while the spool fills up behind it."""
    await rows.execute("SELECT usage_ensure_partition(current_date)")
    await rows.execute(
        "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$"
    )
    await rows.execute("CREATE TRIGGER hang BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION hang()")
    names = _names(6000)  # 2 MB: more than a socket holds
    spool = open_spool(spool_directory, segment_bytes=SEGMENT_BYTES)
    for name in names:
        spool.append(call(name))
    spool.close()
    deadline = 30.0 if lost else 1.0
    sink = PostgresSink(database, statement_seconds=deadline)
    hasty = Shipper(directory=spool_directory, sink=sink, observe=observed)
    shipping = asyncio.create_task(hasty.ship())
    asleep = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'ostiary-shipper' AND wait_event = 'PgSleep' "
        "AND datname = current_database()"
    )

    async def copying() -> bool:
        return await rows.fetchval(asleep) is not None or shipping.done()

    await until(copying, "Postgres has stopped reading")
    if lost:
        await rows.execute(f"SELECT pg_terminate_backend(pid) FROM ({asleep}) AS found")  # noqa: S608  from above
    done, _ = await asyncio.wait({shipping}, timeout=25)
    assert done, "the shipper still waits"
    assert isinstance(shipping.exception(), SinkFailed)
    await hasty.close()
    await rows.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ostiary-shipper' AND "
        "datname = current_database()"
    )

    async def gone() -> bool:
        return not await rows.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ostiary-shipper' AND datname = "
            "current_database()"
        )

    await until(gone, "Postgres has let go")
    await rows.execute("DROP TRIGGER hang ON usage_events")
    patient = Shipper(directory=spool_directory, sink=PostgresSink(database), observe=observed)
    await patient.ship()
    await patient.close()
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert (await reconcile(spool_directory, database)).holds


async def test_a_read_only_postgres_is_tried_again_until_it_takes_writes(
    spool_directory: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Row 86: failover to read-only. Without it: the shipper holds on to the server that can't write."""
    name = await rows.fetchval("SELECT current_database()")
    await rows.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    spool_calls(spool_directory, _names(10))
    async with _shipping(spool_directory, database, observed):

        async def refused() -> bool:
            return "read_only" in observed.failures

        await until(refused, "the shipper is refused")
        await rows.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')

        async def written() -> bool:
            return await _rows(rows) == 10

        await until(written, "the rows are written")


async def test_a_schema_that_is_not_there_yet_is_waited_for(
    spool_directory: Path, empty_database: str, observed: Observed
) -> None:
    """Without it: a gateway started before `ostiary db migrate` sets its usage aside as poison."""
    spool_calls(spool_directory, _names(10))
    async with _shipping(spool_directory, empty_database, observed):

        async def failed() -> bool:
            return "schema" in observed.failures

        await until(failed, "the shipper finds no tables")
        connection = await asyncpg.connect(empty_database)
        await connection.execute(SCHEMA)
        await connection.close()

        async def written() -> bool:
            return observed.rows == 10

        await until(written, "the rows are written")
    assert observed.quarantines == 0


async def test_no_password_in_the_log(
    spool_directory: Path, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 132: a password in the database's URL. Without it: it is in the log of every gateway, the first time Postgres is
    away."""
    spool_calls(spool_directory, ["a"])
    for url in (
        "postgresql://user:canary-secret@127.0.0.1:1/x",
        "postgresql://user:canary-secret@[bad:url/x",
        "postgresql://user@h:canary-secret/x",
    ):
        shipper = Shipper(directory=spool_directory, sink=PostgresSink(url), observe=observed)
        assert not await shipper._try_pass()
    assert len(observed.failures) == 3
    assert all("canary-secret" not in str(record.__dict__) for record in caplog.records)


# --- once and once only -----------------------------------------------------------------------------------------------


async def test_a_segment_delivered_twice_is_counted_once(
    spool_directory: Path, tmp_path: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed
) -> None:
    """Row 90: the answer to a commit is lost, or the shipper dies between the commit and the deletion: the file is there
    again, and it is not counted again."""
    names = _names(600)
    spool_calls(spool_directory, names)
    kept = tmp_path / "kept"
    shutil.copytree(spool_directory, kept)
    assert await shipper.ship() == 600
    for file in [*segment_files(kept, "sealed"), *kept.glob("*.run")]:
        shutil.copy(file, spool_directory)
    assert await shipper.ship() == 0
    assert look(spool_directory).segments == []
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert await rows.fetchval("SELECT sum(calls) FROM usage_rollups_day") == 600
    assert observed.rows == 600
    assert (await reconcile(spool_directory, database)).holds


async def test_two_shippers_of_the_same_segments_write_them_once(
    spool_directory: Path, tmp_path: Path, database: str, observed: Observed
) -> None:
    """Row 93: two drainers that even the lock can't keep apart (two copies of a disk). The ledger does."""
    names = _names(1500)
    spool_calls(spool_directory, names)
    copy = tmp_path / "copy"
    shutil.copytree(spool_directory, copy)
    shippers = [
        Shipper(directory=one, sink=PostgresSink(database), observe=observed) for one in (spool_directory, copy)
    ]
    await asyncio.gather(*(shipper.ship() for shipper in shippers))
    for shipper in shippers:
        await shipper.close()
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert observed.rows == 1500
    assert (await reconcile(spool_directory, database)).holds


async def test_a_second_shipper_waits_for_the_first(
    spool_directory: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Row 93: two drainers on one spool. The second does nothing while the first has the lock, and takes over after it."""
    second = Observed()
    async with _shipping(spool_directory, database, observed) as stop_first:

        async def locked() -> bool:
            return (spool_directory / LOCK_NAME).exists() and bool(observed.bytes)

        await until(locked, "the first shipper is at work")
        async with _shipping(spool_directory, database, second):
            spool_calls(spool_directory, _names(50))

            async def written() -> bool:
                return observed.rows == 50

            await until(written, "the first has shipped")
            assert second.bytes == []
            stop_first.set()
            spool_calls(spool_directory, _names(50, "more"))

            async def taken_over() -> bool:
                return observed.rows + second.rows == 100 and bool(second.bytes)

            await until(taken_over, "the second takes over")
    assert await _rows(rows) == 100


async def test_shippers_of_two_gateways_do_not_deadlock(
    tmp_path: Path, database: str, rows: Rows, observed: Observed
) -> None:
    """Without it: two gateways that meter the same keys at the same time end each other's transactions, again and again."""
    name = await rows.fetchval("SELECT current_database()")
    await rows.execute(f'ALTER DATABASE "{name}" SET enable_sort = off')  # no order but the one that is asked for
    routes = [route_part(f"route-{number}", "/") for number in range(3000)]
    # Of different sizes, because Postgres' hash tables of one size have one order of their own.
    sizes = (40, 400, 3000)
    shippers = []
    for gateway, size in enumerate(sizes):
        directory = tmp_path / f"gateway-{gateway}"
        for run in range(6):
            spool = open_spool(directory, segment_bytes=1 << 20)
            for number in random.Random(gateway * 10 + run).sample(range(size), size):
                spool.append(call(f"{gateway}-{run}-{number}", route=routes[number]))
            spool.close()
        shippers.append(Shipper(directory=directory, sink=PostgresSink(database), observe=observed))
    await asyncio.gather(*(shipper.ship() for shipper in shippers))
    for shipper in shippers:
        await shipper.close()
    assert await _rows(rows) == 6 * sum(sizes) == await rows.fetchval("SELECT sum(calls) FROM usage_rollups_day")


# --- the disk goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
async def test_a_corrupt_byte_costs_one_record_and_raises_the_alarm(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed, seed: int
) -> None:
    """Row 89: corrupt spool byte. All other records are delivered, the file is set aside, the loss stands in the books."""
    names = _names(100)
    spool_calls(spool_directory, names)
    [path] = segment_files(spool_directory, "sealed")
    used_bytes = HEADER_BYTES + 100 * 300  # within the records, which are a little longer
    at = random.Random(seed).randrange(HEADER_BYTES, used_bytes)
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << random.Random(seed).randrange(8)
    path.write_bytes(data)
    spool_calls(spool_directory, ["after"])
    await shipper.ship()
    delivered = {row["request_id"] for row in await rows.fetch("SELECT request_id FROM usage_events")}
    assert "after" in delivered
    assert delivered <= {*names, "after"}
    hit_padding = len(delivered) == 101  # the few bytes between two records are nobody's
    assert len(delivered) >= 100
    if not hit_padding:
        assert observed.quarantines == 1
        assert [file.stem for file in segment_files(spool_directory, "quarantine")] == [path.stem]
    result = await reconcile(spool_directory, database)
    assert result.holds
    assert sum(run.lost for run in result.runs) == 101 - len(delivered)


async def test_a_truncated_segment_is_delivered_as_far_as_it_goes(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed
) -> None:
    """Row 89: truncated file."""
    spool_calls(spool_directory, _names(100))
    [path] = segment_files(spool_directory, "sealed")
    with path.open("r+b") as file:
        file.truncate(HEADER_BYTES + 5000)
    await shipper.ship()
    written = await _rows(rows)
    assert 0 < written < 100
    result = await reconcile(spool_directory, database)
    assert result.holds
    assert [(run.accepted, run.written, run.lost) for run in result.runs] == [(100, written, 100 - written)]
    assert observed.quarantines == 1


@pytest.mark.parametrize(
    ("at", "value"), [(0, b"X"), (8, b"\x63"), (20, b"\xff\xff")], ids=["magic", "future version", "checksum"]
)
async def test_a_segment_that_can_not_be_read_is_set_aside_and_the_rest_delivered(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed, at: int, value: bytes
) -> None:
    """Row 89: a damaged header, a future version. Nothing is thrown away: the file is kept, and reconcile says what is
    missing until somebody has seen to it."""
    spool_calls(spool_directory, ["unreadable"])
    [path] = segment_files(spool_directory, "sealed")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)
    spool_calls(spool_directory, _names(10))
    await shipper.ship()
    assert await _rows(rows) == 10
    assert observed.quarantines == 1
    result = await reconcile(spool_directory, database)
    assert not result.holds
    assert sum(run.missing for run in result.runs) == 1
    assert list(result.quarantined) == [path.with_suffix(".quarantine").name]
    await shipper.ship()
    assert observed.quarantines == 1


async def test_a_row_that_postgres_will_never_take_costs_itself_alone(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed
) -> None:
    """Row 91: poison that `encode` did not see. Without it: one bad row, and its segment is tried for ever, with everything
    behind it waiting."""
    spool = open_spool(spool_directory)
    names = _names(200)
    for number, name in enumerate(names):
        spool.append(call(name))
        if number % 60 == 7:
            spool.append(call("poison-" + "x" * 20).replace(b"poison-", b"pois\0n-"))
            spool.append(call("poison")[:-3])
    spool.close()
    await shipper.ship()
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert observed.quarantines == 1
    result = await reconcile(spool_directory, database)
    assert result.holds
    assert [run.lost for run in result.runs] == [8]


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_call_of_a_day_that_no_calendar_has_costs_itself_alone(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str, observed: Observed, where: int
) -> None:
    """Row 91, of a clock or a disk out of its mind: the first, one in between, the last. Without it: the shipper ends with an
    error that nobody expected, and again whenever it is started."""
    spool = open_spool(spool_directory)
    names = ["a", "b"]
    for name in [*names[:where], "never", *names[where:]]:
        spool.append(call(name, occurred_at=1e12 if name == "never" else None))
    spool.close()
    assert await shipper.ship() == 2
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert observed.quarantines == 1
    result = await reconcile(spool_directory, database)
    assert result.holds
    assert [run.lost for run in result.runs] == [1]


async def test_what_a_worker_left_half_made_is_cleared_away(
    spool_directory: Path, shipper: Shipper, rows: Rows, observed: Observed
) -> None:
    """Row 87: killed between making a file and writing its header. Without it: an alarm for nothing at every kill."""
    spool_calls(spool_directory, ["a"])
    [path] = segment_files(spool_directory, "sealed")
    half = path.with_name("0000000000000001." + path.name.split(".", 1)[1]).with_suffix(".open")
    half.write_bytes(bytes(HEADER_BYTES * 3))
    await shipper.ship()
    assert look(spool_directory).segments == []
    assert observed.quarantines == 0
    assert await _rows(rows) == 1


async def test_leftovers_of_a_kill_go_when_they_are_old(
    spool_directory: Path, database: str, observed: Observed
) -> None:
    """Row 87: killed while the run's file was made. Without it: a worker in a crash loop fills the directory with them."""
    old, young = spool_directory / f"{'a' * 32}.new", spool_directory / f"{'b' * 32}.new"
    identity = spool_directory / f"spool.id.{'c' * 32}"
    for path in (old, young, identity):
        path.write_bytes(b"")
    for path in (old, identity):
        os.utime(path, (1, 1))
    async with _shipping(spool_directory, database, observed):
        pass
    assert [path.exists() for path in (old, young, identity)] == [False, True, False]


async def test_a_long_backlog_of_segments_is_delivered(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 89: very many segments (300 in the test run, 10 000 with OSTIARY_SEGMENTS=10000)."""
    for number in range(SEGMENTS):
        spool_calls(spool_directory, [f"req-{number}"])
    assert await shipper.ship() == SEGMENTS
    assert await _rows(rows) == SEGMENTS
    assert (await reconcile(spool_directory, database)).holds


# --- days -------------------------------------------------------------------------------------------------------------


async def test_any_day_gets_its_partition_and_keeps_its_time(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 92: month change, clock back an hour, a clock that was never set, one far ahead, in the middle of a segment."""
    times = [
        datetime(2026, 1, 31, 23, 59, 59, 999_999, UTC),
        datetime(2026, 2, 1, 0, 0, 0, 0, UTC),
        datetime(2026, 1, 31, 23, 0, 0, 0, UTC),
        datetime(1970, 1, 1, 0, 0, 1, 0, UTC),
        datetime(2999, 12, 31, 12, 0, 0, 0, UTC),
        datetime(2024, 2, 29, 12, 0, 0, 0, UTC),
        datetime(2026, 2, 1, 0, 0, 1, 0, UTC),
    ]
    spool = open_spool(spool_directory)
    for number, time in enumerate(times):
        spool.append(call(f"req-{number}", occurred_at=time.timestamp()))
    spool.close()
    assert await shipper.ship() == len(times)
    found = await rows.fetch("SELECT occurred_at FROM usage_events ORDER BY request_id")
    assert [row["occurred_at"] for row in found] == times
    days = await rows.fetch("SELECT day, calls FROM usage_rollups_day ORDER BY day")
    assert [(str(row["day"]), row["calls"]) for row in days] == [
        ("1970-01-01", 1),
        ("2024-02-29", 1),
        ("2026-01-31", 2),
        ("2026-02-01", 2),
        ("2999-12-31", 1),
    ]
    assert (await reconcile(spool_directory, database)).holds


async def test_a_partition_dropped_by_retention_is_made_again_when_a_late_row_comes(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Row 92: a partition that is gone again. Without it: a shipper that believes it is there, and fails for ever."""
    time = datetime(2025, 6, 1, 12, tzinfo=UTC).timestamp()
    for name in ("early", "late"):
        spool = open_spool(spool_directory)
        spool.append(call(name, occurred_at=time))
        spool.close()
        assert await shipper.ship() == 1
        await rows.execute("DROP TABLE usage_events_20250601")


async def test_two_gateways_make_the_same_partition_at_once(database: str) -> None:
    """Row 92: midnight, and every gateway of the installation wants the new day."""
    connections = [await asyncpg.connect(database) for _ in range(8)]
    await asyncio.gather(
        *(connection.execute("SELECT usage_ensure_partition('2026-05-05')") for connection in connections)
    )
    for connection in connections:
        await connection.close()


async def test_an_app_reads_its_calls_by_index(spool_directory: Path, shipper: Shipper, rows: Rows) -> None:
    """Without it: a page of an app's log reads every call of the day."""
    spool_calls(spool_directory, _names(3000))
    await shipper.ship()
    await rows.execute("ANALYZE usage_events")
    query = f"SELECT * FROM usage_events WHERE app_id = '{ORGANIZATION}' AND occurred_at > now() - interval '1 day'"  # noqa: S608  a constant
    plan = "\n".join(row[0] for row in await rows.fetch("EXPLAIN " + query))
    assert "Index" in plan, plan


async def test_one_call_is_found_by_its_id_and_few_others_are_read(
    spool_directory: Path, shipper: Shipper, rows: Rows
) -> None:
    """Without it: who asks what became of a payment waits until every call that is kept has been read."""
    spool_calls(spool_directory, _names(4000))
    await shipper.ship()
    await rows.execute("VACUUM ANALYZE usage_events")  # as Postgres does by itself; the filters are made then
    await rows.execute("SET enable_seqscan = off")  # a partition as small as this one is read as quickly
    query = "SELECT request_id FROM usage_events WHERE request_id = 'req-77'"
    assert [row[0] for row in await rows.fetch(query)] == ["req-77"]
    (found,) = await rows.fetchrow(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}") or ("",)
    read = int(re.findall(r'"Rows Removed by Index Recheck": (\d+)', found)[0])
    assert read < 2000, found
