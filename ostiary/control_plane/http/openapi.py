"""The OpenAPI 3.1 document, from the operations that are served."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ostiary import __version__
from ostiary.control_plane.http.fields import NoBody, NoParameters, Parameters
from ostiary.control_plane.http.operations import BASE, AnyOperation
from ostiary.control_plane.http.problems import MEDIA_TYPE, ProblemCode

_REFERENCE = "#/components/schemas/{model}"

# What any operation may answer, whatever its handler does.
COMMON = (
    ProblemCode.CREDENTIALS_MISSING,
    ProblemCode.CREDENTIALS_INVALID,
    ProblemCode.EXPECTATION_FAILED,
    ProblemCode.INVALID_FIELDS,  # a query parameter that the operation does not know
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.OVERLOADED,
    ProblemCode.DATABASE_UNAVAILABLE,
)
WITH_BODY = (
    ProblemCode.MALFORMED_REQUEST,
    ProblemCode.REQUEST_TIMEOUT,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
)
WITH_IDEMPOTENCY_KEY = (ProblemCode.CALL_UNDER_WAY, ProblemCode.IDEMPOTENCY_KEY_REUSED)


def refusals(operation: AnyOperation) -> tuple[ProblemCode, ...]:
    """Every problem the operation may answer with, in order of status."""
    codes = {*COMMON, *operation.refusals}
    if operation.body_model is not NoBody:
        codes.update(WITH_BODY)
    if operation.takes_idempotency_key:
        codes.update(WITH_IDEMPOTENCY_KEY)
    if operation.path_model is not NoParameters:
        codes.add(ProblemCode.NOT_FOUND)
    if operation.shown_once:
        codes.update((ProblemCode.SECRET_ALREADY_SHOWN, ProblemCode.KEY_SERVICE_UNAVAILABLE))
    return tuple(sorted(codes, key=lambda code: (code.value.status, code.code)))


def document(operations: Sequence[AnyOperation]) -> dict[str, Any]:
    """The whole document. Two models of one name would be an error here, at start, not a wrong document."""
    schemas = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(BASE + operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ostiary control plane",
            "version": __version__,
            "summary": "Organizations, apps, keys and usage.",
            "description": "Times are RFC 3339 in UTC. Errors are RFC 9457 problem documents; `code` is stable. A created "
            "secret is in that one answer and nowhere else.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"operatorToken": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "operatorToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The operator token of the configuration (control_plane.operator_token).",
                }
            },
        },
    }


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
                        "line": {"type": "integer", "description": "in a field that is a text of many lines"},
                        "column": {"type": "integer"},
                    },
                },
            },
            "about": {"type": "string", "format": "uri-reference", "description": "the resource to look at"},
        },
    }


def _operation(operation: AnyOperation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {str(operation.status): _success(operation), **_failures(operation)},
    }
    parameters = _parameters("path", operation.path_model) + _parameters("query", operation.query_model)
    if operation.takes_idempotency_key:
        parameters.append(_IDEMPOTENCY_KEY)
    if operation.body_model is not NoBody:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(operation.body_model)}},
        }
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
_REQUEST_ID_HEADER = {"X-Request-Id": {"description": "in the log too", "schema": {"type": "string"}}}


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


def _success(operation: AnyOperation) -> dict[str, Any]:
    headers: dict[str, Any] = dict(_REQUEST_ID_HEADER)
    if operation.location is not None:
        headers["Location"] = {
            "description": "the resource made or changed",
            "schema": {"type": "string", "format": "uri-reference"},
        }
    content: dict[str, Any] = {"application/json": {"schema": _reference(operation.answer)}}
    if operation.csv is not None:
        content["text/csv"] = {"schema": {"type": "string", "description": "with `format=csv`"}}
    return {
        "description": "Done.",
        "headers": headers,
        "content": content,
    }


def _failures(operation: AnyOperation) -> dict[str, Any]:
    by_status: dict[int, list[ProblemCode]] = {}
    for code in refusals(operation):
        by_status.setdefault(code.value.status, []).append(code)
    return {
        str(status): {
            "description": "; ".join(f"`{code.code}`: {code.value.title}" for code in codes),
            "headers": _REQUEST_ID_HEADER,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, codes in by_status.items()
    }


def _reference(model: type[BaseModel]) -> Mapping[str, str]:
    return {"$ref": _REFERENCE.format(model=re.sub(r"[^a-zA-Z0-9._-]", "_", model.__name__))}
