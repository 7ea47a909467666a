"""Which form an error takes: problem+json, unless the client has said that it wants no JSON (RFC 9110 §12.5.1)."""

from __future__ import annotations

import json

import pytest

from ostiary.core.errors import PROBLEM_PAGES, ErrorCode, GatewayError
from ostiary.gateway.phases.fail import accepts_json, render


@pytest.mark.parametrize(
    "accept",
    [
        None,
        b"",
        b"*/*",
        b"application/json",
        b"application/problem+json",
        b"Application/JSON",
        b"application/*",
        b"application/vnd.api+json",
        b"text/html, application/xhtml+xml, */*;q=0.8",
        b"application/json;q=0.001",
        b"application/json; q=0.5",
        b"application/json ; q=1",
        b"application/json;charset=utf-8",
        b"text/plain;q=0, application/json",
        b"text/html,\tapplication/json",
        b"application/json;q=0, */*;q=0.1, application/problem+json",
    ],
)
def test_json_is_given_to_whoever_takes_it(accept: bytes | None) -> None:
    """Programs read the code of a problem; they say so by any of these, or by nothing."""
    assert accepts_json(accept)


@pytest.mark.parametrize(
    "accept",
    [
        b"text/plain",
        b"text/html, text/*",
        b"application/xml",
        b"application/json;q=0",
        b"application/json;q=0.0",
        b"application/json; q=0.000",
        b"application/json;Q=0",
        b"application/json;charset=utf-8;q=0",
        b"application/json;\tq=0",
        b"*/*;q=0",
        b"*/*;q=0, text/plain",
        b"application/jsonp",
        b"text/plain, " + b"text/x, " * 40 + b"*/*",
    ],
)
def test_plain_text_is_given_to_whoever_takes_no_json(accept: bytes) -> None:
    """A person with a text client reads a sentence; a header without end is not read to its end."""
    assert not accepts_json(accept)


def test_both_forms_say_the_same() -> None:
    """Support asks for code and request id, whichever form the client got."""
    error = GatewayError(ErrorCode.RATE_LIMITED, "not for the client", headers=(("Retry-After", "7"),))
    as_json, as_text = (
        render(error, pages=PROBLEM_PAGES, request_id=b"id-1", accept=accept, keep_alive=True)
        for accept in (None, b"text/plain")
    )
    head, _, body = as_json.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert (problem["code"], problem["status"], problem["request_id"]) == ("rate_limited", 429, "id-1")
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    text_head, _, text = as_text.partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in text_head
    assert b"code: rate_limited\nrequest id: id-1\n" in text
    for each in (head, text_head):
        assert each.startswith(b"HTTP/1.1 429 ")
        assert b"\r\nRetry-After: 7\r\n" in each
        assert b"\r\nX-Request-Id: id-1" in each
    assert b"not for the client" not in as_json + as_text
