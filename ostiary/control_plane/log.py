"""The log: one JSON object a line on standard error, of the same form as the gateway's.

Modules use the standard library: `log.warning("event_name", extra={"fields": {…}})`. The message names the event, what varies
stands in the fields; no field is ever a secret, a body, or text that a client wrote into a path."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

# Longest line: a traceback's frames fit, and a pipe takes it in one write.
LINE_CHARACTERS_MAX = 4000


class JsonFormatter(logging.Formatter):
    """`{"time": RFC 3339 in UTC, "level", "process", "event", fields …}`. The text of an exception is left out: drivers quote
    the values they choke on."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": "control-plane",
            "event": record.getMessage()[:500],
        }
        if not record.name.startswith("ostiary"):
            line["logger"] = record.name
        line.update({name: value for name, value in getattr(record, "fields", {}).items() if name not in line})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__qualname__
        text = json.dumps(line, default=str)
        if len(text) > LINE_CHARACTERS_MAX:
            # The end of a traceback tells more than its beginning.
            line = {name: value[-1000:] if isinstance(value, str) else value for name, value in line.items()}
            text = json.dumps(line, default=str)
        return text


def configure_logging(level: int = logging.INFO) -> None:
    """Sends every logger of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
