"""The rules of reading the audit log. Writing it has none that could be broken here: `dispatch` does, in every change."""

from __future__ import annotations

from ostiary.control_plane.accounts import Accounts
from ostiary.control_plane.audit import store
from ostiary.control_plane.audit.model import AuditFilter, AuditHead, AuditPage, AuditQuery, position_of
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import cut, invalid


class Audit:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    async def rows(self, connection: Connection, query: AuditQuery) -> AuditPage:
        return await self._page(connection, query, query.organization_id)

    async def rows_of(self, connection: Connection, organization_id: str, query: AuditFilter) -> AuditPage:
        await self._accounts.organization(connection, organization_id)
        return await self._page(connection, query, organization_id)

    async def head(self, connection: Connection) -> AuditHead:
        anchor = await store.head(connection)
        return AuditHead(number=anchor.number, hash=anchor.hash.hex())

    async def _page(self, connection: Connection, query: AuditFilter, organization_id: str | None) -> AuditPage:
        if query.since is not None and query.until is not None and query.since >= query.until:
            raise invalid("since", "must be before until")
        after = position_of(query.cursor)
        found = await store.page(connection, query, organization_id=organization_id, after=after, limit=query.limit + 1)
        data, next_cursor = cut(found, query.limit)
        total = 0
        if query.cursor is None or query.format == "json":  # a file is counted once, with its first page
            total = await store.count(connection, query, organization_id=organization_id)
        return AuditPage(data=data, next_cursor=next_cursor, total=total)
