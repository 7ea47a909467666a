"""What every call must be, whatever it asks: authorized, well formed, within bounds. And what every answer is."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from typing import Any

import pytest

from ostiary.control_plane import accounts, keys, usage
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.operations import AnyOperation
from ostiary.control_plane.log import JsonFormatter
from ostiary.core.encryption import Envelope
from ostiary.core.model import Configuration
from tests.control_plane.support import OPERATOR_TOKEN, Api

DIRECTORY = accounts.Accounts()


async def _no_limits(_: Connection) -> Configuration:
    raise AssertionError("nothing is answered here")


OPERATIONS: tuple[AnyOperation, ...] = (
    *accounts.operations(DIRECTORY),
    *keys.operations(keys.Keys(plans=keys.the_plans(()), envelope=Envelope(bytes(32)), key_prefix="")),
    *usage.operations(usage.Usage(accounts=DIRECTORY), usage.Quotas(limits=_no_limits, counters=usage.Counters(None))),
)
# Paths with every parameter filled in, and what a right call could send.
ADDRESSES = [(operation.method, re.sub(r"\{.*?\}", "x", operation.path)) for operation in OPERATIONS]


WRONG_AUTHORIZATIONS = (
    "",
    "Bearer",
    "Bearer ",
    f"Bearer {OPERATOR_TOKEN[:-1]}",
    f"Bearer {OPERATOR_TOKEN}x",
    f"Bearer  {OPERATOR_TOKEN}",
    f"Bearer {OPERATOR_TOKEN.upper()}",
    f"Basic {OPERATOR_TOKEN}",
    OPERATOR_TOKEN,
    "Bearer é",
    f"Bearer {'x' * 4000}",
)


@pytest.mark.parametrize(("method", "path"), [*ADDRESSES, ("GET", "/nothing"), ("DELETE", "/apps")])
async def test_without_the_operator_token_no_route_does_anything(refusing_api: Api, method: str, path: str) -> None:
    """A route that someone forgot to close would be open to the network."""
    for authorization in (None, *WRONG_AUTHORIZATIONS):
        headers = {} if authorization is None else {"Authorization": authorization}
        reply = await refusing_api.request(method, path, token=None, headers=headers, json={"name": "x"})
        assert reply.status == 401, authorization
        assert reply.code == ("credentials_missing" if authorization is None else "credentials_invalid")
        assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
        assert OPERATOR_TOKEN[:-1] not in reply.text


async def test_two_authorizations_are_none(refusing_api: Api) -> None:
    """A proxy before us may have looked at the other one."""
    raw = await _raw(
        refusing_api,
        b"GET /api/v1/apps HTTP/1.1\r\nHost: x\r\n"
        + f"Authorization: Bearer {OPERATOR_TOKEN}\r\nAuthorization: Bearer {OPERATOR_TOKEN}\r\n".encode()
        + b"Connection: close\r\n\r\n",
    )
    assert raw.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/api/v1/openapi.json"])
async def test_what_holds_no_data_needs_no_token(refusing_api: Api, path: str) -> None:
    """A load balancer has no token; a newcomer could not read how to get one."""
    assert (await refusing_api.get(path, token=None)).status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{'name': 'x'}", "is not JSON"),
        (b'{"name": "x"} {}', "is not JSON"),
        (b'\xef\xbb\xbf{"name": "x"}', "is not JSON"),
        (b'{"name": "x", "name": "y"}', "same name twice"),
        (b'{"name": "x", "a": {"b": 1, "b": 2}}', "same name twice"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": -Infinity}', "Infinity"),
        (b'{"name": 1e400}', "out of range"),
        (b'{"name": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"name": "a\\u0000b"}', "NUL"),
        (b'{"a\\u0000b": "x"}', "NUL"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b"[" * 30_000 + b"]" * 30_000, "nested"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nested"),
        (b"\x00\x01\x02", "is not JSON"),
    ],
)
@pytest.mark.parametrize("path", ["/organizations", "/apps"])
async def test_a_body_that_is_not_strict_json_is_malformed(
    refusing_api: Api, path: str, body: bytes, says: str
) -> None:
    """Row 128: each of these is read differently by some parser, or ends as a fault in Postgres; never 500."""
    reply = await refusing_api.post_text(path, body)
    assert (reply.status, reply.code) == (400, "malformed_request")
    assert says in reply.document["detail"]


@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "{}", "true"])
async def test_json_that_is_no_such_document_is_refused_by_field(refusing_api: Api, body: str) -> None:
    """Row 128: a type error would be a fault."""
    reply = await refusing_api.post_text("/organizations", body)
    assert (reply.status, reply.code) == (422, "invalid_fields")


async def test_a_body_beyond_its_bound_is_refused_however_it_is_sent(refusing_api: Api) -> None:
    """A client could fill the memory."""
    large = json.dumps({"name": "x" * 70_000})
    assert (await refusing_api.post_text("/organizations", large)).status == 413

    async def chunks() -> Any:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000].encode()

    reply = await refusing_api.request(
        "POST", "/organizations", data=chunks(), headers={"Content-Type": "application/json"}
    )
    assert (reply.status, reply.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_another_media_type_is_refused(refusing_api: Api, headers: dict[str, str]) -> None:
    """A browser's form could make changes; a compressed body could unpack to gigabytes."""
    body = gzip.compress(b'{"name": "x"}') if "Content-Encoding" in headers else b'{"name": "x"}'
    reply = await refusing_api.request("POST", "/organizations", data=body, headers=headers)
    assert (reply.status, reply.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%20 10", "limit"),
        ("limit=1e1", "limit"),
        ("limit=٣", "limit"),
        ("limit=10&limit=20", "limit"),
        ("limit=", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=" + "A" * 300, "cursor"),
        ("cursor=WzEsMl0", "cursor"),
        ("cursor=' OR 1=1 --", "cursor"),
        ("organization_id=1", "organization_id"),
        ("sort=name", "sort"),
        ("organization_id=%00", "organization_id"),
    ],
)
async def test_a_wrong_query_parameter_is_named(refusing_api: Api, query: str, field: str) -> None:
    """Row 128: a parameter that is not understood would be ignored, or reach SQL."""
    reply = await refusing_api.get(f"/apps?{query}")
    assert (reply.status, list(reply.fields)) == (422, [field])


async def test_a_wrong_address_or_method_is_a_problem_document(refusing_api: Api) -> None:
    """Clients would have to read two kinds of errors."""
    reply = await refusing_api.get("/nothing")
    assert (reply.status, reply.code) == (404, "not_found")
    reply = await refusing_api.request("DELETE", "/organizations")
    assert (reply.status, reply.code, reply.headers["Allow"]) == (405, "method_not_allowed", "GET, POST")
    for answer in (reply, await refusing_api.get("/nothing")):
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert set(answer.document) == {"type", "title", "status", "detail", "code", "request_id"}


async def test_every_answer_has_a_request_id_and_tells_no_version(api: Api) -> None:
    """A caller could not name the call in question; an attacker would know which holes to try."""
    for path in ("/apps", "/nothing", "/healthz", "/docs", "/apps?limit=0", "/api/v1/openapi.json"):
        reply = await api.get(path, headers={"X-Request-Id": "mine-1.2_3"})
        assert reply.headers["X-Request-Id"] == "mine-1.2_3"
        assert reply.headers["Server"] == "ostiary"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert "unsafe-inline" not in reply.headers["Content-Security-Policy"]
    for sent in ("", "a b", "x" * 129, "é"):
        made = (await api.get("/nothing", headers={"X-Request-Id": sent})).headers["X-Request-Id"]
        assert re.fullmatch("[0-9a-f]{32}", made)


async def test_a_fault_is_an_answer_without_its_text_and_a_log_line_without_values(
    api: Api, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 132: a driver's error quotes the values it choked on, and one may be a secret."""
    await connection.execute(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'canary %', NEW.name; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON organizations FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )
    reply = await api.post("/organizations", {"name": "precious"})
    assert (reply.status, reply.code) == (500, "internal_error")
    lines = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert '"internal_error"' in lines
    assert reply.document["request_id"] in lines
    for canary in ("canary", "precious"):
        assert canary not in reply.text + lines


async def test_a_database_that_refuses_for_now_is_503_and_recovers(api: Api, connection: Connection) -> None:
    """A passing fault would look like a bug, and clients would not try again."""
    await connection.execute("BEGIN; LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE")
    reply = await api.get("/organizations")
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "database_unavailable", "2")
    await connection.execute("ROLLBACK")
    assert (await api.get("/organizations")).status == 200
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ostiary-control-plane'"
        " AND datname = current_database()"
    )
    async with asyncio.timeout(5):
        while (await api.get("/organizations")).status != 200:
            pass


async def test_a_body_is_invited_only_from_who_may_send_it(api: Api) -> None:
    """Strangers would be told to send their bodies."""
    head = (
        b"POST /api/v1/organizations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
        b"Expect: 100-continue\r\nConnection: close\r\n"
    )
    assert (await _raw(api, head + b"Authorization: Bearer wrong\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
    invited = await _raw(api, head + f"Authorization: Bearer {OPERATOR_TOKEN}\r\n\r\n".encode(), b'{"name": "x"}')
    assert invited.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")


async def _raw(api: Api, head: bytes, body: bytes = b"") -> bytes:
    """Everything the server sends; the body goes out after the first bytes of an answer."""
    server = api.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    async with asyncio.timeout(10):
        writer.write(head)
        answer = await reader.read(1) if body else b""
        writer.write(body)
        answer += await reader.read()
    writer.close()
    return answer
