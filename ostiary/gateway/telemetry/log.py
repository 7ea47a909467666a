"""The log: one JSON object a line on standard error, bounded in length and in rate.

Modules use the standard library: `logging.getLogger("ostiary.…").warning("event_name", extra={"fields": {…}})`. The
message is the name of the event, what varies stands in the fields. A line goes out in one write, so that lines of several
processes on one pipe don't mix."""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

# An attacker can cause the same warning with every request: past this many lines of one event in one second the rest is
# counted, and the count is logged. Ten show a pattern; ten a second of 300 bytes are 260 MB a day at worst.
LINES_PER_EVENT_AND_SECOND = 10
EVENTS_TRACKED_MAX = 256  # events are constants of the code; libraries may bring more, and the oldest make room
LINE_BYTES_MAX = 16 * 1024
FIELD_CHARACTERS_MAX = 4 * 1024
_RESERVED = frozenset({"time", "level", "process", "event", "error", "traceback", "left_out"})

_Key = tuple[str, int, str]


class JsonFormatter(logging.Formatter):
    """`{"time": RFC 3339 in UTC, "level", "process", "event", fields …, "error", "traceback"}`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": _cut(record.getMessage()),
        }
        if not record.name.startswith("ostiary"):
            line["logger"] = record.name
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            for name, value in fields.items():
                line[f"field_{name}" if name in _RESERVED else str(name)] = _cut(value)
        if left_out := getattr(record, "left_out", 0):
            line["left_out"] = left_out
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line["error"] = _cut("".join(traceback.format_exception_only(error)).strip())
            line["traceback"] = _cut("".join(traceback.format_tb(error.__traceback__, limit=-12)))
        text = json.dumps(line, default=str)
        if len(text) > LINE_BYTES_MAX:
            text = json.dumps({name: line[name] for name in ("time", "level", "process", "event")} | {"cut": True})
        return text


class RateBound(logging.Filter):
    """Lets at most `LINES_PER_EVENT_AND_SECOND` lines of one event through in a second and counts the rest.

    The count stands, as `left_out`, on the event's next line; `left_out()` gives what no later line has told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._events: OrderedDict[_Key, list[int]] = OrderedDict()  # key: second, lines in it, left out so far

    def filter(self, record: logging.LogRecord) -> bool:
        # `msg` is the text before its arguments, so that a library's "error on %s" is one event however it ends.
        key = (record.name, record.levelno, str(record.msg)[:FIELD_CHARACTERS_MAX])
        second = int(self._clock())
        state = self._events.get(key)
        if state is None:
            state = self._events[key] = [second, 0, 0]
            if len(self._events) > EVENTS_TRACKED_MAX:
                self._events.popitem(last=False)
        if state[0] != second:
            state[0], state[1] = second, 0
            self._events.move_to_end(key)
        if state[1] >= LINES_PER_EVENT_AND_SECOND:
            state[2] += 1
            return False
        state[1] += 1
        if state[2]:
            record.left_out = state[2]
            state[2] = 0
        return True

    def left_out(self) -> list[tuple[str, int, str, int]]:
        """Logger, level, event and count of what was left out before this second and not told yet; then it is told."""
        second = int(self._clock())
        told = []
        for (name, level, event), state in self._events.items():
            if state[2] and state[0] != second:
                told.append((name, level, event, state[2]))
                state[2] = 0
        return told


class _StandardError(logging.Handler):
    """Writes to descriptor 2 itself: no buffer that a crash would lose. A log that nobody reads any more (a closed pipe,
    a full disk) must not end a gateway that serves, so such errors are passed over."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, self.format(record).encode("utf-8", "replace") + b"\n")
        except OSError:
            pass
        except Exception:
            self.handleError(record)


_bound = RateBound()


def configure_logging(process: str, level: int = logging.INFO) -> None:
    """Sends every logger of this process to standard error. `process` names it in each line: "supervisor", "worker-0"."""
    handler = _StandardError()
    handler.setFormatter(JsonFormatter(process))
    handler.addFilter(_bound)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def tell_left_out() -> None:
    """Logs how many lines the rate bound left out of bursts that have ended. Called once a second."""
    for name, level, event, count in _bound.left_out():
        logging.getLogger(name).log(level, "log_lines_left_out", extra={"fields": {"of": event, "count": count}})


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > FIELD_CHARACTERS_MAX:
        return value[:FIELD_CHARACTERS_MAX] + "…"
    return value
