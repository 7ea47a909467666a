"""The real parts every test may use: one Postgres and one Valkey for the whole run, each test with its own database."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import uvloop

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.support.databases import database_on
from tests.support.nats_server import NatsServer, running_nats
from tests.support.vault_server import VaultServer, running_vault

pytest_plugins = ["tests.scheduling"]

_numbers = itertools.count()


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey") / "data") as server:
        yield server


@pytest.fixture
async def empty_database(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of a database of this test's own, with nothing in it."""
    name = f"test_{next(_numbers)}"
    async with database_on(postgres_server, name):
        yield postgres_server.url(name)


@pytest.fixture(scope="session")
def current_schema(postgres_server: EmbeddedPostgres) -> str:
    """The name of a database with the current schema and nothing in it, to be copied: that takes a third of migrating."""

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute("CREATE DATABASE migrated")
        await admin.close()
        await migrate(postgres_server.url("migrated"))

    asyncio.run(prepare())
    return "migrated"


@pytest.fixture
async def migrated_database(postgres_server: EmbeddedPostgres, current_schema: str) -> AsyncIterator[str]:
    """The URL of a database of this test's own, with the current schema."""
    name = f"test_{next(_numbers)}"
    async with database_on(postgres_server, name, template=current_schema):
        yield postgres_server.url(name)


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey of this test's own, to be stopped, paused and killed."""
    with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """One OpenBao for the whole run. A test that pauses it lets it go on."""
    with running_vault(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS with JetStream for the whole run; each test makes streams of names of its own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS of this test's own, to be stopped, paused and killed."""
    with running_nats(tmp_path_factory.mktemp("own-nats")) as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A Postgres of this test's own, to be stopped, paused and killed."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("own") / "postgres") as server:
        yield server
