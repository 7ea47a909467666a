"""Databases of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ostiary.demo.stores import EmbeddedPostgres


@asynccontextmanager
async def database_on(server: EmbeddedPostgres, name: str, *, template: str = "template1") -> AsyncIterator[None]:
    """There is a database of that name, a copy of `template`, which nobody may be connected to meanwhile."""
    admin = await asyncpg.connect(server.url())
    try:
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        yield
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()
