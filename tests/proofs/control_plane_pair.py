"""Proof: two control planes on one database, under changes from many callers at once and with one of the two killed again and
again, do each change once and write it into the audit log once; the chain is whole. With what the chain costs."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import asyncpg

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.cli.conftest import OPERATOR_TOKEN, Process, start, write_configuration
from tests.support.control_plane_pair import Callers, findings

CALLERS = 20


async def drained(process: Process) -> None:
    """Reads its log, which would stop it when the pipe is full."""
    assert process.popen.stdout is not None
    while await asyncio.to_thread(process.popen.stdout.readline):
        pass


async def prove(scratch: Path, seconds: float, kill_every: float) -> None:
    with EmbeddedPostgres(scratch / "postgres") as server:
        await asyncio.gather(*(migrate(server.url()) for _ in range(4)))
        file = write_configuration(scratch / "gateway.yaml", server.url())
        # Twenty callers with one token, as fast as they are answered: no rate of an actor is meant for that.
        file.write_text(file.read_text().replace("  operator_token:", "  rate_per_actor: off\n  operator_token:"))
        processes = [await asyncio.to_thread(start, file) for _ in range(2)]
        readers = {asyncio.create_task(drained(process)) for process in processes}
        kills = 0
        stop = asyncio.Event()
        try:
            async with Callers([process.url for process in processes], token=OPERATOR_TOKEN) as callers:
                load = asyncio.create_task(callers.run(CALLERS, rounds=10**9, stop=stop))
                begun = time.monotonic()
                while time.monotonic() - begun < seconds and not load.done():
                    await asyncio.wait({load}, timeout=min(kill_every, seconds))
                    if time.monotonic() - begun < seconds - 1 and kill_every < seconds:
                        victim = kills % 2
                        processes[victim].popen.send_signal(signal.SIGKILL)
                        await asyncio.to_thread(processes[victim].popen.wait)
                        processes[victim] = await asyncio.to_thread(start, file)
                        readers.add(asyncio.create_task(drained(processes[victim])))
                        callers.urls[victim] = processes[victim].url
                        kills += 1
                stop.set()
                await load
                lasted = time.monotonic() - begun
            connection = await asyncpg.connect(server.url())
            found = await findings(connection, callers.tally)
            rows = await connection.fetchval("SELECT count(*) FROM audit_log")
            await connection.close()
        finally:
            for process in processes:
                process.popen.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.popen.wait)
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.gather(*readers)
    tally = callers.tally
    print(
        f"{lasted:.0f} s, {CALLERS} callers: {len(tally.done)} changes done ({len(tally.done) / lasted:.0f}/s), {rows} rows; "
        f"{tally.repeated} repeats answered, {tally.turned_away} told to come back, {kills} kills, {tally.lost} answers lost"
    )
    if found:
        sys.exit("\n".join(found))
    print("every change has one row, every row one change, and the chain is whole")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove control-plane-pair", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default 120)")
    parser.add_argument(
        "--kill-every", type=float, default=10.0, metavar="SECONDS", help="kill one this often (default 10)"
    )
    parser.add_argument("--directory", type=Path, help="where the database is made (default: a temporary one)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pair-", dir=chosen.directory) as scratch:
        asyncio.run(prove(Path(scratch), chosen.seconds, chosen.kill_every))


if __name__ == "__main__":
    main()
