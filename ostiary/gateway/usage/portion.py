"""A portion of a segment: the records of some of its file's bytes, written together and once.

A shipper that writes Postgres itself takes a segment whole. A stream carries messages of bounded size, so there a segment is
cut: at multiples of one power of two, by where in the file a record begins. So two ways to cut one segment (the bound was
changed in between) never overlap by half, and a record that can't be read any more moves no other into another portion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import Segment, SegmentHeader


@dataclass(frozen=True, slots=True)
class Portion:
    """`first` and `until` are bytes of the segment's file, the latter excluded; None: however far it goes. `offsets` says
    where each of `records` begins. `lost` is how many more must have been there and can't be read: they are counted with
    whoever takes the portion's end. `run` is what was known of the run when the portion was made."""

    spool_id: UUID
    header: SegmentHeader
    run: RunState
    first: int | None
    until: int | None
    records: list[bytes]
    offsets: list[int]
    lost: int


def whole(spool_id: UUID, segment: Segment, run: RunState) -> Portion:
    """All of a segment."""
    return Portion(spool_id, segment.header, run, None, None, segment.records, segment.offsets, segment.lost)


def cut(spool_id: UUID, segment: Segment, run: RunState, grid_bytes: int) -> Iterator[Portion]:
    """The portions of a segment in order, each of the records that begin within one `grid_bytes` (a power of two) of its
    file. The last reaches to the end, whatever that is, and has what is lost. Nothing for a segment without records and
    losses."""
    offsets = segment.offsets
    at = 0
    while True:
        cell = offsets[at] // grid_bytes if at < len(offsets) else 0
        end = at
        while end < len(offsets) and offsets[end] // grid_bytes == cell:
            end += 1
        last = end == len(offsets)
        if end > at or segment.lost:
            yield Portion(
                spool_id,
                segment.header,
                run,
                cell * grid_bytes,
                None if last else (cell + 1) * grid_bytes,
                segment.records[at:end],
                offsets[at:end],
                segment.lost if last else 0,
            )
        if last:
            return
        at = end
