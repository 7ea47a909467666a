"""How many gateway nodes there are, as Redis counts them: what the share of a limit goes by once Redis is away. And by which
skews they judge signed calls: a node with a larger one must not take what one with a smaller one has taken and forgotten.

A node says every few seconds that it is there; whichever of its workers sees first that it is due does so, over the
connection it has anyway. So a node writes once a beat however many workers it has, and goes on while one of them lives. A
worker that starts, or has a new skew, does not wait for that: it must have heard before it judges. While workers of one node
differ (a rolling restart brings another skew) each asks for itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial
from typing import Final, Protocol

from ostiary.core import keyspace
from ostiary.core.resources import lua_script
from ostiary.gateway.limits.connection import RedisConnection
from ostiary.gateway.node import GONE_SECONDS, SKEW_END, UNTIL_END, NodeMemory

_BEAT: Final = lua_script("beat")
# Each worker looks this often whether a beat is due, with jitter, so that mostly one finds it so.
LOOK_SECONDS: Final = 1.0
# More nodes than this share no limit; what says so is no count of ours.
NODES_MAX: Final = 10_000
# A worker that starts waits so long for the answer of a Redis that it is connected to. Later it heeds what it hears as well.
FIRST_ANSWER_SECONDS: Final = 0.5


class NodesStore(Protocol):
    """Where the nodes are counted."""

    def connection_at(self, name: str) -> RedisConnection | None:
        """That to whoever holds the name; None while it is away."""


class Heartbeat:
    """Beats where it is due and Redis is there. A beat that fails is left out: what was last heard stays."""

    def __init__(self, *, store: NodesStore, node: NodeMemory, skew_seconds: int) -> None:
        self._store = store
        self._node = node
        self._skew_seconds = skew_seconds
        self._answered = asyncio.Event()
        self._told: tuple[int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """The first beat goes out at once: a node counts from the moment it begins to serve. Returns when it is answered, or
        nobody is there to answer, or after FIRST_ANSWER_SECONDS."""
        self._look()
        if self._store.connection_at(keyspace.nodes()) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), FIRST_ANSWER_SECONDS)

    def judge_by(self, skew_seconds: int) -> None:
        """From now on. The others hear it at once: a nonce under a small skew is remembered for seconds."""
        if skew_seconds != self._skew_seconds:
            self._skew_seconds = skew_seconds
            self._beat(due=False)

    @property
    def smaller_skews(self) -> list[tuple[int, int]]:
        """What was told to this worker, and to the last one of the node that judges by the same skew: by how many seconds,
        and before which time (Unix seconds) calls are dated that were taken so. 0 and 0: there are none."""
        return [told for told in (self._told, self._node.smaller_skew(self._skew_seconds)) if told is not None]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_SECONDS * random.uniform(0.7, 1.0), self._look)  # noqa: S311  no secret
        if self._store.connection_at(keyspace.nodes()) is None:
            return
        due = self._node.take_beat(time.monotonic())
        if due or not self._answered.is_set() or self._is_alone_with_its_skew():
            self._beat(due=due)

    def _is_alone_with_its_skew(self) -> bool:
        return self._skew_seconds > 0 and self._node.smaller_skew(self._skew_seconds) is None

    def _beat(self, *, due: bool) -> None:
        connection = self._store.connection_at(keyspace.nodes())
        if connection is None:
            return
        life_us, skew, now = int(GONE_SECONDS * 1_000_000), self._skew_seconds, int(time.time())
        # The next beat may be late by as much as a node may be silent.
        taken_below = now + skew + int(GONE_SECONDS) + 1
        keys = keyspace.nodes(), keyspace.skews()
        connection.send(
            ("EVAL", _BEAT, len(keys), *keys, self._node.name, life_us, skew, taken_below, now - skew),
            partial(self._heard, skew, due),
        )

    def _heard(self, judged_by: int, due: bool, reply: object) -> None:
        """An error, and what is no answer of the script, changes nothing."""
        match reply:
            case [int(nodes), int(seconds), int(until)]:
                if due and 0 < nodes <= NODES_MAX:  # the last counts are of as many BEAT_SECONDS
                    self._node.heard_of(nodes, time.monotonic())
                if 0 <= seconds < SKEW_END and 0 <= until < UNTIL_END:
                    self._told = seconds, until
                    self._node.heard_of_skew(judged_by, seconds, until)
                self._answered.set()
