"""What is done to the database without the API, by a command or by the control plane of its own accord: written down where
the API's changes are."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from uuid import uuid4

from ostiary.control_plane.audit.store import AuditLog
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.http.auditing import Entry, Outcome


def by_command() -> Actor:
    """Whoever runs this, as the system calls them: nobody has proved it, but they have the configuration's secrets."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unnamed"
    return Actor("command", f"{user}@{socket.gethostname()}"[:200])


def by_itself() -> Actor:
    """The control plane, on the hour."""
    return Actor("control-plane", socket.gethostname()[:200])


class Deed:
    """One run of what is named like an operation. All its rows have one request id, and nothing of a secret in them."""

    def __init__(self, operation: str, *, resource: str, by: Actor) -> None:
        self._operation = operation
        self._resource = resource
        self._by = by
        self._id = uuid4().hex

    async def note(
        self,
        connection: Connection,
        *,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
    ) -> None:
        """In the connection's transaction, or one of its own. Raises asyncpg's errors."""
        entry = Entry(
            actor=self._by,
            address=None,
            request_id=self._id,
            operation=self._operation,
            resource_type=self._resource,
            resource_id=None,
            organization_id=None,
            outcome=Outcome.DONE,
            before=before,
            after=after,
        )
        await AuditLog().append(connection, entry)
