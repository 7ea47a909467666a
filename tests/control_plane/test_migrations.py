"""Migrations: in order, each whole or not at all, once, and by two at once."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from ostiary.control_plane.db import (
    DatabaseUnavailable,
    Migration,
    MigrationError,
    MigrationState,
    migrate,
    migration_status,
)
from ostiary.control_plane.db.schema import read_migrations

NAMES = [migration.name for migration in read_migrations()]


def _migration(name: str, sql: str) -> Migration:
    return Migration(name, sql, f"sha256 of {sql}")


async def _fetchval(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_second_run_has_nothing_to_do(empty_database: str) -> None:
    """A deployment that migrates on every start would fail on its second."""
    assert await migrate(empty_database) == NAMES
    assert await migrate(empty_database) == []
    assert {status.state for status in await migration_status(empty_database)} == {MigrationState.APPLIED}


async def test_of_many_at_once_each_migration_is_applied_by_one(empty_database: str) -> None:
    """Two hosts that start together would both create the tables, and one of them fail."""
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(6)))
    assert sorted(name for names in applied for name in names) == NAMES


async def test_a_failing_migration_leaves_nothing_of_itself_and_keeps_those_before(empty_database: str) -> None:
    """A schema between two versions fits no program."""
    first = _migration("0001_first", "CREATE TABLE first (id integer)")
    broken = _migration("0002_broken", "CREATE TABLE second (id integer); SELECT 1/0")
    with pytest.raises(MigrationError, match="0002_broken failed and was undone: division by zero"):
        await migrate(empty_database, migrations=[first, broken])
    assert await _fetchval(empty_database, "SELECT to_regclass('first')::text") == "first"
    assert await _fetchval(empty_database, "SELECT to_regclass('second')") is None
    mended = _migration("0002_broken", "CREATE TABLE second (id integer)")
    assert await migrate(empty_database, migrations=[first, mended]) == ["0002_broken"]


async def test_an_applied_file_that_was_edited_is_refused(empty_database: str) -> None:
    """The edit would be in new databases and in no old one."""
    await migrate(empty_database, migrations=[_migration("0001_first", "SELECT 1")])
    with pytest.raises(MigrationError, match="0001_first: edited after it was applied"):
        await migrate(empty_database, migrations=[_migration("0001_first", "SELECT 2")])


async def test_a_database_of_a_newer_version_is_left_alone(empty_database: str) -> None:
    """An old program would write into tables that it does not understand."""
    await migrate(empty_database)
    connection = await asyncpg.connect(empty_database)
    await connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES ('9999_future', 'x')")
    await connection.close()
    with pytest.raises(MigrationError, match="9999_future, which this version does not know; upgrade Ostiary"):
        await migrate(empty_database)


async def test_the_status_of_an_untouched_database_is_all_pending_and_changes_nothing(empty_database: str) -> None:
    """Looking would already be a change."""
    assert [(s.name, s.state) for s in await migration_status(empty_database)] == [
        (name, MigrationState.PENDING) for name in NAMES
    ]
    assert await _fetchval(empty_database, "SELECT to_regclass('schema_migrations')") is None


async def test_a_user_without_the_right_is_told_so(empty_database: str) -> None:
    """A traceback would be all there is."""
    connection = await asyncpg.connect(empty_database)
    await connection.execute("CREATE ROLE without_rights LOGIN")
    try:
        limited = re.sub(r"://[^@/]*@", "://without_rights@", empty_database)
        assert limited != empty_database
        with pytest.raises(MigrationError, match=r"permission denied for schema public; see the rights"):
            await migrate(limited)
    finally:
        await connection.execute("DROP ROLE without_rights")
        await connection.close()


async def test_an_unreachable_database_is_named_without_its_password() -> None:
    """The password of the URL would stand in a terminal or a log."""
    with pytest.raises(DatabaseUnavailable) as caught:
        await migrate("postgresql://ostiary:canary-password@127.0.0.1:1/ostiary")
    assert "127.0.0.1:1/ostiary" in str(caught.value)
    assert "canary-password" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["0001_a.sql", "0001_b.sql"], "have the same number"),
        (["1_a.sql"], "is not named"),
        (["0001_A.sql"], "is not named"),
    ],
)
def test_a_misnamed_file_is_refused(tmp_path: Path, names: list[str], says: str) -> None:
    """It would be left out, or two would be applied in an order nobody chose."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=says):
        read_migrations(tmp_path)
