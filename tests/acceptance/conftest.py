"""What the acceptance tests share: a migrated database, and room for files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # text: only the stubs of asyncpg know the parameter


@pytest.fixture
async def database(migrated_database: str) -> str:
    """The URL of a database with every table."""
    return migrated_database


@pytest.fixture
async def rows(database: str) -> AsyncIterator[Any]:
    """A connection to look at the tables with."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
