"""A shipper as a process of its own: OSTIARY_POSTGRES_URL=postgresql://... python -m ostiary.gateway.usage DIRECTORY

Runs until SIGTERM or SIGINT, then drains. The URL comes from the environment, because arguments are for everyone to read."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from ostiary.gateway.usage.shipper import run_shipper


class Unobserved:
    """The log says what matters; nobody counts."""

    def written(self, rows: int) -> None: ...
    def failed(self, kind: str) -> None: ...
    def quarantined(self, segments: int) -> None: ...
    def spool_bytes(self, count: int) -> None: ...


async def main(directory: Path, postgres_url: str) -> None:
    """Ships from `directory` until it is told to stop. Raises as `run_shipper`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_shipper(directory=directory, postgres_url=postgres_url, stop=stop, observe=Unobserved())


if __name__ == "__main__":
    if len(sys.argv) != 2 or "OSTIARY_POSTGRES_URL" not in os.environ:
        sys.exit("usage: OSTIARY_POSTGRES_URL=postgresql://... python -m ostiary.gateway.usage DIRECTORY")
    asyncio.run(main(Path(sys.argv[1]), os.environ["OSTIARY_POSTGRES_URL"]))
