"""The consumer: acknowledged when it is committed, known when it comes again, and never held up by what can't be stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage import Spool
from ostiary.gateway.usage.reconcile import count_by_request_id, reconcile
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream.connection import StreamConnection
from ostiary.gateway.usage.stream.consumer import Consumer
from ostiary.gateway.usage.stream.fitness import CONSUMER, consumer_configuration
from tests.gateway.usage.calls import (
    Rows,
    as_version_1,
    call,
    mark_version_1,
    open_spool,
    segment_files,
    spool_calls,
    until,
)
from tests.gateway.usage.stream.streaming import ConsumerObserved, consume_all, consumer_of, set_aside
from tests.support.nats_server import ask, messages

NAMES = [f"req-{number}" for number in range(1200)]


async def _publish(stream: NatsStream, subject: str, payload: bytes) -> None:
    connection = await StreamConnection.open(stream, name="test")
    try:
        assert await connection.publish(subject, payload, subject)
    finally:
        await connection.close()


async def test_what_was_written_and_not_acknowledged_comes_again_and_is_known(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper
) -> None:
    """Row 90: the consumer was killed between its commit and its acknowledgement. Without the ledger: every kill bills a
    batch twice."""
    spool_calls(spool_directory, NAMES)
    await streaming.ship()
    waiting = await messages(stream)
    stopped = consumer_of(stream, database)
    connection = await stopped._connected()
    received = await connection.pull(CONSUMER, count=100)
    await stopped._take(received)
    await connection.say(received, b"-NAK")  # as if its time were over
    await connection.flush()
    await stopped.close()
    assert len(received) == waiting == await messages(stream)
    observed = ConsumerObserved()
    consumer = consumer_of(stream, database, observed)
    assert await consume_all(consumer) == waiting
    await consumer.close()
    assert (observed.rows, observed.lost) == (0, 0)
    assert observed.repeated == waiting - 1  # one is the last word on the run
    assert await messages(stream) == 0
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
    assert (await reconcile(spool_directory, database, stream=stream)).holds


async def test_consumers_share_the_work_and_write_all_of_it_once(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper
) -> None:
    """Row 93: without it, a second one for more throughput is a second bill."""
    for run in range(8):
        spool_calls(spool_directory, [f"run{run}-{name}" for name in NAMES[:500]])
    await streaming.ship()
    observed = [ConsumerObserved() for _ in range(3)]
    consumers = [consumer_of(stream, database, each, batch_max=3) for each in observed]
    await asyncio.gather(*map(consume_all, consumers))
    for consumer in consumers:
        await consumer.close()
    assert sum(each.rows for each in observed) == 4000
    names = [f"run{run}-{name}" for run in range(8) for name in NAMES[:500]]
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    result = await reconcile(spool_directory, database, stream=stream)
    assert result.holds, result
    assert await messages(stream) == 0


async def test_a_record_that_postgres_refuses_is_set_aside_alone(
    spool_directory: Path,
    database: str,
    stream: NatsStream,
    streaming: Shipper,
    consumer: Consumer,
    consumed: ConsumerObserved,
) -> None:
    """Row 91: poison that `encode` did not see, among portions of the same transaction. Without it: one bad row, and its
    batch is tried for ever, with everything behind it."""
    spool = open_spool(spool_directory)
    for number in range(600):
        spool.append(call(f"req-{number}"))
        if number in (100, 500):
            spool.append(call("poison-" + "x" * 20).replace(b"poison-", b"pois\0n-"))
    spool.close()
    await streaming.ship()
    assert await messages(stream) > 2
    await consume_all(consumer)
    assert (consumed.rows, consumed.lost, consumed.quarantines) == (600, 2, 2)
    assert len(set_aside(stream)) == 2
    assert await messages(stream) == 0
    assert await count_by_request_id(spool_directory, database) == Counter(f"req-{number}" for number in range(600))
    result = await reconcile(spool_directory, database, stream=stream)
    assert result.holds, result
    assert [(run.accepted, run.written, run.lost) for run in result.runs] == [(602, 600, 2)]


async def test_messages_that_cant_be_read_are_set_aside_and_block_nobody(
    spool_directory: Path,
    database: str,
    stream: NatsStream,
    streaming: Shipper,
    consumer: Consumer,
    consumed: ConsumerObserved,
) -> None:
    """Row 89, of a stream: garbage before and among what is good. Without it: whoever can publish there stops all
    metering."""
    await _publish(stream, f"{stream.stream}.who.knows", b"garbage")
    await _publish(stream, f"{stream.stream}.empty", b"")
    spool_calls(spool_directory, NAMES)
    await streaming.ship()
    await consume_all(consumer)
    assert (consumed.rows, consumed.quarantines) == (1200, 2)
    assert set_aside(stream) == [b"garbage", b""]
    assert await messages(stream) == 0
    assert (await reconcile(spool_directory, database, stream=stream)).holds


async def test_a_damaged_message_is_declared_lost(
    spool_directory: Path,
    database: str,
    stream: NatsStream,
    streaming: Shipper,
    consumer: Consumer,
    consumed: ConsumerObserved,
) -> None:
    """Row 89, of a stream: the head of a message is not what it was. Its subject says what it stood for: without that the
    books would not balance, and nobody could say by how much."""
    spool_calls(spool_directory, NAMES[:200])
    await streaming.ship()
    subjects = await ask(stream, f"STREAM.INFO.{stream.stream}", {"subjects_filter": f"{stream.stream}.*.portion.>"})
    (subject,) = subjects["state"]["subjects"]
    kept = await ask(stream, f"STREAM.MSG.GET.{stream.stream}", {"last_by_subj": subject})
    await ask(stream, f"STREAM.MSG.DELETE.{stream.stream}", {"seq": kept["message"]["seq"]})
    connection = await StreamConnection.open(stream, name="test")
    assert await connection.publish(subject, b"\xff" * 400, "damaged")
    await connection.close()
    await consume_all(consumer)
    assert (consumed.rows, consumed.lost, consumed.quarantines) == (0, 200, 1)
    result = await reconcile(spool_directory, database, stream=stream)
    assert result.holds, result
    assert [(run.accepted, run.lost) for run in result.runs] == [(200, 200)]


async def test_usage_waits_in_the_stream_while_postgres_takes_nothing(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper, rows: Rows
) -> None:
    """Row 86, of a stream: failover to read-only. Without it: messages acknowledged and written nowhere."""
    name = await rows.fetchval("SELECT current_database()")
    await rows.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    spool_calls(spool_directory, NAMES)
    await streaming.ship()
    waiting = await messages(stream)
    observed = ConsumerObserved()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer_of(stream, database, observed).run(stop))

        async def refused() -> bool:
            return observed.failures.count("read_only") > 1

        await until(refused, "the consumer is refused, and tries again", 60)
        assert await messages(stream) == waiting
        assert (await reconcile(spool_directory, database, stream=stream)).holds
        await rows.execute("SET default_transaction_read_only = off")
        await rows.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')

        async def drained() -> bool:
            return await messages(stream) == 0

        await until(drained, "the stream is empty", 60)
        stop.set()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)


async def test_a_slow_write_says_that_it_is_in_work(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper, rows: Rows
) -> None:
    """Without it: what takes longer than `ack_wait` is delivered to the next consumer as well, and makes it slower still."""
    stream = replace(stream, ack_wait_seconds=5.0)
    spool_calls(spool_directory, NAMES[:200])
    await streaming.ship()
    listener = await StreamConnection.open(stream, name="test")
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await listener._client.subscribe(f"$JS.ACK.{stream.stream}.>", cb=hear)
    await listener.flush()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        async with rows.transaction():
            await rows.execute("LOCK TABLE usage_segments IN EXCLUSIVE MODE")
            tasks.create_task(consumer_of(stream, database).run(stop))

            async def in_work() -> bool:
                return heard.count(b"+WPI") >= 2 * await messages(stream)

            await until(in_work, "it says so twice", 60)
            assert b"+ACK" not in heard

        async def drained() -> bool:
            return await messages(stream) == 0

        await until(drained, "the stream is empty", 60)
        stop.set()
    await listener.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES[:200])


async def test_a_stop_ends_when_what_is_in_hand_is_written(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper, rows: Rows
) -> None:
    """Without it: every deployment of a consumer leaves messages that nobody gets for `ack_wait`."""
    spool_calls(spool_directory, NAMES)
    await streaming.ship()
    stop = asyncio.Event()
    other = await asyncpg.connect(database)
    async with asyncio.TaskGroup() as tasks, rows.transaction():
        await rows.execute("LOCK TABLE usage_segments IN EXCLUSIVE MODE")
        running = tasks.create_task(consumer_of(stream, database, batch_max=2).run(stop))

        async def waits_for_us() -> bool:
            # By another connection: within the transaction that locks, this view does not change.
            waiting = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'ostiary-usage-consumer' AND wait_event_type = 'Lock'"
            )
            return bool(waiting)

        await until(waits_for_us, "the consumer is in the middle of a batch")
        stop.set()
        await asyncio.sleep(0)
        assert not running.done()
    await other.close()
    told = await ask(stream, f"CONSUMER.INFO.{stream.stream}.{CONSUMER}")
    assert told["num_ack_pending"] == 0
    assert await rows.fetchval("SELECT count(*) FROM usage_events") > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_deliver": 3}, "gives a message up after 3 deliveries"),
        ({"filter_subject": "x"}, "sees some subjects alone"),
    ],
)
async def test_a_consumer_that_would_leave_messages_is_refused(
    database: str, stream: NatsStream, changes: dict[str, Any], words: str
) -> None:
    """Without it: somebody's settings of the durable consumer leave usage in the stream for ever."""
    if "filter_subject" in changes:
        changes = {"filter_subject": f"{stream.stream}.x"}
    configuration = {**consumer_configuration(stream), **changes}
    await ask(
        stream,
        f"CONSUMER.CREATE.{stream.stream}.{CONSUMER}" + (f".{stream.stream}.x" if "filter_subject" in changes else ""),
        {"stream_name": stream.stream, "config": configuration},
    )
    consumer = consumer_of(stream, database)
    with pytest.raises(SinkFailed, match=words) as raised:
        await consumer.consume()
    await consumer.close()
    assert raised.value.kind == "stream_refused"
    assert "nats consumer rm" in str(raised.value)


async def test_segments_of_an_older_gateway_are_written_as_they_are(
    spool_directory: Path, database: str, stream: NatsStream, streaming: Shipper, consumer: Consumer
) -> None:
    """Without it: what waited in the spool during an upgrade is declared lost."""
    spool = Spool(directory=spool_directory, worker="0", bytes_max=1 << 30)
    for name in NAMES[:50]:
        spool.append(as_version_1(call(name)))
    spool.close()
    mark_version_1(segment_files(spool_directory, "sealed")[0])
    spool_calls(spool_directory, NAMES[50:100])
    await streaming.ship()
    await consume_all(consumer)
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES[:100])
    assert (await reconcile(spool_directory, database, stream=stream)).holds
