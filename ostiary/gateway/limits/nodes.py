"""How many gateway nodes there are, as Redis counts them: what the share of a limit goes by once Redis is away.

A node says every few seconds that it is there; whichever of its workers sees first that it is due does so, over the
connection it has anyway. So a node writes once a beat however many workers it has, and goes on while one of them lives."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final, Protocol

from ostiary.core import keyspace
from ostiary.core.resources import lua_script
from ostiary.gateway.limits.connection import RedisConnection
from ostiary.gateway.node import GONE_SECONDS, NodeMemory

_BEAT: Final = lua_script("beat")
# Each worker looks this often whether a beat is due, with jitter, so that mostly one finds it so.
LOOK_SECONDS: Final = 1.0
# More nodes than this share no limit; what says so is no count of ours.
NODES_MAX: Final = 10_000


class NodesStore(Protocol):
    """Where the nodes are counted."""

    def connection_at(self, name: str) -> RedisConnection | None:
        """That to whoever holds the name; None while it is away."""


class Heartbeat:
    """Beats where it is due and Redis is there. A beat that fails is left out: the number last seen stays."""

    def __init__(self, *, store: NodesStore, node: NodeMemory) -> None:
        self._store = store
        self._node = node
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The first beat goes out at once: a node counts from the moment it begins to serve."""
        self._look()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_SECONDS * random.uniform(0.7, 1.0), self._look)  # noqa: S311  no secret
        connection = self._store.connection_at(keyspace.nodes())
        if connection is not None and self._node.take_beat(time.monotonic()):
            life_us = int(GONE_SECONDS * 1_000_000)
            connection.send(("EVAL", _BEAT, 1, keyspace.nodes(), self._node.name, life_us), self._counted)

    def _counted(self, reply: object) -> None:
        if isinstance(reply, int) and 0 < reply <= NODES_MAX:
            self._node.heard_of(reply, time.monotonic())
