"""One JSON object a line, whatever is logged, however often."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime

from ostiary.gateway.telemetry.log import LINE_BYTES_MAX, LINES_PER_EVENT_AND_SECOND, JsonFormatter, RateBound


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(event: str, fields: object = None, *arguments: object, name: str = "ostiary.gateway") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, __file__, 1, event, arguments, None)
    if fields is not None:
        made.fields = fields
    return made


def test_a_line_has_time_level_process_event_and_fields() -> None:
    """Log collectors select on these names."""
    line = json.loads(JsonFormatter("worker-3").format(record("upstream_refused", {"upstream": "clients", "tries": 2})))
    assert datetime.fromisoformat(line.pop("time")).tzinfo == UTC
    assert line == {
        "level": "warning",
        "process": "worker-3",
        "event": "upstream_refused",
        "upstream": "clients",
        "tries": 2,
    }


def test_no_field_can_pretend_to_be_another_line_or_another_event() -> None:
    """What a client sent may stand in a field: it must not forge a line."""
    text = JsonFormatter("worker-0").format(record("refused", {"path": 'x\n{"event": "forged"}', "event": "forged"}))
    assert "\n" not in text
    line = json.loads(text)
    assert line["event"] == "refused"
    assert line["field_event"] == "forged"


def test_a_line_is_bounded_and_still_json() -> None:
    """A megabyte in a field, or a value that is no JSON, must not become a megabyte in the log or an exception."""
    fields = {f"field{number}": "x" * 1_000_000 for number in range(50)} | {"object": object(), "bytes": b"\xff"}
    text = JsonFormatter("worker-0").format(record("large", fields))
    assert len(text) <= LINE_BYTES_MAX
    assert json.loads(text)["event"] == "large"


def test_a_flood_of_one_event_is_cut_and_counted_and_other_events_pass() -> None:
    """An attacker who can cause a warning with each request could otherwise fill the disk."""
    clock = Clock()
    bound = RateBound(clock)
    passed = sum(bool(bound.filter(record("credentials_refused"))) for _ in range(1000))
    assert passed == LINES_PER_EVENT_AND_SECOND
    assert bound.filter(record("another_event"))
    clock.now += 1
    later = record("credentials_refused")
    assert bound.filter(later)
    assert later.__dict__["left_out"] == 1000 - LINES_PER_EVENT_AND_SECOND
    assert bound.left_out() == []


def test_lines_left_out_of_a_burst_that_ended_are_told() -> None:
    """Otherwise the end of every burst would be lost without a word."""
    clock = Clock()
    bound = RateBound(clock)
    for _ in range(50):
        bound.filter(record("error on %s", None, "varies"))
    assert bound.left_out() == [], "the second is not over"
    clock.now += 1
    told = [("ostiary.gateway", logging.WARNING, "error on %s", 50 - LINES_PER_EVENT_AND_SECOND)]
    assert bound.left_out() == told
    assert bound.left_out() == []


def test_memory_stays_bounded_for_any_number_of_events() -> None:
    """A library that formats its messages makes each one an event of its own."""
    bound = RateBound(Clock())
    for number in range(10_000):
        bound.filter(record(f"formatted {number}"))
    assert len(bound._events) <= 256


def test_a_closed_standard_error_ends_nothing() -> None:
    """A gateway goes on serving when whoever read its log has gone."""
    program = (
        "import logging\n"
        "from ostiary.gateway.telemetry import configure_logging\n"
        "configure_logging('worker-0')\n"
        "input()\n"
        "logging.getLogger('ostiary').warning('nobody_reads', extra={'fields': {'n': 1}})\n"
        "print('alive')\n"
    )
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=write_end
    )
    os.close(write_end)
    os.close(read_end)
    output, _ = process.communicate(b"\n", timeout=20)
    assert output == b"alive\n"
    assert process.returncode == 0
