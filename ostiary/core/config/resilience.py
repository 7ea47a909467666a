"""How an upstream survives bad targets: `retries`, `ejection`, `breaker` and `connections`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ostiary.core.config.fields import Kind, ListOf, NameOrRecord, Record, Schema, Values, defaulted, optional
from ostiary.core.config.kinds import Choice, Duration, Integer, Percent, or_reference, read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.upstream import Breaker, Connections, Ejection, Retries

_STATUS: Final = Integer(500, 599)


class _RetryFault(StrEnum):
    CONNECT = "connect"
    RESET = "reset"


class _TargetFault(StrEnum):
    """As `upstream.TARGET_FAULTS`."""

    CONNECT = "connect"
    RESET = "reset"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"


class Cause(Kind[str]):
    """A fault by its name, or a status from 500 to 599, as a number."""

    def __init__(self, faults: type[StrEnum]) -> None:
        self._fault = Choice(faults)
        self._names = ", ".join(f"`{fault.value}`" for fault in faults)

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        if text.value[:1].isdigit():
            status = _STATUS.read(place, reading)
            return status if isinstance(status, Refused) else str(status)
        fault = self._fault.read(place, reading)
        return fault if isinstance(fault, Refused) else fault.value

    def schema(self) -> Schema:
        return or_reference({"anyOf": [self._fault.schema(), _STATUS.schema()]})

    @property
    def words(self) -> str:
        return f"{self._names} or a status from 500 to 599"


_CAUSES_MAX: Final = 104  # every fault and every status
_TARGET_CAUSES: Final = ListOf(Cause(_TargetFault), low=1, high=_CAUSES_MAX)

# --- retries ----------------------------------------------------------------------------------------------------------

_ATTEMPTS = defaulted("attempts", Integer(1, 10), "All tries, the first included; 1 for no retry.", 2)
_ON = optional(
    "on",
    ListOf(Cause(_RetryFault), low=1, high=_CAUSES_MAX),
    "What is tried again, where that is safe; `[connect]` if not given.",
)
_BUDGET = defaulted(
    "budget",
    Percent(0, 100),
    "Further tries of all calls of a worker together, as a share of the calls of the last 10 s; at least 10, but for 0%.",
    "10%",
)


def _retries(values: Values) -> Retries:
    causes = values[_ON]
    return Retries(
        attempts=values[_ATTEMPTS],
        on=Retries().on if causes is None else frozenset(causes),
        budget_share=values[_BUDGET],
    )


RETRIES: Record[Retries] = Record(
    "Retries",
    "When a call is sent to another target. A call that may have had an effect is never sent twice.",
    (_ATTEMPTS, _ON, _BUDGET),
    _retries,
)

# --- ejection ---------------------------------------------------------------------------------------------------------

_AFTER = defaulted("after", Integer(1, 1000), "Failures in a row that take a target out.", 5)
_FOR = defaulted(
    "for", Duration("100ms", "1h"), "For how long, at first; it doubles each time the target fails again.", "10s"
)
_UP_TO = defaulted("up_to", Duration("100ms", "24h"), "For how long at most.", "5m")
_EJECTION_ON = optional(
    "on",
    _TARGET_CAUSES,
    "What counts as a failure; every fault and no status if not given, for an answer may be the service's word on one call.",
)


def _ejection(values: Values) -> Ejection | None:
    seconds, seconds_max = values[_FOR], values[_UP_TO]
    if seconds > seconds_max:
        values.problem(_FOR if values.given(_FOR) else _UP_TO, "up_to is shorter than for", "raise up_to")
    causes = values[_EJECTION_ON]
    return Ejection(
        after=values[_AFTER],
        seconds=seconds,
        seconds_max=seconds_max,
        on=Ejection().on if causes is None else frozenset(causes),
    )


class Off(Kind[None]):
    """The word `off`."""

    def read(self, place: Place, reading: Reading) -> Refused | None:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        return None if text.value == "off" else reading.problem(place, f"must be {self.words}, not {place.shown}")

    def schema(self) -> Schema:
        return or_reference({"const": "off"})

    @property
    def words(self) -> str:
        return "`off`"


_EJECTION_RECORD: Record[Ejection | None] = Record(
    "Ejection",
    "A target that fails call after call is left out, and comes back when a single call, sent to see, goes well.",
    (_AFTER, _FOR, _UP_TO, _EJECTION_ON),
    _ejection,
)
EJECTION: NameOrRecord[Ejection | None] = NameOrRecord(Off(), _EJECTION_RECORD)

# --- breaker ----------------------------------------------------------------------------------------------------------

_ERRORS = defaulted("errors", Percent(1, 100), "The share of failed calls that opens it.", "50%")
_CALLS = defaulted("calls", Integer(1, 1_000_000), "Calls within the window below which it does not open.", 20)
_WINDOW = defaulted("window", Duration("1s", "10m"), "The time whose calls are counted.", "10s")
_OPEN = defaulted("open", Duration("100ms", "1h"), "How long no call is sent; callers get 503 with Retry-After.", "5s")
_TRIALS = defaulted("trials", Integer(1, 1000), "Calls sent after that, to see; if all go well it closes.", 3)
_BREAKER_ON = optional("on", _TARGET_CAUSES, "What counts as a failure; every fault, 502, 503 and 504 if not given.")


def _breaker(values: Values) -> Breaker:
    causes = values[_BREAKER_ON]
    return Breaker(
        errors_share=values[_ERRORS],
        calls=values[_CALLS],
        window_seconds=values[_WINDOW],
        open_seconds=values[_OPEN],
        trials=values[_TRIALS],
        on=Breaker().on if causes is None else frozenset(causes),
    )


BREAKER: Record[Breaker] = Record(
    "Breaker",
    "The circuit breaker of an upstream, in each worker. `{}` has every default.",
    (_ERRORS, _CALLS, _WINDOW, _OPEN, _TRIALS, _BREAKER_ON),
    _breaker,
)

# --- connections ------------------------------------------------------------------------------------------------------

_MAX = defaulted("max", Integer(1, 65_535), "Connections at once.", 4096)
_WAITING = defaulted(
    "waiting", Integer(0, 65_535), "Calls that may wait for one while all are in use; beyond it 503.", 256
)
_WAIT = defaulted("wait", Duration("1ms", "1m"), "How long a call waits; after it 503.", "1s")
CONNECTIONS: Record[Connections] = Record(
    "Connections",
    "Of one worker to one target. A connection that is given back goes to the call that has waited longest.",
    (_MAX, _WAITING, _WAIT),
    lambda values: Connections(at_most=values[_MAX], waiting=values[_WAITING], wait_seconds=values[_WAIT]),
)
