"""What a profiled build is trained by (hatch_build.py): the calls that `scripts/bench instructions` counts.

    python -m benchmarks.training

gcc counts meanwhile which way each branch goes. So what is done here should be what callers do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.instructions import counted
from benchmarks.statistics import Spread

REQUESTS: Final = 2_000


async def train(directory: Path, requests: int = REQUESTS) -> None:
    """Does every call so often."""

    def repeat(call: Callable[[], object]) -> Spread:
        for _ in range(requests):
            call()
        return Spread.of([0.0])  # nothing is measured

    await counted(directory, repeat)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ostiary-training-") as name:
        uvloop.run(train(Path(name)))
