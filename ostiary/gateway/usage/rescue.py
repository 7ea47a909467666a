"""Calls that were under way when their worker was killed, as a segment like any other."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5
from zlib import crc32

from ostiary.gateway.usage.directory import OPEN, SEALED, Contents, SegmentName
from ostiary.gateway.usage.run import NEW_SUFFIX, RunState, is_of_this_boot, read_run, write_rescued
from ostiary.gateway.usage.segment import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    DamagedFile,
    SegmentHeader,
    pack_seal,
    read_segment,
)
from ostiary.gateway.usage.under_way import read_under_way

# The id of a run's segment of rescued calls is made of that of the run: made twice, it is known to the ledger.
_NAMESPACE: Final = UUID("c1a5f2a6-3d2b-4c8e-9a55-6f1f0b5f0d10")

_log = logging.getLogger("ostiary.gateway.usage")


def rescue(directory: Path, contents: Contents, run_id: UUID) -> None:
    """For whoever ships: once for a run that is over, before anything that it left open is shipped. Safe to be killed
    anywhere, and to repeat. Raises OSError."""
    path = contents.runs[run_id]
    try:
        run = read_run(path)
    except (DamagedFile, FileNotFoundError):
        return
    if run.rescued is not None or run.closed:
        return
    last_was_stored: bool | None = None
    records: list[bytes] = []
    # After a loss of power the disk may have a call's record and not that its slot is free: it would be there twice.
    for call in read_under_way(path) if is_of_this_boot(path) else ():
        if call.ordinal == run.accepted + 1:  # its record was being stored: is it there?
            if last_was_stored is None:
                last_was_stored = _has_uncounted(directory, contents, run)
            if last_was_stored:
                continue
        elif call.ordinal:  # stored, or dropped, and counted
            continue
        records.append(call.record)
    new = path.with_suffix(NEW_SUFFIX)
    if records:
        name = SegmentName(time.time_ns() // 1000, run_id, uuid5(_NAMESPACE, run_id.hex), SEALED)
        new.write_bytes(_segment(name, run, records))
        os.replace(new, name.path(directory))
        fields = {"worker": run.worker, "run": str(run_id), "calls": len(records)}
        _log.warning("usage_calls_rescued", extra={"fields": fields})
    write_rescued(path, len(records))


def _has_uncounted(directory: Path, contents: Contents, run: RunState) -> bool:
    """Whether the run has stored a record more than it has counted: at the end of the segment that it wrote to."""
    for name in contents.segments:
        if name.run_id != run.run_id or name.state != OPEN:
            continue
        try:
            segment = read_segment(name.path(directory), None)
        except DamagedFile:
            continue
        if segment is not None:
            before = segment.header.accepted_before - segment.header.dropped_before
            if before + len(segment.records) > run.stored:
                return True
    return False


def _segment(name: SegmentName, run: RunState, records: list[bytes]) -> bytes:
    content = bytearray(HEADER_BYTES)
    header = SegmentHeader(name.segment_id, name.run_id, run.worker, name.created_us, run.accepted, run.dropped).pack()
    content[: len(header)] = header
    for record in records:
        content += FRAME.pack(crc32(record), len(record) + FRAME_BYTES) + record
        content += bytes(-len(content) % 8)
    place, seal = pack_seal(len(records), len(content))
    content[place : place + len(seal)] = seal
    return bytes(content)
