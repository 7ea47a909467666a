"""Two control planes on one database, as an installation that must not stand still has them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg

from tests.cli.conftest import ENVIRONMENT, OPERATOR_TOKEN, Process, start, write_configuration
from tests.support.control_plane_pair import Callers, findings


def _migrate(configuration: Path) -> subprocess.Popen[str]:
    program = "from ostiary.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "db", "migrate", "-c", str(configuration)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )


async def test_two_processes_on_one_database_do_each_change_once_and_write_it_down_once(
    empty_database: str, tmp_path: Path
) -> None:
    """Two that migrate, number, chain and remember answers each for itself would tear the log, or do a call twice."""
    file = write_configuration(tmp_path / "gateway.yaml", empty_database)
    migrating = [_migrate(file) for _ in range(2)]
    printed = [(await asyncio.to_thread(each.communicate))[0] for each in migrating]
    assert [each.returncode for each in migrating] == [0, 0], printed
    applied = [line for text in printed for line in text.splitlines() if line.startswith("applied")]
    assert len(applied) == len(set(applied)) > 0, "each migration is applied by one of them"

    processes: list[Process] = []
    try:
        processes += await asyncio.gather(*(asyncio.to_thread(start, file) for _ in range(2)))
        async with Callers([process.url for process in processes], token=OPERATOR_TOKEN) as callers:
            await callers.run(callers=8, rounds=12)
        connection = await asyncpg.connect(empty_database)
        assert await findings(connection, callers.tally) == []
        assert callers.tally.repeated > 0
        assert callers.tally.lost == 0
        assert len(callers.tally.done) > 60
        await connection.close()
    finally:
        ends = [await asyncio.to_thread(process.end) for process in processes]
    assert ends == [0, 0]
