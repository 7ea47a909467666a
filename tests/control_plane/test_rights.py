"""The service's own database role: enough for every test of the API (`conftest` gives it to all of them), and no more."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ostiary.control_plane.db import Connection, MigrationError
from ostiary.control_plane.db.rights import TABLES, grant, rights_over_audit_log
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.shipper import Shipper
from tests.control_plane.support import SERVICE_ROLE, Api, configuration_for, serving, url_for
from tests.gateway.usage.calls import Observed, spool_calls

FORBIDDEN = (
    "UPDATE audit_log SET actor = 'x'",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "INSERT INTO audit_log SELECT * FROM audit_log",
    "INSERT INTO audit_pending (actor) VALUES ('x')",
    "ALTER TABLE audit_log DISABLE TRIGGER ALL",
    "DROP TABLE audit_log",
    "CREATE OR REPLACE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "DELETE FROM key_limit_changes",
    "UPDATE key_limit_changes SET reason = 'x'",
    "UPDATE route_versions SET document = 'x'",
    "DELETE FROM route_versions",
    "TRUNCATE route_versions",
    "ALTER TABLE route_versions DISABLE TRIGGER ALL",
    "DELETE FROM api_keys",
    "INSERT INTO schema_migrations VALUES ('0001', 'x')",
    "CREATE TABLE mine (n integer)",
)


@pytest.fixture
async def service(database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url_for(SERVICE_ROLE, database))
    yield connection
    await connection.close()


@pytest.mark.parametrize("statement", FORBIDDEN)
async def test_the_service_s_role_can_neither_change_the_log_nor_the_schema(
    api: Api, service: Connection, statement: str
) -> None:
    """Whoever gets hold of the control plane, or finds a hole in its SQL, would wipe their traces."""
    await api.organization()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(statement)


async def test_the_service_s_role_may_read_and_add_versions_of_routes_and_no_more(
    api: Api, service: Connection, connection: Connection
) -> None:
    """What was applied stays as it was, for whoever rolls back and for whoever asks who had changed what."""
    rows = await connection.fetch(
        "SELECT privilege_type::text AS name FROM information_schema.role_table_grants "
        "WHERE table_name = 'route_versions' AND grantee = $1",
        SERVICE_ROLE,
    )
    assert {row["name"] for row in rows} == {"SELECT", "INSERT"}
    applied = await api.post("/routes/versions", {"document": "version: 1\nroutes: []\n", "base": 0})
    assert applied.status == 201, applied.text
    assert await service.fetchval("SELECT max(number) FROM route_versions") == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute("SELECT FROM route_versions FOR UPDATE")


async def test_the_service_s_role_writes_into_a_partition_only_what_is_taken_in(
    database: str, service: Connection, connection: Connection, tmp_path: Path
) -> None:
    """Calls that are in no roll-up are on no bill: whoever has the role could write some. And a role that is given its rights
    again must not lose those that it had: its gateway could write none."""
    await connection.execute("SELECT usage_ensure_partition('2026-03-01')")
    one = (
        "INSERT INTO {} (occurred_at, request_id, method, status, latency_us, bytes_in, bytes_out, overage, complete) "
        "VALUES ('2026-03-01', 'by-name', 'GET', 200, 1, 0, 0, false, true)"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute(one.format("usage_events_20260301"))
    assert await service.fetchval("SELECT usage_partition('2026-03-01')") == "usage_events_20260301"
    await service.execute(one.format("usage_events_20260301"))
    await grant(database, SERVICE_ROLE)
    await service.execute(one.format("usage_events_20260301"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute("DELETE FROM usage_events_20260301")
    spool_calls(tmp_path, [f"req-{number}" for number in range(10)])
    shipper = Shipper(directory=tmp_path, sink=PostgresSink(url_for(SERVICE_ROLE, database)), observe=Observed())
    assert await shipper.ship() == 10
    await shipper.close()
    for count in ("count(*) FROM usage_events", "sum(calls)::int FROM usage_rollups_minute"):
        assert await connection.fetchval(f"SELECT {count}") == 12


async def test_a_table_of_the_role_s_own_does_not_come_before_the_log(api: Api, service: Connection) -> None:
    """What runs with the owner's rights would run a trigger of the caller's: the role would be the owner."""
    await service.execute(
        "CREATE TEMP TABLE audit_log (LIKE public.audit_log); CREATE FUNCTION pg_temp.mine() RETURNS trigger "
        "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'mine'; END $$; "
        "CREATE TRIGGER mine BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION pg_temp.mine()"
    )
    nothing = ", ".join("'x'" if number < 7 else "NULL" for number in range(8))
    await service.execute(f"SELECT audit_append({nothing}, 'done', NULL, NULL, NULL, sha256('x'))")
    assert await service.fetchval("SELECT count(*) FROM public.audit_log") == 1


async def test_the_control_plane_tells_when_its_role_may_change_the_log(
    database: str, service: Connection, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator would believe in a log that the service could rewrite."""
    assert await rights_over_audit_log(service) == []
    async with serving(configuration_for(url_for(SERVICE_ROLE, database))) as api:
        assert (await api.get("/readyz", token=None)).document == {"status": "ready"}
    assert "audit_log_not_protected" not in caplog.text
    async with serving(configuration_for(database)) as api:  # the owner, and a superuser
        ready = await api.get("/readyz", token=None)
        assert ready.status == 200
        assert "--service-role" in ready.document["warnings"][0]
    assert "audit_log_not_protected" in caplog.text
    await connection.execute(f"GRANT UPDATE ON audit_log TO {SERVICE_ROLE}")
    assert await rights_over_audit_log(service) == ["UPDATE"]


async def test_what_the_role_had_before_and_should_not_is_taken_away(
    database: str, service: Connection, connection: Connection
) -> None:
    """A right that was given by hand, or by an earlier version, would stay for ever."""
    await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {SERVICE_ROLE}")
    told = await grant(database, SERVICE_ROLE)
    assert "audit_log: SELECT" in told
    assert await rights_over_audit_log(service) == []


async def test_a_role_from_which_nothing_can_be_kept_is_refused(database: str) -> None:
    """The rights would be given, and mean nothing."""
    with pytest.raises(MigrationError, match="nothing can be kept"):
        await grant(database, "postgres")
    with pytest.raises(MigrationError, match="CREATE ROLE"):
        await grant(database, 'nobody"; DROP TABLE audit_log; --')


async def test_rights_that_are_written_down_are_of_tables_that_are_there(connection: Connection) -> None:
    """A table that was renamed would get the usual rights in the place of its own, unseen."""
    rows = await connection.fetch(
        "SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    tables = {row["name"] for row in rows}
    assert TABLES.keys() <= tables


async def test_what_runs_with_the_owner_s_rights_looks_nowhere_else(connection: Connection) -> None:
    """A function without a search path of its own finds what its caller put there."""
    rows = await connection.fetch("SELECT proname::text, proconfig FROM pg_proc WHERE prosecdef")
    assert len(rows) >= 5
    loose = [row["proname"] for row in rows if not re.search(r"search_path=\w+, pg_temp", str(row["proconfig"]))]
    assert loose == []
