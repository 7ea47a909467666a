"""An operation of the API is declared once, as a value: what comes in, what goes out, what may be refused, who does it.

`dispatch` serves these declarations and `openapi` describes them, so the document can't drift from what is done."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from aiohttp import web

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.access import Caller
from ostiary.control_plane.http.auditing import Audited, AuditedByItself, AuditedExport, Note
from ostiary.control_plane.http.fields import Answer, NoBody, NoParameters, Parameters, Request
from ostiary.control_plane.http.problems import ProblemCode
from ostiary.control_plane.http.reading import BODY_BYTES_MAX

BASE = "/api/v1"

PathT = TypeVar("PathT", bound=Parameters)
QueryT = TypeVar("QueryT", bound=Parameters)
BodyT = TypeVar("BodyT", bound=Request)


class Method(StrEnum):
    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Call(Generic[PathT, QueryT, BodyT]):
    """One call, checked, by a caller who may. `connection` is in a transaction that ends with the call: committed before
    the answer goes out, undone if the handler raises; read-only for GET."""

    path: PathT
    query: QueryT
    body: BodyT
    caller: Caller
    connection: Connection


@dataclass(frozen=True, slots=True)
class UnboundCall(Generic[PathT, BodyT]):
    """One call that is bound to no transaction: its handler opens its own (`http.transactions`). For what has to wait in
    between (a password is hashed) and must not hold a connection meanwhile, and for what stays although the call is refused
    (a failed attempt). `note` writes what was done into the audit log; `answer_headers` go out with the answer."""

    path: PathT
    body: BodyT
    caller: Caller
    request: web.Request
    note: Note
    answer_headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[PathT, QueryT, BodyT]):
    """`path` is below /api/v1. `refusals` are those of the handler itself; those of authorization, of reading the request
    and of faults belong to every operation. `shown_once` names fields of the answer that are never stored. `location` is
    the new resource's path, with fields of the answer in braces. `csv` is what an item of the list is, where it may be had
    as CSV too: the query then has `format`, and `cursor` if the list has pages. `audited` says what the audit log is told;
    what changes something is not served without it. `unbound` ones get an UnboundCall, and take no Idempotency-Key."""

    id: str
    method: Method
    path: str
    tag: str
    summary: str
    handler: Callable[[Any], Awaitable[Answer]]  # takes what the functions below say
    answer: type[Answer]
    path_model: type[PathT]
    query_model: type[QueryT]
    body_model: type[BodyT]
    status: int = 200
    refusals: tuple[ProblemCode, ...] = ()
    shown_once: frozenset[str] = frozenset()
    location: str | None = None
    csv: type[Answer] | None = None
    unbound: bool = False
    audited: Audited | AuditedExport | AuditedByItself | None = None
    body_bytes_max: int = BODY_BYTES_MAX
    only_reads: bool = False  # a POST that changes nothing

    @property
    def takes_idempotency_key(self) -> bool:
        """The other methods do the same when they are repeated, and so does what changes nothing; who is bound to no
        transaction can't keep an answer in it."""
        return self.method is Method.POST and not self.only_reads and not self.unbound


AnyOperation = Operation[Any, Any, Any]


def address(path: str, paths: Collection[str]) -> str:
    """`path` as the router takes it. A parameter stands for nothing that one of `paths` has word for word in its place:
    concrete paths are matched first (OpenAPI 3.1, "Path Templating Matching"), and have their own methods alone."""
    parts = path.split("/")
    named: dict[int, list[str]] = {}
    for other in paths:
        others = other.split("/")
        if len(others) == len(parts) and other != path:
            differing = [number for number, part in enumerate(parts) if part != others[number]]
            if len(differing) == 1 and parts[differing[0]].startswith("{") and not others[differing[0]].startswith("{"):
                named.setdefault(differing[0], []).append(re.escape(others[differing[0]]))
    for number, words in named.items():
        parts[number] = f"{parts[number][:-1]}:(?!(?:{'|'.join(sorted(words))})(?:/|$))[^{{}}/]+}}"
    return BASE + "/".join(parts)


def read(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[PathT, QueryT, NoBody]], Awaitable[Answer]],
    answer: type[Answer],
    path_model: type[PathT] | type[NoParameters] = NoParameters,
    query_model: type[QueryT] | type[NoParameters] = NoParameters,
    refusals: tuple[ProblemCode, ...] = (),
    csv: type[Answer] | None = None,
    audited: AuditedExport | None = None,
) -> AnyOperation:
    """A GET."""
    return Operation(
        id=id,
        method=Method.GET,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        path_model=path_model,
        query_model=query_model,
        body_model=NoBody,
        refusals=refusals,
        csv=csv,
        audited=audited,
    )


def change(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[PathT, NoParameters, BodyT]], Awaitable[Answer]],
    answer: type[Answer],
    audited: Audited,
    body_model: type[BodyT],
    path_model: type[PathT] | type[NoParameters] = NoParameters,
    status: int = 201,
    refusals: tuple[ProblemCode, ...] = (),
    shown_once: frozenset[str] = frozenset(),
    location: str | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> AnyOperation:
    """A POST with a JSON body, which may carry an Idempotency-Key."""
    return Operation(
        id=id,
        method=Method.POST,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        audited=audited,
        path_model=path_model,
        query_model=NoParameters,
        body_model=body_model,
        status=status,
        refusals=refusals,
        shown_once=shown_once,
        location=location,
        body_bytes_max=body_bytes_max,
    )


def ask(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[NoParameters, NoParameters, BodyT]], Awaitable[Answer]],
    answer: type[Answer],
    body_model: type[BodyT],
    refusals: tuple[ProblemCode, ...] = (),
    body_bytes_max: int = BODY_BYTES_MAX,
) -> AnyOperation:
    """A POST that changes nothing: what is asked is too much for a query."""
    return Operation(
        id=id,
        method=Method.POST,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        path_model=NoParameters,
        query_model=NoParameters,
        body_model=body_model,
        refusals=refusals,
        body_bytes_max=body_bytes_max,
        only_reads=True,
    )


def change_unbound(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[UnboundCall[PathT, BodyT]], Awaitable[Answer]],
    answer: type[Answer],
    audited: AuditedByItself,
    body_model: type[BodyT] | type[NoBody] = NoBody,
    path_model: type[PathT] | type[NoParameters] = NoParameters,
    status: int = 200,
    refusals: tuple[ProblemCode, ...] = (),
) -> AnyOperation:
    """A POST that opens its own transactions."""
    return Operation(
        id=id,
        method=Method.POST,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        audited=audited,
        path_model=path_model,
        query_model=NoParameters,
        body_model=body_model,
        status=status,
        refusals=refusals,
        unbound=True,
    )


def replace(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[PathT, NoParameters, BodyT]], Awaitable[Answer]],
    answer: type[Answer],
    audited: Audited,
    path_model: type[PathT],
    body_model: type[BodyT],
    refusals: tuple[ProblemCode, ...] = (),
) -> AnyOperation:
    """A PUT with a JSON body: sent twice, it does the same."""
    return Operation(
        id=id,
        method=Method.PUT,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        audited=audited,
        path_model=path_model,
        query_model=NoParameters,
        body_model=body_model,
        refusals=refusals,
    )


def amend(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[PathT, NoParameters, BodyT]], Awaitable[Answer]],
    answer: type[Answer],
    audited: Audited,
    path_model: type[PathT],
    body_model: type[BodyT],
    refusals: tuple[ProblemCode, ...] = (),
) -> AnyOperation:
    """A PATCH with a JSON body: what is not given stays as it is. Sent twice, it does the same."""
    return Operation(
        id=id,
        method=Method.PATCH,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        audited=audited,
        path_model=path_model,
        query_model=NoParameters,
        body_model=body_model,
        refusals=refusals,
    )


def remove(
    id: str,
    path: str,
    *,
    tag: str,
    summary: str,
    handler: Callable[[Call[PathT, QueryT, NoBody]], Awaitable[Answer]],
    answer: type[Answer],
    audited: Audited,
    path_model: type[PathT],
    query_model: type[QueryT] | type[NoParameters] = NoParameters,
    refusals: tuple[ProblemCode, ...] = (),
) -> AnyOperation:
    """A DELETE. What there is to say stands in the query: a body of a DELETE means nothing (RFC 9110 §9.3.5)."""
    return Operation(
        id=id,
        method=Method.DELETE,
        path=path,
        tag=tag,
        summary=summary,
        handler=handler,
        answer=answer,
        audited=audited,
        path_model=path_model,
        query_model=query_model,
        body_model=NoBody,
        refusals=refusals,
    )
