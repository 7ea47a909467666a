"""docs/problems.md and the pages made of it: whoever follows the `type` of an error arrives at what it means."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from ostiary.control_plane.http import problem_pages
from ostiary.control_plane.http.problems import ProblemCode
from ostiary.core.errors import PROBLEM_PAGES, ErrorCode
from ostiary.gateway.telemetry.catalog import FAMILIES
from tests.support.gateway import configuration, route, running_gateway, talk, upstream

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
# Of /status and of log lines: they end like metrics and are none.
FIELDS = frozenset({"silent_seconds", "state_seconds", "next_in_seconds", "spool_bytes"})
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "ostiary").rglob("*.py"))


def test_each_code_has_one_section_and_no_section_is_of_another() -> None:
    """A link from an error answer to nothing; or a page about an error that there is no more."""
    headings = re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE)
    assert sorted(headings) == sorted(code.page for code in ErrorCode)
    assert headings == [code.page for code in sorted(ErrorCode, key=lambda code: code.value.status)], "by status"


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.page)
def test_a_section_has_the_status_of_its_code_and_says_who_does_what(code: ErrorCode) -> None:
    """A 401 described as a 403 sends a developer after the wrong mistake."""
    first, meaning, caller, operator = problem_pages.read_sections(TEXT)[code.page]
    assert first == f"{code.value.status} `{code.code}`"
    assert meaning.startswith("**It means** that ")
    assert caller.startswith("**The caller** ")
    assert operator.startswith("**The operator** ")


@pytest.mark.parametrize("document", ["problems.md", "operations.md"])
def test_documents_for_operators_name_what_exists(document: str) -> None:
    """At 3 a.m. a metric that was renamed is a metric that says nothing is wrong."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    named = {re.split(r"[{ ]", token)[0] for token in re.findall(r"`([^`]+)`", text)}
    words = {name for name in named if re.fullmatch(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+", name)}
    assert len(words) > 15
    metrics = {name for name in words if name.endswith(("_total", "_seconds", "_bytes")) and name not in FIELDS}
    assert metrics <= FAMILIES.keys() | {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    others = words - metrics - {code.code for code in (*ErrorCode, *ProblemCode)}
    assert [name for name in others if not re.search(rf"\b{name}\b", SOURCE)] == []
    for labels in re.findall(r"`([a-z_]+)\{([^}`]*)\}`", text):
        name, pairs = labels
        assert set(re.findall(r"(\w+)=", pairs)) <= set(FAMILIES[name].labels), labels


async def test_the_type_of_an_error_begins_with_what_the_configuration_says() -> None:
    """An operator who serves the pages would send callers to a host that is not his."""
    settings = configuration([upstream(9)], [route(path="/there")])
    calls = {b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n": "route-not-found", b"no HTTP\r\n\r\n": "malformed-request"}
    for base in (PROBLEM_PAGES, "https://api.example.com/problems/"):
        gateway = dataclasses.replace(settings.gateway, problem_pages=base)
        async with running_gateway(dataclasses.replace(settings, gateway=gateway)) as running:
            for call, page in calls.items():
                body = (await talk(running.port, call, eof=True)).partition(b"\r\n\r\n")[2]
                assert json.loads(body)["type"] == base + page
