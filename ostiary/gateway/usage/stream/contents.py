"""What the stream holds, as its server lists it: by subject, without reading a message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.sink import SinkFailed
from ostiary.gateway.usage.stream.connection import StreamConnection
from ostiary.gateway.usage.stream.fitness import CONSUMER, stream_configuration, subjects_of
from ostiary.gateway.usage.stream.message import EndedName, PortionName, parse_subject

# A server lists 100 000 subjects (50 GB of usage) in one answer. A longer list comes in several, and must not change
# meanwhile.
_ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class StreamContents:
    """`messages` and `bytes` are all that the stream holds; `in_work` of them have been delivered to a consumer and not been
    acknowledged. `consumed` is False if no consumer has ever asked. `foreign` counts subjects that are none of usage's."""

    messages: int
    bytes: int
    in_work: int
    redelivered: int
    consumed: bool
    foreign: int
    portions: tuple[PortionName, ...] = field(repr=False)
    ended: dict[UUID, EndedName] = field(repr=False)


async def read_contents(settings: NatsStream) -> StreamContents:
    """Changes nothing. Raises SinkFailed (StreamRefused among them) and ClientMissing."""
    connection = await StreamConnection.open(settings, name="ostiary-reconcile")
    try:
        told = await connection.stream()
        consumer = await connection.consumer(CONSUMER) or {}
        subjects = await _subjects(connection, settings)
    finally:
        await connection.close()
    names = [parse_subject(subject) for subject in subjects]
    return StreamContents(
        messages=told["state"]["messages"],
        bytes=told["state"]["bytes"],
        in_work=consumer.get("num_ack_pending", 0),
        redelivered=consumer.get("num_redelivered", 0),
        consumed=bool(consumer),
        foreign=sum(name is None for name in names),
        portions=_apart([name for name in names if isinstance(name, PortionName)]),
        ended={name.run_id: name for name in names if isinstance(name, EndedName)},
    )


async def create_stream(settings: NatsStream, *, bytes_max: int) -> None:
    """Afterwards the stream is there; one that was, is not changed. Raises SinkFailed and ClientMissing."""
    connection = await StreamConnection.open(settings, name="ostiary-usage-stream")
    try:
        if not await connection.exists():
            configuration = stream_configuration(settings, bytes_max=bytes_max)
            await connection.call(f"STREAM.CREATE.{settings.stream}", configuration)
    finally:
        await connection.close()


async def _subjects(connection: StreamConnection, settings: NatsStream) -> dict[str, Any]:
    for _ in range(_ATTEMPTS_MAX):
        found: dict[str, Any] = {}
        first = None
        while True:
            told = await connection.call(
                f"STREAM.INFO.{settings.stream}",
                {"subjects_filter": subjects_of(settings.stream), "offset": len(found)},
            )
            page = told["state"].get("subjects") or {}
            found.update(page)
            total = int(told.get("total", len(found)))
            first = total if first is None else first
            if not page or len(found) >= total:
                break
        if first == total:
            return found
    raise SinkFailed("unavailable", "StreamChanges", "the list of the stream changes while it is read; try again")


def _apart(portions: list[PortionName]) -> tuple[PortionName, ...]:
    """Without those that lie within another (a segment that was cut in two ways): no call is counted twice."""
    portions.sort(key=lambda name: (name.segment_id, name.first, -(name.until or 1 << 62)))
    kept: list[PortionName] = []
    for name in portions:
        last = kept[-1] if kept else None
        if last is not None and last.segment_id == name.segment_id and (last.until is None or name.first < last.until):
            continue
        kept.append(name)
    return tuple(kept)
