"""How much memory this worker may take, and how much of that it takes.

Three bounds may hold, and the nearest counts: what the configuration says (private memory of this process), RLIMIT_AS (its
address space) and the limit of the container (of all processes in the cgroup, its page cache left out: the kernel takes
that back before it kills)."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .pressure import MEMORY_PART_MAX

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# cgroup v1 says "no limit" with a number near 2^63.
_UNLIMITED_BYTES: Final = 1 << 60


class Memory:
    """Asked four times a second: 20 µs, with a container's limit 80. `configured_bytes` may change with a reload."""

    def __init__(self, configured_bytes: int | None, *, cgroup: CgroupMemory | None = None) -> None:
        self.configured_bytes = configured_bytes
        self._cgroup = cgroup

    def part_in_use(self) -> float:
        """The part of the nearest bound that is in use; 0.0 where nothing bounds it."""
        return max(self._parts(), default=0.0)

    def _parts(self) -> Iterator[float]:
        space_max, _ = resource.getrlimit(resource.RLIMIT_AS)
        if self.configured_bytes is not None or space_max != resource.RLIM_INFINITY:
            space_bytes, private_bytes = own_memory()
            if self.configured_bytes is not None:
                yield private_bytes / self.configured_bytes
            if space_max != resource.RLIM_INFINITY:
                if space_bytes >= MEMORY_PART_MAX[0] * space_max:
                    space_bytes -= free_heap_bytes()
                yield space_bytes / space_max
        if self._cgroup is not None:
            yield self._cgroup.part_in_use()


def own_memory() -> tuple[int, int]:
    """Address space and private resident memory of this process, in bytes. What is mapped from files (the program, the
    spool) is left out of the second: it can be dropped without loss. Where there is no /proc, the peak stands in."""
    try:
        with open("/proc/self/statm", "rb") as file:
            space, resident, shared, *_ = map(int, file.read().split())
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak
    return space * _PAGE_BYTES, (resident - shared) * _PAGE_BYTES


class CgroupMemory:
    """The limit that a container sets, cgroup v2 or v1."""

    def __init__(self, *, limit_bytes: int, usage: Path, stat: Path, cache_fields: frozenset[str]) -> None:
        self.limit_bytes = limit_bytes
        self._usage = usage
        self._stat = stat
        self._cache_fields = cache_fields

    @classmethod
    def of_this_process(cls, root: Path = Path("/sys/fs/cgroup")) -> CgroupMemory | None:
        """None where there is no limit. Inside a container its own group is mounted as the root."""
        second = cls._read(root, "memory.max", "memory.current", frozenset({"inactive_file", "active_file"}))
        return second or cls._read(
            root / "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            frozenset({"total_inactive_file", "total_active_file"}),
        )

    @classmethod
    def _read(cls, folder: Path, limit: str, usage: str, cache_fields: frozenset[str]) -> CgroupMemory | None:
        try:
            limit_bytes = int((folder / limit).read_text())
        except (OSError, ValueError):  # not there, or "max"
            return None
        if not 0 < limit_bytes < _UNLIMITED_BYTES:
            return None
        return cls(
            limit_bytes=limit_bytes, usage=folder / usage, stat=folder / "memory.stat", cache_fields=cache_fields
        )

    def part_in_use(self) -> float:
        try:
            used = int(self._usage.read_text())
            cached = 0
            for line in self._stat.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name in self._cache_fields:
                    cached += int(value)
        except (OSError, ValueError):
            return 0.0
        return max(0, used - cached) / self.limit_bytes


class _MallocCounts(ctypes.Structure):
    """`struct mallinfo2` of glibc, mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def free_heap_bytes() -> int:
    """What the allocator holds of the address space and will use again before it asks for more: after a burst this is most
    of it, and it never goes back, because something lives at the heap's end. 0 where the allocator does not tell."""
    try:
        count = ctypes.CDLL(None).mallinfo2
    except AttributeError:  # not glibc, or before 2.33
        return 0
    count.restype = _MallocCounts
    return int(count().fordblks)


def give_memory_back() -> None:
    """Collects cycles and hands free memory to the system: the allocator keeps what was freed, and a bound that is watched
    from outside would stay reached after a burst. Takes milliseconds; for when memory is short, and seldom then."""
    gc.collect(1)
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:  # a C library without it (musl) gives back by itself
            pass
