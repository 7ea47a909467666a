"""Nonces in the memory of one node: the only memory while Redis is away, and a shield in front of it otherwise.

All workers of the node read and write the same two tables. Nobody waits for anybody: reading takes no lock; what Redis has
accepted is written without one; and where reading and writing must be one step, because Redis is away and two workers may
have the same nonce in hand, the kernel locks one bucket (fcntl), tries a bounded number of times, and frees it when its
holder dies."""

from __future__ import annotations

import fcntl
from enum import Enum
from hashlib import blake2b
from typing import Final

from ostiary.gateway.node import BUCKET_SLOTS, NodeMemory

_BUCKET_MARKS: Final = 8 * BUCKET_SLOTS

# A bucket is held for some microseconds. Whoever finds it taken for longer (its holder is stopped, or has lost its
# processor) does not know, and says so: a hundred tries take 0.1 ms.
LOCK_TRIES: Final = 100


class Taken(Enum):
    """YES: it is used up now, by this call. USED: it was before. UNKNOWN: no room to remember it, or no lock."""

    YES = "yes"
    USED = "used"
    UNKNOWN = "unknown"


class NonceTable:
    """Nonces that are used up, each until its time has passed; `at` is where the table begins.

    A nonce stands there as a mark of 64 bits. It belongs in one bucket, which is a ring: the next one takes the place of
    the oldest. Two nonces of one mark would be taken for one, which happens to one call in 10^13. Times are monotonic
    seconds, given by the caller; a nonce counts up to a second longer than it was given."""

    __slots__ = (
        "_bucket_mask",
        "_descriptor",
        "_last_mark",
        "_last_slot",
        "_marks",
        "_marks_at",
        "_memory",
        "_nexts",
        "_untils",
    )

    def __init__(self, node: NodeMemory, at: int) -> None:
        view = memoryview(node.memory)
        untils_at = at + node.buckets * _BUCKET_MARKS
        nexts_at = untils_at + 4 * node.buckets * BUCKET_SLOTS
        self._bucket_mask = node.buckets - 1
        self._descriptor = node.descriptor
        self._memory = node.memory
        self._marks_at = at
        self._marks: memoryview[int] = view[at:untils_at].cast("Q")
        self._untils: memoryview[int] = view[untils_at:nexts_at].cast("I")
        self._nexts: memoryview[int] = view[nexts_at : nexts_at + 4 * node.buckets].cast("I")
        self._last_slot = 0
        self._last_mark = 0  # nothing was written yet

    def holds(self, mark: bytes, now: float) -> bool:
        start = self._marks_at + (int.from_bytes(mark, "little") & self._bucket_mask) * _BUCKET_MARKS
        end = start + _BUCKET_MARKS
        at = self._memory.find(mark, start, end)
        while at >= 0:
            # One that lies across two slots is none; one whose time has passed may have been used again since.
            if not at & 7 and self._untils[(at - self._marks_at) >> 3] > now:
                return True
            at = self._memory.find(mark, at + 1, end)
        return False

    def remember(self, mark: bytes, now: float, life_seconds: float) -> None:
        """Displaces the oldest of its bucket."""
        if self._last_mark and self._marks[self._last_slot] != self._last_mark:
            # Another worker has written to the same slot in the same moment as this one before: once more.
            self._write(self._last_mark, int(now + life_seconds) + 1)
        self._write(int.from_bytes(mark, "little"), int(now + life_seconds) + 1)

    def take(self, mark: bytes, now: float, life_seconds: float) -> Taken:
        """Finds out whether it is used, and uses it, as one step for all workers. What still counts is never displaced."""
        value = int.from_bytes(mark, "little")
        bucket = value & self._bucket_mask
        lock_at = self._marks_at + bucket
        if not self._lock(lock_at):
            return Taken.UNKNOWN
        try:
            if self.holds(mark, now):
                return Taken.USED
            if self._untils[bucket * BUCKET_SLOTS + self._nexts[bucket]] > now:
                return Taken.UNKNOWN
            self._write(value, int(now + life_seconds) + 1)
            return Taken.YES
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, lock_at)

    def is_full(self, mark: bytes, now: float) -> bool:
        """Remembering this one would displace one that still counts."""
        bucket = int.from_bytes(mark, "little") & self._bucket_mask
        return self._untils[bucket * BUCKET_SLOTS + self._nexts[bucket]] > now

    def _write(self, value: int, until: int) -> None:
        bucket = value & self._bucket_mask
        next_slot = self._nexts[bucket] % BUCKET_SLOTS
        slot = bucket * BUCKET_SLOTS + next_slot
        # In this order: a nonce that is found must not seem to be past its time.
        self._untils[slot] = until
        self._marks[slot] = value
        self._nexts[bucket] = (next_slot + 1) % BUCKET_SLOTS
        self._last_slot, self._last_mark = slot, value

    def _lock(self, at: int) -> bool:
        """One byte of the file: a lock of the process, which another process sees and the kernel frees at its death."""
        for _ in range(LOCK_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
                return True
            except OSError:
                continue
        return False


class NodeNonces:
    """What one node knows of nonces: those that Redis accepted (the oldest may be forgotten, Redis holds the truth), and
    those that were let in while it was away (none may be forgotten)."""

    __slots__ = ("_alone", "_node", "_secret", "_seen")

    def __init__(self, node: NodeMemory) -> None:
        seen_at, alone_at = node.tables
        self._node = node
        self._secret = node.secret
        self._seen = NonceTable(node, seen_at)
        self._alone = NonceTable(node, alone_at)

    def mark(self, nonce: str) -> bytes:
        """Of a nonce by its name in Redis. Keyed: who chooses nonces can't choose marks, and fill one bucket, or spoil
        the nonces of others."""
        return blake2b(self._secret + nonce.encode(), digest_size=8).digest()

    def holds(self, mark: bytes, now: float) -> bool:
        return self._seen.holds(mark, now) or (self._node.alone_until > now and self._alone.holds(mark, now))

    def accepted(self, mark: bytes, now: float, life_seconds: float) -> None:
        """Redis has."""
        self._seen.remember(mark, now, life_seconds)

    def has_room(self, mark: bytes, now: float) -> bool:
        return not self._alone.is_full(mark, now)

    def take(self, mark: bytes, now: float, life_seconds: float) -> Taken:
        """Without Redis."""
        # Said before it is true: another worker must not look past what it is about to find.
        self._node.let_in_alone(now + life_seconds + 1)
        if self._seen.holds(mark, now):
            return Taken.USED
        return self._alone.take(mark, now, life_seconds)
