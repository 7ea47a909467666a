"""Nonces in memory: the only memory while Redis is away, and a shield in front of it otherwise.

Three memories, asked in this order. What Redis accepted for this worker is in a dictionary of its own. What was let in
without Redis is in a table that all workers of the node read and write. What Redis accepted for the others is in their
rings, read only without Redis. Nobody waits for anybody: reading takes no lock, a ring has one writer; and where reading and
writing must be one step, because two workers may have the same nonce in hand, the kernel locks one bucket (fcntl), is asked a
bounded number of times, and frees it when its holder dies."""

from __future__ import annotations

import fcntl
import logging
from enum import Enum
from typing import Final

from ostiary.gateway.node import BUCKET_BYTES, BUCKET_SLOTS, BUCKETS_ALONE, HEADER_BYTES, RINGS, NodeMemory

log = logging.getLogger("ostiary.gateway.limits")

_BUCKET_MARKS: Final = 8 * BUCKET_SLOTS

# Two generations of a worker's own, 12 MB at most.
GENERATION_MAX: Final = 25_000

# A bucket is held for some microseconds. Whoever finds it taken for longer (its holder is stopped, or has lost its
# processor) does not know, and says so: a hundred tries take 0.1 ms.
LOCK_TRIES: Final = 100


class Taken(Enum):
    """YES: it is used up now, by this call. USED: it was before. UNKNOWN: no room to remember it, or no lock."""

    YES = "yes"
    USED = "used"
    UNKNOWN = "unknown"


class NonceMemory:
    """Nonces that are used up, each until its time has passed. Times are monotonic seconds, given by the caller.

    Two generations of at most `generation_max` each: when the younger is full it becomes the older, and what was the older
    is forgotten at once. So at least the last `generation_max` nonces are known, and remembering one costs the same always
    (taking the oldest out of one dict one by one gets slower the more has been taken out). A nonce takes some 250 bytes."""

    __slots__ = ("_generation_max", "_old", "_young")

    def __init__(self, generation_max: int) -> None:
        self._generation_max = generation_max
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def holds(self, nonce: str, now: float) -> bool:
        until = self._young.get(nonce)
        if until is None:
            until = self._old.get(nonce, 0.0)
        return until > now

    def remember(self, nonce: str, now: float, life_seconds: float) -> None:
        """Displaces the oldest when there is no room."""
        if len(self._young) >= self._generation_max:
            self._old, self._young = self._young, {}
        self._young[nonce] = now + life_seconds


class NonceTable:
    """Marks of nonces that are used up, each until its time has passed; `at` is where the table begins in the region. A mark
    is a signed number of 64 bits.

    A mark belongs in one bucket, which is a ring: the next one takes the place of the oldest, if that no longer counts. Two
    nonces of one mark would be taken for one, which happens to one call in 10^13. A nonce counts up to a second longer than
    it was given."""

    __slots__ = ("_bucket_mask", "_descriptor", "_marks", "_marks_at", "_memory", "_nexts", "_untils")

    def __init__(self, node: NodeMemory, at: int) -> None:
        view = memoryview(node.memory)
        untils_at = at + node.buckets * _BUCKET_MARKS
        nexts_at = untils_at + 4 * node.buckets * BUCKET_SLOTS
        self._bucket_mask = node.buckets - 1
        self._descriptor = node.descriptor
        self._memory = node.memory
        self._marks_at = at
        self._marks: memoryview[int] = view[at:untils_at].cast("q")
        self._untils: memoryview[int] = view[untils_at:nexts_at].cast("I")
        self._nexts: memoryview[int] = view[nexts_at : at + node.buckets * BUCKET_BYTES].cast("I")

    def holds(self, mark: int, now: float) -> bool:
        wanted = mark.to_bytes(8, "little", signed=True)
        start = self._marks_at + (mark & self._bucket_mask) * _BUCKET_MARKS
        end = start + _BUCKET_MARKS
        at = self._memory.find(wanted, start, end)
        while at >= 0:
            # One that lies across two slots is none; one whose time has passed may have been used again since.
            if not at & 7 and self._untils[(at - self._marks_at) >> 3] > now:
                return True
            at = self._memory.find(wanted, at + 1, end)
        return False

    def take(self, mark: int, now: float, life_seconds: float) -> Taken:
        """Finds out whether it is used, and uses it, as one step for all workers."""
        lock_at = self._marks_at + (mark & self._bucket_mask)
        if not self._lock(lock_at):
            return Taken.UNKNOWN
        try:
            if self.holds(mark, now):
                return Taken.USED
            if self.is_full(mark, now):
                return Taken.UNKNOWN
            self._write(mark, int(now + life_seconds) + 1)
            return Taken.YES
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, lock_at)

    def is_full(self, mark: int, now: float) -> bool:
        """Remembering this one would displace one that still counts."""
        bucket = mark & self._bucket_mask
        return self._untils[bucket * BUCKET_SLOTS + self._nexts[bucket]] > now

    def _write(self, mark: int, until: int) -> None:
        bucket = mark & self._bucket_mask
        at = self._nexts[bucket]
        # In this order: whoever finds the mark must not find the time of the one before.
        self._untils[bucket * BUCKET_SLOTS + at] = until
        self._marks[bucket * BUCKET_SLOTS + at] = mark
        self._nexts[bucket] = (at + 1) % BUCKET_SLOTS

    def _lock(self, at: int) -> bool:
        """One byte of the region: a lock of the process, which other processes see and the kernel frees at its death."""
        for _ in range(LOCK_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
                return True
            except OSError:
                continue
        return False


class NonceRing:
    """The last marks that one worker has written, and until when each counts. `add` is for that worker, the rest for all."""

    __slots__ = ("_marks", "_marks_at", "_memory", "_read", "_seen", "_size", "_untils", "_written")

    def __init__(self, node: NodeMemory, number: int) -> None:
        view = memoryview(node.memory)
        at, size = node.ring_at(number), node.ring_marks
        self._memory = node.memory
        self._marks_at = at
        self._marks: memoryview[int] = view[at : at + 8 * size].cast("q")
        self._untils: memoryview[int] = view[at + 8 * size : at + (8 + 4) * size].cast("I")
        self._written = node.written(number)
        self._size = size
        self._read = 0
        self._seen: set[int] = set()

    def add(self, mark: int, until: int) -> None:
        """Displaces the oldest."""
        written = self._written[0]
        at = written % self._size
        self._untils[at] = until
        self._marks[at] = mark
        self._written[0] = written + 1

    def holds(self, mark: int, now: float) -> bool:
        written = self._written[0]
        if written != self._read:
            self._read_up_to(written)
        return mark in self._seen and self._counts(mark, now)

    def _read_up_to(self, written: int) -> None:
        """What was displaced stays in the set until that has twice the size of the ring; it is told apart by `_counts`."""
        size, new = self._size, written - self._read
        if new >= size or len(self._seen) + new > 2 * size:
            self._seen = set(self._marks.tolist())
        else:
            first, last = self._read % size, written % size
            if first < last:
                self._seen.update(self._marks[first:last].tolist())
            else:
                self._seen.update(self._marks[first:].tolist())
                self._seen.update(self._marks[:last].tolist())
        self._read = written

    def _counts(self, mark: int, now: float) -> bool:
        wanted = mark.to_bytes(8, "little", signed=True)
        start, end = self._marks_at, self._marks_at + 8 * self._size
        at = self._memory.find(wanted, start, end)
        while at >= 0:
            if not (at - start) & 7 and self._untils[(at - start) >> 3] > now:
                return True
            at = self._memory.find(wanted, at + 1, end)
        return False


class NodeNonces:
    """What a worker knows of the nonces of its node. Nonces are given by their names in Redis."""

    __slots__ = ("_alone", "_alone_until", "_mine", "_node", "_ring", "_rings")

    def __init__(self, node: NodeMemory) -> None:
        if not node.has_same_hash():  # PYTHONHASHSEED has not reached this process
            log.error("nonces_not_shared", extra={"fields": {"reason": "the hash of this process is another"}})
            node = NodeMemory.create(buckets=BUCKETS_ALONE)
        self._node = node
        self._mine = NonceMemory(GENERATION_MAX)
        self._alone = NonceTable(node, HEADER_BYTES)
        self._alone_until = node.alone_until
        self._rings: list[NonceRing] = []
        ring = node.claim_ring()
        self._ring = None if ring is None else NonceRing(node, ring)
        if ring is None:
            reason = f"there are {RINGS} rings, and no more, or no memory for one"
            log.warning("nonces_not_shown_to_others", extra={"fields": {"reason": reason}})

    def holds(self, nonce: str, now: float) -> bool:
        """As far as it is known without looking at what Redis accepted for others."""
        return self._mine.holds(nonce, now) or (self._alone_until[0] > now and self._alone.holds(hash(nonce), now))

    def accepted(self, nonce: str, now: float, life_seconds: int) -> bool:
        """Redis has. It holds the truth, so the oldest may be forgotten here. False if a worker that has lost its connection
        let another copy in meanwhile: it reads the rings after it has written, and this one the other way round, so one of
        the two sees the other."""
        self._mine.remember(nonce, now, life_seconds)
        if self._ring is not None:
            self._ring.add(hash(nonce), int(now) + life_seconds + 1)
        return self._alone_until[0] <= now or not self._alone.holds(hash(nonce), now)

    def holds_elsewhere(self, nonce: str, now: float) -> bool:
        """Redis accepted it for another worker. The first time this takes some 4 ms."""
        for number in range(len(self._rings), self._node.rings_used):
            self._rings.append(NonceRing(self._node, number))
        mark = hash(nonce)
        return any(ring.holds(mark, now) for ring in self._rings)

    def has_room(self, nonce: str, now: float) -> bool:
        """To remember it without Redis."""
        return not self._alone.is_full(hash(nonce), now)

    def take(self, nonce: str, now: float, life_seconds: int) -> Taken:
        """Uses it up without Redis, unless it is used."""
        # Said before it is true: another worker must not look past what it is about to find.
        self._node.let_in_alone(now + life_seconds + 1)
        taken = self._alone.take(hash(nonce), now, life_seconds)
        if taken is Taken.YES and self.holds_elsewhere(nonce, now):  # see `accepted`
            return Taken.USED
        return taken
