"""JSON bodies as RFC 8259 and I-JSON (RFC 7493) mean them, and nothing more.

Python's own parser takes NaN, keeps the last of two equal names, turns 1e400 into infinity and lets NUL and lone surrogates
into strings, which Postgres then refuses. Each of these is refused here, where it can still be told apart from a fault."""

from __future__ import annotations

import json
from typing import NoReturn

from ostiary.control_plane.http.problems import Problem, ProblemCode

# The deepest body of this API is an object of arrays of strings; the bound leaves room and stops nesting bombs.
DEPTH_MAX = 16
# Every number of this API is below 2**53, which all JSON implementations keep exactly (RFC 7493 §2.2).
DIGITS_MAX = 16


def parse(body: bytes) -> object:
    """The value of a JSON text. Raises Problem `malformed_request`, saying what is wrong and never quoting the text."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(f"is not UTF-8 (byte {error.start})") from error
    try:
        value: object = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_number, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise _malformed(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise _malformed(f"is nested more than {DEPTH_MAX} deep") from error
    _check(value)
    return value


def _malformed(what: str) -> Problem:
    return Problem(ProblemCode.MALFORMED_REQUEST, f"The body {what}.")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("has an object with the same name twice")
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise _malformed("has NaN or Infinity, which are not JSON")


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _malformed("has a number out of range")
    return value


def _integer(text: str) -> int:
    # Also keeps the quadratic cost of long integers out.
    if len(text) > DIGITS_MAX:
        raise _malformed("has a number out of range")
    return int(text)


def _check(value: object) -> None:
    level: list[object] = [value]
    for _ in range(DEPTH_MAX + 1):
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                deeper += item
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        if not deeper:
            return
        level = deeper
    raise _malformed(f"is nested more than {DEPTH_MAX} deep")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _malformed("has a NUL in a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _malformed("has half of a surrogate pair in a string") from error
