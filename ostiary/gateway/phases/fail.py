"""fail: the only place where an error becomes an answer. RFC 9457 problem details, or plain text for clients that want no
JSON. Nothing of the request is repeated in it but the request id."""

from __future__ import annotations

import json
import re
from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.states import State

# `title` and reason phrase are ours, so they can't break a status line.
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code.value.status} {code.value.title}\r\n" for code in ErrorCode}
_is_zero_weight: Final = re.compile(rb"q=0(?:\.0{0,3})?").fullmatch  # RFC 9110 §12.4.2


def fail(exchange: Exchange, error: GatewayError) -> bytes | None:
    """The answer for `error`, or None when the answer has begun and can only be broken off. Sets `error` and
    `answer_status`."""
    exchange.error = error
    client = exchange.client
    if client.state in (State.ANSWERING, State.EARLY):
        exchange.complete = False
        return None
    exchange.answer_status = error.code.value.status
    if error.closes or client.state is State.BODY:
        client.keep_alive = False
    decision = exchange.decision
    answer = render(
        error,
        pages=exchange.snapshot.problem_pages,
        request_id=exchange.request_id,
        accept=exchange.head.values.get(b"accept"),
        keep_alive=client.keep_alive,
        old=exchange.head.minor == 0,
        bodiless=exchange.head.method == b"HEAD",
        limits=decision.headers if decision is not None else b"",
    )
    exchange.bytes_out = len(answer) - answer.index(b"\r\n\r\n") - 4
    return answer


def render(
    error: GatewayError,
    *,
    pages: str,
    request_id: bytes,
    accept: bytes | None,
    keep_alive: bool,
    old: bool = False,
    bodiless: bool = False,
    limits: bytes = b"",
) -> bytes:
    """A whole answer. `pages` is what its `type` begins with."""
    code = error.code
    detail = error.detail or code.value.detail
    if accepts_json(accept):
        kind = "application/problem+json"
        problem = {
            "type": pages + code.page,
            "title": code.value.title,
            "status": code.value.status,
            "detail": detail,
            "code": code.code,
            "request_id": request_id.decode(),
        }
        body = json.dumps(problem).encode() + b"\n"
    else:
        kind = "text/plain; charset=utf-8"
        body = f"{code.value.title}\n{detail}\ncode: {code.code}\nrequest id: {request_id.decode()}\n".encode()
    head = [_STATUS_LINES[code], f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"]
    head.extend(f"{name}: {value}\r\n" for name, value in error.headers if value)
    told = any(name == "Retry-After" for name, _ in error.headers)
    if not told and code.value.status in (502, 503, 504) and code.value.retry_is_safe:
        head.append("Retry-After: 1\r\n")
    head.append("Cache-Control: no-store\r\n")
    if not keep_alive:
        head.append("Connection: close\r\n")
    elif old:
        head.append("Connection: keep-alive\r\n")
    head.append(f"X-Request-Id: {request_id.decode()}\r\n")
    return "".join(head).encode() + limits + b"\r\n" + (b"" if bodiless else body)


def accepts_json(accept: bytes | None) -> bool:
    """Whether problem+json is welcome: no Accept, or one that has `*/*`, `application/*` or some JSON (q=0 refuses)."""
    if accept is None or not accept:
        return True
    for entry in accept.lower().split(b",")[:32]:
        kind, _, parameters = entry.partition(b";")
        kind = kind.strip(b" \t")
        if kind in (b"*/*", b"application/*") or kind.endswith((b"/json", b"+json")):
            weights = (part.strip(b" \t") for part in parameters.split(b";"))
            if not any(_is_zero_weight(weight) is not None for weight in weights):
                return True
    return False
