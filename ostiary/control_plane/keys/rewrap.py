"""Wrapping every data key anew under the current KEK, while gateways serve.

A batch is read without a lock, unwrapped and wrapped, tried (what is written must open to the same), and written where the
row is still as it was read: nobody waits for it, least of all a revocation, and two runs at once do some work twice and no
harm. Nothing is kept of a run: whatever is wrapped under the current KEK is passed over, so it may be ended and begun again
at any time. Gateways hear of each row by the change feed and read it again when it is next used; until then they
need both KEKs.

No sealed secret is opened: data keys alone pass through here. The audit log has a row when a run begins and one when it ends:
from which KEKs to which, and how many data keys."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from ostiary.control_plane.audit.commands import Deed, by_command
from ostiary.control_plane.db import Connection
from ostiary.control_plane.db.pool import CONNECT_ERRORS, CONNECT_SECONDS, unavailable
from ostiary.core.encryption import (
    EncryptionError,
    KeyServiceUnavailable,
    KeyWrappers,
    NamedKeyWrapper,
    RemoteKeyWrapper,
    Wrapped,
    kek_id,
)

log = logging.getLogger("ostiary.control_plane.keys")

# What a service takes in one call; some 10 ms for Postgres.
BATCH_MAX = 100
# Of keys that can't be opened; more are counted.
NAMED_MAX = 20
# A service that is away for longer ends the run, which may be begun again.
TRIES = 5
_TRY_AGAIN_SECONDS = 1.0
# Rows that were written under another KEK meanwhile are found by another look; who still finds some then is told why.
_PASSES = 3

# For the row of a run that was ended; somebody waits for the shell.
_LAST_ROW_SECONDS = 5.0

_COLUMNS = """
-- Guarantees every column that has wrapped data keys, of whatever version the schema is: one that was left out would be a
-- secret that is lost when the old KEK is removed.
SELECT a.attname FROM pg_attribute a
WHERE a.attrelid = to_regclass('api_keys') AND a.attname LIKE '%data\\_key\\_wrapped' AND NOT a.attisdropped
ORDER BY a.attname
"""

_NEXT = """
-- Guarantees the next rows in order of id, after one, that are not wrapped under the current KEK. Without locks: see the top.
SELECT id, {column} AS wrapped FROM api_keys
WHERE id > $1 AND {column} IS NOT NULL AND substring({column} FROM 1 FOR length($2::bytea)) <> $2
ORDER BY id LIMIT $3
"""

_REPLACE = """
-- Guarantees that a row is changed only if its data key is still the one that was read; the others are left as they are.
UPDATE api_keys k SET {column} = n.fresh
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (id, old, fresh)
WHERE k.id = n.id AND k.{column} = n.old
"""

_COUNT = """
-- Guarantees how many data keys each KEK has wrapped (its id, and for one that a service keeps the version of it), and how
-- many of those as the current one does now; all as of one moment.
SELECT substring({column} FROM 1 FOR 9) AS kek, count(*) AS rows,
       count(*) FILTER (WHERE substring({column} FROM 1 FOR length($1::bytea)) = $1) AS current
FROM api_keys WHERE {column} IS NOT NULL GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class KekUse:
    """How many data keys a KEK has wrapped. `name` is None for one that is not configured here. `current` of them are as new
    ones are; the others want rewrapping."""

    name: str | None
    identity: str
    rows: int
    current: int

    @property
    def left(self) -> int:
        return self.rows - self.current


@dataclass(slots=True)
class Progress:
    """`rewrapped` were written, `elsewhere` were changed by another meanwhile, `failed` can't be opened; the first of these
    with their reasons."""

    rewrapped: int = 0
    elsewhere: int = 0
    failed: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def fail(self, key_id: str, reason: str) -> None:
        self.failed += 1
        if len(self.reasons) < NAMED_MAX:
            self.reasons[key_id] = reason


class CannotRewrap(Exception):
    """The run ends; what it has done stays done. The text says why and what to do."""


async def uses(url: str, keks: KeyWrappers) -> list[KekUse]:
    """Which KEKs any row still needs. Raises DatabaseUnavailable, CannotRewrap."""
    prefix = await _newest_prefix(keks)
    async with _connected(url) as connection:
        return await _uses(connection, await _columns(connection), keks, prefix)


async def rewrap(
    url: str,
    keks: KeyWrappers,
    *,
    rows_per_second: float,
    dry_run: bool,
    tell: Callable[[Progress], None],
) -> tuple[Progress, list[KekUse]]:
    """Every data key under the current KEK; what was done, and what every KEK is needed for now. With `dry_run` nothing is
    written, and everything else is done. Raises DatabaseUnavailable, CannotRewrap."""
    prefix = await _newest_prefix(keks)
    progress = Progress()
    async with _connected(url) as connection:
        columns = await _columns(connection)
        async with _written_down(connection, columns, keks, prefix, progress, dry_run=dry_run):
            for _ in range(1 if dry_run else _PASSES):
                before, progress.failed = progress.rewrapped, 0  # those that failed are met again
                for column in columns:
                    await _rewrap_column(connection, column, keks, prefix, rows_per_second, dry_run, progress, tell)
                if progress.rewrapped == before:
                    break
        return progress, await _uses(connection, columns, keks, prefix)


@asynccontextmanager
async def _written_down(
    connection: Connection,
    columns: Sequence[str],
    keks: KeyWrappers,
    prefix: bytes,
    progress: Progress,
    *,
    dry_run: bool,
) -> AsyncIterator[None]:
    """Nothing is written of a run that has nothing to do. What can't be written down does not begin."""
    wanted = [use for use in await _uses(connection, columns, keks, prefix) if use.left]
    if dry_run or not wanted:
        yield
        return
    deed = Deed("rewrapKeys", resource="key_encryption", by=by_command())
    under = {"name": keks.name_of(keks.current.id), "id": keks.current.id.hex()}
    left = [{"name": use.name, "id": use.identity, "data_keys": use.left} for use in wanted]
    await deed.note(connection, before={"to_rewrap": left}, after={"state": "begun", "under": under})
    state = "broken_off"
    try:
        yield
        state = "ended"
    finally:
        counts = {"rewrapped": progress.rewrapped, "elsewhere": progress.elsewhere, "failed": progress.failed}
        try:
            async with asyncio.timeout(_LAST_ROW_SECONDS):
                await deed.note(connection, after={"state": state, "under": under, **counts})
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if state == "ended":
                raise
            log.warning("rewrapping_not_in_audit_log", extra={"fields": {"error": type(error).__qualname__}})


async def _rewrap_column(
    connection: Connection,
    column: str,
    keks: KeyWrappers,
    prefix: bytes,
    rows_per_second: float,
    dry_run: bool,
    progress: Progress,
    tell: Callable[[Progress], None],
) -> None:
    after = ""
    while True:
        began = time.monotonic()
        rows = await connection.fetch(_NEXT.format(column=column), after, prefix, BATCH_MAX)
        if not rows:
            return
        after = rows[-1]["id"]
        old = {row["id"]: Wrapped(row["wrapped"], row["id"].encode()) for row in rows}
        fresh = await _patiently(lambda old=old: _wrapped_anew(keks, old, progress))  # type: ignore[misc]
        if dry_run:
            progress.rewrapped += len(fresh)
        elif fresh:
            ids = list(fresh)
            done = await connection.execute(
                _REPLACE.format(column=column), ids, [old[each].data_key for each in ids], list(fresh.values())
            )
            written = int(done.rpartition(" ")[2])
            progress.rewrapped += written
            progress.elsewhere += len(ids) - written
        tell(progress)
        await asyncio.sleep(max(0.0, len(rows) / rows_per_second - (time.monotonic() - began)))


def _wrapped_anew(keks: KeyWrappers, old: Mapping[str, Wrapped], progress: Progress) -> dict[str, bytes]:
    """By key id; those that can't be opened are noted, and left out. Waits for services. Raises EncryptionError."""
    by_kek: dict[NamedKeyWrapper, list[str]] = {}
    hopeless: dict[str, str] = {}
    for key_id, each in old.items():
        try:
            by_kek.setdefault(keks.of(each.data_key), []).append(key_id)
        except EncryptionError as error:
            hopeless[key_id] = str(error)
    opened: dict[str, Wrapped] = {}
    for kek, ids in by_kek.items():
        for key_id, data_key in zip(ids, _unwrap(kek, [old[each] for each in ids]), strict=True):
            if isinstance(data_key, EncryptionError):
                hopeless[key_id] = str(data_key)
            else:
                opened[key_id] = Wrapped(data_key, old[key_id].context)
    current = keks.current
    if isinstance(current, RemoteKeyWrapper):
        wrapped = current.wrap_all(list(opened.values()))
    else:
        wrapped = [current.wrap(each.data_key, context=each.context) for each in opened.values()]
    fresh = dict(zip(opened, wrapped, strict=True))
    # What is overwritten is gone: nothing takes its place that does not open to the same.
    tried = _unwrap(current, [Wrapped(each, opened[key_id].context) for key_id, each in fresh.items()])
    for key_id, data_key in zip(list(fresh), tried, strict=True):
        if isinstance(data_key, EncryptionError) or not hmac.compare_digest(data_key, opened[key_id].data_key):
            raise EncryptionError("what the current key-encryption key wraps does not open again; nothing was written")
    for key_id, reason in hopeless.items():
        progress.fail(key_id, reason)
    return fresh


def _unwrap(kek: NamedKeyWrapper, wrapped: Sequence[Wrapped]) -> list[bytes | EncryptionError]:
    if isinstance(kek, RemoteKeyWrapper):
        return kek.unwrap_all(wrapped)
    opened: list[bytes | EncryptionError] = []
    for each in wrapped:
        try:
            opened.append(kek.unwrap(each.data_key, context=each.context))
        except EncryptionError as error:
            opened.append(error)
    return opened


async def _patiently(call: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    for left in reversed(range(TRIES)):
        try:
            return await asyncio.to_thread(call)
        except KeyServiceUnavailable as error:
            if not left:
                raise CannotRewrap(f"{error}; run this again when it is back: it goes on where it ended") from error
        except EncryptionError as error:
            raise CannotRewrap(str(error)) from error
        await asyncio.sleep(_TRY_AGAIN_SECONDS)
    raise AssertionError("the last try returns or raises")


async def _newest_prefix(keks: KeyWrappers) -> bytes:
    try:
        return await asyncio.to_thread(keks.current.newest_prefix)
    except EncryptionError as error:
        raise CannotRewrap(f"the current key-encryption key can't be used: {error}") from error


async def _columns(connection: Connection) -> list[str]:
    columns = [str(row["attname"]) for row in await connection.fetch(_COLUMNS)]
    if not columns:
        raise CannotRewrap("the database has no keys' table; run: ostiary db migrate -c FILE")
    return columns


async def _uses(connection: Connection, columns: Sequence[str], keks: KeyWrappers, prefix: bytes) -> list[KekUse]:
    found: dict[bytes, tuple[int, int]] = {keks.current.id: (0, 0)}
    for column in columns:
        for row in await connection.fetch(_COUNT.format(column=column), prefix):
            identity = kek_id(row["kek"])
            rows, current = found.get(identity, (0, 0))
            found[identity] = rows + row["rows"], current + row["current"]
    return [
        KekUse(keks.name_of(identity), identity.hex(), rows, current) for identity, (rows, current) in found.items()
    ]


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    settings = {"application_name": "ostiary-keys-rewrap", "statement_timeout": "60s", "lock_timeout": "10s"}
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)
    except CONNECT_ERRORS as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise unavailable(url, error) from error
    except asyncpg.PostgresError as error:
        raise CannotRewrap(f"the database refused: {type(error).__name__} ({error.sqlstate})") from error
    finally:
        connection.terminate()
