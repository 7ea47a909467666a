"""The rules of published routes: an invalid document is applied nowhere, a version is made from the one in force and replaces
it alone, and what was once applied stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Problem, ProblemCode, cut
from ostiary.control_plane.routes import store
from ostiary.control_plane.routes.consequences import Consequence
from ostiary.control_plane.routes.documents import Documents
from ostiary.control_plane.routes.model import (
    CHANGES_MAX,
    AppliedRoutes,
    GatewayNode,
    HistoryQuery,
    NewRouteVersion,
    NodeState,
    ProposedRoutes,
    RouteChange,
    RouteDiff,
    RouteRollback,
    RouteStatus,
    RouteVersion,
    RouteVersionPage,
    RouteVersionSummary,
)
from ostiary.control_plane.routes.store import Node
from ostiary.core.config.composition import CheckedDocument
from ostiary.core.published import document_sha256


class InForce(NamedTuple):
    """The version in force and what it says. `number` is 0, and `text` empty, before the first."""

    number: int
    text: str
    checked: CheckedDocument


class Edited(NamedTuple):
    """What is to be published next, as it is written and checked."""

    text: str
    checked: CheckedDocument


# What is to be published in place of a version, or None to leave it.
Edit = Callable[[InForce], Edited | None]


class _Comparison(NamedTuple):
    base: int
    consequences: list[Consequence]
    warnings: tuple[str, ...]

    @property
    def changes(self) -> tuple[RouteChange, ...]:
        return tuple(
            RouteChange(**each.change._asdict(), keys_gaining=each.keys_gaining, keys_losing=each.keys_losing)
            for each in self.consequences[:CHANGES_MAX]
        )


class Routes:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self) -> None:
        self._documents = Documents()

    async def current(self, connection: Connection) -> RouteVersion:
        found = await store.version(connection, None)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "No routes have been published yet.")
        return found

    async def version(self, connection: Connection, number: int) -> RouteVersion:
        found = await store.version(connection, number)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such version.")
        return found

    async def history(self, connection: Connection, query: HistoryQuery) -> RouteVersionPage:
        found, total = await store.history(connection, after=query.cursor, limit=query.limit + 1)
        data, next_cursor = cut(found, query.limit)
        return RouteVersionPage(data=data, next_cursor=next_cursor, total=total)

    async def diff(self, connection: Connection, proposed: ProposedRoutes) -> RouteDiff:
        text = proposed.document
        if proposed.number is not None:
            text = (await self.version(connection, proposed.number)).document
        checked = await self._documents.check(text or "")
        found = await self._compare(connection, checked)
        return RouteDiff(
            base=found.base,
            changes=found.changes,
            changes_total=len(found.consequences),
            warnings=found.warnings,
        )

    async def apply(self, connection: Connection, new: NewRouteVersion, *, author: str) -> AppliedRoutes:
        return await self._make(connection, new.document, base=new.base, note=new.note, author=author)

    async def roll_back(self, connection: Connection, rollback: RouteRollback, *, author: str) -> AppliedRoutes:
        """The document of before is checked anew: what a release took, a later one may refuse."""
        before = await self.version(connection, rollback.number)
        return await self._make(
            connection,
            before.document,
            base=rollback.base,
            note=rollback.note,
            author=author,
            rolled_back_to=before.number,
        )

    async def status(self, connection: Connection) -> RouteStatus:
        current = await store.current(connection)
        nodes = tuple(_node(node, current) for node in await store.nodes(connection))
        return RouteStatus(current=current, nodes=nodes)

    async def in_force(self, connection: Connection) -> tuple[int, CheckedDocument]:
        """The number of the version in force, and what it says as gateways read it; 0 and nothing before the first. Raises
        Problem `conflict` if this release does not take that version any more."""
        current = await store.current(connection)
        known = None if current is None else self._documents.known(current.sha256)
        if current is not None and known is not None:
            return current.number, known
        # The text is asked for once a version: it may be of 2 MiB.
        found = await self._in_force(connection)
        return found.number, found.checked

    async def edit(self, connection: Connection, edit: Edit, *, author: str, note: str) -> None:
        """Makes the next version of what `edit` makes of the one in force. Of another one, if somebody was faster: `edit` is
        asked again then. It runs in a thread. Raises Problem as `in_force` does, and what `edit` raises."""
        while True:
            before = await self._in_force(connection)
            made = await asyncio.to_thread(edit, before)
            if made is None:
                return
            # Checking may take seconds, so it comes before the lock; who was overtaken keeps it, and is not overtaken again.
            await store.lock(connection)
            if await store.current_number(connection) == before.number:
                await self._insert(connection, made.text, made.checked, note=note, author=author)
                return

    async def _in_force(self, connection: Connection) -> InForce:
        version = await store.version(connection, None)
        checked = await self._documents.in_force(version)
        if checked is None:
            raise Problem(
                ProblemCode.CONFLICT,
                "The version of the routes in force is not valid for this release: apply one that is.",
                about="/api/v1/routes",
            )
        return InForce(0, "", checked) if version is None else InForce(version.number, version.document, checked)

    async def _make(
        self,
        connection: Connection,
        document: str,
        *,
        base: int,
        note: str | None,
        author: str,
        rolled_back_to: int | None = None,
    ) -> AppliedRoutes:
        # Before the lock, so that others need not wait for it; and the answer of who is late anyway does not take seconds.
        if (current := await store.current_number(connection)) != base:
            raise _overtaken(base, current)
        checked = await self._documents.check(document)
        found = await self._compare(connection, checked)
        await store.lock(connection)
        if (current := await store.current_number(connection)) != base:
            raise _overtaken(base, current)
        made = await self._insert(
            connection, document, checked, note=note, author=author, rolled_back_to=rolled_back_to
        )
        return AppliedRoutes(
            **dict(made), changes=found.changes, changes_total=len(found.consequences), warnings=found.warnings
        )

    async def _insert(
        self,
        connection: Connection,
        document: str,
        checked: CheckedDocument,
        *,
        note: str | None,
        author: str,
        rolled_back_to: int | None = None,
    ) -> RouteVersionSummary:
        """To be called under the lock, from the version in force."""
        made = await store.insert(
            connection,
            document=document,
            sha256=document_sha256(document),
            normal_form=checked.normal_form,
            author=author,
            note=note,
            rolled_back_to=rolled_back_to,
        )
        self._documents.remember(made.sha256, checked)
        return made

    async def _compare(self, connection: Connection, checked: CheckedDocument) -> _Comparison:
        """With the version in force. If `base` is that one, it is what was compared with: versions do not change."""
        current = await store.version(connection, None)
        before = await self._documents.in_force(current)
        warnings = checked.configuration.warnings
        if before is None:
            before = await self._documents.in_force(None)
            warnings += ("the version in force is not valid for this release: everything is told as if it were new",)
        assert before is not None  # noqa: S101  nothing is always valid
        consequences, counted = await self._documents.compare(before, checked, await store.key_groups(connection))
        if not counted:
            warnings += ("too much to count: how many keys gain or lose access is not told",)
        return _Comparison(current.number if current else 0, consequences, warnings)


def _node(node: Node, current: RouteVersionSummary | None) -> GatewayNode:
    number = None if current is None else current.number
    if node.silent:
        state = NodeState.SILENT
    elif node.version == number and (current is None or node.sha256 == current.sha256):
        state = NodeState.CURRENT
    elif node.refused_version == number:
        state = NodeState.REFUSED
    else:
        state = NodeState.BEHIND
    return GatewayNode(
        node=node.node,
        host=node.host,
        ostiary=node.ostiary,
        state=state,
        version=node.version,
        since=node.since,
        refused_version=node.refused_version,
        refused_problems=tuple(node.refused_problems),
        seen_at=node.seen_at,
    )


def _overtaken(base: int, current: int) -> Problem:
    return Problem(
        ProblemCode.CONFLICT,
        f"This was made from version {base}, and version {current} is in force. Look at what that changed, and make yours "
        "from it.",
        about=f"/api/v1/routes/versions/{current}" if current else None,
    )
