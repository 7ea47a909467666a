"""The worker's end of the spool: what it promises about room, counts and files."""

from __future__ import annotations

import os
import resource
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ostiary.gateway.usage import Spool, SpoolError
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.run import is_alive, read_run
from ostiary.gateway.usage.segment import RECORD_BYTES_MAX, read_segment
from tests.gateway.usage.calls import SMALL_SEGMENT_BYTES, call, open_spool, segment_files


def _records(directory: Path) -> int:
    found = 0
    for name in look(directory).segments:
        segment = read_segment(name.path(directory), None)
        found += len(segment.records) if segment else 0
    return found


def test_accepted_is_what_is_stored_and_what_was_dropped(spool_directory: Path) -> None:
    """Row 88: the spool is full. Without it: drops that nobody can name. 2 segments of room, 5 segments of calls."""
    spool = open_spool(spool_directory, bytes_max=2 * SMALL_SEGMENT_BYTES)
    taken = sum(spool.append(call(f"req-{number}")) for number in range(1000))
    assert spool.accepted == 1000
    assert 0 < taken < 1000
    assert spool.dropped == 1000 - taken
    spool.close()
    assert _records(spool_directory) == taken
    [run] = look(spool_directory).runs.values()
    state = read_run(run)
    assert (state.accepted, state.dropped, state.closed) == (1000, 1000 - taken, True)


def test_the_bound_holds_for_all_workers_together(spool_directory: Path) -> None:
    """Without it: N workers fill the disk N times as far as the operator allowed."""
    bytes_max = 5 * SMALL_SEGMENT_BYTES
    spools = [open_spool(spool_directory, worker=str(number), bytes_max=bytes_max) for number in range(4)]
    for number in range(2000):
        spools[number % 4].append(call(f"req-{number}"))
        if number % 100 == 0:
            assert look(spool_directory).segment_bytes <= bytes_max
    for spool in spools:
        spool.close()
    assert sum(spool.dropped for spool in spools) > 0
    assert _records(spool_directory) == sum(spool.accepted - spool.dropped for spool in spools)


def test_a_full_spool_takes_calls_again_once_there_is_room(
    spool_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it: a spool that was full once drops for ever."""
    monkeypatch.setattr("ostiary.gateway.usage.spool._RETRY_SECONDS", 0.0)
    spool = open_spool(spool_directory, bytes_max=SMALL_SEGMENT_BYTES)
    while spool.append(call()):
        pass
    [sealed] = segment_files(spool_directory, "sealed")
    sealed.unlink()  # as the shipper would
    assert spool.append(call())
    spool.close()


def test_a_full_spool_looks_for_room_only_now_and_then(spool_directory: Path) -> None:
    """Without it: every call over the bound lists the directory, and the gateway slows down when it is worst."""
    spool = open_spool(spool_directory, bytes_max=SMALL_SEGMENT_BYTES)
    while spool.append(call()):
        pass
    retry_at = spool._retry_at
    for _ in range(50):
        assert not spool.append(call())
    assert spool._retry_at == retry_at
    spool.close()


def test_a_record_too_long_for_any_segment_is_dropped_and_counted(spool_directory: Path) -> None:
    """Without it: an exception on the request path, or a segment begun for every such record."""
    spool = open_spool(spool_directory)
    assert not spool.append(b"x" * SMALL_SEGMENT_BYTES)
    assert spool.append(b"x" * RECORD_BYTES_MAX)
    assert (spool.accepted, spool.dropped) == (2, 1)
    spool.close()


def test_seal_waits_while_the_shipper_is_behind(spool_directory: Path) -> None:
    """Row 85: Postgres is away for an hour. Without it: the spool has 10 000 files with a few calls each."""
    spool = open_spool(spool_directory)
    for number in range(20):
        spool.append(call(f"req-{number}"))
        spool.seal()
    assert len(segment_files(spool_directory, "sealed")) == 1
    segment_files(spool_directory, "sealed")[0].unlink()
    spool.seal()
    [sealed] = segment_files(spool_directory, "sealed")
    segment = read_segment(sealed, None)
    assert segment is not None
    assert len(segment.records) == 19
    spool.close()


def test_nothing_is_handed_over_when_nothing_came(spool_directory: Path) -> None:
    """Without it: an idle gateway makes files all day."""
    spool = open_spool(spool_directory)
    before = look(spool_directory)
    spool.seal()
    assert look(spool_directory) == before
    spool.close()
    assert look(spool_directory).segments == []


def test_close_ends_the_run_and_refuses_what_comes_after(spool_directory: Path) -> None:
    """Without it: a shipper that waits for ever for a worker that has gone, or a crash at shutdown."""
    spool = open_spool(spool_directory)
    [run] = look(spool_directory).runs.values()
    assert is_alive(run)
    spool.append(call())
    spool.close()
    spool.close()
    assert not is_alive(run)
    assert not spool.append(call())
    assert _records(spool_directory) == 1


def test_bytes_counts_what_was_appended(spool_directory: Path) -> None:
    """Without it: a gauge that lies."""
    spool = open_spool(spool_directory)
    record = call()
    for _ in range(600):
        spool.append(record)
    assert spool.bytes == 600 * ((len(record) + 8 + 7) & -8)
    spool.close()


@pytest.mark.parametrize("make", ["file in its place", "missing parent is a file"])
def test_a_directory_that_can_not_be_used_is_refused_with_the_mend(tmp_path: Path, make: str) -> None:
    """Row 88: the spool directory can't be used. Without it: a gateway that starts and meters nothing."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    directory = blocked if make == "file in its place" else blocked / "spool"
    with pytest.raises(SpoolError, match=r"stores\.spool"):
        Spool(directory=directory, worker="0", bytes_max=1 << 30)


def test_a_bound_below_one_segment_is_refused_with_the_mend(tmp_path: Path) -> None:
    """Without it: a spool that drops everything, silently by design."""
    with pytest.raises(SpoolError, match=r"stores\.spool_max"):
        Spool(directory=tmp_path, worker="0", bytes_max=1 << 20)
    with pytest.raises(SpoolError, match="too small"):
        Spool(directory=tmp_path, worker="0", segment_bytes=1000, bytes_max=1 << 20)


def test_the_directory_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Without it: anyone on the machine reads who called what from where."""
    spool = open_spool(tmp_path / "a" / "spool")
    assert (tmp_path / "a" / "spool").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "a" / "spool").glob("*.open")} == {0}
    spool.close()


def test_the_room_of_a_segment_is_reserved_when_it_is_made(spool_directory: Path) -> None:
    """Row 88: the disk fills later. Without it: the next copy into the mapping is a SIGBUS that ends the worker."""
    spool = open_spool(spool_directory)
    [path] = segment_files(spool_directory, "open")
    assert path.stat().st_blocks * 512 >= SMALL_SEGMENT_BYTES
    spool.close()


def _append_on_a_disk_that_fills(directory: str, answers: Connection) -> None:
    spool = Spool(directory=Path(directory), worker="0", segment_bytes=SMALL_SEGMENT_BYTES, bytes_max=1 << 30)
    taken = [spool.append(call(f"req-{number}")) for number in range(100)]
    # From here on no file may grow: to a spool that is what a full disk is, EFBIG in the place of ENOSPC.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    taken += [spool.append(call(f"req-{number}")) for number in range(900)]
    answers.send((taken.count(True), taken[:100].count(True), spool.accepted, spool.dropped))
    os._exit(0)


def test_a_disk_that_fills_costs_counted_calls_and_nothing_else(spool_directory: Path) -> None:
    """Row 88: no room on the disk. Blocks are reserved when a segment is made, so the error comes there: no SIGBUS in the
    middle of a copy, no exception on the request path, and every call is stored or counted as dropped."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_append_on_a_disk_that_fills, args=(str(spool_directory), theirs))
    process.start()
    assert ours.poll(30)
    taken, before, accepted, dropped = ours.recv()
    process.join(10)
    assert process.exitcode == 0
    assert before == 100
    assert accepted == 1000
    assert dropped == 1000 - taken > 0
    assert _records(spool_directory) == taken
