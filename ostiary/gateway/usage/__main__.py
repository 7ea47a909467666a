"""A shipper as a process of its own: OSTIARY_POSTGRES_URL=postgresql://... python -m ostiary.gateway.usage DIRECTORY

With -c FILE in the place of the directory, it ships as a gateway of that configuration would. Runs until SIGTERM or SIGINT,
then drains. The URL comes from the environment, because arguments are for everyone to read."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.shipper import run_shipper
from ostiary.gateway.usage.sink import Sink


class Unobserved:
    """The log says what matters; nobody counts."""

    def written(self, rows: int) -> None: ...
    def failed(self, kind: str) -> None: ...
    def quarantined(self, segments: int) -> None: ...
    def spool_bytes(self, count: int) -> None: ...


async def main(directory: Path, sink: Sink) -> None:
    """Ships from `directory` until it is told to stop. Raises as `run_shipper`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_shipper(directory=directory, sink=sink, stop=stop, observe=Unobserved())


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "-c":
        # Only here: without a file it starts in half the time.
        from ostiary.core.config import load_file
        from ostiary.gateway.shipping import sink_of

        configuration = load_file(Path(sys.argv[2]))
        asyncio.run(main(Path(configuration.stores.spool), sink_of(configuration)))
    elif len(sys.argv) == 2 and "OSTIARY_POSTGRES_URL" in os.environ:
        asyncio.run(main(Path(sys.argv[1]), PostgresSink(os.environ["OSTIARY_POSTGRES_URL"])))
    else:
        sys.exit("usage: OSTIARY_POSTGRES_URL=postgresql://... python -m ostiary.gateway.usage DIRECTORY | -c FILE")
