"""What the processes of one node share besides counters: how many nodes there are, by which skews these judge signed calls,
and which nonces are used up.

One region of memory, made by the supervisor and inherited by its workers, so it outlives each of them, and the supervisor's
program too (see `handover`). This is the layout, and what is written there once in a while; nonces are read and written by
`limits.nonces`. Times are of the monotonic clock, which all processes of a machine share.

    header (HEADER_BYTES) | a table of the nonces that were let in without Redis | RINGS rings of those that Redis accepted |
    a table of who failed to authenticate (`failed_attempts.table`)

The table has three arrays: marks (8 bytes, BUCKET_SLOTS a bucket), until when each counts (4 bytes, seconds), and for each
bucket the slot that is next to be written (4 bytes). A ring has two, of as many marks and times; each worker writes to one of
its own, and how many it has written stands in the header.

A mark is Python's own hash of a nonce's name, 64 bits of SipHash: it is there already, since the name is looked up in a
dictionary, where any other keyed hash costs 0.6 µs a call. So all workers of a node have one hash seed (PYTHONHASHSEED, which
is meant "to allow a cluster of python processes to share hash values"), known to nobody else."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import sys
import time
import weakref
from typing import Final

from ostiary.gateway.failed_attempts.table import TABLE_BYTES, AttemptTable
from ostiary.nameless import nameless_memory

# With the name of the hash: marks of another one mean nothing.
MAGIC: Final = f"OSTNODE2 {sys.hash_info.algorithm}".encode()[:32].ljust(32, b"\0")
HEADER_BYTES: Final = mmap.PAGESIZE
_NAME: Final = slice(32, 48)
# Doubles, by their number from the start of the header.
_BEAT_AT, _HEARD_AT, _ALONE_UNTIL = 6, 7, 8
# Unsigned numbers of 4 bytes: the last counts, the one to be overwritten next, the largest of them; then what is fixed, and
# how many rings are in use.
_COUNTS, _NEXT_COUNT, _NODES, _HASH_SEED, _RING_MARKS, _RINGS_USED = 18, 22, 23, 24, 25, 26
# Of 8 bytes: the hash of a text by which processes find out whether they have the same, what was heard of smaller skews, and
# how much is in each ring.
_HASH_OF_PROBE, _SMALLER_SKEW, _WRITTEN = 14, 15, 16
_PROBE: Final = "ostiary"
# What was heard of skews is one number, so that nobody reads half of it: the skew of who asked, the smaller one, until when.
_ASKED_AT, _SMALLER_AT = 52, 40  # the lower bits are Unix seconds
# Each number is below this: a skew is an hour at most.
SKEW_END: Final = 1 << (64 - _ASKED_AT)
UNTIL_END: Final = 1 << _SMALLER_AT

# A node says every so often that it is there, and counts for so long after it last said so: two beats may be lost.
BEAT_SECONDS: Final = 5.0
GONE_SECONDS: Final = 15.0
# The largest of so many counts is believed. A number that falls is no node less for sure: a Redis that lost its memory is
# told again by each node within BEAT_SECONDS, and a share that is too large is over the limit.
COUNTS_KEPT: Final = 4

# A bucket that is looked through takes one search of 512 bytes, some 0.2 µs.
BUCKET_SLOTS: Final = 64
# Half a million nonces. With the usual life of 10 minutes, buckets begin to be full at 300 000: 500 signed calls a second
# without Redis. The table takes 6.3 MB.
BUCKETS: Final = 8192
BUCKET_BYTES: Final = BUCKET_SLOTS * (8 + 4) + 4
# Of a node with one worker that nobody supervises: a bench, a test.
BUCKETS_ALONE: Final = 256

# As many processes write nonces at once at most: twice the workers in a rolling restart. Whoever finds no ring keeps what
# it knows to itself.
RINGS: Final = 128
# Of all rings in use together. Looking them through for the first time takes some 4 ms, once an outage.
MARKS_ACCEPTED: Final = 65_536
_RING_MARKS_MIN: Final = 512
_RING_LOCKS_AT: Final = 2048  # one byte a ring, locked by its writer
_WATCH_LOCK_AT: Final = _RING_LOCKS_AT + RINGS  # locked by the process that watches Redis for all of them


class NodeMemoryError(Exception):
    """The region is not one of this version."""


class NodeMemory:
    """The region. `name` is how this node is known to the others."""

    def __init__(self, descriptor: int) -> None:
        """Raises NodeMemoryError. Owns the descriptor, also then."""
        weakref.finalize(self, os.close, descriptor).atexit = False
        size = os.fstat(descriptor).st_size
        if size < HEADER_BYTES or os.pread(descriptor, len(MAGIC), 0) != MAGIC:
            raise NodeMemoryError("the memory of this node is laid out by another version")
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, size)
        self.name = self.memory[_NAME].hex()
        header = memoryview(self.memory)[:HEADER_BYTES]
        self._doubles: memoryview[float] = header.cast("d")
        self._numbers: memoryview[int] = header.cast("I")
        self._longs: memoryview[int] = header.cast("Q")
        self.ring_marks = self._numbers[_RING_MARKS]
        self.buckets = (size - HEADER_BYTES - TABLE_BYTES - RINGS * self.ring_marks * (8 + 4)) // BUCKET_BYTES
        if self.ring_marks < 1 or self.buckets < 1 or size != _region_bytes(self.buckets, self.ring_marks):
            raise NodeMemoryError("the memory of this node has another size than this version gives it")

    @classmethod
    def create(cls, *, workers: int = 1, buckets: int = BUCKETS) -> NodeMemory:
        """A new node. `buckets` is a power of two. Raises OSError when there is no room."""
        descriptor = nameless_memory("node")
        ring_marks = max(_RING_MARKS_MIN, MARKS_ACCEPTED >> (workers - 1).bit_length())
        os.truncate(descriptor, _region_bytes(buckets, ring_marks))
        _commit(descriptor, 0, HEADER_BYTES + buckets * BUCKET_BYTES)
        end = _region_bytes(buckets, ring_marks)
        _commit(descriptor, end - TABLE_BYTES, end)
        os.pwrite(descriptor, MAGIC + secrets.token_bytes(16), 0)
        os.pwrite(descriptor, ring_marks.to_bytes(4, sys.byteorder), 4 * _RING_MARKS)
        os.pwrite(descriptor, (1 + secrets.randbelow(2**32 - 1)).to_bytes(4, sys.byteorder), 4 * _HASH_SEED)
        return cls(descriptor)

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

    def claim_watch(self) -> bool:
        """Whether this process is the one of the node that watches whether Redis forgets: until it ends, however it does."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _WATCH_LOCK_AT)
        except OSError:
            return False
        return True

    def heard_of(self, nodes: int, now: float) -> None:
        """Redis has counted so many."""
        numbers = self._numbers
        at = numbers[_NEXT_COUNT] % COUNTS_KEPT
        numbers[_COUNTS + at] = nodes
        numbers[_NEXT_COUNT] = at + 1
        numbers[_NODES] = max(numbers[_COUNTS : _COUNTS + COUNTS_KEPT])
        self._doubles[_HEARD_AT] = now

    def heard_of_skew(self, judged_by: int, seconds: int, until: int) -> None:
        """Redis has told a worker that judges by a skew of `judged_by` that calls dated before `until` (Unix seconds) may
        have been taken by a smaller one of `seconds`, below SKEW_END and UNTIL_END; 0 and 0, that there are none."""
        self._longs[_SMALLER_SKEW] = judged_by << _ASKED_AT | seconds << _SMALLER_AT | until

    def smaller_skew(self, judged_by: int) -> tuple[int, int] | None:
        """What was last heard: seconds and until when, as above. None if it was told to another skew, or never."""
        heard = self._longs[_SMALLER_SKEW]
        if heard == 0 or heard >> _ASKED_AT != judged_by:
            return None
        return heard >> _SMALLER_AT & SKEW_END - 1, heard & UNTIL_END - 1

    def status(self) -> dict[str, object]:
        heard_at = self._doubles[_HEARD_AT]
        return {
            "name": self.name,
            "nodes": self.nodes,
            "nodes_heard_seconds_ago": round(time.monotonic() - heard_at, 1) if heard_at else None,
        }

    # --- failed attempts ------------------------------------------------------------------------------------------------

    def attempts(self) -> AttemptTable:
        """Who failed to authenticate. Of this process alone, if it hashes otherwise than the others."""
        if not self.has_same_hash():
            return AttemptTable.alone()
        return AttemptTable(memoryview(self.memory)[-TABLE_BYTES:])

    # --- nonces ---------------------------------------------------------------------------------------------------------

    @property
    def hash_seed(self) -> int:
        """PYTHONHASHSEED of every worker."""
        return self._numbers[_HASH_SEED]

    def has_same_hash(self) -> bool:
        """Whether a text has the same hash in this process as in those that asked before."""
        mine = hash(_PROBE) & (2**64 - 1)
        known = self._longs[_HASH_OF_PROBE]
        if known == 0:
            self._longs[_HASH_OF_PROBE] = mine
        return known in {0, mine}

    @property
    def alone_until(self) -> memoryview[float]:
        """One number: from then on no nonce counts that was let in without Redis."""
        return self._doubles[_ALONE_UNTIL : _ALONE_UNTIL + 1]

    def let_in_alone(self, until: float) -> None:
        """A nonce was, and counts until then."""
        if until > self._doubles[_ALONE_UNTIL]:
            self._doubles[_ALONE_UNTIL] = until

    def claim_ring(self) -> int | None:
        """The number of a ring that no other process writes to, until this one ends, however it does. None if there is none,
        or no memory for it."""
        for ring in range(RINGS):
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _RING_LOCKS_AT + ring)
            except OSError:
                continue
            at = self.ring_at(ring)
            try:
                _commit(self.descriptor, at, at + self.ring_marks * (8 + 4))
            except OSError:
                return None
            self._numbers[_RINGS_USED] = max(self._numbers[_RINGS_USED], ring + 1)
            return ring
        return None

    def ring_at(self, ring: int) -> int:
        """Where it begins."""
        return HEADER_BYTES + self.buckets * BUCKET_BYTES + ring * self.ring_marks * (8 + 4)

    @property
    def rings_used(self) -> int:
        return self._numbers[_RINGS_USED]

    def written(self, ring: int) -> memoryview[int]:
        """One number: how many nonces have been written to the ring, ever."""
        return self._longs[_WRITTEN + ring : _WRITTEN + ring + 1]


def _commit(descriptor: int, start: int, end: int) -> None:
    """Makes memory exist now: what can't be had later would end a worker (SIGBUS) in the middle of a call. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, start, end - start)


def _region_bytes(buckets: int, ring_marks: int) -> int:
    return HEADER_BYTES + buckets * BUCKET_BYTES + RINGS * ring_marks * (8 + 4) + TABLE_BYTES
