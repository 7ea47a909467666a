"""Proof: WebSocket through the gateway is what it is without it. All Autobahn cases run against an echo, then through the
gateway; a case that passes directly must pass there too."""

from __future__ import annotations

import argparse
import asyncio
import time

import uvloop

from tests.acceptance.websocket_cases import compare


async def prove(cases: list[str] | None, seconds_max: float) -> int:
    began = time.monotonic()
    async with asyncio.timeout(seconds_max):
        count, worse = await compare(
            cases, lambda line: print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
        )
    for line in worse:
        print(f"FAILED: {line}")
    print(f"{count} cases, {len(worse)} of them worse through the gateway")
    return 1 if worse or not count else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove websocket-cases", description=__doc__)
    parser.add_argument("--cases", nargs="+", help="ids or patterns as in '9.*' (default: all, some minutes)")
    parser.add_argument("--seconds-max", type=float, default=1800, help="give up after so long (default 1800)")
    arguments = parser.parse_args()
    raise SystemExit(uvloop.run(prove(arguments.cases, arguments.seconds_max)))


if __name__ == "__main__":
    main()
