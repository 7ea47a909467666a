"""The pages that explain the gateway's errors, as the control plane serves them."""

from __future__ import annotations

import pytest

from ostiary.control_plane.http import problem_pages
from ostiary.core.errors import ErrorCode
from tests.control_plane.support import Api


async def test_every_code_has_a_page_that_needs_no_token(refusing_api: Api) -> None:
    """Callers of the gateway have no operator token, and read these when something failed."""
    for code in ErrorCode:
        reply = await refusing_api.request("GET", f"/problems/{code.page}", token=None)
        assert reply.status == 200, code
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert f"<code>{code.code}</code>" in reply.text
        assert f"<p>{code.value.status} " in reply.text


async def test_a_page_runs_nothing_and_fetches_nothing(refusing_api: Api) -> None:
    """A page on the host of the API that could be made to run a script would have its rights."""
    reply = await refusing_api.request("GET", "/problems/rate-limited", token=None)
    assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert not any(text in reply.text for text in ("<script", "http://", "https://", "src=", "href="))


async def test_what_is_no_page_is_closed(refusing_api: Api) -> None:
    for path in ("/problems/", "/problems/no-such-code", "/problems/rate-limited/more", "/problems/../api/v1/apps"):
        assert (await refusing_api.request("GET", path, token=None)).status == 401, path


def test_text_is_escaped() -> None:
    """`<` in an explanation is a character, not the beginning of a tag."""
    assert problem_pages._inline("a < b & `<script>` **<b>**") == (
        "a &lt; b &amp; <code>&lt;script&gt;</code> <strong>&lt;b&gt;</strong>"
    )


def test_a_text_without_a_code_is_refused_at_the_start() -> None:
    """A page would be missing, and found missing by the caller who needs it."""
    text = problem_pages.installed_text().replace("## rate-limited\n", "## rate-unlimited\n")
    with pytest.raises(ValueError, match="no section rate-limited"):
        problem_pages.pages(text)
