"""The rules of keys: the plan must exist, a secret is made here and kept nowhere, a key has at most two secrets at a time, a
revocation is for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime, timedelta

import asyncpg

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Problem, ProblemCode, cut, invalid
from ostiary.control_plane.keys import limits, store
from ostiary.control_plane.keys.limits import KeyLimits, KeyLimitsInForce
from ostiary.control_plane.keys.model import (
    CreatedKey,
    Key,
    KeyChanges,
    KeyPage,
    KeyQuery,
    KeyState,
    NewKey,
    Revocation,
    Rotation,
)
from ostiary.control_plane.keys.sealing import Sealing
from ostiary.control_plane.keys.store import StoredSecret
from ostiary.control_plane.plans import share as share_plan
from ostiary.core.credentials import generate_key_id, generate_secret, secret_sha256
from ostiary.core.encryption import Envelope
from ostiary.core.model import Environment

PlanNames = Callable[[Connection], Awaitable[Collection[str]]]


def the_plans(names: Collection[str]) -> PlanNames:
    """Those of the configuration, which stay while this process runs."""
    fixed = frozenset(names)

    async def plans(_: Connection) -> Collection[str]:
        return fixed

    return plans


class Keys:
    """`plans` gives the names that there are; `key_prefix` stands in front of every id and secret made.

    Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, plans: PlanNames, envelope: Envelope, key_prefix: str) -> None:
        self._plans = plans
        self._sealing = Sealing(envelope)
        self._key_prefix = key_prefix

    async def create(self, connection: Connection, app_id: str, new: NewKey) -> CreatedKey:
        """The secret is in the value returned, and in nothing else."""
        await self._check_plan(connection, new.plan)
        environment = Environment(new.environment)
        if environment is Environment.LIVE and await store.environment_of_app(connection, app_id) == "test":
            raise invalid("environment", "the app is one for tests: it has test keys alone")
        key_id = generate_key_id(environment, self._key_prefix)
        secret, stored = await self._new_secret(key_id, environment)
        try:
            key = await store.insert(
                connection,
                app_id=app_id,
                key_id=key_id,
                new=new,
                expires_at=_expiry(new),
                secret=stored,
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

    async def rotate(self, connection: Connection, key_id: str, rotation: Rotation) -> CreatedKey:
        """The secret is in the value returned, and in nothing else."""
        key = await self.key(connection, key_id)
        secret, stored = await self._new_secret(key_id, Environment(key.environment))
        done = await store.rotate(connection, key_id, stored, grace_seconds=rotation.grace_seconds)
        key = await self.key(connection, key_id)
        if not done:
            raise Problem(ProblemCode.CONFLICT, f"The key is {key.state}; create another one.")
        return CreatedKey(**dict(key), secret=secret)

    async def end_generation(self, connection: Connection, key_id: str, number: int) -> Key:
        """A generation that has ended already stays as it is: ending is safe to repeat."""
        key = await self.key(connection, key_id)
        if number > key.generations[0].number:
            raise Problem(ProblemCode.NOT_FOUND, "The key has no such generation.")
        if number == key.generations[0].number:
            raise Problem(
                ProblemCode.CONFLICT, "This is the present secret: rotate the key with a grace of 0, or revoke it."
            )
        await store.end_previous(connection, key_id, number)
        return await self.key(connection, key_id)

    async def amend(self, connection: Connection, key_id: str, changes: KeyChanges) -> Key:
        await self._check_plan(connection, changes.given().get("plan"))
        await store.amend(connection, key_id, changes)
        key = await self.key(connection, key_id)
        if key.state is KeyState.REVOKED:
            raise Problem(ProblemCode.CONFLICT, "The key is revoked: nothing about it changes any more.")
        return key

    async def limits(self, connection: Connection, key_id: str) -> KeyLimitsInForce:
        found = await limits.in_force(connection, key_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such key.")
        return found

    async def put_limits(
        self, connection: Connection, key_id: str, new: KeyLimits, *, changed_by: str
    ) -> KeyLimitsInForce:
        await limits.put(connection, key_id, new.document(), reason=new.reason, changed_by=changed_by)
        return await self.limits(connection, key_id)

    async def remove_limits(
        self, connection: Connection, key_id: str, reason: str, *, changed_by: str
    ) -> KeyLimitsInForce:
        await limits.put(connection, key_id, None, reason=reason, changed_by=changed_by)
        return await self.limits(connection, key_id)

    async def _check_plan(self, connection: Connection, plan: str | None) -> None:
        if plan is None:
            return
        await share_plan(connection, plan)  # else it may be deleted before this commits, and the key held to no plan
        if plan not in (plans := await self._plans(connection)):
            raise invalid("plan", f"there is no such plan; there are: {', '.join(sorted(plans)) or 'none'}")

    async def _new_secret(self, key_id: str, environment: Environment) -> tuple[str, StoredSecret]:
        """The only place where a secret is made: in the open, and as it is kept."""
        secret = generate_secret(environment, self._key_prefix)
        octets = secret.encode()
        sealed, data_key_wrapped = await self._sealing.seal(octets, key_id=key_id)
        return secret, StoredSecret(secret_sha256(octets), sealed, data_key_wrapped, secret[-4:])


def _expiry(new: NewKey) -> datetime | None:
    if new.expires_in_days is not None:
        return datetime.now(UTC) + timedelta(days=new.expires_in_days)
    return new.expires_at


def _no_such_app() -> Problem:
    return Problem(ProblemCode.NOT_FOUND, "There is no such app.")
