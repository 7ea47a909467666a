"""What is told to others of a change: an event of a kind, by the table that the composition root gives. `recording` writes it
in the transaction of the change, from what the audit log is told, so that no handler can forget and no secret gets in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ostiary.control_plane.db import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A row of the outbox, without its number. `payload` has before and after, as the audit log has them."""

    kind: str
    resource_type: str
    resource_id: str
    organization_id: str | None
    request_id: str
    payload: Mapping[str, object]


class Outbox(Protocol):
    """Where events go: `control_plane.events`."""

    async def append(self, connection: Connection, event: Event) -> None:
        """It is there when the transaction commits, and not before. To be called before the audit log's `append`."""


@dataclass(frozen=True, slots=True)
class Telling:
    """`kinds` is the kind of event by operation; `{name}` in it stands for a field that the change has set, and there is none
    if it has not. An operation that is not in it is told to nobody."""

    outbox: Outbox
    kinds: Mapping[str, str]

    def kind_of(
        self, operation_id: str, before: Mapping[str, object] | None, after: Mapping[str, object] | None
    ) -> str | None:
        """None where there is nothing to tell: also of a change that has changed nothing."""
        kind = self.kinds.get(operation_id)
        if kind is None or not (before or after):
            return None
        try:
            return kind.format_map(after or {})
        except KeyError:
            return None
