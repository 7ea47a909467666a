"""`ostiary db`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
from click.testing import CliRunner, Result

from ostiary.cli.main import main
from ostiary.control_plane.db.schema import read_migrations
from tests.cli.conftest import ENVIRONMENT, write_configuration

NAMES = [migration.name for migration in read_migrations()]


async def _run(*arguments: str) -> Result:
    """In a thread: the commands run an event loop of their own."""
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments, env=ENVIRONMENT))


async def test_status_and_migrate_tell_where_the_schema_stands(empty_database: str, tmp_path: Path) -> None:
    """A deployment script could not tell whether there is something to do."""
    path = str(write_configuration(tmp_path / "gateway.yaml", empty_database))
    before = await _run("db", "status", "-c", path, "--json")
    assert before.exit_code == 1
    assert {row["state"] for row in json.loads(before.stdout)["migrations"]} == {"pending"}

    migrated = await _run("db", "migrate", "-c", path)
    assert (migrated.exit_code, migrated.stdout.splitlines()) == (0, [f"applied {name}" for name in NAMES])
    again = await _run("db", "migrate", "-c", path)
    assert (again.exit_code, again.stdout) == (0, "nothing to do: the schema is current\n")

    connection = await asyncpg.connect(empty_database)
    told = await connection.fetch("SELECT operation, actor, after FROM audit_log")
    await connection.close()
    assert [tuple(row)[:2] for row in told] == [("migrateDatabase", "command")], "what changed nothing is not told"
    assert json.loads(told[0]["after"]) == {"applied": NAMES}

    after = await _run("db", "status", "-c", path)
    assert after.exit_code == 0
    assert [line.split()[:2] for line in after.stdout.splitlines()[1:]] == [[name, "applied"] for name in NAMES]


async def test_the_control_plane_does_not_start_on_another_schema(empty_database: str, tmp_path: Path) -> None:
    """It would fail call by call, or change a schema behind the operator's back."""
    path = str(write_configuration(tmp_path / "gateway.yaml", empty_database))
    result = await _run("control-plane", "-c", path)
    assert result.exit_code == 1
    assert "ostiary db migrate -c FILE" in result.stderr


async def test_no_postgres_is_an_error_that_names_the_server_and_not_the_password(tmp_path: Path) -> None:
    """Row 132: the URL with its password would stand in a terminal's history and in CI logs."""
    path = str(write_configuration(tmp_path / "gateway.yaml", "postgresql://me:canary@127.0.0.1:1/ostiary"))
    for command in (["db", "migrate"], ["db", "status"], ["control-plane"]):
        result = await _run(*command, "-c", path)
        assert result.exit_code == 1
        assert "127.0.0.1:1/ostiary" in result.stderr
        assert "canary" not in result.stdout + result.stderr
