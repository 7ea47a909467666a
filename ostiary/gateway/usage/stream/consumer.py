"""The consumer: takes usage from the stream to Postgres, by the same ledger as a shipper that writes Postgres itself.

As many as one likes at once, each a process of its own; they share one durable consumer of the stream. A message is
acknowledged when its transaction is committed. Kill one anywhere: its messages come again, to whoever is there, and the
ledger knows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.ledger import STATEMENT_SECONDS, UsageLedger
from ostiary.gateway.usage.portion import Portion
from ostiary.gateway.usage.postgres_sink import postgres_failures
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream.connection import Received, StreamConnection, StreamRefused, require_client
from ostiary.gateway.usage.stream.fitness import CONSUMER, consumer_configuration, unfit_consumer
from ostiary.gateway.usage.stream.message import EndedRun, Unreadable, decode
from ostiary.gateway.usage.stream.quarantine import set_aside
from ostiary.gateway.usage.waiting import backoff_seconds, wait_for_stop

# Messages of one transaction: some 4 MiB of records, as in a segment. More save little (the roll-ups are counted up once
# for all of them), and would all come again after a kill.
BATCH_MAX: Final = 8
_WAIT_SECONDS: Final = 1.0  # for the next message; also what a stop waits for at most, besides a batch
_CHECK_SECONDS: Final = 30.0

_log = logging.getLogger("ostiary.gateway.usage")


class ConsumerObserver(Protocol):
    """What a consumer tells of itself. `written`: rows committed, records lost, messages that had been written before.
    `failed` says why, as a shipper does. `waiting` is how many messages the stream has for consumers, asked every so
    often."""

    def written(self, rows: int, lost: int, repeated: int, /) -> None: ...
    def failed(self, kind: str, /) -> None: ...
    def quarantined(self, messages: int, /) -> None: ...
    def waiting(self, messages: int, /) -> None: ...


class Consumer:
    """`stop` of `run` ends it in good order."""

    def __init__(
        self,
        *,
        settings: NatsStream,
        postgres_url: str,
        observe: ConsumerObserver,
        statement_seconds: float = STATEMENT_SECONDS,
        batch_max: int = BATCH_MAX,
    ) -> None:
        """Raises ClientMissing."""
        require_client()
        self._settings = settings
        self._postgres_url = postgres_url
        self._observe = observe
        self._statement_seconds = statement_seconds
        self._batch_max = batch_max
        self._quarantine = Path(settings.quarantine)
        self._connection: StreamConnection | None = None
        self._ledger: UsageLedger | None = None
        self._checked_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set, and ends when the messages in hand are written and acknowledged."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    await self.consume()
                    failures = 0
                except (SinkFailed, OSError) as error:
                    failures += 1
                    self._tell(error)
                    await self.close()
                    await wait_for_stop(stop, backoff_seconds(failures))
        finally:
            await self.close()

    async def consume(self, *, wait_seconds: float = _WAIT_SECONDS) -> int:
        """Takes what is there, at most a batch, or waits for the next message for that long. Returns the messages that were
        taken. Raises SinkFailed, and OSError from the quarantine; then the messages come again."""
        connection = await self._connected()
        received = await connection.pull(CONSUMER, count=self._batch_max)
        if not received:
            received = await connection.pull(CONSUMER, count=1, wait_seconds=wait_seconds)
        if received:
            try:
                async with self._in_work(connection, received):
                    await self._take(received)
            except (SinkFailed, OSError):
                await self._give_back(connection, received)
                raise
            await connection.say(received, b"+ACK")
            await connection.flush()
        return len(received)

    async def close(self) -> None:
        """Ends both connections at once; whatever was under way comes again."""
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.terminate()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    # --- one batch ----------------------------------------------------------------------------------------------------

    async def _take(self, received: Sequence[Received]) -> None:
        portions: list[tuple[Received, Portion]] = []
        ended: list[EndedRun] = []
        for message in received:
            try:
                content: Portion | EndedRun | None = decode(message.subject, message.payload)
            except Unreadable as error:
                self._set_aside(message, str(error))
                content = error.stands_for
            if isinstance(content, Portion):
                portions.append((message, content))
            elif content is not None:
                ended.append(content)
        with postgres_failures():
            ledger = await self._connected_ledger()
            written = await ledger.write([portion for _, portion in portions]) if portions else []
            for last in ended:
                await ledger.end_run(last.spool_id, last.run)
        self._observe.written(
            sum(each.rows for each in written),
            sum(each.lost for each in written),
            sum(each.repeated for each in written),
        )
        for (message, portion), each in zip(portions, written, strict=True):
            if portion.records and each.lost:
                self._set_aside(message, f"{each.lost} records can't be read or stored")

    def _set_aside(self, message: Received, reason: str) -> None:
        name = set_aside(self._quarantine, message.subject, message.sequence, message.payload)
        self._observe.quarantined(1)
        _log.error("usage_message_quarantined", extra={"fields": {"file": name, "reason": reason}})

    @asynccontextmanager
    async def _in_work(self, connection: StreamConnection, received: list[Received]) -> AsyncIterator[None]:
        """Meanwhile the server is told that the messages are in work, so that a slow write does not have them delivered to
        others as well. (They would find them in the ledger; it would cost both.)"""

        async def tell() -> None:
            while True:
                await asyncio.sleep(self._settings.ack_wait_seconds / 3)
                try:
                    await connection.say(received, b"+WPI")
                except SinkFailed:
                    return  # the batch goes on: once committed it is known, whether or not it can be acknowledged

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _give_back(self, connection: StreamConnection, received: list[Received]) -> None:
        """So that they come again at once, and not only when the server takes this consumer for dead."""
        try:
            await connection.say(received, b"-NAK")
            await connection.flush()
        except SinkFailed:
            pass  # then it is the latter

    # --- connections --------------------------------------------------------------------------------------------------

    async def _connected(self) -> StreamConnection:
        now = asyncio.get_running_loop().time()
        if self._connection is None:
            self._connection = await StreamConnection.open(self._settings, name="ostiary-usage-consumer")
            self._checked_at = now - _CHECK_SECONDS
        if now - self._checked_at >= _CHECK_SECONDS:
            await self._connection.stream()
            told = await self._consumer(self._connection)
            self._observe.waiting(int(told.get("num_pending", 0)) + int(told.get("num_ack_pending", 0)))
            self._checked_at = now
        return self._connection

    async def _consumer(self, connection: StreamConnection) -> dict[str, Any]:
        """What the server tells of the durable consumer, which is made if it is not there. Raises StreamRefused,
        SinkFailed."""
        told = await connection.consumer(CONSUMER)
        if told is None:
            configuration = consumer_configuration(self._settings)
            told = await connection.call(
                f"CONSUMER.CREATE.{self._settings.stream}.{CONSUMER}",
                {"stream_name": self._settings.stream, "config": configuration},
            )
        if problems := unfit_consumer(self._settings, told["config"]):
            raise StreamRefused(f"the consumer {CONSUMER} of {self._settings.stream} is refused: {'; '.join(problems)}")
        return told

    async def _connected_ledger(self) -> UsageLedger:
        if self._ledger is None:
            self._ledger = await UsageLedger.connect(
                self._postgres_url, statement_seconds=self._statement_seconds, name="ostiary-usage-consumer"
            )
        return self._ledger

    def _tell(self, error: SinkFailed | OSError) -> None:
        if isinstance(error, SinkFailed):
            kind, fields = error.kind, error.fields
        else:
            kind, fields = "quarantine", {"error": type(error).__name__, "message": error.strerror}
        self._observe.failed(kind)
        _log.warning("usage_consume_failed", extra={"fields": {"kind": kind, **fields}})
