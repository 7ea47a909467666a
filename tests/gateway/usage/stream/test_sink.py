"""A gateway's side of the stream: a file goes when the stream has stored what it held, and no sooner."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ostiary.core.upstream import TargetTls
from ostiary.core.usage import NatsStream
from ostiary.gateway.usage import PostgresSink
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.reconcile import RunPlace, count_by_request_id, reconcile
from ostiary.gateway.usage.shipper import Shipper, run_shipper
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream import StreamSink
from ostiary.gateway.usage.stream.consumer import Consumer
from ostiary.gateway.usage.stream.contents import read_contents
from tests.gateway.usage.calls import Observed, Rows, call, open_spool, segment_files, spool_calls, until
from tests.gateway.usage.stream.streaming import ConsumerObserved, consume_all, consumer_of
from tests.support.certificates import issue
from tests.support.nats_server import NatsServer, ask, create, messages, running_nats

NAMES = [f"req-{number}" for number in range(1200)]


@asynccontextmanager
async def _shipping(directory: Path, settings: NatsStream, observed: Observed) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_shipper(directory=directory, sink=StreamSink(settings), stop=stop, observe=observed))
        yield
        stop.set()


async def test_calls_go_through_the_stream_once_and_the_books_balance_all_the_way(
    spool_directory: Path,
    database: str,
    stream: NatsStream,
    streaming: Shipper,
    consumer: Consumer,
    consumed: ConsumerObserved,
    observed: Observed,
) -> None:
    """Row 94, of a stream: spooled, in the stream, written. Without it: nobody can say where a call is that is on its way."""
    spool_calls(spool_directory, NAMES)
    for step, (spooled, streamed, written) in enumerate([(1200, 0, 0), (0, 1200, 0), (0, 0, 1200)]):
        if step == 1:
            assert await streaming.ship() == 1200
        if step == 2:
            await consume_all(consumer)
        result = await reconcile(spool_directory, database, stream=stream)
        assert result.holds, result
        (run,) = result.runs
        assert (run.accepted, run.spooled, run.streamed, run.written) == (1200, spooled, streamed, written)
        assert run.place is (RunPlace.ENDING, RunPlace.STREAMED, RunPlace.ENDED)[step]
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
    assert (consumed.rows, consumed.lost, consumed.repeated) == (1200, 0, 0)
    assert observed.rows == 1200
    assert observed.bytes[-1] == 0
    assert await messages(stream) == 0
    assert result.stream is not None
    assert (result.stream.messages, result.stream.calls) == (0, 0)


async def test_a_large_segment_is_cut_below_the_bound(
    spool_directory: Path, database: str, stream: NatsStream, rows: Rows, consumer: Consumer
) -> None:
    """Without it: a segment of 4 MiB is refused by every server as it comes, for ever."""
    narrow = replace(stream, message_bytes_max=128 * 1024)
    spool = open_spool(spool_directory, segment_bytes=4 << 20)
    names = [f"req-{number}" for number in range(4000)]
    for name in names:
        assert spool.append(call(name, user_agent=b"a" * 400))
    spool.close()
    shipper = Shipper(directory=spool_directory, sink=StreamSink(narrow), observe=Observed())
    assert await shipper.ship() == 4000
    await shipper.close()
    contents = await read_contents(stream)
    assert len(contents.portions) > 20
    assert contents.bytes / contents.messages < 128 * 1024
    assert sum(portion.records for portion in contents.portions) == 4000
    await consume_all(consumer)
    assert await count_by_request_id(spool_directory, database) == Counter(names)


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_segment_delivered_again_counts_once(
    spool_directory: Path,
    tmp_path: Path,
    database: str,
    unmade: NatsStream,
    remembers: bool,
) -> None:
    """Row 90: the shipper was killed after the stream's answer and before it deleted the file, a second ago or so long ago
    that the server has forgotten. Without it: a stop in the wrong moment bills a segment twice."""
    await create(unmade, duplicate_window=120_000_000_000 if remembers else 100_000_000)
    spool_calls(spool_directory, NAMES)
    shutil.copytree(spool_directory, tmp_path / "copy")
    for directory in (spool_directory, tmp_path / "copy"):
        observed = Observed()
        shipper = Shipper(directory=directory, sink=StreamSink(unmade), observe=observed)
        await shipper.ship()
        await shipper.close()
        if directory is spool_directory:
            once = await messages(unmade)
            # The server forgets within this; if it is late, the case before is tested twice.
            await asyncio.sleep(0 if remembers else 0.3)
    if remembers:
        assert await messages(unmade) == once
        assert observed.rows == 0
    consumer = consumer_of(unmade, database)
    await consume_all(consumer)
    await consumer.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
    assert (await reconcile(spool_directory, database, stream=unmade)).holds


async def test_segments_half_published_when_the_sink_is_changed_count_once(
    spool_directory: Path, tmp_path: Path, database: str, stream: NatsStream, streaming: Shipper, consumer: Consumer
) -> None:
    """Row 93: a gateway goes back to Postgres while its last segments are in the stream. Without one ledger for both ways,
    they are billed twice."""
    spool_calls(spool_directory, NAMES)
    shutil.copytree(spool_directory, tmp_path / "copy")
    await streaming.ship()
    direct = Shipper(directory=tmp_path / "copy", sink=PostgresSink(database), observe=Observed())
    await asyncio.gather(direct.ship(), consume_all(consumer))
    await direct.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
    assert (await reconcile(spool_directory, database, stream=stream)).holds


async def test_usage_waits_in_the_spool_while_nats_is_away(
    spool_directory: Path, tmp_path: Path, database: str, own_nats: NatsServer, observed: Observed
) -> None:
    """Row 85, of a stream: killed under load and started again. Without it: the calls of the meantime are lost."""
    settings = own_nats.settings("usage", tmp_path)
    await create(settings)
    spool = open_spool(spool_directory)
    async with _shipping(spool_directory, settings, observed):
        for name in NAMES[:600]:
            spool.append(call(name))
        spool.seal()

        async def some_shipped() -> bool:
            return observed.rows > 0

        await until(some_shipped, "the first segments are in the stream")
        own_nats.kill()
        for name in NAMES[600:]:
            spool.append(call(name))
        spool.close()

        async def told() -> bool:
            return "unavailable" in observed.failures

        await until(told, "the shipper says that NATS is away", 60)
        own_nats.start()

        async def drained() -> bool:
            return not look(spool_directory).segments and not look(spool_directory).runs

        await until(drained, "the spool is empty", 60)
    consumer = consumer_of(settings, database)
    await consume_all(consumer)
    await consumer.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
    assert (await reconcile(spool_directory, database, stream=settings)).holds


async def test_a_nats_that_hangs_is_left(spool_directory: Path, tmp_path: Path, own_nats: NatsServer) -> None:
    """Row 86, of a stream: SIGSTOP. Without it: a shipper that waits for an answer that never comes."""
    settings = own_nats.settings("usage", tmp_path)
    await create(settings)
    spool_calls(spool_directory, NAMES[:100])
    shipper = Shipper(directory=spool_directory, sink=StreamSink(settings), observe=Observed())
    assert await shipper.ship() == 100
    spool_calls(spool_directory, NAMES[100:200])
    own_nats.pause()
    try:
        with pytest.raises(SinkFailed) as raised:
            await shipper.ship()
        assert raised.value.kind == "unavailable"
        await shipper.close()
        assert len(segment_files(spool_directory, "sealed")) == 1
    finally:
        own_nats.resume()
    assert await shipper.ship() == 100
    await shipper.close()


async def test_usage_waits_in_the_spool_while_the_stream_is_full(
    spool_directory: Path, database: str, unmade: NatsStream, observed: Observed
) -> None:
    """Row 88, of a stream: at its bound it refuses, and what it has stays. Without it: old usage makes room for new."""
    await create(unmade, max_bytes=200_000)
    spool_calls(spool_directory, NAMES)
    shipper = Shipper(directory=spool_directory, sink=StreamSink(unmade), observe=observed)
    consumer = consumer_of(unmade, database)
    refused: list[SinkFailed] = []
    while look(spool_directory).segments or look(spool_directory).runs:
        try:
            await shipper.ship()
        except SinkFailed as error:
            refused.append(error)
            await shipper.close()
            assert (await reconcile(spool_directory, database, stream=unmade)).holds
            await consume_all(consumer)
    await shipper.close()
    assert {error.kind for error in refused} == {"stream_full"}
    assert "JetStream refused" in str(refused[0])
    await consume_all(consumer)
    await consumer.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage": "memory"}, "it must be file"),
        ({"discard": "old"}, "nats stream edit --discard new"),
        ({"retention": "limits"}, "it must be workqueue"),
        ({"retention": "interest"}, "it must be workqueue"),
        ({"max_age": 3_600_000_000_000}, "--max-age 0"),
        ({"subjects": ["elsewhere.>"]}, "it does not listen to"),
        ({"max_msg_size": 4096}, "--max-msg-size -1"),
        ({"no_ack": True}, "--ack"),
        ({"persist_mode": "async", "allow_batched": None}, "persist_mode"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_stream_that_could_lose_usage_is_refused(
    spool_directory: Path, unmade: NatsStream, changes: dict[str, Any], words: str
) -> None:
    """Without it: the file is deleted, and the stream throws its calls away by its own rules."""
    if "subjects" in changes:
        changes = {"subjects": [f"{unmade.stream}_elsewhere.>"]}
    await create(unmade, **{name: value for name, value in changes.items() if value is not None})
    spool_calls(spool_directory, NAMES[:10])
    shipper = Shipper(directory=spool_directory, sink=StreamSink(unmade), observe=Observed())
    with pytest.raises(SinkFailed) as raised:
        await shipper.ship()
    await shipper.close()
    assert raised.value.kind == "stream_refused"
    assert words in str(raised.value)
    assert len(segment_files(spool_directory, "sealed")) == 1


async def test_a_stream_on_too_few_servers_and_one_that_is_not_there_are_refused(
    spool_directory: Path, stream: NatsStream
) -> None:
    """Without it: what was to outlive a machine is on one."""
    spool_calls(spool_directory, NAMES[:10])
    for settings, words in (
        (replace(stream, replicas=3), "nats stream edit --replicas 3"),
        (replace(stream, stream=f"{stream.stream}_not"), "ostiary usage stream --create"),
    ):
        shipper = Shipper(directory=spool_directory, sink=StreamSink(settings), observe=Observed())
        with pytest.raises(SinkFailed, match="stream") as raised:
            await shipper.ship()
        await shipper.close()
        assert raised.value.kind == "stream_refused"
        assert words in str(raised.value)
    assert len(segment_files(spool_directory, "sealed")) == 1


async def test_a_stream_that_is_deleted_meanwhile_takes_no_file_with_it(
    spool_directory: Path, stream: NatsStream, streaming: Shipper
) -> None:
    """Without it: an acknowledgement of nobody deletes a segment."""
    spool_calls(spool_directory, NAMES[:10])
    await streaming.ship()
    await ask(stream, f"STREAM.DELETE.{stream.stream}")
    spool_calls(spool_directory, NAMES[10:20])
    with pytest.raises(SinkFailed):
        await streaming.ship()
    await streaming.close()
    assert len(segment_files(spool_directory, "sealed")) == 1


# --- who is spoken to -------------------------------------------------------------------------------------------------


async def test_nats_is_spoken_to_over_tls_and_its_certificate_is_checked(spool_directory: Path, tmp_path: Path) -> None:
    """Without it: whoever stands between reads every call, and the password."""
    ours, theirs = (issue(tmp_path, name, authority=True) for name in ("ours", "theirs"))
    shown = ours.sign("127.0.0.1")
    tls = f'tls {{ cert_file: "{shown.cert}", key_file: "{shown.key}" }}\n'
    with running_nats(tmp_path / "nats", f'{tls}authorization {{ user: gateway, password: "p@ss/word" }}\n') as server:
        url = (f"tls://gateway:p%40ss%2Fword@127.0.0.1:{server.port}",)
        settings = server.settings("usage", tmp_path, servers=url, tls=ours.trusted())
        await create(settings)
        spool_calls(spool_directory, NAMES[:10])
        for refused in (
            replace(settings, tls=theirs.trusted()),
            replace(settings, tls=None),
            replace(settings, servers=(url[0].replace("word", "wrong"),)),
        ):
            shipper = Shipper(directory=spool_directory, sink=StreamSink(refused), observe=Observed())
            with pytest.raises(SinkFailed) as raised:
                await shipper.ship()
            assert raised.value.kind == "unavailable"
            assert "p@ss" not in f"{raised.value} {raised.value.fields}"
        shipper = Shipper(directory=spool_directory, sink=StreamSink(settings), observe=Observed())
        assert await shipper.ship() == 10
        await shipper.close()


async def test_a_server_without_tls_is_not_told_the_password(spool_directory: Path, nats_server: NatsServer) -> None:
    """Without it: someone in between says that there is no TLS, and nats-py sends the password in the clear."""
    heard = bytearray()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"auth_required":true}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = nats_server.settings(
        "usage", spool_directory, servers=(f"nats://gateway:secret-word@127.0.0.1:{port}",), tls=TargetTls()
    )
    spool_calls(spool_directory, NAMES[:10])
    shipper = Shipper(directory=spool_directory, sink=StreamSink(settings), observe=Observed())
    with pytest.raises(SinkFailed, match="does not offer TLS"):
        await shipper.ship()
    server.close()
    await server.wait_closed()
    assert bytes(heard) == b""


async def test_a_token_signs_in(spool_directory: Path, tmp_path: Path) -> None:
    """Without it: one of the ways to sign in that the documentation names fails."""
    with running_nats(tmp_path / "nats", 'authorization { token: "to/ken" }\n') as server:
        settings = server.settings("usage", tmp_path, servers=(f"nats://to%2Fken@127.0.0.1:{server.port}",))
        await create(settings)
        spool_calls(spool_directory, NAMES[:10])
        shipper = Shipper(directory=spool_directory, sink=StreamSink(settings), observe=Observed())
        assert await shipper.ship() == 10
        await shipper.close()


async def test_the_rights_that_the_documentation_names_are_enough(
    spool_directory: Path, tmp_path: Path, database: str
) -> None:
    """docs/usage-streaming.md, "Set it up". Without it: a gateway that may do everything, because nobody knows what it
    needs."""
    inbox = '"_INBOX_usage.>"'
    gateway = '"usage.>", "$JS.API.STREAM.INFO.usage"'
    consumer_too = '"$JS.API.CONSUMER.*.usage.>", "$JS.API.CONSUMER.MSG.NEXT.usage.>", "$JS.ACK.usage.>"'
    users = "\n".join(
        f'{{ user: {user}, password: "word", permissions: {{ publish: [{publish}], subscribe: [{inbox}] }} }}'
        for user, publish in (("gateway", gateway), ("consumer", f'"$JS.API.STREAM.INFO.usage", {consumer_too}'))
    )
    with running_nats(
        tmp_path / "nats", f'authorization {{ users: [ {users}\n {{ user: operator, password: "word" }} ] }}\n'
    ) as server:
        operator, shipping, consuming = (
            server.settings("usage", tmp_path, servers=(f"nats://{user}:word@127.0.0.1:{server.port}",))
            for user in ("operator", "gateway", "consumer")
        )
        await create(operator)
        spool_calls(spool_directory, NAMES)
        shipper = Shipper(directory=spool_directory, sink=StreamSink(shipping), observe=Observed())
        assert await shipper.ship() == 1200
        await shipper.close()
        consumer = consumer_of(consuming, database)
        await consume_all(consumer)
        await consumer.close()
    assert await count_by_request_id(spool_directory, database) == Counter(NAMES)
