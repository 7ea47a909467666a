"""Proof: no spoiled request and no spoiled answer breaks the gateway or passes as another message. A failure prints a case
for tests/fuzz/test_findings.py."""

from __future__ import annotations

import argparse
import time

import psutil

from tests.fuzz import answers, requests
from tests.fuzz.memory import MemoryLoop
from tests.fuzz.stage import Stage

ROUND = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000_000, help="spoiled and good (default 2 000 000)")
    parser.add_argument("--answers", type=int, default=None, help="spoiled answers (default a tenth of the requests)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (default 1)")
    chosen = parser.parse_args()
    wanted = chosen.requests // 10 if chosen.answers is None else chosen.answers
    loop = MemoryLoop()

    async def rounds() -> None:
        stage = Stage(loop)
        began, seed, sent, answered = time.monotonic(), chosen.seed, 0, 0
        while sent < chosen.requests or answered < wanted:
            if sent < chosen.requests:
                await requests.run(stage, seed, min(ROUND, chosen.requests - sent))
                sent += min(ROUND, chosen.requests - sent)
            if answered < wanted:
                some = min(max(1, ROUND // 10), wanted - answered)
                await answers.run(stage, seed, some)
                answered += some
            memory = psutil.Process().memory_info().rss >> 20
            print(
                f"seed {seed:6} {sent:9} requests {answered:8} answers {time.monotonic() - began:7.0f} s {memory:5} MiB",
                flush=True,
            )
            seed += 1

    loop.run_until_complete(rounds())
    loop.close()


if __name__ == "__main__":
    main()
