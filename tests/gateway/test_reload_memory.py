"""What a reload leaves behind: nothing. A worker lives for months, and may be reloaded every minute of them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

from ostiary.core.model import Configuration, Route
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.snapshot import Admission, CompiledRoute, Snapshot
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.wire.pool import TargetPool
from ostiary.gateway.wire.upstream import UpstreamConnection
from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.origin import running_origin

COUNTED = (
    Admission,
    CompiledRoute,
    Configuration,
    Exchange,
    KeyRing,
    Route,
    RouteMeters,
    Snapshot,
    TargetPool,
    UpstreamConnection,
    UpstreamGroup,
)
ASK = b"GET /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


def living() -> Counter[str]:
    """How many there are of each class that a configuration is made of."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in COUNTED)


async def test_a_reload_frees_what_was_in_force_by_reference_count_alone() -> None:
    """Row 112: memory that grows with each reload. A full collection is rare by design (GC_THRESHOLD), so whatever a reload
    leaves in a cycle would stay for a hundred reloads of a large file, with every connection pool of before."""
    async with running_origin() as one, running_origin() as other:

        def version(number: int) -> Configuration:
            """Another route, another upstream with another target, each time."""
            port = (one, other)[number % 2].port
            return configuration([upstream(port, name="origin")], [route(f"route-{number}")])

        async with running_gateway(version(0)) as running:

            async def use_and_reload(number: int) -> Counter[str]:
                assert (await talk(running.port, ASK)).startswith(b"HTTP/1.1 200 ")
                running.gateway.reload(version(number))
                assert (await talk(running.port, ASK)).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(0)  # closed connections tell so in the next turn of the loop
                await asyncio.sleep(0)
                return living()

            gc.collect()
            gc.disable()
            try:
                first = await use_and_reload(1)
                for number in range(2, 6):
                    assert await use_and_reload(number) == first, f"after reload {number}"
            finally:
                gc.enable()
