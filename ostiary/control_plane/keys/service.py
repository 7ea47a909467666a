"""The rules of keys: the plan must exist, the secret is made here and kept nowhere, a revocation is for ever."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import asyncpg

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Problem, ProblemCode, cut, invalid
from ostiary.control_plane.http.idempotency import OPERATOR
from ostiary.control_plane.keys import limits, store
from ostiary.control_plane.keys.limits import KeyLimits, KeyLimitsInForce
from ostiary.control_plane.keys.model import CreatedKey, Key, KeyPage, KeyQuery, NewKey, Revocation
from ostiary.control_plane.keys.sealing import Sealing
from ostiary.control_plane.keys.store import StoredSecret
from ostiary.core.credentials import generate_key_id, generate_secret, secret_sha256
from ostiary.core.encryption import Envelope
from ostiary.core.model import Environment


class Keys:
    """`plans` are the names that the configuration knows; `key_prefix` stands in front of every id and secret made.

    Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, plans: Collection[str], envelope: Envelope, key_prefix: str) -> None:
        self._plans = frozenset(plans)
        self._sealing = Sealing(envelope)
        self._key_prefix = key_prefix

    async def create(self, connection: Connection, app_id: str, new: NewKey) -> CreatedKey:
        """The only place where a secret exists in the open: it is in the value returned, and in nothing else."""
        if new.plan is not None and new.plan not in self._plans:
            raise invalid("plan", f"there is no such plan; there are: {', '.join(sorted(self._plans)) or 'none'}")
        environment = Environment(new.environment)
        key_id = generate_key_id(environment, self._key_prefix)
        secret = generate_secret(environment, self._key_prefix)
        octets = secret.encode()
        sealed, data_key_wrapped = await self._sealing.seal(octets, key_id=key_id)
        try:
            key = await store.insert(
                connection,
                app_id=app_id,
                key_id=key_id,
                new=new,
                expires_at=_expiry(new),
                secret=StoredSecret(secret_sha256(octets), sealed, data_key_wrapped, secret[-4:]),
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise _no_such_app() from error
        return CreatedKey(**dict(key), secret=secret)

    async def key(self, connection: Connection, key_id: str) -> Key:
        found = await store.key(connection, key_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such key.")
        return found

    async def keys_of(self, connection: Connection, app_id: str, query: KeyQuery) -> KeyPage:
        if not await store.app_exists(connection, app_id):
            raise _no_such_app()
        found, total = await store.keys_of(connection, app_id, after=query.cursor, limit=query.limit + 1)
        data, next_cursor = cut(found, query.limit)
        return KeyPage(data=data, next_cursor=next_cursor, total=total)

    async def revoke(self, connection: Connection, key_id: str, revocation: Revocation) -> Key:
        """A key that is revoked already stays as it is: revoking is safe to repeat."""
        await store.revoke(connection, key_id, revocation.reason)
        return await self.key(connection, key_id)

    async def limits(self, connection: Connection, key_id: str) -> KeyLimitsInForce:
        found = await limits.in_force(connection, key_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such key.")
        return found

    async def put_limits(self, connection: Connection, key_id: str, new: KeyLimits) -> KeyLimitsInForce:
        await limits.put(connection, key_id, new.document(), reason=new.reason, changed_by=OPERATOR)
        return await self.limits(connection, key_id)

    async def remove_limits(self, connection: Connection, key_id: str, reason: str) -> KeyLimitsInForce:
        await limits.put(connection, key_id, None, reason=reason, changed_by=OPERATOR)
        return await self.limits(connection, key_id)


def _expiry(new: NewKey) -> datetime | None:
    if new.expires_in_days is not None:
        return datetime.now(UTC) + timedelta(days=new.expires_in_days)
    return new.expires_at


def _no_such_app() -> Problem:
    return Problem(ProblemCode.NOT_FOUND, "There is no such app.")
