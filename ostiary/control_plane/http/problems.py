"""Every refusal of the control-plane API, once, and the one place where it becomes an answer (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from urllib.parse import quote

from aiohttp import web

MEDIA_TYPE = "application/problem+json"


class Meaning(NamedTuple):
    status: int
    title: str
    detail: str


class ProblemCode(Enum):
    """The value is the meaning; the lower-case name is the `code` that clients see. Names are stable."""

    MALFORMED_REQUEST = Meaning(400, "Malformed request", "The request can't be read.")
    CREDENTIALS_MISSING = Meaning(
        401, "Credentials missing", "Send a token: Authorization: Bearer <token>. Or sign in, in a browser."
    )
    CREDENTIALS_INVALID = Meaning(401, "Credentials invalid", "This is not valid, or not any more.")
    ROLE_MISSING = Meaning(403, "Role missing", "Your role does not allow this; see /docs for the one that does.")
    CLIENT_CERTIFICATE_MISSING = Meaning(
        403,
        "Client certificate missing",
        "A call by the platform's own people needs a client certificate besides its token: make the connection with one that "
        "`control_plane.listen.tls.client_ca` has signed (ostiary: --client-certificate and --client-key).",
    )
    CLIENT_CERTIFICATE_REFUSED = Meaning(
        403,
        "Client certificate refused",
        "The client certificate of this connection is revoked, or has ended: make another connection, with one that holds.",
    )
    FOREIGN_PAGE = Meaning(
        403,
        "Foreign page",
        "By a session, changes are made from pages of this server alone, with the header X-Ostiary-Request: 1.",
    )
    NOT_FOUND = Meaning(404, "Not found", "There is nothing at this address; see /docs for what there is.")
    METHOD_NOT_ALLOWED = Meaning(405, "Method not allowed", "This resource does not take this method; see Allow.")
    REQUEST_TIMEOUT = Meaning(408, "Request timeout", "The body did not arrive in time.")
    CONFLICT = Meaning(409, "Conflict", "The change contradicts what is there already.")
    CALL_UNDER_WAY = Meaning(
        409, "Call under way", "A call with this Idempotency-Key is still under way; repeat it in a few seconds."
    )
    SECRET_ALREADY_SHOWN = Meaning(
        409,
        "Secret already shown",
        "An earlier call with this Idempotency-Key made the secret, and it was in that one answer. If the answer was lost, "
        "rotate the key with a new Idempotency-Key, and end the generation whose secret nobody has; or revoke what was made, "
        "and make another.",
    )
    BODY_TOO_LARGE = Meaning(413, "Body too large", "The body is larger than this operation takes.")
    UNSUPPORTED_MEDIA_TYPE = Meaning(
        415, "Unsupported media type", "Send the body as application/json, in UTF-8 and not compressed."
    )
    PRECONDITION_FAILED = Meaning(
        412,
        "Precondition failed",
        "The resource is no longer as If-Match says: somebody has changed it. Read it again, and decide anew.",
    )
    EXPECTATION_FAILED = Meaning(417, "Expectation failed", "The only expectation understood is 100-continue.")
    INVALID_FIELDS = Meaning(422, "Invalid fields", "Some fields are not as they must be; see errors.")
    IDEMPOTENCY_KEY_REUSED = Meaning(
        422,
        "Idempotency key reused",
        "This Idempotency-Key belongs to an earlier call that was not the same. Use a new one for every new call.",
    )
    RATE_LIMITED = Meaning(429, "Rate limited", "Too many calls. Wait as many seconds as Retry-After says.")
    TOO_MANY_ATTEMPTS = Meaning(
        429, "Too many attempts", "Too many attempts to sign in have failed. Wait as long as Retry-After says."
    )
    INTERNAL_ERROR = Meaning(500, "Internal error", "Something went wrong here. The log has this request_id.")
    OVERLOADED = Meaning(503, "Overloaded", "Too many calls are under way. Try again soon.")
    KEY_SERVICE_UNAVAILABLE = Meaning(
        503,
        "Key service unavailable",
        "The service that keeps the key-encryption key can't be asked now, so no secret can be stored: no key was made. Try "
        "again soon.",
    )
    ISSUER_UNAVAILABLE = Meaning(
        503,
        "Issuer unavailable",
        "The keys of your token's issuer can't be had now. Keep the token, and try again soon.",
    )
    DATABASE_UNAVAILABLE = Meaning(503, "Database unavailable", "Postgres can't be used now. Try again soon.")

    @property
    def code(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """`field` is the path of names and positions, joined by dots; empty for the whole body. `pointer` is the same place in
    the body as a JSON Pointer in a fragment (RFC 6901 §6), None for what stands in the query. Never quotes the value. `line`
    and `column` count from 1, within a field that is a text of many lines."""

    field: str
    problem: str
    line: int | None = None
    column: int | None = None
    pointer: str | None = None

    def members(self) -> dict[str, object]:
        where = {} if self.line is None else {"line": self.line, "column": self.column}
        pointed = {} if self.pointer is None else {"pointer": self.pointer}
        return {"field": self.field, "problem": self.problem, **where, **pointed}


def pointer(path: Sequence[str | int]) -> str:
    """`#/a/0`, as in RFC 9457 §3."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return "#" + "".join("/" + quote(part, safe="~!$&'()*+,;=:@") for part in escaped)


class Problem(Exception):
    """A call that ends in a refusal. `detail` is for the client; `about` names a thing the client should look at."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str | None = None,
        *,
        errors: Sequence[FieldProblem] = (),
        headers: Sequence[tuple[str, str]] = (),
        about: str | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = code.value.detail if detail is None else detail
        self.errors = tuple(errors)
        self.headers = tuple(headers)
        self.about = about


class NotPermitted(Problem):
    """A call refused for want of a right; also one for what is not there, or is another organization's and looks so.
    `organization_id` is where the caller is a member without that right: its people may know of it."""

    def __init__(
        self, code: ProblemCode, *, errors: Sequence[FieldProblem] = (), organization_id: str | None = None
    ) -> None:
        super().__init__(code, errors=errors)
        self.organization_id = organization_id


def invalid(field: str, problem: str) -> Problem:
    """The refusal of one field."""
    return Problem(ProblemCode.INVALID_FIELDS, errors=(FieldProblem(field, problem),))


def document(problem: Problem, request_id: str) -> dict[str, object]:
    """The problem as JSON. `type` is relative to this server (RFC 9457 §3.1.1): /docs explains each code."""
    meaning = problem.code.value
    members: dict[str, object] = {
        "type": f"/docs#{problem.code.code}",
        "title": meaning.title,
        "status": meaning.status,
        "detail": problem.detail,
        "code": problem.code.code,
        "request_id": request_id,
    }
    if problem.errors:
        members["errors"] = [error.members() for error in problem.errors]
    if problem.about is not None:
        members["about"] = problem.about
    return members


def answer(problem: Problem, request_id: str) -> web.Response:
    response = web.Response(
        status=problem.code.value.status,
        body=json.dumps(document(problem, request_id)).encode(),
        content_type=MEDIA_TYPE,
    )
    for name, value in problem.headers:
        response.headers[name] = value
    return response
