"""One text for one JSON value, to be hashed: RFC 8785 (JCS), so that anyone's program can make it again.

It differs from RFC 8785 where that one loses digits: whole numbers beyond 2^53, and others below 1e-6 or from 1e21 on, are
written in full and without an exponent, as Postgres keeps them in `jsonb`."""

from __future__ import annotations

import json
import math
from decimal import Decimal


def canonical(value: object) -> bytes:
    """UTF-8. Raises ValueError for what JSON or Unicode has no text for: NaN, infinity, half a surrogate pair; TypeError for
    another type."""
    return _text(value).encode("utf-8")


def _text(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            # What it escapes, and how, is what RFC 8785 §3.2.2.2 says.
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case float():
            return _number(value)
        case list() | tuple():
            return "[" + ",".join(_text(item) for item in value) + "]"
        case dict():
            if not all(isinstance(name, str) for name in value):
                raise TypeError("a name in JSON is a string")
            # By UTF-16 code units (§3.2.3), which is not the order of code points.
            names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
            return "{" + ",".join(f"{_text(name)}:{_text(value[name])}" for name in names) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} is not of JSON")


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError("JSON has no NaN and no infinity")
    text = format(Decimal(repr(value)), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
