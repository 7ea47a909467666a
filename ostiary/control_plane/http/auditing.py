"""What is written into the audit log of a call, declared with its operation: which thing it changes, and what of that thing
is told. `dispatch` writes it, so no handler can forget, and an operation that changes something without such a declaration is
not served.

What was before and after are the domain's own readings of the thing, in the transaction of the change. Of a reading only the
fields of `record` are kept, which is a model with nothing in it that is not meant to be told: a field that is added to an
answer later does not get into the log by itself."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.http.fields import Answer

# Parameters of a path by name, and the id of what was made.
Ids = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """Of an operation that changes a thing.

    `id_from` is the parameter of the path that has the thing's id; of a thing that is made, the name under which `read` gets
    the field `made_id` of the answer. `read` gives the thing as it stands, and raises Problem `not_found` when there is
    none. `record` says what of it is told. `owner` is the name of the id that leads to the organization it belongs to, as in
    the authorization matrix; None for what is the platform's own."""

    resource: str
    id_from: str
    read: Callable[[Connection, Ids], Awaitable[BaseModel]]
    record: type[Answer]
    made_id: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedExport:
    """Of an operation that gives away a whole list: told when it is asked for as CSV, with what was asked for."""

    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedByItself:
    """Of an operation that opens its own transactions: its handler writes down what it does, by the call's `note`."""

    resource: str


class Note(Protocol):
    """Writes what the call has done into the audit log, as the last statement of a transaction of its handler. `actor` is who
    has become known by the call."""

    async def __call__(
        self,
        connection: Connection,
        *,
        resource_id: str,
        organization_id: str | None = None,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
        actor: Actor | None = None,
    ) -> None: ...


class Outcome(StrEnum):
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the log, without its place in it. `code` is that of the problem, for what was refused."""

    actor: Actor
    address: str | None
    request_id: str
    operation: str
    resource_type: str
    resource_id: str | None
    organization_id: str | None
    outcome: Outcome
    code: str | None = None
    before: Mapping[str, object] | None = None
    after: Mapping[str, object] | None = None


class AuditTrail(Protocol):
    """Where entries go: `control_plane.audit`."""

    async def hold(self, connection: Connection, resource: str, identifier: str) -> None:
        """Until the transaction ends, no other audited change of this thing is between its reading before and its end: what
        is told as changed was changed by this call."""

    async def append(self, connection: Connection, entry: Entry) -> None:
        """It is there when the transaction commits, and not before."""


def told(audited: Audited, thing: BaseModel | None) -> dict[str, object] | None:
    """What the log may have of it."""
    return None if thing is None else audited.record.model_validate(thing).model_dump(mode="json")


def differences(
    before: dict[str, object] | None, after: dict[str, object] | None
) -> tuple[dict[str, object] | None, dict[str, object] | None]:
    """Of a thing that was there and still is, only the fields that are not the same; both empty if nothing has changed."""
    if before is None or after is None:
        return before, after
    changed = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in changed}, {name: after[name] for name in changed}


class RefusalBounds:
    """How many refusals are written: nobody may fill the disk by being refused. Each principal has a bucket, all unknown
    callers have one together; beyond it, refusals are counted, and the next row that is written tells how many."""

    # One who tries doors is seen at the first. A row every ten seconds is 5 MB a day.
    BURST, PER_SECOND = 20.0, 0.1
    # The principals refused last. One that was pushed out begins with a full bucket: it takes 500 others to do that.
    PRINCIPALS_MAX = 500
    # All principals together, with as many accounts as one likes: 50 MB a day at worst, and process.
    ALL_BURST, ALL_PER_SECOND = 200.0, 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(self.ALL_BURST, clock())

    def take(self, principal: str) -> int | None:
        """None: it is not to be written. Else how many of this principal were not written since the last that was."""
        now = self._clock()
        bucket = self._buckets.get(principal)
        if bucket is None:
            if len(self._buckets) >= self.PRINCIPALS_MAX:
                self._buckets.popitem(last=False)
            bucket = self._buckets[principal] = _Bucket(self.BURST, now)
        self._buckets.move_to_end(principal)
        bucket.refill(now, self.BURST, self.PER_SECOND)
        self._all.refill(now, self.ALL_BURST, self.ALL_PER_SECOND)
        if bucket.tokens < 1 or self._all.tokens < 1:
            bucket.unwritten += 1
            return None
        bucket.tokens -= 1
        self._all.tokens -= 1
        unwritten, bucket.unwritten = bucket.unwritten, 0
        return unwritten


class _Bucket:
    __slots__ = ("at", "tokens", "unwritten")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens, self.at, self.unwritten = tokens, at, 0

    def refill(self, now: float, burst: float, per_second: float) -> None:
        self.tokens, self.at = min(burst, self.tokens + (now - self.at) * per_second), now
