"""`/problems/{code}`: a page for each error code of the gateway, from the text of docs/problems.md. What an error answer
names in `type` can point here (`gateway.problem_pages`). Static, no script, no foreign host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from ostiary.control_plane.http.documentation import STYLE
from ostiary.core.errors import ErrorCode
from ostiary.core.resources import resource_directory

PREFIX = "/problems/"

_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\([^)]+\)")


def installed_text() -> str:
    """The text of docs/problems.md. Raises FileNotFoundError if the installation is broken."""
    return (resource_directory("docs") / "problems.md").read_text(encoding="utf-8")


def pages(text: str) -> Mapping[str, str]:
    """Path to page, as HTML, for every code. Raises ValueError if `text` has not all of them."""
    sections = read_sections(text)
    if missing := [code.page for code in ErrorCode if code.page not in sections]:
        raise ValueError(f"docs/problems.md has no section {', '.join(missing)}; reinstall Ostiary")
    return {PREFIX + code.page: _page(code, sections[code.page]) for code in ErrorCode}


def read_sections(text: str) -> dict[str, list[str]]:
    """Heading to paragraphs, each in one line."""
    sections = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        sections[heading] = [" ".join(paragraph.split()) for paragraph in body.split("\n\n") if paragraph.strip()]
    return sections


def _page(code: ErrorCode, paragraphs: list[str]) -> str:
    title = escape(code.value.title)
    body = "\n".join(f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{STYLE}</style></head>
<body>
<h1>{title}</h1>
{body}
</body></html>
"""


def _inline(text: str) -> str:
    """The marks that the text uses: `code`, **strong**, and links, of which the words stay."""
    parts, end = [], 0
    for match in _INLINE.finditer(text):
        code, strong, words = match.groups()
        parts.append(escape(text[end : match.start()]))
        if code is not None:
            parts.append(f"<code>{escape(code)}</code>")
        elif strong is not None:
            parts.append(f"<strong>{escape(strong)}</strong>")
        else:
            parts.append(escape(words))
        end = match.end()
    return "".join([*parts, escape(text[end:])])
