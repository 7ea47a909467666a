"""A list as CSV, page after page, whatever its length: no more than one page is in memory, and no database connection is held
while a client reads slowly."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from ostiary.control_plane.http.fields import Answer

PAGE_ROWS = 1000  # some 300 KB
# Ten minutes of streaming. What is longer is asked for in parts, or read from the tables.
ROWS_MAX = 1_000_000
WRITE_SECONDS = 30.0  # what a client may take for a page

# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"); their full-width forms as well.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}",
            "\N{FULLWIDTH HYPHEN-MINUS}", "\N{FULLWIDTH COMMERCIAL AT}")  # fmt: skip


FormatField = Annotated[
    Literal["json", "csv"],
    Field(
        description="`csv` gives all of the list, whatever `limit` says, with the names of the fields in the first row"
    ),
]


def cell(value: object) -> str:
    """Text that would be a formula gets a `'` in front; numbers, also negative ones, stay what they are."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)  # begins with a bracket: never a formula
        case str():
            return f"'{value}" if value.startswith(_FORMULA) else value
        case _:
            return str(value)


def lines(rows: Sequence[Answer], columns: Sequence[str]) -> bytes:
    """RFC 4180, in UTF-8."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([cell(getattr(row, column)) for column in columns] for row in rows)
    return text.getvalue().encode()


async def stream(
    request: web.Request, *, name: str, columns: Sequence[str], pages: AsyncIterator[Sequence[Answer]]
) -> web.StreamResponse:
    """The first page is asked for before anything is answered, so that what it refuses is refused as ever. What goes wrong
    later cuts the connection: the client sees that the end is missing. Raises what the first page raises."""
    first = await anext(pages, ())
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/csv; charset=utf-8; header=present",
            "Content-Disposition": f'attachment; filename="{name}.csv"',
        }
    )
    await response.prepare(request)
    try:
        await _write(response, (",".join(columns) + "\r\n").encode() + lines(first, columns))
        async for rows in pages:
            await _write(response, lines(rows, columns))
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(data)
