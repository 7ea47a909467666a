"""The section `usage`: what is recorded of a call, and how long it is kept."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.config.addresses import Directory
from ostiary.core.config.fields import Kind, Record, Schema, Values, defaulted, optional
from ostiary.core.config.kinds import Choice, Duration, read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.config.usage_sink import POSTGRES, SINK
from ostiary.core.usage import (
    AddressRecording,
    AgentRecording,
    Recording,
    Retention,
    SpoolSettings,
    UsageSettings,
    WhenFull,
)

# As a Kind reads them: None means refused or not given elsewhere.
FOREVER: Final = 0
NEVER: Final = 0.0


class DataFile(Directory):
    """A file that is read when the gateway starts, and again when it is replaced."""

    @property
    def words(self) -> str:
        return "a file, relative to the configuration's folder"


class DaysKept(Kind[int]):
    """`90d`, or `forever`; the value is in days."""

    _FORM: Final = r"[1-9][0-9]{0,3}d|forever"

    def read(self, place: Place, reading: Reading) -> int | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if re.fullmatch(self._FORM, text.value) is None:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return FOREVER if text.value == "forever" else int(text.value[:-1])

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^(?:{self._FORM})$|\$\{{"}

    @property
    def words(self) -> str:
        return "whole days, as in `90d` (up to `9999d`), or `forever`"


class OftenOrNever(Duration):
    """A duration, or `off`, which is NEVER."""

    def read(self, place: Place, reading: Reading) -> float | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        return NEVER if text.value == "off" else super().read(place, reading)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^(?:off|{self._FORM})$|\$\{{"}

    @property
    def words(self) -> str:
        return f"`off`, or {super().words}"


_ADDRESS = defaulted(
    "ip",
    Choice(AddressRecording),
    "The client's address: as it is; its network (/24, IPv6 /48); as a hash that is another one every day; not at all.",
    "full",
)
_AGENT = defaulted(
    "user_agent",
    Choice(AgentRecording),
    "`User-Agent`: up to 512 bytes of it; its first product, as in `curl/8.5.0`; not at all.",
    "full",
)
_RECORD = Record(
    "Recorded fields",
    "What usage keeps of a client. A change holds for calls that end after the reload.",
    (_ADDRESS, _AGENT),
    lambda values: (values[_ADDRESS], values[_AGENT]),
)

_EVENTS = defaulted("events", DaysKept(), "Single calls (`usage_events`).", "90d")
_MINUTES = defaulted("minutes", DaysKept(), "Roll-ups by minute.", "3d")
_HOURS = defaulted("hours", DaysKept(), "Roll-ups by hour.", "100d")
_DAYS = defaulted("days", DaysKept(), "Roll-ups by day (`usage_rollups_day`).", "forever")


def _retention(values: Values) -> Retention | Refused:
    fields = (_EVENTS, _MINUTES, _HOURS, _DAYS)
    events, minutes, hours, days = (values[field] or None for field in fields)
    for finer, field, than in ((minutes, _MINUTES, hours), (hours, _HOURS, days)):
        if than is not None and (finer is None or finer > than):
            coarser = "hours" if field is _MINUTES else "days"
            return values.problem(field, f"must not be kept longer than {coarser}", f"keep {coarser} at least as long")
    return Retention(events_days=events, minutes_days=minutes, hours_days=hours, days_days=days)


RETENTION: Record[Retention] = Record(
    "Retention",
    "How long usage is kept. The control plane drops what is older once an hour, and `ostiary usage retention` when told to.",
    (_EVENTS, _MINUTES, _HOURS, _DAYS),
    _retention,
)

_RECORDED = defaulted("record", _RECORD, "What is kept of a client.", {})
_COUNTRY_DATABASE = optional(
    "country_database",
    DataFile(),
    "A database of countries by address, in MaxMind's format (.mmdb); fills `country`. Needs "
    "`pip install 'ostiary[country]'`. Replace the file by renaming; it is noticed within seconds.",
)
_RETAINED = defaulted("retention", RETENTION, "How long usage is kept.", {})
_SINK = defaulted(
    "sink",
    SINK,
    "Where the shipper takes usage: to Postgres itself, or to a stream from which `ostiary usage consume` writes Postgres.",
    POSTGRES,
)

_WHEN_FULL = defaulted(
    "when_full",
    Choice(WhenFull),
    "When it is at `stores.spool_max` or can't be written: `shed` serves calls and counts those that are not metered; "
    "`block` answers 503 `overloaded` to calls that would be metered.",
    "shed",
)
_SYNC = defaulted(
    "sync",
    OftenOrNever("100ms", "1h"),
    "How often a worker has its segments written to the disk (fdatasync). It is about a loss of power alone: what a killed "
    "process has metered is safe either way.",
    "off",
)
_SPOOL_SETTINGS = Record(
    "Usage spool",
    "What the spool owes besides outliving processes. A change takes a restart.",
    (_WHEN_FULL, _SYNC),
    lambda values: SpoolSettings(values[_WHEN_FULL], values[_SYNC] or None),
)
_SPOOLED = defaulted("spool", _SPOOL_SETTINGS, "What happens when the spool is full, and when the power fails.", {})


def _usage(values: Values) -> UsageSettings:
    address, agent = values[_RECORDED]
    recording = Recording(address, agent, values[_COUNTRY_DATABASE])
    return UsageSettings(recording, values[_RETAINED], values[_SPOOLED], values[_SINK])


USAGE: Record[UsageSettings] = Record(
    "Usage", "What is recorded of calls.", (_RECORDED, _COUNTRY_DATABASE, _RETAINED, _SPOOLED, _SINK), _usage
)
