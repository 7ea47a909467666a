"""What most tests of the gateway begin with: a recording origin, and a gateway that sends everything there. A test that
needs other ones says so by fixtures of the same names."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Origin, running_origin


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with running_origin() as origin:
        yield origin
        assert origin.garbled == []  # h11 has read everything that went upstream


@pytest.fixture
async def gateway(origin: Origin) -> AsyncIterator[RunningGateway]:
    """One route, for all paths, open to everyone."""
    async with running_gateway(configuration([upstream(origin.port)], [route()])) as gateway:
        yield gateway
