"""docs/seeds.md names what is there: operations and paths of the OpenAPI document, columns of the database."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg

from tests.control_plane.support import Api

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "seeds.md").read_text(encoding="utf-8")
OURS = [row.split(" | ")[1:] for row in PAGE.splitlines() if row.startswith("| ") and row.count(" | ") >= 2]

# Finer questions than any of the specifications asks.
NOT_OF_THE_SEEDS = {"endGeneration", "getKeyLimits", "usageDaily", "usageOverage", "usageShadow"}


def _spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


async def test_every_operation_and_path_that_the_page_names_is_in_the_document(api: Api) -> None:
    """Whoever comes from one of those platforms would look for what is not there."""
    document = (await api.get("/api/v1/openapi.json")).document
    described = {
        (method.upper(), path, operation["operationId"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    ids = {operation for _, _, operation in described}
    paths = {path for _, path, _ in described} | {"/api/v1/openapi.json"}
    named = [row for row in OURS if "`" in row[-1]]
    assert len(named) >= 30
    for ours, operations, *_ in named:
        found = set(_spans(operations))
        assert found <= ids, ours
        for said in _spans(ours):
            method, _, path = said.rpartition(" ")
            path = path.partition("?")[0]
            if not path.startswith("/"):
                continue
            assert path in paths, said
            if method:
                assert {operation for verb, where, operation in described if (verb, where) == (method, path)} & found
    # What manages the platform's people, routes and audit was added without a word here.
    everywhere = set(_spans(PAGE))
    assert ids - everywhere <= NOT_OF_THE_SEEDS
    for theirs_too in re.findall(r"\| `([A-Z]+) (/api/v1/[^`?]+)` \| the same[^|]*\| `(\w+)`", PAGE):
        assert theirs_too in described


async def test_every_column_that_the_page_names_is_in_the_database(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    columns = {(row["table_name"], row["column_name"]) for row in rows}
    tables = {table for table, _ in columns}
    checked = 0
    for row in PAGE.splitlines():
        if not row.startswith("| ") or row.count(" | ") != 1:
            continue
        ours = row.split(" | ")[1].removesuffix(" |")
        # `table`: `column`, `column`; and `table.column`
        for table, listed in re.findall(r"`(\w+)`: ((?:`[\w.]+`(?: \([^)]*\))?(?:, | and )?)+)", ours):
            assert table in tables, row
            for column in re.findall(r"`(\w+)`", listed):
                assert (table, column) in columns, (table, column)
                checked += 1
        for table, column in re.findall(r"`(\w+)\.(\w+)`", ours):
            if table in tables:
                assert (table, column) in columns, (table, column)
                checked += 1
    assert checked >= 60
