"""`python -m tests.support.run_gateway FILE`: the supervisor with the tiny service in its workers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from ostiary.core.config import load_file
from ostiary.gateway.handover import take_handover
from ostiary.gateway.supervisor import CannotStart, Supervisor
from ostiary.gateway.telemetry import configure_logging


async def main() -> int:
    path = Path(sys.argv[1])
    handover = take_handover(os.environ)
    configure_logging("supervisor")
    service = "tests.support.tiny_service:build"
    return await Supervisor(
        path=path, configuration=load_file(path), load=load_file, service=service, shipper=None, handover=handover
    ).run()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except CannotStart as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
