"""The OpenAPI 3.1 document, from the operations that are served."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ostiary import __version__
from ostiary.control_plane.http import browser, examples, preconditions
from ostiary.control_plane.http.fields import NoBody, NoParameters, Parameters
from ostiary.control_plane.http.links import links
from ostiary.control_plane.http.operations import BASE, AnyOperation, Method
from ostiary.control_plane.http.problems import MEDIA_TYPE, FieldProblem, Problem, ProblemCode
from ostiary.control_plane.http.problems import document as problem_document

# Any of these, and all that it names.
Security = Sequence[Mapping[str, Sequence[str]]]

_REFERENCE = "#/components/schemas/{model}"

# What any operation may answer, whatever its handler does.
COMMON = (
    ProblemCode.CREDENTIALS_MISSING,
    ProblemCode.CREDENTIALS_INVALID,
    ProblemCode.CLIENT_CERTIFICATE_REFUSED,
    ProblemCode.EXPECTATION_FAILED,
    ProblemCode.INVALID_FIELDS,  # a query parameter that the operation does not know
    ProblemCode.RATE_LIMITED,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.OVERLOADED,
    ProblemCode.DATABASE_UNAVAILABLE,
)
# Where it has to be known who calls.
OF_KNOWN = (
    ProblemCode.ROLE_MISSING,
    ProblemCode.CLIENT_CERTIFICATE_MISSING,
)
WITH_BODY = (
    ProblemCode.MALFORMED_REQUEST,
    ProblemCode.REQUEST_TIMEOUT,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
)
WITH_IDEMPOTENCY_KEY = (ProblemCode.CALL_UNDER_WAY, ProblemCode.IDEMPOTENCY_KEY_REUSED)


def refusals(operation: AnyOperation, *, known: bool) -> tuple[ProblemCode, ...]:
    """Every problem the operation may answer with, in order of status; `known` if not everyone may call it."""
    codes = {*COMMON, *operation.refusals}
    if known:
        codes.update(OF_KNOWN)
        if operation.method not in browser.SAFE_METHODS:
            codes.add(ProblemCode.FOREIGN_PAGE)
    if operation.body_model is not NoBody:
        codes.update(WITH_BODY)
    if operation.takes_idempotency_key:
        codes.update(WITH_IDEMPOTENCY_KEY)
    if operation.method is not Method.GET or preconditions.has_versions(operation):
        codes.add(ProblemCode.PRECONDITION_FAILED)
        codes.add(ProblemCode.MALFORMED_REQUEST)
    if operation.path_model is not NoParameters:
        codes.add(ProblemCode.NOT_FOUND)
    if operation.shown_once:
        codes.update((ProblemCode.SECRET_ALREADY_SHOWN, ProblemCode.KEY_SERVICE_UNAVAILABLE))
    return tuple(sorted(codes, key=lambda code: (code.value.status, code.code)))


def document(operations: Sequence[AnyOperation], *, unknown: Collection[str], cookie: str) -> dict[str, Any]:
    """The whole document; `unknown` are the ids of operations for callers who are not known yet, `cookie` is the name of the
    one that browsers have their session in. Two models of one name would be an error here, at start, not a wrong document."""
    schemas = _schemas(operations)
    subjects = preconditions.subjects(operations)
    linked = links(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        security = [] if operation.id in unknown else _security(operation)
        described = _operation(operation, subjects.get(operation.id), schemas, security, linked.get(operation.id, {}))
        paths.setdefault(BASE + operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ostiary control plane",
            "version": __version__,
            "summary": "Organizations, members, users, apps, keys, plans, published routes, usage, events and the audit log.",
            "description": "Times are RFC 3339 in UTC. Errors are RFC 9457 problem documents; `code` is stable. A created "
            "secret is in that one answer and nowhere else. No text that is sent holds a NUL (U+0000).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": _SECURITY_OF_READS,
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                **_BEARERS,
                _SESSION: {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie,
                    "description": "The session of a browser that has signed in (`signIn`). Looked at only where there is no "
                    "Authorization header.",
                },
                _OWN_PAGE: _OWN_PAGE_HEADER,
            },
        },
    }


_BEARERS = {
    "operatorToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "The operator token of the configuration (`control_plane.operator_token`): the role operator, always.",
    },
    "platformToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A program's token (`createPlatformToken`), with its role over the platform, until it expires or is "
        "revoked.",
    },
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's, for 15 minutes (`createAccessToken`, `refreshAccessToken`); or one of the identity "
        "provider that the configuration names (`control_plane.issuer`).",
    },
}
_SESSION = "session"
_OWN_PAGE = "ownPage"
_OWN_PAGE_HEADER = {
    "type": "apiKey",
    "in": "header",
    "name": browser.HEADER,
    "description": "Any value. Asked for beside the session cookie wherever something may be changed, against foreign pages "
    "(CSRF), and with it `Sec-Fetch-Site: same-origin` or, from browsers that do not send that, our own `Origin`.",
}
_SECURITY_OF_READS: Security = [*({name: ()} for name in _BEARERS), {_SESSION: ()}]
_SECURITY_OF_CHANGES: Security = [*({name: ()} for name in _BEARERS), {_SESSION: (), _OWN_PAGE: ()}]


def _security(operation: AnyOperation) -> Security:
    return _SECURITY_OF_READS if operation.method in browser.SAFE_METHODS else _SECURITY_OF_CHANGES


def _schemas(operations: Sequence[AnyOperation]) -> dict[str, Any]:
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for operation in operations:
        models[operation.answer, "serialization"] = None
        if operation.body_model is not NoBody:
            models[operation.body_model, "validation"] = None
    _, schema = models_json_schema(list(models), ref_template=_REFERENCE)
    return {**schema["$defs"], "Problem": _problem_schema()}


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "RFC 9457 problem document.",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "description": "explains the code"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": {"enum": [code.code for code in ProblemCode], "description": "stable"},
            "request_id": text,
            "errors": {
                "type": "array",
                "description": "each field that is not as it must be",
                "items": {
                    "type": "object",
                    "required": ["field", "problem"],
                    "properties": {
                        "field": text,
                        "problem": text,
                        "pointer": {
                            "type": "string",
                            "format": "json-pointer-uri-fragment",
                            "description": "the place in the body (RFC 6901); not for parameters",
                        },
                        "line": {"type": "integer", "description": "in a field that is a text of many lines"},
                        "column": {"type": "integer"},
                    },
                },
            },
            "about": {"type": "string", "format": "uri-reference", "description": "the resource to look at"},
        },
    }


def _operation(
    operation: AnyOperation,
    subject: AnyOperation | None,
    schemas: dict[str, Any],
    security: Security,
    linked: Mapping[str, Any],
) -> dict[str, Any]:
    responses = {
        str(operation.status): _success(operation, subject, schemas, linked),
        **_failures(operation, known=bool(security)),
    }
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": security,
        "responses": responses,
    }
    parameters = _parameters("path", operation.path_model) + _parameters("query", operation.query_model)
    if operation.takes_idempotency_key:
        parameters.append(_IDEMPOTENCY_KEY)
    if subject is not None:
        parameters.append(_IF_MATCH)
    if preconditions.has_versions(operation):
        parameters.append(_IF_NONE_MATCH)
        responses["304"] = {"description": "The client has it already.", "headers": {**_HEADERS, **_ETAG}}
    if operation.body_model is not NoBody:
        described["requestBody"] = {"required": True, "content": _json(operation.body_model, schemas)}
    if parameters:
        described["parameters"] = parameters
    return described


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A text of your own, new for every new call. For 24 hours a repeat of the same call is not done again: it "
    "gets the same answer, with Idempotency-Replayed: true; or `secret_already_shown` where the answer held a secret.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_TAGS = {"type": "string", "anyOf": [{"const": preconditions.ANY}, {"pattern": preconditions.PATTERN}]}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag with which the resource was read: `precondition_failed` if somebody has changed it since. "
    "Without it, the last change wins.",
    "schema": _TAGS,
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of what the client has: 304 if it is still so.",
    "schema": _TAGS,
}
_ETAG = {"ETag": {"description": "the version of the resource", "schema": {"type": "string"}}}
_HEADERS = {
    "X-Request-Id": {"description": "in the log too", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "how often the API may be called", "schema": {"type": "string"}},
    "RateLimit": {"description": "how many calls are left, and seconds until more are", "schema": {"type": "string"}},
}


def _json(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    reference = _reference(model)
    return {"application/json": {"schema": reference, "example": examples.example(reference, schemas)}}


def _parameters(place: str, model: type[Parameters]) -> list[dict[str, Any]]:
    parameters = []
    for name, field in model.model_fields.items():
        schema = TypeAdapter(_annotated(field)).json_schema(ref_template=_REFERENCE)
        described: dict[str, Any] = {"name": name, "in": place, "required": place == "path" or field.is_required()}
        # A parameter that may be left out is not one that may be null.
        choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            schema = choices[0]
        if field.default is not None and not field.is_required():
            schema["default"] = field.default
        parameters.append({**described, "schema": schema})
    return parameters


def _annotated(field: Any) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _success(
    operation: AnyOperation, subject: AnyOperation | None, schemas: dict[str, Any], linked: Mapping[str, Any]
) -> dict[str, Any]:
    headers: dict[str, Any] = dict(_HEADERS)
    if preconditions.has_versions(operation) or (subject is not None and subject.answer is operation.answer):
        headers.update(_ETAG)
    if operation.location is not None:
        headers["Location"] = {
            "description": "the resource made or changed",
            "schema": {"type": "string", "format": "uri-reference"},
        }
    content = _json(operation.answer, schemas)
    if operation.csv is not None:
        content["text/csv"] = {"schema": {"type": "string", "description": "with `format=csv`"}}
    answer: dict[str, Any] = {"description": "Done.", "headers": headers, "content": content}
    return {**answer, "links": linked} if linked else answer


def _failures(operation: AnyOperation, *, known: bool) -> dict[str, Any]:
    by_status: dict[int, list[ProblemCode]] = {}
    for code in refusals(operation, known=known):
        by_status.setdefault(code.value.status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"`{code.code}`: {code.value.title}" for code in codes),
            "headers": _HEADERS,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code.code: {"value": _problem_example(code, operation)} for code in codes},
                }
            },
        }
        for status, codes in by_status.items()
    }


def _problem_example(code: ProblemCode, operation: AnyOperation) -> dict[str, Any]:
    errors = []
    if code is ProblemCode.INVALID_FIELDS:
        in_body = operation.body_model is not NoBody
        errors = [FieldProblem("unknown", "is not a field of this request", pointer="#/unknown" if in_body else None)]
    return problem_document(Problem(code, errors=errors), "3f0d9a6c1e7b4d5f8a2c6b9e0d1f4a7c")


def _reference(model: type[BaseModel]) -> Mapping[str, str]:
    return {"$ref": _REFERENCE.format(model=re.sub(r"[^a-zA-Z0-9._-]", "_", model.__name__))}
