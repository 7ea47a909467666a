"""How the control plane starts, what it refuses to start with, how it ends, and what it does while Postgres is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import asyncpg
import pytest

from ostiary.control_plane.app import SettingsRefused, StartRefused, build_app, serve
from ostiary.control_plane.db import Connection, DatabaseUnavailable, migrate
from ostiary.control_plane.http import transactions
from ostiary.core.model import Configuration, Listen
from ostiary.demo.stores import EmbeddedPostgres
from tests.control_plane.support import OPERATOR_TOKEN, configuration_for, serving

HEADERS = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


@pytest.mark.parametrize("token", [None, "", "x" * 31, "x" * 31 + " ", "x" * 31 + "é", "x" * 32 + "\n"])
async def test_without_a_token_that_can_t_be_guessed_it_does_not_start(token: str | None) -> None:
    """The API would be open to whoever tries a few thousand words."""
    with pytest.raises(SettingsRefused, match="openssl rand -base64 32") as caught:
        await build_app(configuration_for("postgresql://127.0.0.1:1/x", operator_token=token))
    assert not token or token not in str(caught.value)


async def test_everything_that_is_missing_is_named_at_once() -> None:
    """The operator would mend one, start again, and find the next."""
    with pytest.raises(SettingsRefused) as caught:
        await build_app(configuration_for(None, operator_token=None, key_encryption_key=None))
    assert len(caught.value.problems) == 3


async def test_on_another_schema_it_does_not_start(empty_database: str) -> None:
    """It would fail call by call; or an old program would write into a newer schema."""
    with pytest.raises(StartRefused, match=r"0001_identity \(pending\).*ostiary db migrate -c FILE"):
        await build_app(configuration_for(empty_database))
    await migrate(empty_database)
    connection = await asyncpg.connect(empty_database)
    await connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES ('9999_future', 'x')")
    await connection.close()
    with pytest.raises(StartRefused, match=r"9999_future \(unknown\)"):
        await build_app(configuration_for(empty_database))


async def test_without_postgres_it_does_not_start_and_names_no_password() -> None:
    """Row 132: the URL with its password would stand in the log of every failed start."""
    with pytest.raises(DatabaseUnavailable) as caught:
        await build_app(configuration_for("postgresql://me:canary@127.0.0.1:1/ostiary"))
    assert "127.0.0.1:1/ostiary" in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_a_refused_start_leaves_no_connection(empty_database: str) -> None:
    """A supervisor that restarts it would use up the server's connections."""
    with pytest.raises(StartRefused):
        await build_app(configuration_for(empty_database))
    connection = await asyncpg.connect(empty_database)
    async with asyncio.timeout(5):  # the server notices a moment after the client has closed
        while await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ):
            pass
    await connection.close()


@asynccontextmanager
async def _served(configuration: Configuration) -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Task[None]]]:
    """`serve` as a process would run it: its address, what ends it, and itself."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(serve(configuration, announce=started.set_result, stop=stop))
    try:
        waiting: set[asyncio.Future[Any]] = {task, started}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield started.result(), stop, task
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), timeout=30)


async def test_a_call_under_way_is_finished_when_it_ends(configuration: Configuration, connection: Connection) -> None:
    """Every deployment would break the calls of that moment."""
    await connection.execute("BEGIN; LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE")
    async with _served(configuration) as (url, stop, task), aiohttp.ClientSession(headers=HEADERS) as client:
        call = asyncio.create_task(client.post(f"{url}/api/v1/organizations", json={"name": "Acme"}))
        watcher = await asyncpg.connect(str(configuration.stores.postgres))
        async with asyncio.timeout(5):
            while not await watcher.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
        await watcher.close()
        stop.set()
        await asyncio.sleep(0)
        assert not task.done()
        await connection.execute("ROLLBACK")
        assert (await call).status == 201
        await asyncio.wait_for(task, timeout=10)
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(f"{url}/healthz")


async def test_an_open_address_without_tls_is_warned_of(
    configuration: Configuration, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator would not know that the token can be read on the way."""
    async with _served(configuration):
        assert "operator_token_in_the_clear" not in caplog.text
    listen = replace(configuration.control_plane, listen=Listen("0.0.0.0", 0))
    async with _served(replace(configuration, control_plane=listen)):
        assert "operator_token_in_the_clear" in caplog.text


async def test_while_postgres_is_away_it_lives_and_says_so_and_then_goes_on(own_postgres: EmbeddedPostgres) -> None:
    """A restart of Postgres would need a restart of the control plane; or an orchestrator would kill it for nothing."""
    await migrate(own_postgres.url())
    async with serving(configuration_for(own_postgres.url())) as api:
        assert (await api.get("/readyz", token=None)).status == 200
        await asyncio.to_thread(own_postgres.pg_ctl, "stop", "-m", "fast")
        refused = await api.post("/organizations", {"name": "Acme"}, idempotency_key="k")
        assert (refused.status, refused.code) == (503, "database_unavailable")
        assert (await api.get("/readyz", token=None)).code == "database_unavailable"
        assert (await api.get("/healthz", token=None)).status == 200
        await asyncio.to_thread(own_postgres.start_again)
        async with asyncio.timeout(10):
            while (await api.post("/organizations", {"name": "Acme"}, idempotency_key="k")).status != 201:
                pass
        assert (await api.get("/organizations")).document["total"] == 1


async def test_more_calls_than_there_is_room_for_are_refused_at_once_and_health_still_answers(
    configuration: Configuration, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls would pile up without end while Postgres is slow."""
    # So that none gives up before the last has come, however slow the machine is.
    monkeypatch.setattr(transactions, "ACQUIRE_SECONDS", 60.0)
    await connection.execute("BEGIN; LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE")
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        _served(configuration) as (url, _, _),
        aiohttp.ClientSession(headers=HEADERS, connector=connector) as client,
    ):

        async def call() -> str:
            async with client.get(f"{url}/api/v1/organizations") as response:
                return str((await response.json(content_type=None)).get("code"))

        calls = [asyncio.create_task(call()) for _ in range(400)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result() for task in done} == {"overloaded"}
        async with client.get(f"{url}/healthz") as response:
            assert response.status == 200
        await connection.execute("ROLLBACK")
        codes = await asyncio.gather(*calls)
        assert codes.count("overloaded") <= 400 - 256
        assert await call() == "None"
