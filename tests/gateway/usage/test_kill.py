"""A worker or a shipper may die at any instruction; what was acknowledged is delivered, once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.reconcile import count_by_request_id, reconcile
from ostiary.gateway.usage.segment import scan
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Rows, segment_files, spool_calls, until

KILLS = int(os.environ.get("OSTIARY_KILLS", "15"))  # 100 in the full proof


async def _delivered(rows: Rows) -> Counter[str]:
    found = await rows.fetch("SELECT request_id, count(*) AS calls FROM usage_events GROUP BY request_id")
    return Counter({row["request_id"]: row["calls"] for row in found})


async def _incomplete(rows: Rows) -> int:
    return int(await rows.fetchval("SELECT count(*) FROM usage_events WHERE NOT complete") or 0)


def _run_and_kill(directory: Path, after_seconds: float) -> set[str]:
    """A worker's life, ended `after_seconds` after its first acknowledged call; the request ids it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateway.usage.appender", "run", str(directory)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    data = os.read(process.stdout.fileno(), 8)
    deadline = time.monotonic() + after_seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([process.stdout], [], [], left)[0]:
            data += os.read(process.stdout.fileno(), 1 << 16)
    process.send_signal(signal.SIGKILL)
    data += process.stdout.read()
    process.stdout.close()
    process.wait()
    whole = len(data) // 8
    return {f"{process.pid}-{number}" for number in struct.unpack(f"<{whole}Q", data[: whole * 8])}


async def test_every_acknowledged_call_outlives_kill_9_at_any_moment(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 87: kill -9 of a worker at random points (15 in the test run, 100 with OSTIARY_KILLS=100). Every call for which
    `append` had returned is in Postgres exactly once, and the books balance."""
    chance = random.Random(87)
    acknowledged: set[str] = set()
    for _ in range(KILLS):
        acknowledged |= await asyncio.to_thread(_run_and_kill, spool_directory, chance.uniform(0, 0.12))
        if chance.random() < 0.5:
            await shipper.ship()
    await shipper.ship()
    delivered = await _delivered(rows)
    assert acknowledged - delivered.keys() == set()
    assert set(delivered.values()) == {1}
    assert len(delivered) - len(acknowledged) <= KILLS  # at most the one call under way in each life
    assert await _incomplete(rows) <= len(delivered) - len(acknowledged)
    assert look(spool_directory).segments == []
    assert look(spool_directory).runs == {}
    result = await reconcile(spool_directory, database)
    assert result.holds, result
    assert sum(run.accepted for run in result.runs) == len(delivered)


async def test_every_acknowledged_call_outlives_kill_9_at_every_line(
    spool_directory: Path, shipper: Shipper, rows: Rows, database: str
) -> None:
    """Row 87: lives that are killed before each line of the spool's code in turn: making the directory, the run and a
    segment, opening a call, appending, filling a segment up, sealing, closing. Every call that was opened, so that an
    upstream may have seen it, is there once; every one that was acknowledged is there as it ended."""
    output = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.gateway.usage.appender", "lines", str(spool_directory)],
        check=True,
        capture_output=True,
    )
    lives = json.loads(output.stdout)
    assert len(lives) > 120
    acknowledged = {f"{life['life']}-{number}" for life in lives for number in life["acknowledged"]}
    opened = {f"{life['life']}-{number}" for life in lives for number in life["opened"]}
    assert len(opened) > len(acknowledged)
    for path in segment_files(spool_directory, "open"):
        assert scan(path.read_bytes())[1] == 0, "a record under way showed before it was whole"
    await shipper.ship()
    delivered = await _delivered(rows)
    assert acknowledged - delivered.keys() == set()
    assert set(delivered.values()) == {1}
    assert opened - delivered.keys() == set()
    assert len(delivered) - len(acknowledged) <= len(lives)
    cut = {row["request_id"] for row in await rows.fetch("SELECT request_id FROM usage_events WHERE NOT complete")}
    assert cut & acknowledged == set()
    assert len(cut) > 20
    assert look(spool_directory).segments == []
    result = await reconcile(spool_directory, database)
    assert result.holds, result


@pytest.mark.parametrize("seed", range(4))
async def test_a_shipper_killed_anywhere_delivers_once(
    spool_directory: Path, database: str, rows: Rows, seed: int
) -> None:
    """Row 90: kill -9 of the shipper at random points, between a commit and the deletion among them; the next one goes on.
    Without it: a segment delivered twice, or not at all, at every deployment."""
    names = [f"req-{number}" for number in range(6000)]
    spool_calls(spool_directory, names)
    chance = random.Random(seed)
    environment = {**os.environ, "OSTIARY_POSTGRES_URL": database}
    command = [sys.executable, "-m", "ostiary.gateway.usage", str(spool_directory)]
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        written = await rows.fetchval("SELECT count(*) FROM usage_segments")

        async def goes_on(written: int = written) -> bool:
            return bool(await rows.fetchval("SELECT count(*) FROM usage_segments") > written)

        if segment_files(spool_directory, "sealed"):
            await until(goes_on, "the shipper writes a segment")
        await asyncio.sleep(chance.uniform(0, 0.02))  # not to wait for anything: the moment is the test's input
        process.kill()
        await process.wait()
    # For the last one, if those before have shipped everything: it listens to SIGTERM by the time it has shipped this.
    spool_calls(spool_directory, ["the-last"])
    names.append("the-last")
    last = await asyncio.create_subprocess_exec(*command, env=environment)

    async def all_shipped() -> bool:
        return not look(spool_directory).segments and not look(spool_directory).runs

    await until(all_shipped, "everything is shipped")
    last.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(last.wait(), 10) == 0
    assert await _delivered(rows) == Counter(names)
    assert await count_by_request_id(spool_directory, database) == Counter(names)
    assert (await reconcile(spool_directory, database)).holds
