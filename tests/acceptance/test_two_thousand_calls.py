"""The main job, end to end: what passes is not changed by a byte, and is metered once. Real clients, a real gateway of two
workers, httpbin behind gunicorn, real stores."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ostiary.demo.stores import EmbeddedValkey
from tests.acceptance import stack
from tests.acceptance.calls import Answer, Call, make_calls, with_credentials
from tests.acceptance.clients import CLIENTS
from tests.acceptance.conftest import Connection
from tests.support.gateway_process import SECRET

CALLS_OF_EACH = 700
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}
DETERMINISTIC = {"image", "text", "range", "status"}


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, int]]:
    """The directory of httpbin's record, the ports of httpbin and of the raw origin."""
    directory = tmp_path_factory.mktemp("origins")
    with stack.httpbin(directory) as httpbin_port, stack.raw_origin(directory) as raw_port:
        yield directory, httpbin_port, raw_port


@pytest.mark.parametrize("client", [pytest.param("curl", marks=pytest.mark.full), "requests", "httpx"])
async def test_every_call_arrives_unchanged_and_is_one_row(
    client: str,
    origins: tuple[Path, int, int],
    database: str,
    rows: Connection,
    valkey_server: EmbeddedValkey,
    directory: Path,
) -> None:
    """Row 94: a gateway that changes a byte, meters a call twice or not at all is of no use to anyone. The origins' own
    records, Postgres and the client agree on every call."""
    record, httpbin_port, raw_port = origins
    routes = {"/**": httpbin_port, "/raw/**": raw_port}
    calls = make_calls(CALLS_OF_EACH, seed=len(client))
    sent = {call.number: with_credentials(call, prefix=client, key_id=stack.KEY_ID, secret=SECRET) for call in calls}
    with stack.gateway(directory, routes, postgres=database, redis=valkey_server.url()) as gateway:
        origin = f"http://127.0.0.1:{gateway.port}"
        began = time.monotonic()
        answers = await asyncio.to_thread(CLIENTS[client], origin, calls, lambda call: sent[call.number], directory)
        seconds = time.monotonic() - began
        ids = [hop.request_id for answer in answers for hop in answer.hops]
        events = await _events(rows, ids)
        status, said = await asyncio.to_thread(stack.reconcile, directory)
    print(f"{client}: {len(calls)} calls, {len(ids)} requests in {seconds:.1f} s")

    at_httpbin = _httpbin_record(record / "httpbin.jsonl", set(ids))
    at_raw = Counter(await asyncio.to_thread(_raw_record, raw_port))
    log = Counter({name: len(lines) for name, lines in at_httpbin.items()}) + Counter(
        {name: count for name, count in at_raw.items() if name in set(ids)}
    )
    assert set(Counter(ids).values()) == {1}
    assert log == Counter(ids)  # each reached an origin, once
    assert Counter(row["request_id"] for row in events) == log  # and each is one row
    assert (status, "accounted for" in said) == (0, True), said

    event_of = {row["request_id"]: row for row in events}
    for call, answer in zip(calls, answers, strict=True):
        try:
            _check_answer(call, answer, at_httpbin)
            _check_events(call, answer, event_of)
            if call.target.startswith("/raw/"):
                _check_raw(call, answer)
            else:
                _check_request(call, sent[call.number], at_httpbin[answer.hops[0].request_id][0])
        except AssertionError as error:
            raise AssertionError(f"{call.kind} {call.method} {call.target}: {error}") from error
    _compare_with_direct_calls(f"http://127.0.0.1:{httpbin_port}", calls, answers)


async def _events(rows: Connection, ids: list[str]) -> list[Any]:
    """The events of `ids` once there are as many, or what there is in 20 s."""
    deadline = time.monotonic() + 20
    while len(found := await stack.usage_rows(rows, ids)) < len(ids) and time.monotonic() < deadline:  # noqa: ASYNC110  of another process
        await asyncio.sleep(0.05)
    return found


def _raw_record(port: int) -> dict[str, int]:
    record: dict[str, int] = httpx.get(f"http://127.0.0.1:{port}/raw/log", trust_env=False).json()
    return record


def _httpbin_record(path: Path, ids: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["id"] in ids:
            found.setdefault(line["id"], []).append(line)
    return found


def _check_answer(call: Call, answer: Answer, at_httpbin: dict[str, list[dict[str, Any]]]) -> None:
    """The client has what the application gave: status, every header, every byte."""
    for hop in answer.hops:
        if hop.request_id not in at_httpbin:
            assert hop.status == 200
            continue
        (line,) = at_httpbin[hop.request_id]
        assert hop.status == line["status"]
        got = [(name.lower(), value) for name, value in hop.headers]
        for name, value in line["answer_headers"]:
            if name.lower() not in HOP_BY_HOP:
                assert (name.lower(), value) in got
    if answer.last.request_id in at_httpbin:
        (line,) = at_httpbin[answer.last.request_id]
        if call.method != "HEAD":
            assert len(answer.body) == line["answer_bytes"]
            assert hashlib.sha256(answer.body).hexdigest() == line["answer_sha256"]
    if call.follow:
        assert [hop.status for hop in answer.hops] == [302] * (1 + call.number % 3) + [200]
    if call.method == "HEAD":
        assert answer.body == b""


def _check_request(call: Call, sent: tuple[tuple[str, str], ...], line: dict[str, Any]) -> None:
    """The application got what the client sent, without its credentials."""
    body = call.body or b""
    assert (line["method"], line["target"]) == (call.method, call.target)
    assert (line["body_bytes"], line["body_sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    seen = line["headers"]
    for name, value in call.headers:
        variable = name.upper().replace("-", "_")
        assert seen.get(variable, seen.get(f"HTTP_{variable}")) == value
    assert not {"HTTP_X_API_KEY", "HTTP_X_NONCE", "HTTP_X_TIMESTAMP", "HTTP_AUTHORIZATION"} & seen.keys()
    assert seen["HTTP_X_OSTIARY_KEY"] == stack.KEY_ID
    if call.chunked:  # a signed body is gathered first, so its length is known by then
        signed = "X-Nonce" in dict(sent)
        assert seen.get("HTTP_TRANSFER_ENCODING") == (None if signed else "chunked")
        assert seen.get("CONTENT_LENGTH") == (str(len(body)) if signed else None)


def _check_raw(call: Call, answer: Answer) -> None:
    """Nothing between the origin and the wire: the head as it came, the body back."""
    headers = {name.lower(): (name, value) for name, value in answer.last.headers}
    lines = base64.b64decode(headers["x-head"][1]).split(b"\r\n")
    assert lines[0] == f"{call.method} {call.target} HTTP/1.1".encode()
    for name, value in call.headers:
        assert f"{name}: {value}".encode() in lines
    assert not any(line.lower().startswith((b"x-api-key", b"x-nonce", b"x-timestamp")) for line in lines)
    assert answer.body == call.body
    assert headers["x-odd-case"][1].strip() == "kept"


def _check_events(call: Call, answer: Answer, event_of: dict[str, Any]) -> None:
    for hop in answer.hops:
        event = event_of[hop.request_id]
        assert (event["method"], event["status"], event["key_id"]) == (call.method, hop.status, stack.KEY_ID)
        assert (event["complete"], event["overage"], event["environment"]) == (True, False, "test")
        assert event["path_template"] == ("/raw/**" if call.target.startswith("/raw/") else "/**")
        assert event["bytes_in"] == len(call.body or b"")
    assert event_of[answer.last.request_id]["bytes_out"] == len(answer.body)


def _compare_with_direct_calls(origin: str, calls: list[Call], answers: list[Answer]) -> None:
    """What does not depend on who asks is the same with and without the gateway."""
    with httpx.Client(base_url=origin, trust_env=False, timeout=30) as direct:
        for call, answer in zip(calls, answers, strict=True):
            if call.kind not in DETERMINISTIC:
                continue
            with direct.stream(call.method, call.target, headers=list(call.headers)) as response:
                assert response.status_code == answer.last.status, call
                assert b"".join(response.iter_raw()) == answer.body, call
