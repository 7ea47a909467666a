"""All SQL about sessions, their tokens, and what signs these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids
from ostiary.control_plane.http.access import Actor, PlatformRole, Role
from ostiary.control_plane.sign_in.model import Membership, RecordedSession, Session, SessionKind

# How many organizations a user may be in before the first are left out; nobody is in so many.
MEMBERSHIPS_MAX = 1000

# --- who calls --------------------------------------------------------------------------------------------------------

_USER = f"""
    u.id AS user_id, u.email, u.platform_role, m.organizations, m.roles
    FROM {{source}} JOIN users u ON u.id = {{user}} AND u.disabled_at IS NULL
    CROSS JOIN LATERAL (
        SELECT array_agg(organization_id) AS organizations, array_agg(role) AS roles FROM (
            SELECT organization_id, role FROM memberships WHERE user_id = u.id ORDER BY created_at LIMIT {MEMBERSHIPS_MAX}
        ) AS first
    ) AS m
"""  # noqa: S608  constants of this file

ACTOR_OF_COOKIE = f"""
    -- Guarantees the user of a browser's session that is in force, as they are at this moment: enabled, with these roles.
    SELECT s.id AS session_id, s.last_used_at < now() - interval '1 minute' AS unused, {_USER.format(source="sessions s", user="s.user_id")}
    WHERE s.secret_sha256 = $1 AND s.kind = 'browser' AND s.idle_ends_at > now() AND s.ends_at > now()
"""  # noqa: E501  constants of this file
ACTOR_OF_PROGRAM = f"""
    -- Guarantees the user of a program's session that is in force, as they are at this moment.
    SELECT s.id AS session_id, false AS unused, {_USER.format(source="sessions s", user="s.user_id")}
    WHERE s.id = $1 AND s.user_id = $2 AND s.kind = 'program' AND s.idle_ends_at > now() AND s.ends_at > now()
"""
ACTOR_OF_IDENTITY = f"""
    -- Guarantees the user that an issuer's subject is, as they are at this moment.
    SELECT NULL AS session_id, false AS unused, {_USER.format(source="user_identities i", user="i.user_id")}
    WHERE i.issuer = $1 AND i.subject = $2
"""


class Found(NamedTuple):
    """`unused`: it is a while since anybody noted that the session is in use."""

    actor: Actor
    unused: bool


async def actor_of_cookie(connection: Connection, secret_sha256: bytes) -> Found | None:
    return _found(await connection.fetchrow(ACTOR_OF_COOKIE, secret_sha256))


async def actor_of_program(connection: Connection, session_id: str, user_id: str) -> Found | None:
    return _found(await connection.fetchrow(ACTOR_OF_PROGRAM, session_id, user_id))


async def actor_of_identity(connection: Connection, issuer: str, subject: str) -> Found | None:
    return _found(await connection.fetchrow(ACTOR_OF_IDENTITY, issuer, subject))


def _found(row: Record | None) -> Found | None:
    if row is None:
        return None
    role = row["platform_role"]
    memberships = zip(row["organizations"] or (), row["roles"] or (), strict=True)
    actor = Actor(
        f"user:{row['user_id']}",
        row["email"],
        None if role is None else PlatformRole(role),
        {str(organization_id): Role(each) for organization_id, each in memberships},
        user_id=str(row["user_id"]),
        session_id=None if row["session_id"] is None else str(row["session_id"]),
    )
    return Found(actor, row["unused"])


async def note_use(connection: Connection, session_id: str, *, idle_seconds: int) -> None:
    await connection.execute(
        """
        -- Guarantees that a session in use does not end for idleness; and one write a minute for it, however many calls.
        UPDATE sessions SET last_used_at = now(), idle_ends_at = now() + make_interval(secs => $2)
        WHERE id = $1 AND last_used_at < now() - interval '1 minute'
        """,
        session_id,
        idle_seconds,
    )


# --- identities of an outside issuer ----------------------------------------------------------------------------------


async def is_invited(connection: Connection, email: str) -> bool:
    # Guarantees that somebody who may has asked this address in, and that it still holds.
    found: bool = await connection.fetchval(
        """
        SELECT EXISTS (SELECT FROM invitations WHERE email = $1 AND accepted_at IS NULL AND revoked_at IS NULL
            AND expires_at > now())
        """,
        email,
    )
    return found


async def insert_identity(connection: Connection, issuer: str, subject: str, user_id: str) -> bool:
    """Whether it is new."""
    done: bool | None = await connection.fetchval(
        """
        -- Guarantees that a subject is one user, for good: the first link stays.
        INSERT INTO user_identities (issuer, subject, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true
        """,
        issuer,
        subject,
        user_id,
    )
    return done is not None


async def forget_password(connection: Connection, user_id: str) -> None:
    # Guarantees that nobody signs in by a password that was chosen before the issuer vouched for the address.
    await connection.execute("UPDATE users SET password_hash = NULL WHERE id = $1", user_id)


# --- sessions ---------------------------------------------------------------------------------------------------------


class StoredUser(NamedTuple):
    """What signing in needs to know of a user."""

    id: str
    password_hash: str | None
    disabled: bool


async def user_of_email(connection: Connection, email: str) -> StoredUser | None:
    # Guarantees the user of an address in lower case, or nothing.
    row = await connection.fetchrow(
        "SELECT id, password_hash, disabled_at IS NOT NULL AS disabled FROM users WHERE email = $1", email
    )
    return None if row is None else StoredUser(str(row["id"]), row["password_hash"], row["disabled"])


async def insert_session(
    connection: Connection,
    *,
    user_id: str,
    kind: SessionKind,
    secret_sha256: bytes,
    idle_seconds: int,
    seconds: int,
    address: str | None,
    user_agent: str | None,
    sessions_max: int,
) -> Session | None:
    """None if the user has been disabled, or removed, meanwhile."""
    row = await connection.fetchrow(
        """
        -- Guarantees that nobody who is disabled gets a session: the row is locked against being disabled meanwhile.
        WITH enabled AS (SELECT id FROM users WHERE id = $1 AND disabled_at IS NULL FOR SHARE)
        INSERT INTO sessions (user_id, kind, secret_sha256, idle_ends_at, ends_at, address, user_agent)
        SELECT id, $2, $3, now() + make_interval(secs => $4), now() + make_interval(secs => $5), $6, $7 FROM enabled
        RETURNING *
        """,
        user_id,
        kind,
        secret_sha256,
        idle_seconds,
        seconds,
        address,
        user_agent,
    )
    if row is None:
        return None
    await connection.execute(
        """
        -- Guarantees that a user has no more sessions than they may: the oldest go, and those that are over.
        DELETE FROM sessions WHERE user_id = $1 AND (idle_ends_at <= now() OR ends_at <= now() OR id IN (
            SELECT id FROM sessions WHERE user_id = $1 ORDER BY created_at DESC, id DESC OFFSET $2))
        """,
        user_id,
        sessions_max,
    )
    await connection.execute(
        """
        -- Guarantees that sessions of those who never come again are forgotten, too: some with every new one.
        DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE ends_at <= now() LIMIT 10 FOR UPDATE SKIP LOCKED)
        """
    )
    return _session(row, current=str(row["id"]))


async def sessions_of(connection: Connection, user_id: str, *, current: str | None) -> Sequence[Session]:
    # Guarantees all sessions of the user that are in force, newest first.
    rows = await connection.fetch(
        """
        SELECT * FROM sessions WHERE user_id = $1 AND idle_ends_at > now() AND ends_at > now()
        ORDER BY created_at DESC, id DESC
        """,
        user_id,
    )
    return [_session(row, current=current) for row in rows]


async def session(connection: Connection, session_id: str) -> RecordedSession | None:
    # Guarantees whose session it is, or nothing.
    row = await connection.fetchrow("SELECT user_id, kind, created_at FROM sessions WHERE id = $1", session_id)
    if row is None:
        return None
    return RecordedSession(user_id=str(row["user_id"]), kind=SessionKind(row["kind"]), created_at=row["created_at"])


async def lock_session(connection: Connection, ids: Ids) -> None:
    # Guarantees that the session neither ends nor gets other tokens in another transaction until this one ends.
    await connection.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", ids["session_id"])


async def end_session(connection: Connection, session_id: str, user_id: str) -> bool:
    """Whether there was one. It has to be the user's."""
    ended: bool | None = await connection.fetchval(
        """
        -- Guarantees that nothing of the session works any more: its refresh tokens go with it, and its access
        -- tokens find it gone.
        DELETE FROM sessions WHERE id = $1 AND user_id = $2 RETURNING true
        """,
        session_id,
        user_id,
    )
    return ended is not None


async def end_session_of_cookie(connection: Connection, secret_sha256: bytes) -> None:
    # Guarantees that what this browser was signed in by before is gone.
    await connection.execute("DELETE FROM sessions WHERE secret_sha256 = $1 AND kind = 'browser'", secret_sha256)


class Refreshed(NamedTuple):
    session_id: str
    user_id: str


async def replace_refresh_token(
    connection: Connection, *, old_sha256: bytes, new_sha256: bytes, idle_seconds: int
) -> Refreshed | None:
    """None if the old one is not the present one of a session in force."""
    row = await connection.fetchrow(
        """
        -- Guarantees that a refresh token is used once: of two at the same moment the second waits for the first, and then
        -- finds another token in the row.
        UPDATE sessions s SET secret_sha256 = $2, last_used_at = now(), idle_ends_at = now() + make_interval(secs => $3)
        FROM users u
        WHERE s.secret_sha256 = $1 AND s.kind = 'program' AND s.idle_ends_at > now() AND s.ends_at > now()
            AND u.id = s.user_id AND u.disabled_at IS NULL
        RETURNING s.id, s.user_id
        """,
        old_sha256,
        new_sha256,
        idle_seconds,
    )
    if row is None:
        return None
    # Guarantees that the old one is known for what it is when it is shown again.
    await connection.execute(
        "INSERT INTO used_refresh_tokens (secret_sha256, session_id) VALUES ($1, $2)", old_sha256, row["id"]
    )
    return Refreshed(str(row["id"]), str(row["user_id"]))


async def end_session_of_used(connection: Connection, secret_sha256: bytes) -> str | None:
    """The session whose used refresh token this is, which has ended with this call; None if it is none."""
    found = await connection.fetchval(
        """
        -- Guarantees that a refresh token which is shown a second time ends its session, for whoever has copied it as well.
        DELETE FROM sessions WHERE id = (SELECT session_id FROM used_refresh_tokens WHERE secret_sha256 = $1) RETURNING id
        """,
        secret_sha256,
    )
    return None if found is None else str(found)


async def memberships(connection: Connection, user_id: str) -> Sequence[Membership]:
    # Guarantees the organizations of a user with their names, the first joined first.
    rows = await connection.fetch(
        """
        SELECT m.organization_id, o.name, m.role FROM memberships m JOIN organizations o ON o.id = m.organization_id
        WHERE m.user_id = $1 ORDER BY m.created_at, m.organization_id LIMIT $2
        """,
        user_id,
        MEMBERSHIPS_MAX,
    )
    return [
        Membership(organization_id=str(row["organization_id"]), organization_name=row["name"], role=Role(row["role"]))
        for row in rows
    ]


def _session(row: Record, *, current: str | None) -> Session:
    return Session(
        id=str(row["id"]),
        kind=SessionKind(row["kind"]),
        current=str(row["id"]) == current,
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        ends_at=min(row["ends_at"], row["idle_ends_at"]) if row["kind"] == "program" else row["ends_at"],
        address=row["address"],
        user_agent=row["user_agent"],
    )


# --- attempts ---------------------------------------------------------------------------------------------------------


async def count_attempt(
    connection: Connection, subjects: Sequence[bytes], *, seconds: int
) -> Mapping[bytes, tuple[int, int]]:
    """By subject: how many have failed in its window, this one included, and how many seconds are left of that."""
    rows = await connection.fetch(
        """
        -- Guarantees that each attempt is counted once, however many there are at once; and rows are taken in one order by
        -- all.
        INSERT INTO sign_in_attempts AS known (subject_sha256, failures, ends_at)
        SELECT subject, 1, now() + make_interval(secs => $2) FROM unnest($1::bytea[]) AS subject ORDER BY subject
        ON CONFLICT (subject_sha256) DO UPDATE SET
            failures = CASE WHEN known.ends_at <= now() THEN 1 ELSE known.failures + 1 END,
            ends_at = CASE WHEN known.ends_at <= now() THEN excluded.ends_at ELSE known.ends_at END
        RETURNING subject_sha256, failures, ceil(extract(epoch FROM ends_at - now()))::integer AS seconds_left
        """,
        list(subjects),
        seconds,
    )
    return {row["subject_sha256"]: (row["failures"], max(1, row["seconds_left"])) for row in rows}


async def take_back_attempt(connection: Connection, forgotten: bytes, one_less: Sequence[bytes]) -> None:
    await connection.execute(
        """
        -- Guarantees that an attempt which did not fail is not counted, and that rows are taken in one order by all.
        WITH locked AS (
            SELECT subject_sha256 FROM sign_in_attempts WHERE subject_sha256 = ANY($1) ORDER BY subject_sha256 FOR UPDATE
        )
        UPDATE sign_in_attempts a SET failures = CASE WHEN a.subject_sha256 = $2 THEN 0 ELSE greatest(0, a.failures - 1) END
        FROM locked WHERE a.subject_sha256 = locked.subject_sha256
        """,
        [forgotten, *one_less],
        forgotten,
    )


async def forget_attempts(connection: Connection) -> None:
    await connection.execute(
        """
        -- Guarantees that the table holds some window's attempts: each new one forgets up to ten old ones, and never waits.
        DELETE FROM sign_in_attempts WHERE subject_sha256 IN (
            SELECT subject_sha256 FROM sign_in_attempts WHERE ends_at <= now() LIMIT 10 FOR UPDATE SKIP LOCKED
        )
        """
    )


# --- what signs access tokens -----------------------------------------------------------------------------------------

# Any fixed number that nothing else in this database takes: the first 8 bytes of "ostiaryk".
SIGNING_KEYS_LOCK = int.from_bytes(b"ostiaryk", "big")


@dataclass(frozen=True, slots=True)
class StoredSigningKey:
    kid: str
    public_key: bytes
    private_sealed: bytes = field(repr=False)
    data_key_wrapped: bytes = field(repr=False)
    created_at: datetime


async def signing_keys(connection: Connection, *, since: datetime) -> Sequence[StoredSigningKey]:
    # Guarantees all keys made since a time, newest first.
    rows = await connection.fetch(
        """
        SELECT kid, public_key, private_sealed, data_key_wrapped, created_at FROM token_signing_keys
        WHERE created_at > $1 ORDER BY created_at DESC, kid
        """,
        since,
    )
    return [StoredSigningKey(**dict(row)) for row in rows]


async def lock_signing_keys(connection: Connection) -> None:
    # Guarantees that one process at a time makes a key; ends with the transaction.
    await connection.execute("SELECT pg_advisory_xact_lock($1)", SIGNING_KEYS_LOCK)


async def insert_signing_key(connection: Connection, key: StoredSigningKey, *, forget_before: datetime) -> None:
    # Guarantees that the private key is there sealed alone, and that keys which sign nothing any more are forgotten.
    await connection.execute("DELETE FROM token_signing_keys WHERE created_at <= $1", forget_before)
    await connection.execute(
        """
        INSERT INTO token_signing_keys (kid, public_key, private_sealed, data_key_wrapped, created_at)
        VALUES ($1, $2, $3, $4, $5)
        """,
        key.kid,
        key.public_key,
        key.private_sealed,
        key.data_key_wrapped,
        key.created_at,
    )
