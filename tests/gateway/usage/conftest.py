"""What the usage tests share: a database with the usage tables, and a shipper that remembers what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Observed, Rows


@pytest.fixture
async def database(migrated_database: str) -> str:
    """The URL of a database with the current schema."""
    return migrated_database


@pytest.fixture
async def rows(database: str) -> AsyncIterator[Rows]:
    """A connection to look at the tables with."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def spool_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
async def shipper(spool_directory: Path, database: str, observed: Observed) -> AsyncIterator[Shipper]:
    """Ships when told to."""
    shipper = Shipper(directory=spool_directory, sink=PostgresSink(database), observe=observed)
    yield shipper
    await shipper.close()
