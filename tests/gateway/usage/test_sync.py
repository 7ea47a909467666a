"""What is written to the disk, and what a disk that refuses changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ostiary.core.usage import SpoolSettings, WhenFull
from ostiary.gateway.usage.directory import look
from ostiary.gateway.usage.segment import read_segment
from ostiary.gateway.usage.sync import SegmentSync
from tests.gateway.usage.calls import call, open_spool, segment_files
from tests.support.waiting import until

# Passes are made by the tests themselves.
BY_HAND_SECONDS = 3600.0


class Disk:
    """Stands for the call that writes a file to the disk: remembers which, and refuses those that it is told to."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.refuses = ""

    def write(self, fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if self.refuses and self.refuses in name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.written.append(Path(name).suffix)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("ostiary.gateway.usage.sync._to_disk", disk.write)
    return disk


def _settings(when_full: WhenFull = WhenFull.SHED, seconds: float = BY_HAND_SECONDS) -> SpoolSettings:
    return SpoolSettings(when_full=when_full, sync_seconds=seconds)


async def test_what_was_appended_is_written_every_so_often_and_then_the_counts(
    spool_directory: Path, disk: Disk
) -> None:
    """A loss of power would take more than the operator has configured; or leave records that nobody has counted, which look
    like a surplus."""
    spool = open_spool(spool_directory, settings=_settings(seconds=0.01))
    spool.append(call())
    await until(lambda: disk.written[-2:] == [".open", ".run"], "a pass of the thread")
    spool.seal()
    spool.close()
    assert {".sealed", ".open"} >= set(disk.written) - {".run"}
    assert disk.written[-1] == ".run"


def test_without_an_interval_nothing_is_written_and_no_thread_is_there(spool_directory: Path, disk: Disk) -> None:
    """Every gateway would pay for what few need."""
    spool = open_spool(spool_directory)
    spool.append(call())
    spool.seal()
    spool.close()
    assert spool.sync is None
    assert disk.written == []


def test_a_segment_is_followed_until_it_is_on_the_disk_and_no_longer(spool_directory: Path, disk: Disk) -> None:
    """A worker would run out of descriptors; or what was appended right before the hand-over would never be written."""
    descriptors = len(os.listdir("/proc/self/fd"))
    spool = open_spool(spool_directory, settings=_settings())
    assert spool.sync is not None
    for _ in range(5):
        spool.append(call())
        spool.seal()
        for path in segment_files(spool_directory, "sealed")[:-1]:
            path.unlink()
    spool.append(call())
    segment_files(spool_directory, "sealed")[0].unlink()  # delivered: then there is nothing to write
    spool.seal()
    spool.sync.write()
    assert sorted(disk.written) == [".open", ".run", ".sealed"]
    disk.written.clear()
    spool.sync.write()
    assert disk.written == [".open", ".run"]
    spool.close()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize("when_full", WhenFull)
def test_a_write_that_failed_is_no_success_when_it_is_tried_again(
    spool_directory: Path, disk: Disk, when_full: WhenFull
) -> None:
    """Row 88: fsync fails once. The kernel has forgotten the pages, and says of the same file that all is well: the segment
    is handed over, another begun, and only that can show that the disk writes again. Under `block` nobody is let in
    meanwhile."""
    spool = open_spool(spool_directory, settings=_settings(when_full))
    assert spool.sync is not None
    spool.append(call("req-1"))
    disk.refuses = ".open"
    spool.sync.write()
    disk.refuses = ""
    spool.sync.write()
    assert spool.sync.failing
    assert disk.written == [".run", ".run"]
    if when_full is WhenFull.BLOCK:
        assert not spool.claim()
    spool.seal()
    [sealed] = segment_files(spool_directory, "sealed")
    segment = read_segment(sealed, None)
    assert segment is not None
    assert len(segment.records) == 1
    spool.sync.write()
    assert not spool.sync.failing
    assert spool.sync.status()["failures"] == 1
    assert spool.claim()
    spool.close()
    assert [name.state for name in look(spool_directory).segments] == [".sealed"]


def test_a_segment_that_could_not_be_written_is_handed_over_though_the_shipper_is_behind(
    spool_directory: Path, disk: Disk
) -> None:
    """Row 88: while Postgres is away a segment goes on filling; one that the disk has refused must not."""
    spool = open_spool(spool_directory, settings=_settings())
    assert spool.sync is not None
    for number in range(2):
        spool.append(call(f"req-{number}"))
        spool.seal()
    assert len(segment_files(spool_directory, "sealed")) == 1
    disk.refuses = ".open"
    spool.sync.write()
    spool.seal()
    assert len(segment_files(spool_directory, "sealed")) == 2
    spool.close()


def test_what_the_kernel_refuses_is_noticed(tmp_path: Path) -> None:
    """An error that is real: a pipe can't be written to a disk."""
    run = tmp_path / "a.run"
    run.write_bytes(b"counts")
    sync = SegmentSync(directory=tmp_path, run=run, every_seconds=BY_HAND_SECONDS)
    reading, writing = os.pipe()
    segment = sync.follow(writing)
    sync.write()
    assert (segment.failed, sync.failing, sync.failures) == (True, True, 1)
    good = sync.follow(os.open(run, os.O_RDWR))
    sync.write()
    assert (good.failed, sync.failing) == (False, False)
    sync.close()
    os.close(reading)
