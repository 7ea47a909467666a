"""The path of a route, as it is written in a configuration: exact segments, `{parameters}`, and `/**` at the end."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# Both bound the work of one match: a path is compared segment by segment.
TEMPLATE_SEGMENTS_MAX: Final = 32
TEMPLATE_CHARACTERS_MAX: Final = 1024

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})\}")
_LITERAL = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")  # pchar, RFC 3986 §3.3
_REFUSED_ESCAPES = (
    "%2f",
    "%5c",
    "%00",
)  # refused in every request by default, so a route of this path could match nothing


class Parameter(NamedTuple):
    """One segment, not empty."""

    name: str


class Rest(NamedTuple):
    """`/**`: the path before it, and everything below."""


Segment = bytes | Parameter | Rest


class TemplateError(ValueError):
    """A path that no route can have. `mend` says what to write instead."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message}: {mend}")
        self.message = message
        self.mend = mend


def parse_template(path: str) -> tuple[Segment, ...]:
    """The segments of `path`, those that are exact in the spelling that requests are compared in (unreserved characters
    decoded, hexadecimal digits in upper case). A closing slash is an empty last segment. Raises TemplateError."""
    if not path.startswith("/"):
        raise TemplateError("the path does not begin with a slash", f"write /{path[:40]}")
    if len(path) > TEMPLATE_CHARACTERS_MAX:
        raise TemplateError(
            f"the path is longer than {TEMPLATE_CHARACTERS_MAX} characters", "match a shorter path with /**"
        )
    texts = path[1:].split("/")
    if len(texts) > TEMPLATE_SEGMENTS_MAX:
        raise TemplateError(
            f"the path has more than {TEMPLATE_SEGMENTS_MAX} segments", "match a shorter path with /** at its end"
        )
    segments: list[Segment] = []
    names: set[str] = set()
    for position, text in enumerate(texts):
        segment = _parse_segment(text, last=position == len(texts) - 1)
        if isinstance(segment, Parameter):
            if segment.name in names:
                raise TemplateError(
                    f"the parameter {{{segment.name}}} occurs twice", "give each parameter its own name"
                )
            names.add(segment.name)
        segments.append(segment)
    return tuple(segments)


def _parse_segment(text: str, *, last: bool) -> Segment:
    if text == "**":
        if not last:
            raise TemplateError("/** stands before the end of the path", "end the path with it")
        return Rest()
    if "{" in text or "}" in text:
        if (parameter := _PARAMETER.fullmatch(text)) is None:
            raise TemplateError(
                f"{text[:40]!r} is not a parameter",
                "a parameter is a whole segment, /{name}/, of letters, digits and _",
            )
        return Parameter(parameter[1])
    if text.startswith(":"):
        raise TemplateError(f"{text[:40]!r} would match only that very text", f"a parameter is written {{{text[1:]}}}")
    if "*" in text:
        raise TemplateError(
            f"{text[:40]!r} is not a wildcard", "write {name} for one segment, or end the path with /**"
        )
    if not text and not last:
        raise TemplateError("the path has an empty segment (//)", "leave one slash")
    if _LITERAL.fullmatch(text) is None:
        raise TemplateError(
            f"{text[:40]!r} has characters that a URL's path can't have",
            "percent-encode them, and leave out any query or fragment",
        )
    lower = text.lower()
    if any(escape in lower for escape in _REFUSED_ESCAPES) or lower.replace("%2e", ".") in (".", ".."):
        raise TemplateError(
            f"{text[:40]!r} is ambiguous, requests with it are refused", "write the path without dot segments and %2F"
        )
    return equivalent_path(text.encode("ascii"))


# --- spelling -------------------------------------------------------------------------------------------------------

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def equivalent_path(path: bytes) -> bytes:
    """The spelling that paths are compared in (RFC 3986 §6.2.2): unreserved characters decoded, hexadecimal digits of the
    other escapes in upper case. A `%` that begins no escape stays."""
    return _ESCAPE.sub(_plain_escape, path)


def _plain_escape(escape: re.Match[bytes]) -> bytes:
    character = bytes.fromhex(escape[1].decode("ascii"))
    return character if character in _UNRESERVED else escape[0].upper()
