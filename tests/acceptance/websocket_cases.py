"""The Autobahn cases (kosoku runs them), against a WebSocket echo directly and through the gateway."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kosoku import FailureError, run_fuzzingclient
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ostiary.core.model import Upgrade
from tests.support.gateway import configuration, route, running_gateway, upstream

CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a case says of the messages, and of the way the connection ended."""

    behavior: str
    close: str
    passed: bool


async def _echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        return  # how it ended is the case's to judge


@asynccontextmanager
async def echo_and_gateway() -> AsyncIterator[tuple[int, int]]:
    """The port of an echo, and that of a gateway before it."""
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # cases break the protocol on purpose
    async with serve(_echo, "127.0.0.1", 0, max_size=None) as echo:
        port = next(iter(echo.sockets)).getsockname()[1]
        settings = configuration([upstream(port)], [route(upgrades=frozenset({Upgrade.WEBSOCKET}))])
        async with running_gateway(settings) as gateway:
            yield port, gateway.port


async def run_cases(port: int, cases: Sequence[str] | None, *, concurrency: int = CONCURRENCY) -> dict[str, Verdict]:
    """By case. `cases` are ids or patterns as in `6.*`; None is the whole suite."""
    try:
        results = await run_fuzzingclient(f"ws://127.0.0.1:{port}/ws", cases=cases, concurrency=concurrency)
    except FailureError as failures:
        results = failures.results
    return {each.case_id: Verdict(each.behavior.value, each.behavior_close.value, each.passed) for each in results}


def made_worse(direct: dict[str, Verdict], through: dict[str, Verdict]) -> dict[str, tuple[Verdict, Verdict | None]]:
    """The cases that the gateway fails and the echo alone does not, with both verdicts."""
    return {
        case: (verdict, through.get(case))
        for case, verdict in direct.items()
        if verdict.passed and not ((found := through.get(case)) and found.passed)
    }


async def compare(cases: Sequence[str] | None, tell: Callable[[str], object]) -> tuple[int, list[str]]:
    """How many cases ran, and what the gateway made worse. A case is given 20 s (kosoku 0.1 says 480 when they are over),
    which an echo in Python overruns here or there on a busy machine: one that seems worse is asked again alone, both ways."""
    async with echo_and_gateway() as (echo_port, gateway_port):
        direct = await run_cases(echo_port, cases)
        tell(f"directly: {len(direct)} cases, {_failures(direct)}")
        through = await run_cases(gateway_port, cases)
        tell(f"through the gateway: {len(through)} cases, {_failures(through)}")
        if again := list(made_worse(direct, through)):
            direct.update(await run_cases(echo_port, again, concurrency=1))
            through.update(await run_cases(gateway_port, again, concurrency=1))
            tell(f"again, alone: {', '.join(again)}")
    return len(through), [
        f"{case}: {before} became {after}" for case, (before, after) in made_worse(direct, through).items()
    ]


def _failures(verdicts: dict[str, Verdict]) -> str:
    failed = [case for case, verdict in verdicts.items() if not verdict.passed]
    return f"{len(failed)} failed" + (f" ({', '.join(failed)})" if failed else "")
