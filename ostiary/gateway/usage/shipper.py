"""The shipper: takes finished segments from the spool to a sink (Postgres, or a stream), and deletes what was delivered.

Of a worker that was killed it makes one segment more: the calls that were under way (`rescue`).

One per spool directory, by a lock; two that ship copies of one segment are told apart by the ledger. It owns no state: kill
it anywhere and the next one goes on. While its sink is away it waits, longer each time, and the spool grows to its bound."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

from ostiary.gateway.usage.directory import LOCK_NAME, OPEN, QUARANTINE, SegmentName, clear_leftovers, look, spool_id
from ostiary.gateway.usage.rescue import rescue
from ostiary.gateway.usage.run import RunState, is_alive, read_run
from ostiary.gateway.usage.segment import DamagedFile, Segment, read_segment
from ostiary.gateway.usage.sink import Finished, Sink, SinkFailed
from ostiary.gateway.usage.waiting import backoff_seconds, wait_for_stop

POLL_SECONDS = 0.2  # what a row waits at most, besides the worker's own interval; a look costs some 50 us
DRAIN_SECONDS = 10.0  # at shutdown: a spool of 1 GiB may take longer, and waits for the next start instead
_LOCK_POLL_SECONDS = 0.5
# Small segments, of many workers or of many short lives, that are delivered together: each is some statements of its own.
_TOGETHER_MAX = 64

_log = logging.getLogger("ostiary.gateway.usage")


class ShipperObserver(Protocol):
    """What the shipper tells of itself. `written` is what its sink has taken. `failed` says why: unavailable, read_only,
    schema, spool, other; and of a stream stream_refused, stream_full."""

    def written(self, rows: int, /) -> None: ...
    def failed(self, kind: str, /) -> None: ...
    def quarantined(self, segments: int, /) -> None: ...
    def spool_bytes(self, count: int, /) -> None: ...


async def run_shipper(*, directory: Path, sink: Sink, stop: asyncio.Event, observe: ShipperObserver) -> None:
    """Ships until `stop` is set, then what is still there for at most `DRAIN_SECONDS`, and returns. Waits while another
    shipper has the directory. Raises OSError if the directory can't be made or read at the start."""
    fd = _open_lock(directory)
    try:
        while not _lock(fd):
            if await wait_for_stop(stop, _LOCK_POLL_SECONDS):
                return
        await Shipper(directory=directory, sink=sink, observe=observe).run(stop)
    finally:
        os.close(fd)


class Shipper:
    """The work of `run_shipper`, for whoever holds the directory's lock."""

    def __init__(self, *, directory: Path, sink: Sink, observe: ShipperObserver) -> None:
        self._directory = directory
        self._sink = sink
        self._observe = observe
        self._spool_id = spool_id(directory)
        self._together = 1  # segments; doubled by each success, so what fails is soon tried alone and holds up no other

    async def run(self, stop: asyncio.Event) -> None:
        """Passes over the directory until `stop`, then drains."""
        clear_leftovers(self._directory)
        try:
            failures = 0
            while not stop.is_set():
                failures = 0 if await self._try_pass() else failures + 1
                await wait_for_stop(stop, backoff_seconds(failures) if failures else POLL_SECONDS)
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._try_pass()
            except TimeoutError:
                _log.warning("usage_drain_unfinished", extra={"fields": {"after_seconds": DRAIN_SECONDS}})
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the connection of the sink."""
        await self._sink.close()

    async def ship(self) -> int:
        """One pass: every segment that nobody writes to any more, oldest first, and the runs that are over. Returns the
        rows written. Raises OSError from the spool, and SinkFailed; what was not delivered is still in the spool."""
        contents = look(self._directory)
        self._observe.spool_bytes(contents.segment_bytes)
        over = {run_id for run_id, path in contents.runs.items() if not is_alive(path)}
        for run_id in over:
            rescue(self._directory, contents, run_id)
        # Looked at again, because a run that is over now may have sealed a segment since: after this, nothing of it is new.
        contents = look(self._directory)
        living = contents.runs.keys() - over
        ready = [
            name
            for name in contents.segments
            if name.state != QUARANTINE and (name.state != OPEN or name.run_id not in living)
        ]
        rows = await self._ship_segments(ready, contents.runs)
        await self._end_runs(over & contents.runs.keys(), contents.runs)
        if ready:
            self._observe.spool_bytes(look(self._directory).segment_bytes)
        return rows

    async def _try_pass(self) -> bool:
        try:
            await self.ship()
        except (OSError, SinkFailed, ValueError) as error:
            self._together = 1
            kind = error.kind if isinstance(error, SinkFailed) else "spool"
            self._observe.failed(kind)
            told = error.fields if isinstance(error, SinkFailed) else {"error": type(error).__name__}
            _log.warning("usage_ship_failed", extra={"fields": {"kind": kind, **told}})
            await self.close()
            return False
        except BaseException:
            await self.close()  # cancelled in the middle of a statement: the connection can't be used again
            raise
        return True

    async def _ship_segments(self, names: Iterable[SegmentName], runs: dict[UUID, Path]) -> int:
        """In this order, as many together as the sink takes. Returns the rows written."""
        rows, used_bytes = 0, 0
        batch: list[tuple[Path, Finished]] = []
        for name in names:
            path = name.path(self._directory)
            finished = self._finished(path, runs.get(name.run_id))
            if finished is None:
                continue
            batch.append((path, finished))
            used_bytes += len(finished.segment.file)
            if len(batch) >= self._together or used_bytes >= self._sink.together_bytes_max:
                rows += await self._deliver(batch)
                batch, used_bytes = [], 0
        return rows + await self._deliver(batch)

    def _finished(self, path: Path, run_path: Path | None) -> Finished | None:
        """What is to be delivered of a file; None if there is nothing, and then there is no such file any more."""
        run = _state(run_path)
        try:
            segment = read_segment(path, run.stored if run else None)
        except (DamagedFile, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            self._quarantine(path, str(error))
            return None
        if segment is None or not (segment.records or segment.lost):
            path.unlink()
            return None
        return Finished(segment, run or _run_of(segment))

    async def _deliver(self, batch: Sequence[tuple[Path, Finished]]) -> int:
        if not batch:
            return 0
        written = await self._sink.deliver(self._spool_id, [finished for _, finished in batch])
        self._together = min(_TOGETHER_MAX, self._together * 2)
        # First all that is known, then the files: of one that can't be removed the next pass only learns that it is repeated.
        for each in written:
            if not each.repeated:
                self._observe.written(each.rows)
        for (path, finished), each in zip(batch, written, strict=True):
            if finished.segment.lost or each.lost:
                lost = max(finished.segment.lost, each.lost)
                self._quarantine(path, f"{lost} records can't be read or stored")
            else:
                path.unlink()
        return sum(each.rows for each in written)

    async def _end_runs(self, over: Iterable[UUID], paths: dict[UUID, Path]) -> None:
        for run_id in over:
            run = _state(paths[run_id])
            if run is None:
                self._quarantine(paths[run_id], "the run's counts can't be read")
                continue
            await self._sink.end_run(self._spool_id, run)
            paths[run_id].unlink()

    def _quarantine(self, path: Path, reason: str) -> None:
        os.rename(path, path.with_suffix(QUARANTINE))
        self._observe.quarantined(1)
        _log.error("usage_quarantined", extra={"fields": {"file": path.name, "reason": reason}})


def _state(path: Path | None) -> RunState | None:
    if path is None:
        return None
    try:
        return read_run(path)
    except (DamagedFile, FileNotFoundError):
        return None


def _run_of(segment: Segment) -> RunState:
    """What a segment says of its run, whose file is gone or can't be read."""
    header, stored = segment.header, len(segment.records) + segment.lost
    accepted = header.accepted_before + stored
    return RunState(header.run_id, header.worker, header.created_us, accepted, header.dropped_before, closed=False)


def _open_lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
