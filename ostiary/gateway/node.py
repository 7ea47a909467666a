"""What the processes of one node share besides counters: how many nodes there are, and which nonces are used up.

One region of memory, made by the supervisor and inherited by its workers, so it outlives each of them, and the supervisor's
program too (see `handover`). This is the layout, and what is written there once in a while; the tables of nonces are read and
written by `limits.nonces`. Times are of the monotonic clock, which all processes of a machine share.

    header (HEADER_BYTES) | nonces that Redis accepted | nonces that were let in without Redis

A table has three arrays: marks (8 bytes, BUCKET_SLOTS a bucket), until when each counts (4 bytes, seconds), and for each
bucket the slot that is next to be written (4 bytes)."""

from __future__ import annotations

import mmap
import os
import secrets
import time
import weakref
from typing import Final

from ostiary.gateway.nameless import nameless_memory

MAGIC: Final = b"OSTNODE1"
HEADER_BYTES: Final = mmap.PAGESIZE
_SECRET: Final = slice(8, 24)
_NAME: Final = slice(24, 40)
# Doubles, by their number from the start of the header.
_BEAT_AT, _HEARD_AT, _ALONE_UNTIL = 5, 6, 7
# Unsigned numbers of 4 bytes: the last counts, the one to be overwritten next, the largest of them.
_COUNTS, _NEXT_COUNT, _NODES = 16, 20, 21

# A node says every so often that it is there, and counts for so long after it last said so: two beats may be lost.
BEAT_SECONDS: Final = 5.0
GONE_SECONDS: Final = 15.0
# The largest of so many counts is believed. A number that falls is no node less for sure: a Redis that lost its memory is
# told again by each node within BEAT_SECONDS, and a share that is too large is over the limit.
COUNTS_KEPT: Final = 4

# A bucket that is looked through takes one search of 512 bytes, some 0.2 µs.
BUCKET_SLOTS: Final = 64
# Half a million nonces a table. With the usual life of 10 minutes, buckets begin to be full at 300 000 nonces: 500 signed
# calls a second without Redis. Both tables take 12.6 MB.
BUCKETS: Final = 8192
BUCKET_BYTES: Final = BUCKET_SLOTS * (8 + 4) + 4
# Of a node with one worker that nobody supervises: a bench, a test.
BUCKETS_ALONE: Final = 256


class NodeMemoryError(Exception):
    """The region is not one of this version."""


class NodeMemory:
    """The region. `secret` is known to this node alone; `name` is how it is known to the others."""

    def __init__(self, descriptor: int) -> None:
        """Raises NodeMemoryError. Owns the descriptor, also then."""
        weakref.finalize(self, os.close, descriptor).atexit = False
        size = os.fstat(descriptor).st_size
        buckets = (size - HEADER_BYTES) // (2 * BUCKET_BYTES)
        if buckets < 2 or size != _region_bytes(buckets):
            raise NodeMemoryError("the memory of this node has another size than this version gives it")
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, size)
        if self.memory[: len(MAGIC)] != MAGIC:
            raise NodeMemoryError("the memory of this node is laid out by another version")
        self.buckets = buckets
        self.secret = self.memory[_SECRET]
        self.name = self.memory[_NAME].hex()
        header = memoryview(self.memory)[:HEADER_BYTES]
        self._doubles: memoryview[float] = header.cast("d")
        self._numbers: memoryview[int] = header.cast("I")

    @classmethod
    def create(cls, *, buckets: int = BUCKETS) -> NodeMemory:
        """A new node. `buckets` is a power of two. Raises OSError when there is no room."""
        descriptor = nameless_memory("node")
        size = _region_bytes(buckets)
        os.truncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            # All of it now: memory that can't be had later would end a worker (SIGBUS) in the middle of a call.
            os.posix_fallocate(descriptor, 0, size)
        os.pwrite(descriptor, MAGIC + secrets.token_bytes(32), 0)
        return cls(descriptor)

    @property
    def tables(self) -> tuple[int, int]:
        """Where they begin: of nonces that Redis accepted, of those let in without it."""
        return HEADER_BYTES, HEADER_BYTES + self.buckets * BUCKET_BYTES

    # --- nodes ----------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> int:
        """How many there were when Redis was last asked; 1 when it never was."""
        return self._numbers[_NODES] or 1

    def take_beat(self, now: float) -> bool:
        """Whether a beat is due; whoever is told so has to do it. Two that ask in the same microsecond may both be told,
        which costs a command."""
        if now - self._doubles[_BEAT_AT] < BEAT_SECONDS:
            return False
        self._doubles[_BEAT_AT] = now
        return True

    def heard_of(self, nodes: int, now: float) -> None:
        """Redis has counted so many."""
        numbers = self._numbers
        at = numbers[_NEXT_COUNT] % COUNTS_KEPT
        numbers[_COUNTS + at] = nodes
        numbers[_NEXT_COUNT] = at + 1
        numbers[_NODES] = max(numbers[_COUNTS : _COUNTS + COUNTS_KEPT])
        self._doubles[_HEARD_AT] = now

    def status(self) -> dict[str, object]:
        heard_at = self._doubles[_HEARD_AT]
        return {
            "name": self.name,
            "nodes": self.nodes,
            "nodes_heard_seconds_ago": round(time.monotonic() - heard_at, 1) if heard_at else None,
        }

    # --- nonces ---------------------------------------------------------------------------------------------------------

    @property
    def alone_until(self) -> float:
        """From then on no nonce counts that was let in without Redis."""
        return self._doubles[_ALONE_UNTIL]

    def let_in_alone(self, until: float) -> None:
        """A nonce was, and counts until then."""
        if until > self._doubles[_ALONE_UNTIL]:
            self._doubles[_ALONE_UNTIL] = until


def _region_bytes(buckets: int) -> int:
    return HEADER_BYTES + 2 * buckets * BUCKET_BYTES
