"""Lists: `?limit=&cursor=`, newest first, and the total.

A cursor is the position of the last item seen (its time and its id), not a count of items to skip: a page costs the same
however deep it lies, and items made meanwhile shift nothing. Its form is nobody's business and may change."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http.fields import Answer, Count, Parameters

LIMIT_MAX = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# 2100-01-01: every time in the tables is before it, and arithmetic up to there can't overflow.
_MICROSECONDS_MAX = 4_102_444_800_000_000

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Position:
    """The place of an item in a list that is ordered by `created_at` and `id`."""

    created_at: datetime
    id: str


def encode(position: Position) -> str:
    microseconds = (position.created_at - _EPOCH) // _MICROSECOND
    return (
        base64.urlsafe_b64encode(json.dumps([microseconds, position.id], ensure_ascii=False).encode())
        .rstrip(b"=")
        .decode()
    )


def _decoder(check_id: Callable[[str], object], length_max: int = 200) -> Callable[[object], object]:
    def decode(value: object) -> object:
        if isinstance(value, Position):
            return value
        try:
            if not isinstance(value, str) or len(value) > length_max:
                raise ValueError
            text = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
            microseconds, item_id = json.loads(text)
            if type(microseconds) is not int or not 0 <= microseconds <= _MICROSECONDS_MAX or type(item_id) is not str:
                raise ValueError
            check_id(item_id)
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise PydanticCustomError("cursor", "must be the next_cursor of an earlier answer, unchanged") from error
        return Position(_EPOCH + microseconds * _MICROSECOND, item_id)

    return decode


def _check_key_id(text: str) -> None:
    if not (4 <= len(text) <= 64 and text.isascii() and text.replace("_", "").isalnum()):
        raise ValueError


def _check_request_id(text: str) -> None:
    if len(text) > 128 or "\0" in text:
        raise ValueError


def _check_number(text: str) -> None:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):  # of a bigint
        raise ValueError


# A request id of 128 bytes that a client made and that was cleaned is up to 384 bytes.
_REQUEST_CURSOR_LENGTH_MAX = 600

_CURSOR_SCHEMA = WithJsonSchema(
    {"type": "string", "maxLength": 200, "description": "next_cursor of the page before, unchanged"}
)
# A position of one kind of list is refused by the other, rather than failing as a comparison in Postgres.
UuidCursor = Annotated[Position, BeforeValidator(_decoder(UUID)), _CURSOR_SCHEMA]
KeyCursor = Annotated[Position, BeforeValidator(_decoder(_check_key_id)), _CURSOR_SCHEMA]
NumberCursor = Annotated[Position, BeforeValidator(_decoder(_check_number)), _CURSOR_SCHEMA]
RequestCursor = Annotated[
    Position,
    BeforeValidator(_decoder(_check_request_id, _REQUEST_CURSOR_LENGTH_MAX)),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": _REQUEST_CURSOR_LENGTH_MAX,
            "description": "next_cursor of the page before, unchanged",
        }
    ),
]

Limit = Annotated[Count, Field(ge=1, le=LIMIT_MAX, description="how many items at most")]


class Paging(Parameters):
    """A page of a list whose ids are UUIDs."""

    limit: Limit = 50
    cursor: UuidCursor | None = None


class KeyPaging(Parameters):
    """A page of a list of keys."""

    limit: Limit = 50
    cursor: KeyCursor | None = None


class NumberPaging(Parameters):
    """A page of a list whose ids are numbers."""

    limit: Limit = 50
    cursor: NumberCursor | None = None


class Page(Answer, Generic[ItemT]):
    """One page. `next_cursor` is null on the last one; `total` counts the whole list."""

    data: tuple[ItemT, ...]
    next_cursor: str | None
    total: int


class Positioned(Protocol):
    @property
    def created_at(self) -> datetime: ...
    @property
    def id(self) -> str: ...


PositionedT = TypeVar("PositionedT", bound=Positioned)


def cut(items: Sequence[PositionedT], limit: int) -> tuple[tuple[PositionedT, ...], str | None]:
    """From up to `limit + 1` items in order: those of the page, and the cursor of the next page if there is one."""
    page = tuple(items[:limit])
    if len(items) <= limit:
        return page, None
    return page, encode(Position(page[-1].created_at, page[-1].id))
