"""`/docs/reference`: one static page with every operation and every problem, from the same declarations. No script,
no foreign host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from html import escape

from ostiary.control_plane.http.fields import NoBody
from ostiary.control_plane.http.openapi import refusals
from ostiary.control_plane.http.operations import BASE, AnyOperation
from ostiary.control_plane.http.problems import ProblemCode

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
code { font: 14px/1.4 ui-monospace, monospace; background: #f1f3f5; padding: .1em .3em; border-radius: 3px; }
section { border-top: 1px solid #d8dee4; padding: .5rem 0; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; }
@media (prefers-color-scheme: dark) {
  body { background: #14171a; color: #e3e6e9; } code { background: #23282d; } section { border-color: #343a40; }
  a { color: #7db8ff; }
}
"""


def content_security_policy() -> str:
    """Lets the style of our pages in, by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(operations: Sequence[AnyOperation], *, unknown: Collection[str]) -> str:
    """The page, as HTML; `unknown` as for `openapi.document`."""
    sections = "\n".join(_operation(operation, known=operation.id not in unknown) for operation in operations)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Ostiary control plane</title>
<style>{STYLE}</style></head>
<body>
<h1>Ostiary control plane</h1>
<p>The whole description, for programs: <a href="{BASE}/openapi.json"><code>{BASE}/openapi.json</code></a> (OpenAPI 3.1).
Calls carry <code>Authorization: Bearer &lt;token&gt;</code>, but those that make somebody known. Bodies are
JSON, times RFC 3339 in UTC. Lists
take <code>limit</code> and <code>cursor</code>. A POST may carry an <code>Idempotency-Key</code>: repeated, it is done
once. What is read has an <code>ETag</code>; a change that sends it as <code>If-Match</code> is refused if somebody was
faster. Who calls too often gets 429 with <code>Retry-After</code>. A created secret is in that one
answer and nowhere else.</p>
<h2>Operations</h2>
{sections}
{problems()}
</body></html>
"""


def problems() -> str:
    """The section with every problem, each under its code."""
    rows = "\n".join(_problem(code) for code in ProblemCode)
    return f"""<h2>Problems</h2>
<p>Errors are <code>application/problem+json</code> (RFC 9457). <code>code</code> is stable; <code>errors</code> lists each
field that is not as it must be, with a <code>pointer</code> to it in the body.</p>
<table><tr><th>code</th><th>status</th><th>meaning</th></tr>
{rows}
</table>"""


def _operation(operation: AnyOperation, *, known: bool) -> str:
    fields = _fields(operation)
    refused = refusals(operation, known=known)
    codes = ", ".join(f'<a href="#{code.code}">{code.value.status} {code.code}</a>' for code in refused)
    return f"""<section id="{escape(operation.id)}">
<h3><code>{operation.method} {escape(BASE + operation.path)}</code></h3>
<p>{escape(operation.summary)}</p>
<p>{fields}Answers {operation.status}, or {codes}.</p>
</section>"""


def _fields(operation: AnyOperation) -> str:
    parts = []
    for title, model in (("Query", operation.query_model), ("Body", operation.body_model)):
        if model is NoBody or not model.model_fields:
            continue
        names = ", ".join(
            f"<code>{escape(name)}</code>{' (required)' if field.is_required() else ''}"
            for name, field in model.model_fields.items()
        )
        parts.append(f"{title}: {names}.<br>")
    return "".join(parts)


def _problem(code: ProblemCode) -> str:
    meaning = code.value
    return (
        f'<tr id="{code.code}"><td><code>{code.code}</code></td><td>{meaning.status}</td>'
        f"<td>{escape(meaning.title)}. {escape(meaning.detail)}</td></tr>"
    )
