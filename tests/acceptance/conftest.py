"""What the acceptance tests share: a migrated database, and room for files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from ostiary.control_plane.db import migrate

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # text: only the stubs of asyncpg know the parameter


@pytest.fixture
async def database(empty_database: str) -> str:
    """The URL of a database with every table."""
    await migrate(empty_database)
    return empty_database


@pytest.fixture
async def rows(database: str) -> AsyncIterator[Any]:
    """A connection to look at the tables with."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path
