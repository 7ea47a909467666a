"""The masters of a Redis Cluster: which there are, which slots each has, and a link to each.

Nothing here is on a request's way but `at`: the map is learned in the background, at the start, when a refusal or a failure
says that it may have changed, and every REFRESH_SECONDS besides."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from ostiary.core import keyspace
from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Address, RedisConnection, ReplyRefused
from ostiary.gateway.limits.decision import LimiterObserver
from ostiary.gateway.limits.link import CONNECT_SECONDS, Link
from ostiary.gateway.limits.slots import SLOTS, SlotRange, slot_of, slot_ranges

log = logging.getLogger("ostiary.gateway.limits")

# A change of the map shows in refusals at once; this is for what nobody asks for (a master that is to be closed).
REFRESH_SECONDS = 30.0

# Between two looks at the map, with jitter: while a slot has no master that answers, and at most, whatever is asked for. A
# replica that was promoted is found within twice this, and connected to within the first backoff of its link.
REFRESH_GAP_SECONDS = 0.2

# One node's answer to CLUSTER SLOTS. A node that hangs must not keep us from asking the next one.
ANSWER_SECONDS = 0.3

# The most that Redis Cluster is made for. What a stranger's reply could make us connect to has a bound.
MASTERS_MAX = 1000

# Finding a name for the probe in a slot of a master takes one attempt for each of the others' slots to its own; beyond this
# many, with a handful of slots, it is enough that the master answers.
PROBES_MAX = 20_000


class MasterLink(Link):
    """The link to one master. `slots_n` is how many slots it has; what it is asked for but the map does not know yet (the
    target of a slot that is on its way) has none."""

    def __init__(
        self,
        address: Address,
        *,
        deadline_seconds: float,
        worker: str,
        observe: LimiterObserver,
        has: Callable[[MasterLink, int], bool],
        troubled: Callable[[], None],
    ) -> None:
        super().__init__(address, deadline_seconds=deadline_seconds, worker=worker, observe=observe)
        self.slots_n = 0
        self.is_referred_to = False
        self._is_loading = False
        self._has = has
        self._troubled = troubled

    def status(self) -> dict[str, object]:
        return {**super().status(), "slots": self.slots_n}

    def _note(self, kind: str, reason: str) -> None:
        super()._note(kind, reason)
        self._troubled()

    def load_again(self, connection: RedisConnection) -> None:
        """After SCRIPT FLUSH; once, however many batches were refused for it."""
        if not self._is_loading:
            self._is_loading = True
            connection.send(("SCRIPT", "LOAD", script.DECIDE), self._loaded)

    def _loaded(self, reply: object) -> None:
        self._is_loading = False

    async def _writes_in_time(self, connection: RedisConnection) -> bool:
        if self.slots_n:
            return await super()._writes_in_time(connection)
        # Any write would be refused, and be no sign of anything: slots come one by one.
        asked_at = asyncio.get_running_loop().time()
        await connection.ask(("PING",))
        return asyncio.get_running_loop().time() - asked_at <= self._deadline_seconds

    def _probe(self) -> str:
        """A name that this master holds."""
        for number in range(PROBES_MAX):
            name = f"{super()._probe()[:-1]}:{number}}}"
            if self._has(self, slot_of(name)):
                return name
        return super()._probe()


class Masters:
    """`at[slot]` is the link to the master of a slot, None while nobody knows it; its `connection` is None while it is
    away."""

    def __init__(
        self, addresses: Sequence[Address], *, deadline_seconds: float, worker: str, observe: LimiterObserver
    ) -> None:
        self.at: list[MasterLink | None] = [None] * SLOTS
        self._addresses = list(addresses)
        self._given = {(address.host, address.port): address for address in addresses}
        self._deadline_seconds = deadline_seconds
        self._worker = worker
        self._observe = observe
        self._links: dict[tuple[str, int], MasterLink] = {}
        self._wanted = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_told = False
        self._named_at: list[MasterLink | None] | None = None  # the map that keepsakes were named by
        self._failures = 0
        self._last_failure: str | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the map is known and each master was tried once, or that took too long: at most twice
        CONNECT_SECONDS."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._learn()
        except TimeoutError:
            self._wanted.set()
        await asyncio.gather(*(link.attempted() for link in self._links.values()))
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
            self._follower = None
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._closing)

    def status(self) -> dict[str, object]:
        """state: connected; partly (some slots have no master that answers); away."""
        served = self.served()
        return {
            "state": "connected" if served == SLOTS else "partly" if served else "away",
            "slots_served": served,
            "failures": self._failures + sum(link.failures for link in self._links.values()),
            "last_failure": self._last_failure,
            "masters": [link.status() for link in self._links.values()],
        }

    # --- following ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """The map may have changed."""
        self._wanted.set()

    def moved(self, slot: int, host: str, port: int) -> MasterLink:
        """Somebody who should know says that this slot is there now; the rest of the map follows."""
        link = self.referred(host, port)
        before = self.at[slot]
        if before is not link:
            if before is not None:
                before.slots_n -= 1
            link.slots_n += 1
            self.at[slot] = link
        self.refresh()
        return link

    def referred(self, host: str, port: int) -> MasterLink:
        """The link to a node, made if there was none: it is in use when the next call is sent there, not for this one."""
        link = self._links.get((host, port)) or self._connect_to(host, port)
        link.is_referred_to = True
        return link

    def _link_to(self, host: str, port: int, hostname: str) -> MasterLink:
        """`hostname`, if it has one, is whom its certificate is for; what the configuration says comes first."""
        link = self._links.get((host, port))
        if link is None:
            return self._connect_to(host, port, hostname)
        link.address = self._address(host, port, hostname)  # a redirection, which made it, names no hostname
        return link

    def _address(self, host: str, port: int, hostname: str) -> Address:
        if (given := self._given.get((host, port))) is not None:
            return given
        first = self._addresses[0]
        return replace(first, host=host, port=port, server_name=first.server_name or hostname or None)

    def _connect_to(self, host: str, port: int, hostname: str = "") -> MasterLink:
        address = self._address(host, port, hostname)
        link = MasterLink(
            address,
            deadline_seconds=self._deadline_seconds,
            worker=self._worker,
            observe=self._observe,
            has=lambda link, slot: self.at[slot] is link,
            troubled=self.refresh,
        )
        self._links[host, port] = link
        link.begin()
        return link

    async def _follow(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._learn()
            # Jitter, so that the workers of all nodes do not ask in the same moment.
            await asyncio.sleep(REFRESH_GAP_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            if self.served() < SLOTS:
                self._wanted.set()

    async def _learn(self) -> None:
        """Takes the map from the first node that tells one: of those that are connected, else of those that were given."""
        reason = "none of the nodes answers"
        for address, connection in self._sources():
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    ranges = await _ask(address, connection)
                    self._take(ranges, address)
            except (OSError, ReplyRefused, ValueError) as error:  # TimeoutError is an OSError
                reason = f"{address}: {_told(error)}"
            else:
                return
        self._failures += 1
        self._last_failure = f"map: {reason}"
        self._observe.store_failed("connect")
        if not self._is_told:
            self._is_told = True
            log.warning("redis_cluster_unknown", extra={"fields": {"reason": self._last_failure}})

    def _sources(self) -> list[tuple[Address, RedisConnection | None]]:
        connected = [(link.address, link.connection) for link in self._links.values() if link.connection is not None]
        # Not always the same one first: it may be cut off from the others, and tell what was.
        random.shuffle(connected)
        return [*connected, *((address, None) for address in self._addresses)]

    def _take(self, ranges: Sequence[SlotRange], told_by: Address) -> None:
        """Raises ValueError for what can't be the map of a cluster."""
        owners = {(held.host or told_by.host, held.port) for held in ranges}
        if not owners:
            raise ValueError("it knows of no slots")
        if len(owners) > MASTERS_MAX:
            raise ValueError(f"it knows of {len(owners)} masters, and a cluster has at most {MASTERS_MAX}")
        for link in self._links.values():
            link.slots_n = 0
        at: list[MasterLink | None] = [None] * SLOTS
        for held in ranges:
            link = self._link_to(held.host or told_by.host, held.port, held.hostname)
            link.slots_n += held.last - held.first + 1
            at[held.first : held.last + 1] = [link] * (held.last - held.first + 1)
        self.at = at
        self._is_told = False
        for place, link in list(self._links.items()):
            if place not in owners and not link.is_referred_to:
                self._leave(place)
            link.is_referred_to = False

    def _leave(self, place: tuple[str, int]) -> None:
        """A node that has no slots any more: it was demoted, emptied, or is gone."""
        link = self._links.pop(place)
        self._failures += link.failures
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def keepers(self) -> list[MasterLink]:
        """The masters that hold a keepsake, each with its name: the same one at all nodes that have the same map."""
        if self._named_at is not self.at:
            self._named_at = self.at
            nameless = {id(link): link for link in self._links.values() if link.slots_n}
            for number in range(PROBES_MAX):
                if not nameless:
                    break
                name = keyspace.keepsake(number)
                link = self.at[slot_of(name)]
                if link is not None and nameless.pop(id(link), None) is not None:
                    link.keepsake = name
        return [link for link in self._links.values() if link.slots_n and self.at[slot_of(link.keepsake)] is link]

    def served(self) -> int:
        """How many slots have a master that answers."""
        return sum(link.slots_n for link in self._links.values() if link.connection is not None)


async def _ask(address: Address, connection: RedisConnection | None) -> list[SlotRange]:
    """Raises OSError, ReplyRefused, ValueError."""
    if connection is not None:
        return slot_ranges(await connection.ask(("CLUSTER", "SLOTS")))
    connection = await RedisConnection.open(address, _nothing)
    try:
        return slot_ranges(await connection.ask(("CLUSTER", "SLOTS")))
    finally:
        connection.abort()


def _told(error: Exception) -> str:
    if "cluster support disabled" in str(error):
        return "it is no Redis Cluster, which a list of URLs means; give stores.redis one URL"
    return str(error) or type(error).__name__


def _nothing(connection: RedisConnection) -> None:
    """Whoever asked on it sees its end."""
