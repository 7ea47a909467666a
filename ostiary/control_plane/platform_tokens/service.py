"""The rules of platform tokens: named, of one role, ending, shown once, and revoked with the next call."""

from __future__ import annotations

import asyncpg

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Paging, Problem, ProblemCode, Transactions, cut, invalid
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.platform_tokens import store
from ostiary.control_plane.platform_tokens.model import (
    CreatedPlatformToken,
    NewPlatformToken,
    PlatformToken,
    PlatformTokenPage,
)
from ostiary.core.credentials import TokenKind, generate_token, secret_sha256, token_kind


class PlatformTokens:
    """Methods work on the caller's transaction, but for `authenticate`, which opens its own. All raise Problem."""

    def __init__(self, *, transactions: Transactions, key_prefix: str) -> None:
        self._transactions = transactions
        self._key_prefix = key_prefix

    async def authenticate(self, token: str) -> Actor | None:
        """None for what is no platform token in force. One with a typing error costs no look-up."""
        if token_kind(token) is not TokenKind.PLATFORM:
            return None
        async with self._transactions.open(reads=True) as connection:
            found = await store.in_force(connection, secret_sha256(token.encode()))
        if found is None:
            return None
        known, unused = found
        if unused:
            async with self._transactions.open() as connection:
                await store.note_use(connection, known.id)
        memberships = {}
        if known.organization_id is not None and known.role is not None:
            memberships = {known.organization_id: known.role}
        return Actor(f"token:{known.id}", known.name, known.platform_role, memberships)

    async def create(self, connection: Connection, new: NewPlatformToken, *, by: Actor) -> CreatedPlatformToken:
        """The token is in the value returned, and in nothing else."""
        token = generate_token(TokenKind.PLATFORM, self._key_prefix)
        try:
            made = await store.insert(
                connection, new, token_sha256=secret_sha256(token.encode()), hint=token[-4:], created_by=by.principal
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise invalid("organization_id", "there is no such organization") from error
        return CreatedPlatformToken(**dict(made), token=token)

    async def tokens(self, connection: Connection, page: Paging) -> PlatformTokenPage:
        found, total = await store.tokens(connection, after=page.cursor, limit=page.limit + 1)
        data, next_cursor = cut(found, page.limit)
        return PlatformTokenPage(data=data, next_cursor=next_cursor, total=total)

    async def token(self, connection: Connection, token_id: str) -> PlatformToken:
        found = await store.token(connection, token_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such token.")
        return found

    async def revoke(self, connection: Connection, token_id: str) -> PlatformToken:
        """One that is revoked already stays as it is."""
        await store.revoke(connection, token_id)
        return await self.token(connection, token_id)
