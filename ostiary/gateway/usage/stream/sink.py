"""The sink of a gateway whose usage goes through a stream: messages that the stream has stored, then the file may go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.ledger import Written
from ostiary.gateway.usage.portion import Portion, cut
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import Segment
from ostiary.gateway.usage.sink import Finished, SinkFailed
from ostiary.gateway.usage.stream.connection import StreamConnection, require_client
from ostiary.gateway.usage.stream.message import EXCESS_BYTES_MAX, EndedName, encode_ended, encode_portion, name_of

# Messages that wait for their acknowledgement at once: half of one's time is the server's, so a few keep both busy.
IN_FLIGHT_MAX: Final = 4
# A stream that somebody changes is noticed by then.
_CHECK_SECONDS: Final = 30.0
# Headers count towards a server's max_payload.
_HEADERS_BYTES_MAX: Final = 1024


class StreamSink:
    """A `Sink`."""

    def __init__(self, settings: NatsStream) -> None:
        """Raises ClientMissing."""
        require_client()
        self._settings = settings
        self._connection: StreamConnection | None = None
        self._checked_at = 0.0
        self._grid_bytes = 0

    @property
    def together_bytes_max(self) -> int:
        return 0  # a segment is several messages, and these go together

    async def deliver(self, spool_id: UUID, finished: Sequence[Finished]) -> list[Written]:
        return [await self._publish(spool_id, segment, run) for segment, run in finished]

    async def _publish(self, spool_id: UUID, segment: Segment, run: RunState) -> Written:
        connection = await self._connected()
        room = asyncio.Semaphore(IN_FLIGHT_MAX)

        async def publish(portion: Portion) -> bool:
            async with room:
                subject = name_of(portion).subject(self._settings.stream)
                # The id is the subject: what the server is to tell apart is just what the books tell apart.
                return await connection.publish(subject, encode_portion(portion, segment.file), subject)

        try:
            async with asyncio.TaskGroup() as tasks:
                published = [
                    tasks.create_task(publish(portion)) for portion in cut(spool_id, segment, run, self._grid_bytes)
                ]
        except* SinkFailed as failures:
            first = failures.exceptions[0]
            raise (first if isinstance(first, SinkFailed) else SinkFailed("other", "ExceptionGroup")) from None
        news = any(task.result() for task in published)
        return Written(len(segment.records), segment.lost, repeated=not news)

    async def end_run(self, spool_id: UUID, run: RunState) -> None:
        connection = await self._connected()
        subject = EndedName(spool_id, run.run_id, run.accepted, run.dropped, run.closed).subject(self._settings.stream)
        await connection.publish(subject, encode_ended(spool_id, run), subject)

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()

    async def _connected(self) -> StreamConnection:
        """Connected to a stream that was fit a moment ago. Raises SinkFailed."""
        now = asyncio.get_running_loop().time()
        if self._connection is None:
            self._connection = await StreamConnection.open(self._settings, name="ostiary-shipper")
            self._checked_at = now - _CHECK_SECONDS
        if now - self._checked_at >= _CHECK_SECONDS:
            await self._connection.stream()
            self._checked_at = now
            self._grid_bytes = grid_bytes(self._connection.payload_bytes_max)
        return self._connection


def grid_bytes(payload_bytes_max: int) -> int:
    """The largest power of two of which a portion makes no message above `payload_bytes_max`, whatever lies in it. Raises
    SinkFailed if there is none that is worth it."""
    room = payload_bytes_max - EXCESS_BYTES_MAX - _HEADERS_BYTES_MAX
    if room < _GRID_BYTES_MIN:
        raise SinkFailed(
            "stream_refused",
            "MaxPayload",
            f"the servers of NATS take messages of at most {payload_bytes_max} bytes; raise their max_payload to 1 MiB",
        )
    return 1 << (room.bit_length() - 1)


_GRID_BYTES_MIN: Final = 32 * 1024
