"""All SQL of the gateway's keys. It reads `api_keys` and `apps`, and writes nothing."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import asyncpg

from ostiary.core.encryption import EncryptionError, Envelope, RemoteKeyWrapper
from ostiary.core.model import Environment, Key, LimitOverride
from ostiary.core.overrides import read_override
from ostiary.core.signing import Signer
from ostiary.gateway.keys.cache import KnownKey, SealedSecret
from ostiary.gateway.keys.opening import Openings

CHANNEL = "ostiary_keys"

# Sets of scopes that are shared between keys; in practice there are some dozens.
_SHARED_SCOPES_MAX = 4_096

_log = logging.getLogger(__name__)

_LOAD = """
-- Guarantees: every key in force (not revoked, of an app that the platform approves of, test keys also of one that waits or
-- was rejected) that has one of these ids or secrets, once, with both of its generations and
-- the organization of its app, all as of one moment. Every arm is an index look-up. Whether a generation has ended is for the
-- gateway's clock to say, as for what it knows already.
SELECT k.id, k.environment, k.secret_sha256, k.secret_sealed, k.data_key_wrapped, k.plan, k.scopes,
       k.app_id::text AS app_id, a.organization_id::text AS organization_id, k.allowed_networks, k.allowed_origins,
       extract(epoch FROM k.expires_at)::float8 AS expires_at, k.limits::text AS limits, k.revision, k.generation,
       k.previous_secret_sha256, k.previous_secret_sealed, k.previous_data_key_wrapped,
       extract(epoch FROM k.previous_ends_at)::float8 AS previous_ends_at
FROM api_keys k JOIN apps a ON a.id = k.app_id
WHERE k.revoked_at IS NULL AND (a.approval = 'approved' OR (a.approval IN ('pending', 'rejected') AND k.environment = 'test'))
  AND (
    k.id = ANY ($1::text[]) OR k.secret_sha256 = ANY ($2::bytea[]) OR k.previous_secret_sha256 = ANY ($2::bytea[])
)
"""

_HIGHEST_REVISION = """
-- Guarantees: no committed change has a higher revision (an uncommitted one may come to have a lower one).
SELECT coalesce(max(revision), 0) FROM api_keys
"""

_CHANGED_SINCE = """
-- Guarantees: the committed changes above a revision, lowest first, at most $2 of them. Deleted rows are not among them.
SELECT id, revision FROM api_keys WHERE revision > $1 ORDER BY revision LIMIT $2
"""

_CHANGED_AMONG = """
-- Guarantees: of the keys given with the revision that is known, those that have another one now or are gone.
SELECT c.id FROM unnest($1::text[], $2::bigint[]) AS c (id, revision)
LEFT JOIN api_keys k ON k.id = c.id
WHERE k.revision IS DISTINCT FROM c.revision
"""


async def connect(postgres_url: str, *, purpose: str, deadline_seconds: float) -> asyncpg.Connection:
    """A connection of its own, whose commands end or fail within the deadline. Raises what `describe` describes."""
    return await asyncpg.connect(
        postgres_url,
        timeout=deadline_seconds,
        command_timeout=deadline_seconds,
        server_settings={
            "application_name": f"ostiary gateway {purpose}",
            "default_transaction_read_only": "on",
            # The server must not work on for a gateway that has given up.
            "statement_timeout": str(int(deadline_seconds * 1000)),
        },
    )


class KeyLoader:
    """Loads keys, ready for use. What `envelope` can't open has no signer: its bearer secret still works, and the log names
    the key. What a service has to open is left to the `openings` of it, for when the key signs."""

    def __init__(self, envelope: Envelope | None, openings: Mapping[RemoteKeyWrapper, Openings]) -> None:
        self._envelope = envelope
        self._openings = openings
        self._scopes: dict[frozenset[str], frozenset[str]] = {}

    async def load(
        self, connection: asyncpg.Connection, *, ids: Sequence[str], secrets_sha256: Sequence[bytes], epoch: int
    ) -> list[KnownKey]:
        """The keys in force with these ids or secrets."""
        rows = await connection.fetch(_LOAD, ids, secrets_sha256)
        return [self._known_key(row, epoch) for row in rows]

    def _known_key(self, row: asyncpg.Record, epoch: int) -> KnownKey:
        plan, app_id = row["plan"], row["app_id"]
        key = Key(
            id=row["id"],
            environment=Environment(row["environment"]),
            secret_sha256=row["secret_sha256"],
            secret=None,  # the signer is made of it; it need not stay in memory in the clear besides
            # Many keys have the same plan, app and scopes: sharing them takes a quarter off the memory of a known key.
            plan=None if plan is None else sys.intern(plan),
            scopes=self._shared(frozenset(row["scopes"])),
            app_id=sys.intern(app_id),
            organization_id=sys.intern(row["organization_id"]),
            allowed_networks=tuple(row["allowed_networks"]),
            allowed_origins=frozenset(row["allowed_origins"]),
            expires_at=row["expires_at"],
            limits=None if row["limits"] is None else _override(row["id"], row["limits"]),
            generation=row["generation"],
        )
        previous = None if row["previous_secret_sha256"] is None else self._previous(key, row, epoch)
        secret = self._secret(row["id"], row["secret_sealed"], row["data_key_wrapped"])
        return _known(key, secret, row, epoch, previous)

    def _previous(self, key: Key, row: asyncpg.Record, epoch: int) -> KnownKey:
        ends_at = row["previous_ends_at"]
        previous = replace(
            key,
            secret_sha256=row["previous_secret_sha256"],
            generation=key.generation - 1,
            expires_at=ends_at if key.expires_at is None else min(ends_at, key.expires_at),
        )
        secret = self._secret(row["id"], row["previous_secret_sealed"], row["previous_data_key_wrapped"])
        return _known(previous, secret, row, epoch, None)

    def _shared(self, scopes: frozenset[str]) -> frozenset[str]:
        if len(self._scopes) >= _SHARED_SCOPES_MAX:
            self._scopes.clear()
        return self._scopes.setdefault(scopes, scopes)

    def _secret(self, key_id: str, sealed: bytes, wrapped: bytes) -> Signer | SealedSecret | None:
        if self._envelope is None:
            return None
        try:
            service = self._envelope.service_of(wrapped)
            if service is not None:
                return self._openings[service].secret(key_id, sealed, wrapped)
            return Signer(self._envelope.open(sealed, wrapped, key_id=key_id))
        except EncryptionError as error:
            _log.error("key_cannot_sign", extra={"fields": {"key_id": key_id, "reason": str(error)}})
            return None


def _known(
    key: Key, secret: Signer | SealedSecret | None, row: asyncpg.Record, epoch: int, previous: KnownKey | None
) -> KnownKey:
    sealed = secret if isinstance(secret, SealedSecret) else None
    signer = secret if isinstance(secret, Signer) else None
    return KnownKey(key, signer=signer, revision=row["revision"], epoch=epoch, sealed=sealed, previous=previous)


def _override(key_id: str, text: str) -> LimitOverride | None:
    """The control plane has checked it; what another hand has written, and does not fit, leaves the plan in force."""
    try:
        return read_override(json.loads(text))
    except ValueError as error:
        _log.error("key_limits_unreadable", extra={"fields": {"key_id": key_id, "reason": str(error)}})
        return None


async def highest_revision(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval(_HIGHEST_REVISION))


async def changed_since(connection: asyncpg.Connection, revision: int, *, rows_max: int) -> list[tuple[str, int]]:
    """(key id, revision) of changes above `revision`, at most `rows_max`."""
    return [(row["id"], row["revision"]) for row in await connection.fetch(_CHANGED_SINCE, revision, rows_max)]


async def changed_among(connection: asyncpg.Connection, keys: Iterable[KnownKey]) -> list[str]:
    """Ids of those of `keys` that Postgres has in another revision, or no longer."""
    known = [(entry.key.id, entry.revision) for entry in keys]
    rows = await connection.fetch(_CHANGED_AMONG, [key_id for key_id, _ in known], [revision for _, revision in known])
    return [row["id"] for row in rows]


def describe(error: Exception) -> str:
    """What went wrong, for the log. Never the message of a connection error as a whole: it may quote the URL, which has the
    password."""
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return "Postgres has no current schema; run: ostiary db migrate -c FILE"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return "Postgres refuses; the gateway's role needs SELECT on api_keys and apps"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return "the URL of Postgres can't be used; correct stores.postgres"
    if isinstance(error, ConnectionResetError | asyncpg.PostgresConnectionError):
        return "the connection to Postgres was lost"
    if isinstance(error, asyncpg.PostgresError):
        return f"Postgres says {type(error).__name__} ({error.sqlstate})"
    if isinstance(error, TimeoutError):
        return "Postgres does not answer in time"
    if isinstance(error, asyncpg.InterfaceError):
        return "the connection to Postgres was lost"
    if isinstance(error, OSError):
        return f"Postgres can't be reached: {error.strerror or type(error).__name__}"
    return f"Postgres can't be used: {type(error).__name__}"
