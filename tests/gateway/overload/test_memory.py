"""Which bound on memory holds, and how near it is."""

from __future__ import annotations

import resource
from pathlib import Path

from ostiary.gateway.overload.memory import CgroupMemory, Memory, free_heap_bytes, own_memory

MIB = 1 << 20


def second_version(root: Path, *, limit: str, current: int, cache: int) -> CgroupMemory | None:
    (root / "memory.max").write_text(f"{limit}\n")
    (root / "memory.current").write_text(f"{current}\n")
    (root / "memory.stat").write_text(f"anon 1\ninactive_file {cache - 10}\nactive_file 10\nfile {cache}\n")
    return CgroupMemory.of_this_process(root)


def test_a_container_s_page_cache_is_not_counted(tmp_path: Path) -> None:
    """Row 116: the spool fills the page cache to the limit, and a worker that took that for pressure would shed for ever."""
    cgroup = second_version(tmp_path, limit=str(100 * MIB), current=95 * MIB, cache=60 * MIB)
    assert cgroup is not None
    assert Memory(None, cgroup=cgroup).part_in_use() == 0.35


def test_the_first_version_of_cgroups_is_read_as_well(tmp_path: Path) -> None:
    """Row 116: a limit that is not seen is a worker that is killed."""
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(200 * MIB))
    (folder / "memory.usage_in_bytes").write_text(str(150 * MIB))
    (folder / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {50 * MIB}\ntotal_active_file 0\n")
    cgroup = CgroupMemory.of_this_process(tmp_path)
    assert cgroup is not None
    assert cgroup.part_in_use() == 0.5


def test_no_limit_is_no_pressure(tmp_path: Path) -> None:
    """`max`, and the number near 2^63 that the first version says, are no limits."""
    assert second_version(tmp_path, limit="max", current=1, cache=10) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(9223372036854771712))
    assert CgroupMemory.of_this_process(tmp_path) is None
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert Memory(None).part_in_use() == 0.0


def test_the_nearest_bound_counts(tmp_path: Path) -> None:
    """Row 116: a container with room to spare does not help a worker that is at its own bound."""
    _, private_bytes = own_memory()
    cgroup = second_version(tmp_path, limit=str(100 * MIB), current=10 * MIB, cache=10)
    memory = Memory(2 * private_bytes, cgroup=cgroup)
    assert 0.4 < memory.part_in_use() < 0.7
    memory.configured_bytes = 1000 * private_bytes
    assert 0.09 < memory.part_in_use() < 0.11


def test_what_this_process_takes_is_seen_at_once() -> None:
    """Row 116: a figure that lags behind is one that is read after the end."""
    before_space, before_private = own_memory()
    taken = bytearray(b"x") * (64 * MIB)
    space, private = own_memory()
    assert private - before_private > 60 * MIB
    assert space - before_space > 60 * MIB
    del taken


def test_what_the_allocator_holds_free_is_known() -> None:
    """Row 116: address space does not shrink after a burst, and a worker that counted it all would refuse for ever."""
    blocks = [bytearray(100_000) for _ in range(400)]  # too small to be mapped apart
    last = bytearray(100_000)  # keeps the heap from shrinking
    before = free_heap_bytes()
    blocks.clear()
    assert free_heap_bytes() - before > 30 * MIB
    del last
