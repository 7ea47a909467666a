"""Keeps what is recorded of clients up to date: the configuration, the salt of the day, the database of countries."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from pathlib import Path

from ostiary.core.usage import AddressRecording, Recording
from ostiary.followed import FileWatch
from ostiary.gateway.usage.client import ClientFields
from ostiary.gateway.usage.country import CountryDatabase, CountryDatabaseError
from ostiary.gateway.usage.salt import daily_salt

LOOK_SECONDS = 5.0  # how often the file of countries is looked at; a change is taken at the second look that sees it

_log = logging.getLogger("ostiary.gateway.usage")


class ClientRecording:
    """`fields` is what holds now. Not for two tasks at once."""

    def __init__(self, recording: Recording, *, directory: Path, now: float) -> None:
        """Raises CountryDatabaseError. `directory` is the spool's, where the salt is; `now` is Unix seconds."""
        self._directory = directory
        self._recording = recording
        self._countries: CountryDatabase | None = None
        self._watch: FileWatch | None = None
        self._open(recording.country_database)
        self._day = ""
        self._next_look = now + LOOK_SECONDS
        self.fields = self._make(now)

    def follow(self, recording: Recording, now: float) -> ClientFields:
        """What holds after a reload. A database that can't be used leaves the one of before in use."""
        if recording != self._recording:
            if recording.country_database != self._recording.country_database:
                self._try_open(recording.country_database)
            self._recording = recording
            self.fields = self._make(now)
        return self.fields

    def renewed(self, now: float) -> ClientFields | None:
        """The fields that hold from now on, if the day or the database has changed; cheap, to be asked often."""
        changed = self._recording.address is AddressRecording.HASHED and _day(now) != self._day
        if self._watch is not None and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            if self._watch.came_to_rest():
                changed = self._try_open(self._recording.country_database) or changed
        if not changed:
            return None
        self.fields = self._make(now)
        return self.fields

    def _open(self, path: str | None) -> None:
        # First, so that what changes while it is read has changed since.
        self._watch = None if path is None else FileWatch(Path(path))
        self._countries = None if path is None else CountryDatabase(Path(path))

    def _try_open(self, path: str | None) -> bool:
        try:
            self._open(path)
        except CountryDatabaseError as error:
            _log.error("country_database_unusable", extra={"fields": {"reason": str(error)}})
            return False
        _log.info("country_database_read", extra={"fields": {"file": path}})
        return True

    def _make(self, now: float) -> ClientFields:
        self._day = _day(now)
        return ClientFields(
            address=self._recording.address,
            agent=self._recording.agent,
            country=None if self._countries is None else self._countries.country,
            salt=self._salt() if self._recording.address is AddressRecording.HASHED else b"",
        )

    def _salt(self) -> bytes:
        try:
            return daily_salt(self._directory, self._day)
        except (OSError, ValueError) as error:
            # Still nothing that can be told from the hash; but this worker's hashes are its own until the next day.
            reason = getattr(error, "strerror", None) or str(error)
            _log.error("ip_salt_not_shared", extra={"fields": {"reason": reason}})
            return secrets.token_bytes(32)


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%d")
