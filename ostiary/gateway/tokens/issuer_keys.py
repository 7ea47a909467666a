"""The keys of one issuer, kept current: fetched every so often, at once when a token names a key that is not among them
(but not too often), and believed for a bounded time while the issuer is away."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ostiary.core.issuers import Issuer, KeysAt
from ostiary.core.key_set import KeySet, KeySetRefused, parse_key_set
from ostiary.gateway.signal import Signal
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.tokens.record import KeyRecord, RecordFile

log: Final = logging.getLogger("ostiary.gateway.tokens")

# Calls that wait for a document; further ones are told to come again. A flood of made-up keys holds no more than this.
WAITING_MAX: Final = 256
# While another process fetches, its record is looked for this often.
_LOOK_SECONDS: Final = 0.05
# The clock is looked at this often at least, since it may be set anew.
_WAIT_SECONDS_MAX: Final = 60.0
# Processes and nodes must not fetch in step: each time is changed by up to this part of it.
_JITTER: Final = 0.1
# As long as one fetch takes at most, and a little: whoever has the turn has written its record by then, or has died.
_TURN_SECONDS: Final = 6.0


class IssuerKeys:
    """`changed` is called with the issuer's name when keys have gone. `clock` is Unix seconds."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        directory: str | None,
        metrics: Metrics,
        changed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = issuer.name
        self.source = issuer.keys
        self.key_set: KeySet | None = None
        self._changed = changed
        self._clock = clock
        self._metrics = metrics
        self._record = KeyRecord()
        self._failures = 0
        self._due_at = 0.0
        self._waiting: list[Signal[None]] = []
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._file: RecordFile | None = None
        if isinstance(self.source, KeysAt):
            self._file = RecordFile(directory, issuer=issuer.name, url=self.source.url)
        else:
            self.key_set = parse_key_set(self.source.document)

    # --- what the request path asks

    def await_newer(self) -> Signal[None] | None:
        """Set when the document has been looked at anew, whatever came of it; None when that is not to be now."""
        source = self.source
        if not isinstance(source, KeysAt) or len(self._waiting) >= WAITING_MAX or self._task is None:
            return None
        if not self._wanted.is_set() and self._since_attempt() < source.cooldown_seconds:
            return None
        signal: Signal[None] = Signal()
        self._waiting.append(signal)
        self._wanted.set()
        return signal

    @property
    def uncertain(self) -> bool:
        """Whether a key that is not known may well exist: the last attempt to learn of it failed, or one is under way, for
        which so many wait that others can't."""
        return self.key_set is None or self._record.failure is not None or self._wanted.is_set()

    # --- keeping them current

    def inherit(self, before: IssuerKeys) -> None:
        """What was fetched from the same place under another configuration is not forgotten: the issuer may be away."""
        ours, theirs = self.source, before.source
        if (
            isinstance(ours, KeysAt)
            and isinstance(theirs, KeysAt)
            and (ours.url, ours.ca_pem) == (theirs.url, theirs.ca_pem)
        ):
            self.key_set = before.key_set
            self._record = before._record
            self._failures = before._failures

    def start(self) -> None:
        if isinstance(self.source, KeysAt) and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(self.source))

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._wake()

    async def _follow(self, source: KeysAt) -> None:
        while True:
            try:
                await self._look(source)
            except Exception:  # a defect must not end it: the keys would go stale with nobody to say so
                log.exception("issuer_keys_failed", extra={"fields": {"issuer": self.name}})
                self._due_at = self._clock() + source.refresh_seconds
            self._wanted.clear()
            self._wake()
            now = self._clock()
            ends_at = self._due_at
            if self.key_set is not None:
                ends_at = min(ends_at, self._record.fetched_at + source.stale_seconds)
            try:
                await asyncio.wait_for(self._wanted.wait(), min(max(ends_at - now, _LOOK_SECONDS), _WAIT_SECONDS_MAX))
            except TimeoutError:
                pass

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for signal in waiting:
            try:
                signal.set(None)
            except Exception:  # of the call that waited
                log.exception("issuer_keys_waiter_failed")

    async def _look(self, source: KeysAt) -> None:
        """Takes what another process has fetched, or fetches, if it is time for that."""
        file = self._file
        assert file is not None  # noqa: S101  there is one for every KeysAt
        give_up_at = time.monotonic() + _TURN_SECONDS
        while True:
            self._read(file)
            self._forget_stale(source)
            if not self._is_due(source):
                return
            turn = file.take_turn()
            if turn is not None:
                break
            if time.monotonic() > give_up_at:
                log.warning("issuer_keys_turn_overdue", extra={"fields": {"issuer": self.name}})
                self._due_at = self._clock() + min(source.cooldown_seconds, source.refresh_seconds)
                return
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            self._read(file)  # another one may have written between the look and the turn
            if self._is_due(source):
                await self._attempt(source, file)
        finally:
            turn.end()

    def _is_due(self, source: KeysAt) -> bool:
        if self._wanted.is_set() and self._since_attempt() >= source.cooldown_seconds:
            return True
        # Further ahead than any pause is: the clock was set back meanwhile.
        return not 0 < self._due_at - self._clock() <= source.refresh_seconds * (1 + _JITTER)

    def _since_attempt(self) -> float:
        """Seconds since the last attempt; a day if that was in the future, before the clock was set back."""
        since = self._clock() - self._record.attempted_at
        return since if since >= 0 else 86_400.0

    def _read(self, file: RecordFile) -> None:
        record, ours = file.read(self._clock()), self._record
        if record is None or record.attempted_at <= ours.attempted_at:
            return
        if record.fetched_at < ours.fetched_at:  # by a process that began without what we know: the file was removed
            record = replace(record, document=ours.document, fetched_at=ours.fetched_at)
        self._adopt(record)

    async def _attempt(self, source: KeysAt, file: RecordFile) -> None:
        # In a thread: it takes 200 ms, in which calls are to be served.
        fetch: Any = await asyncio.to_thread(importlib.import_module, "ostiary.key_documents.fetch")
        attempted_at = self._clock()
        before = self._record
        try:
            document = await fetch.fetch_document(source)
            key_set = parse_key_set(document)
        except (fetch.FetchFailed, KeySetRefused) as error:
            failure = str(error)
            record = KeyRecord(before.document, before.fetched_at, attempted_at, failure)
            self._count("failed")
            log.warning(
                "issuer_keys_not_fetched",
                extra={"fields": {"issuer": self.name, "url": source.url.partition("?")[0], "reason": failure}},
            )
        else:
            record = KeyRecord(document, attempted_at, attempted_at, None)
            self._count("ok")
            if not key_set.keys:
                fields = {"issuer": self.name, "left_out": list(key_set.left_out[:10])}
                log.error("issuer_has_no_usable_keys", extra={"fields": fields})
        file.write(record)
        self._adopt(record)

    def _adopt(self, record: KeyRecord) -> None:
        """What this process or another one has found."""
        source = self.source
        assert isinstance(source, KeysAt)  # noqa: S101  a file has no records
        fresh = self._clock() < record.fetched_at + source.stale_seconds
        if record.document is not None and fresh and (self.key_set is None or record.document != self._record.document):
            try:
                self._swap(parse_key_set(record.document))
            except KeySetRefused:  # a file that somebody has edited
                log.error("issuer_keys_file_refused", extra={"fields": {"issuer": self.name}})
                return
        self._record = record
        self._failures = 0 if record.failure is None else self._failures + 1
        pause = source.refresh_seconds
        if self._failures:
            pause = min(pause, source.cooldown_seconds * 2.0 ** min(self._failures - 1, 10))
        self._due_at = record.attempted_at + pause * (1 + random.uniform(-_JITTER, _JITTER))  # noqa: S311  no secret
        self._metrics.values[self._metrics.gauge("token_keys_fetched_timestamp_seconds", issuer=self.name)] = (
            record.fetched_at
        )
        self._forget_stale(source)

    def _forget_stale(self, source: KeysAt) -> None:
        if self.key_set is not None and self._clock() >= self._record.fetched_at + source.stale_seconds:
            log.error(
                "issuer_keys_stale",
                extra={"fields": {"issuer": self.name, "fetched_at": self._record.fetched_at}},
            )
            self._swap(None)

    def _swap(self, key_set: KeySet | None) -> None:
        before = frozenset[tuple[str, ...]]() if self.key_set is None else self.key_set.thumbprints
        after = frozenset[tuple[str, ...]]() if key_set is None else key_set.thumbprints
        self.key_set = key_set
        if before != after:
            fields = {"issuer": self.name, "keys": len(after), "new": len(after - before), "gone": len(before - after)}
            log.info("issuer_keys_changed", extra={"fields": fields})
        if before - after:
            self._changed(self.name)

    def _count(self, result: str) -> None:
        self._metrics.counter("token_key_fetches_total", issuer=self.name, result=result).add(1)

    # --- what is told of it

    def status(self) -> dict[str, object]:
        keys = self.key_set
        status: dict[str, object] = {
            "keys": 0 if keys is None else len(keys.keys),
            "left_out": [] if keys is None else list(keys.left_out[:10]),
        }
        if self._file is not None:
            record = self._record
            status |= {
                "fetched_at": record.fetched_at or None,
                "attempted_at": record.attempted_at or None,
                "failure": record.failure,
                "next_at": self._due_at,
                "file_problem": self._file.problem,
            }
        return status
