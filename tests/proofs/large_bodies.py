"""Proof: a body of any size passes at constant memory, in both directions, with a known length and in chunks, and past a
slow reader. One worker, an origin and a client of their own processes and threads; every byte is compared."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.acceptance import stack
from tests.acceptance.large_bodies import (
    FRAMES,
    GROWTH_BYTES_MAX,
    MIB,
    Download,
    ResidentMemory,
    Upload,
    ask,
    resident_bytes,
)


def download(port: int, size: int, frame: str) -> None:
    Download(port, size, frame).read_rest()


def download_slowly(port: int, size: int, frame: str, bytes_per_second: int) -> None:
    """The first ten seconds at that pace, the rest as fast as it comes."""
    download = Download(port, size, frame, receive_buffer_bytes=64 * 1024)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 10:
        if download.read_bytes < passed * bytes_per_second:
            download.read(16 * 1024)
        else:
            time.sleep(0.002)  # the reader's pace
    download.read_rest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove large_bodies", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of each body (default 1024, about a minute in all)")
    size = parser.parse_args().mib * MIB
    failures = []
    with (
        tempfile.TemporaryDirectory() as name,
        stack.raw_origin(Path(name)) as origin,
        stack.gateway(Path(name), {"/**": origin}, workers=1) as gateway,
    ):
        port = gateway.port
        (pid,) = gateway.worker_pids()
        ask(port, "/raw/sent")  # what a first call takes is no matter of its size
        runs: list[tuple[str, Callable[[], object]]] = []
        for frame in FRAMES:
            runs += [
                (f"answer, {frame}", partial(download, port, size, frame)),
                (f"request, {frame}", Upload(port, size, frame).run),
                (f"answer, {frame}, read slowly", partial(download_slowly, port, size, frame, 2 * MIB)),
            ]
        rest_bytes = resident_bytes(pid)
        for title, run in runs:
            began = time.monotonic()
            with ResidentMemory(pid, since_bytes=rest_bytes) as memory:
                run()
            seconds = time.monotonic() - began
            print(
                f"{title:32} {size / MIB:6.0f} MiB in {seconds:5.1f} s   worker {rest_bytes / MIB:5.1f} MiB at rest, "
                f"grew by {memory.growth_bytes / MIB:4.1f} MiB   ({memory.samples} samples)"
            )
            if memory.growth_bytes > GROWTH_BYTES_MAX:
                failures.append(f"{title}: grew by {memory.growth_bytes / MIB:.1f} MiB")
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
