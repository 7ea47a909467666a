"""Walks the hash chain of the audit log and finds the first row that is not what was written.

What it can't see without an anchor that was kept elsewhere: that the end was cut off, and that somebody who may do anything
in the database wrote the whole log anew, hashes and all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg
from asyncpg import Record

from ostiary.control_plane.audit.store import content_of
from ostiary.control_plane.db import Connection
from ostiary.control_plane.db.pool import CONNECT_ERRORS, CONNECT_SECONDS, unavailable
from ostiary.core.audit_chain import GENESIS, Anchor, content_sha256, row_hash

# Rows in memory at a time; a row is at most some 100 KB, and mostly under one.
ROWS_AT_ONCE = 500
# No other process waits for this one: it reads one snapshot, whatever is written meanwhile.
STATEMENT_SECONDS = 60.0
# To say where a row that was moved comes from: some ten seconds.
NUMBERS_TRIED_MAX = 5_000_000


class Wrong(StrEnum):
    ALTERED = "altered"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    CUT_OFF = "cut_off"
    WRITTEN_ANEW = "written_anew"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first row, by number, where the chain does not hold. `says` is for people."""

    number: int
    what: Wrong
    says: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rows` is how many were walked, `head` the last that was good: to be kept elsewhere, if there is no finding."""

    rows: int
    head: Anchor
    head_at: datetime | None
    anchors_met: int
    finding: Finding | None


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection of its own, without the pool's bounds. Raises DatabaseUnavailable."""
    try:
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": "ostiary-audit-verify", "TimeZone": "UTC"},
        )
    except CONNECT_ERRORS as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def verify(connection: Connection, anchors: Sequence[Anchor] = ()) -> Verdict:
    """Reads the log of one moment, in its order, `ROWS_AT_ONCE` at a time. Raises asyncpg's errors."""
    ahead = sorted(anchors, key=lambda anchor: anchor.number)
    met = 0
    rows, last, last_at = 0, Anchor(0, GENESIS), None
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        finding = _at_anchors(last, [anchor for anchor in ahead if anchor.number == 0])
        met = sum(anchor.number == 0 for anchor in ahead)
        if finding is None:
            # Guarantees the rows of one moment in the order of their numbers, a few at a time.
            cursor = connection.cursor("SELECT * FROM audit_log ORDER BY number", prefetch=ROWS_AT_ONCE)
            async for row in cursor:
                finding = await _follows(connection, last, row)
                if finding is not None:
                    break
                rows, last, last_at = rows + 1, Anchor(row["number"], row["hash"]), row["occurred_at"]
                here = [anchor for anchor in ahead[met:] if anchor.number == last.number]
                if (finding := _at_anchors(last, here)) is not None:
                    break
                met += len(here)
    if finding is None and met < len(ahead):
        missing = ahead[met].number
        finding = Finding(
            last.number + 1,
            Wrong.CUT_OFF,
            f"the log ends with row {last.number}, and row {missing} was there when the anchor was taken: "
            f"{missing - last.number} rows or more were removed from the end",
        )
    return Verdict(rows, last, last_at, met, finding)


def _at_anchors(last: Anchor, anchors: Sequence[Anchor]) -> Finding | None:
    if all(anchor.hash == last.hash for anchor in anchors):
        return None
    says = (
        f"row {last.number} has another hash than the anchor that was taken of it: it, or a row before it, was altered, and "
        "the chain made anew"
    )
    return Finding(last.number, Wrong.WRITTEN_ANEW, says)


async def _follows(connection: Connection, last: Anchor, row: Record) -> Finding | None:
    """What is wrong with `row` as the one that follows `last`."""
    number, expected = row["number"], last.number + 1
    if number > expected:
        gone = f"row {expected} is" if number == expected + 1 else f"rows {expected} to {number - 1} are"
        return Finding(expected, Wrong.REMOVED, f"{gone} not there")
    if number < expected:
        return Finding(number, Wrong.INSERTED, f"there is more than one row {number}, or one below 1")
    content = content_sha256(content_of(row))
    if row["hash"] == row_hash(row["previous_hash"], number, row["occurred_at"], content):
        if row["previous_hash"] == last.hash:
            return None
        return Finding(
            number,
            Wrong.INSERTED,
            f"row {number} is whole, and does not follow row {last.number}: it was put here, or row {last.number} was "
            "altered and given a new hash",
        )
    return await _misplaced(connection, row, content) or Finding(
        number, Wrong.ALTERED, f"row {number} is not what was written: its hash does not fit what it says"
    )


async def _misplaced(connection: Connection, row: Record, content: bytes) -> Finding | None:
    """A row whose hash would fit under another number, since a hash covers the number too."""
    number, previous = row["number"], row["previous_hash"]
    # Guarantees the highest number of this snapshot, and whether what the row was written behind is still there.
    found = await connection.fetchrow(
        "SELECT max(number) AS last, bool_or(hash = $1) AS has_previous FROM audit_log", previous
    )
    last = 0 if found is None else found["last"]
    for home in range(1, min(last + ROWS_AT_ONCE, NUMBERS_TRIED_MAX)):
        if row["hash"] == row_hash(previous, home, row["occurred_at"], content):
            if found is None or found["has_previous"] or previous == GENESIS:
                return Finding(number, Wrong.REORDERED, f"what stands in row {number} was written as row {home}")
            return Finding(
                number,
                Wrong.REMOVED,
                f"what stands in row {number} was written as row {home}, and the row before it is not there any more",
            )
    return None
