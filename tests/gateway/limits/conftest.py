"""The loop of production: uvloop runs timers before it reads sockets, asyncio after, and the deadlines depend on it."""

from __future__ import annotations

import asyncio

import pytest
import uvloop


@pytest.fixture(scope="package")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy
