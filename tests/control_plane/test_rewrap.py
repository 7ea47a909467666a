"""Wrapping data keys anew, in a real Postgres."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ostiary.control_plane.keys import rewrap as rewrapping
from ostiary.control_plane.keys.rewrap import CannotRewrap, Progress, rewrap, uses
from ostiary.core.encryption import Envelope, KeyWrappers, LocalKeyWrapper, NamedKeyWrapper, Wrapped, kek_id
from ostiary.key_encryption.vault import VaultKeyWrapper
from tests.gateway.keys.conftest import KeyDatabase
from tests.support.vault_server import VaultServer

OLD, NEW = LocalKeyWrapper(os.urandom(32)), LocalKeyWrapper(os.urandom(32))


@pytest.fixture
async def keys(migrated_database: str) -> AsyncIterator[KeyDatabase]:
    connection = await asyncpg.connect(migrated_database)
    keys = KeyDatabase(migrated_database, connection)
    await keys.begin()
    yield keys
    await connection.close()


def both(current: str = "new", **more: NamedKeyWrapper) -> KeyWrappers:
    return KeyWrappers({"old": OLD, "new": NEW, **more}, current=current)


async def with_keys(keys: KeyDatabase, count: int) -> dict[str, bytes]:
    """Under the old KEK; the secrets by id."""
    keys.envelope = Envelope(KeyWrappers({"old": OLD}, current="old"))
    return {made.id: made.secret for made in [await keys.add() for _ in range(count)]}


async def run(keys: KeyDatabase, keks: KeyWrappers, *, dry_run: bool = False, tell: Any = lambda _: None) -> Any:
    return await rewrap(keys.url, keks, rows_per_second=100_000, dry_run=dry_run, tell=tell)


async def opened(keys: KeyDatabase, keks: KeyWrappers) -> dict[str, bytes]:
    rows = await keys.connection.fetch("SELECT id, secret_sealed, data_key_wrapped FROM api_keys")
    envelope = Envelope(keks)
    return {row["id"]: envelope.open(*row[1:], key_id=row["id"]) for row in rows}


async def test_every_secret_opens_under_the_new_kek_alone_and_no_other_is_needed(keys: KeyDatabase) -> None:
    """Whoever removes the old KEK then must lose no key."""
    secrets = await with_keys(keys, 250)
    assert [(use.name, use.rows, use.left) for use in await uses(keys.url, both())] == [
        ("new", 0, 0),
        ("old", 250, 250),
    ]
    progress, left = await run(keys, both())
    assert (progress.rewrapped, progress.failed) == (250, 0)
    assert [(use.name, use.rows, use.left) for use in left] == [("new", 250, 0)]
    assert await opened(keys, KeyWrappers({"new": NEW}, current="new")) == secrets


async def test_a_second_run_changes_nothing(keys: KeyDatabase) -> None:
    """Each change makes every gateway read the key again."""
    await with_keys(keys, 5)
    await run(keys, both())
    revisions = await keys.connection.fetch("SELECT id, revision FROM api_keys ORDER BY id")
    progress, _ = await run(keys, both())
    assert progress == Progress()
    assert await keys.connection.fetch("SELECT id, revision FROM api_keys ORDER BY id") == revisions


async def test_two_at_once_and_one_that_is_ended_half_way(keys: KeyDatabase) -> None:
    """Two operators, or a shell that was closed."""
    secrets = await with_keys(keys, 450)

    class Ended(Exception):
        pass

    def end(progress: Progress) -> None:
        raise Ended

    with pytest.raises(Ended):
        await run(keys, both(), tell=end)
    half = {use.name: use.left for use in await uses(keys.url, both())}
    assert half["old"] == 350
    results = await asyncio.gather(run(keys, both()), run(keys, both()))
    assert sum(progress.rewrapped for progress, _ in results) == 350
    assert await opened(keys, KeyWrappers({"new": NEW}, current="new")) == secrets


async def test_a_dry_run_writes_nothing_and_finds_what_can_not_be_opened(keys: KeyDatabase) -> None:
    """An altered row is better known before the old KEK goes."""
    await with_keys(keys, 3)
    made = await keys.add()
    await keys.connection.execute(
        "UPDATE api_keys SET data_key_wrapped = set_byte(data_key_wrapped, 40, 255 - get_byte(data_key_wrapped, 40)) "
        "WHERE id = $1",
        made.id,
    )
    before = await keys.connection.fetch("SELECT * FROM api_keys ORDER BY id")
    progress, left = await run(keys, both(), dry_run=True)
    assert (progress.rewrapped, progress.failed, list(progress.reasons)) == (3, 1, [made.id])
    assert await keys.connection.fetch("SELECT * FROM api_keys ORDER BY id") == before
    progress, left = await run(keys, both())
    assert (progress.rewrapped, progress.failed) == (3, 1)
    assert {use.name: use.left for use in left} == {"new": 0, "old": 1}


async def test_a_kek_that_is_not_configured_is_told_by_its_id(keys: KeyDatabase) -> None:
    """Rows that nobody can open any more must not look as if all were well."""
    await with_keys(keys, 2)
    keks = KeyWrappers({"new": NEW}, current="new")
    progress, left = await run(keys, keks)
    assert progress.failed == 2
    assert [(use.name, use.identity, use.left) for use in left if use.left] == [(None, OLD.id.hex(), 2)]


async def test_a_row_that_changes_meanwhile_is_left_as_it_is(
    keys: KeyDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is rotated while it is rewrapped must keep its new secret."""
    await with_keys(keys, 1)
    (key_id,) = await opened(keys, both())
    fresh = Envelope(KeyWrappers({"old": OLD}, current="old")).seal(b"rotated", key_id=key_id)
    original = rewrapping._wrapped_anew

    def meanwhile(keks: KeyWrappers, old: dict[str, Wrapped], progress: Progress) -> dict[str, bytes]:
        if kek_id(old[key_id].data_key) == OLD.id and old[key_id].data_key != fresh[1]:
            asyncio.run(rotate())
        return original(keks, old, progress)

    async def rotate() -> None:
        connection = await asyncpg.connect(keys.url)
        await connection.execute(
            "UPDATE api_keys SET secret_sealed = $2, data_key_wrapped = $3 WHERE id = $1", key_id, *fresh
        )
        await connection.close()

    monkeypatch.setattr(rewrapping, "_wrapped_anew", meanwhile)
    progress, _ = await run(keys, both())
    assert progress.elsewhere == 1
    assert await opened(keys, both()) == {key_id: b"rotated"}


async def test_every_column_with_wrapped_data_keys_is_rewrapped(keys: KeyDatabase) -> None:
    """A column that a later migration adds would be forgotten, and its secrets lost with the old KEK."""
    secrets = await with_keys(keys, 2)
    have = {row[0] for row in await keys.connection.fetch(rewrapping._COLUMNS)}
    if "another_data_key_wrapped" not in have:
        await keys.connection.execute("ALTER TABLE api_keys ADD COLUMN another_data_key_wrapped bytea")
    await keys.connection.execute("UPDATE api_keys SET another_data_key_wrapped = data_key_wrapped")
    progress, _ = await run(keys, both())
    assert progress.rewrapped == 2 * len(secrets)
    for row in await keys.connection.fetch("SELECT data_key_wrapped, another_data_key_wrapped FROM api_keys"):
        assert all(each.startswith(NEW.prefix) for each in row)
    named = await keys.connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'api_keys'::regclass AND attname LIKE '%wrapped%' "
        "AND NOT attisdropped"
    )
    assert {row[0] for row in named} == {row[0] for row in await keys.connection.fetch(rewrapping._COLUMNS)}


async def test_from_a_file_to_vault_and_to_its_next_version(keys: KeyDatabase, vault: VaultServer) -> None:
    """A Transit key is rotated in Vault; its old versions are retired once nothing needs them."""
    secrets = await with_keys(keys, 120)
    kek = VaultKeyWrapper("vault", vault.settings())
    keks = both("vault", vault=kek)
    await run(keys, keks)
    assert await opened(keys, KeyWrappers({"vault": kek}, current="vault")) == secrets
    vault.client.secrets.transit.rotate_key("ostiary")
    assert {use.name: use.left for use in await uses(keys.url, keks)} == {"vault": 120}
    progress, left = await run(keys, keks)
    assert progress.rewrapped == 120
    assert {use.name: (use.rows, use.left) for use in left} == {"vault": (120, 0)}
    assert await opened(keys, KeyWrappers({"vault": kek}, current="vault")) == secrets


async def test_a_vault_that_is_away_ends_the_run_with_the_mend(
    keys: KeyDatabase, monkeypatch: pytest.MonkeyPatch, vault: VaultServer
) -> None:
    """What was done stays done, and the operator is told how to go on."""
    await with_keys(keys, 1)
    monkeypatch.setattr(rewrapping, "TRIES", 1)
    gone = VaultKeyWrapper("gone", vault.settings(address="http://127.0.0.1:1"))
    with pytest.raises(CannotRewrap, match=r"can't be used: Vault at http://127\.0\.0\.1:1 can't be reached"):
        await run(keys, both("gone", gone=gone))
