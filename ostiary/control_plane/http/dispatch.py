"""Serves the declared operations: read, authorize, claim, do, store, write down, commit, answer, in that order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, cast

import pydantic_core
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from ostiary.control_plane.db import Connection, Pool
from ostiary.control_plane.http import export, idempotency, preconditions, reading
from ostiary.control_plane.http.access import Access, Caller
from ostiary.control_plane.http.auditing import Audited, AuditTrail, Ids
from ostiary.control_plane.http.certificates import ClientCertificates
from ostiary.control_plane.http.edge import caller as the_caller
from ostiary.control_plane.http.fields import Answer, NoBody, Parameters
from ostiary.control_plane.http.operations import BASE, AnyOperation, Call, Method, UnboundCall
from ostiary.control_plane.http.problems import FieldProblem, NotPermitted, Problem, ProblemCode, invalid
from ostiary.control_plane.http.recording import OwnerLookup, Recording
from ostiary.control_plane.http.telling import Telling
from ostiary.control_plane.http.transactions import Transactions

# Keeps others from changing the thing that these parameters name until the transaction ends.
Lock = Callable[[Connection, Ids], Awaitable[None]]


class Dispatcher:
    """Makes aiohttp handlers of operations. `matrix` is who may call each, `owners` leads from the parameter that names a
    thing to the organization it belongs to, `audit` where changes and refusals are written down, `telling` what others
    are told of changes. `subjects` is what `If-Match` of an operation is compared with (see `preconditions`), while the
    thing is locked by the one of `locks` for its type, as the audit log calls it. `certificates` says whether privileged
    calls must come with one.

    Raises KeyError when an operation is not in the matrix, a row names no known kind of thing, or what has versions has no
    lock; ValueError when one changes something and does not say what is written down of it, or asks for a membership without
    a transaction to look it up in: at start, not in a call."""

    def __init__(
        self,
        *,
        pool: Pool,
        matrix: Mapping[str, Access],
        owners: Mapping[str, OwnerLookup],
        audit: AuditTrail,
        telling: Telling | None = None,
        locks: Mapping[str, Lock] | None = None,
        subjects: Mapping[str, AnyOperation] | None = None,
        certificates: ClientCertificates | None = None,
    ) -> None:
        self._transactions = Transactions(pool)
        self._matrix = matrix
        self._owners = owners
        self._locks = locks or {}
        self._subjects = subjects or {}
        self._certificates = certificates
        self._recording = Recording(log=audit, owners=owners, transaction=self._transaction, telling=telling)
        self._operations: dict[Handler, AnyOperation] = {}

    def handler(self, operation: AnyOperation) -> Handler:
        if (whose := self._matrix[operation.id].whose) is not None:
            self._owners[whose]
            if operation.unbound:
                raise ValueError(f"{operation.id}: a membership is looked up in the transaction of the call")
        self._recording.check(operation)
        if operation.id in self._subjects:
            self._lock_of(operation)

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await self._serve(operation, request)
            except Problem as problem:
                caller = the_caller()
                await self._recording.refused(operation, request, problem, caller, caller.request_id)
                raise

        self._operations[handle] = operation
        return handle

    async def turned_away(self, request: web.Request, problem: Problem, request_id: str) -> None:
        """Writes down that someone was refused before it was known who calls."""
        operation = self._operations.get(request.match_info.handler)
        if operation is not None:
            await self._recording.refused(operation, request, problem, None, request_id)

    async def _serve(self, operation: AnyOperation, request: web.Request) -> web.StreamResponse:
        caller = the_caller()
        self._require_platform_role(operation, caller)
        self._require_certificate(operation, caller)
        path = reading.path_parameters(operation.path_model, request)
        query = reading.query_parameters(operation.query_model, request)
        if operation.csv is not None and query.format == "csv":
            fields, own = operation.csv.model_fields, operation.csv.__annotations__
            columns = sorted(fields, key=lambda name: name not in own)  # what an item is of comes before its figures
            return await export.stream(
                request, name=operation.id, columns=columns, pages=self._pages(operation, caller, path, query)
            )
        body, claim = NoBody(), None
        if operation.body_model is not NoBody:
            sent = await reading.read_body(request, bytes_max=operation.body_bytes_max)
            body = reading.check_body(operation.body_model, sent)
            if operation.takes_idempotency_key:
                claim = _claim(operation, request, caller, sent.value)

        if operation.unbound:
            if preconditions.are_given(request.headers):
                raise _no_version()
            note = partial(self._recording.note, operation, caller)
            return await self._serve_unbound(operation, UnboundCall(path, body, caller, request, note))
        call = partial(Call, path=path, query=query, body=body, caller=caller)
        method = Method.GET if operation.only_reads else operation.method
        async with self._transaction(method) as connection:
            await self._require_membership(operation, connection, caller, path, body)
            if claim is not None and (stored := await idempotency.take(connection, claim)) is not None:
                return _repeated(operation, stored)
            begun = await self._recording.begin(connection, operation, path)
            # After it: who holds the thing for the log first, and then its row, never waits in a circle.
            subject = await self._require_version(operation, connection, caller, path, request)
            try:
                answer = await operation.handler(call(connection=connection))
            except Problem as problem:
                reading.point_into_body(problem, operation.body_model)
                raise
            if claim is not None:
                await idempotency.keep(connection, claim, _storable(operation, answer))
            if begun is not None:
                await self._recording.end(connection, operation, caller, begun, answer)
        tag = preconditions.entity_tag(answer) if subject and answer.__class__ is subject.answer else None
        if tag is not None and operation.method is Method.GET and preconditions.is_known(request.headers, tag):
            return web.Response(status=304, headers={"ETag": tag})
        response = _answer(operation, operation.status, answer.model_dump(mode="json"))
        if tag is not None:
            response.headers["ETag"] = tag
        return response

    async def _require_version(
        self, operation: AnyOperation, connection: Connection, caller: Caller, path: Parameters, request: web.Request
    ) -> AnyOperation | None:
        """What reads the resource that is read or changed here, if it has versions. Raises Problem `precondition_failed`
        when it is to be changed and is not as the client says; it stays as it is now until this transaction ends."""
        if operation.method is Method.GET:
            return operation if preconditions.has_versions(operation) else None
        subject = self._subjects.get(operation.id)
        if not preconditions.are_given(request.headers):
            return subject
        if subject is None:
            raise _no_version()
        await self._lock_of(operation)(connection, path.model_dump())
        query = subject.query_model()
        current = await subject.handler(
            Call(path=path, query=query, body=NoBody(), caller=caller, connection=connection)
        )
        preconditions.require_match(request.headers, preconditions.entity_tag(current))
        return subject

    def _lock_of(self, operation: AnyOperation) -> Lock:
        assert isinstance(operation.audited, Audited)  # noqa: S101  else it has no subject
        return self._locks[operation.audited.resource]

    async def _serve_unbound(self, operation: AnyOperation, call: UnboundCall[Any, Any]) -> web.Response:
        answer = await operation.handler(call)
        response = _answer(operation, operation.status, answer.model_dump(mode="json"))
        for name, value in call.answer_headers:
            response.headers.add(name, value)
        return response

    def _transaction(self, method: Method) -> AbstractAsyncContextManager[Connection]:
        return self._transactions.open(reads=method is Method.GET)

    async def _pages(
        self, operation: AnyOperation, caller: Caller, path: Parameters, query: Any
    ) -> AsyncIterator[Sequence[Answer]]:
        """All pages of a list, each in a transaction of its own. Raises Problem."""
        rows = 0
        while True:
            async with self._transaction(operation.method) as connection:
                if "limit" in operation.query_model.model_fields:
                    query = query.model_copy(update={"limit": export.PAGE_ROWS})
                await self._require_membership(operation, connection, caller, path, NoBody())
                page: Any = await operation.handler(
                    Call(path=path, query=query, body=NoBody(), caller=caller, connection=connection)
                )
            if rows == 0 and page.total > export.ROWS_MAX:
                raise invalid("format", f"these are {page.total} rows, and at most {export.ROWS_MAX} go into one file")
            if rows == 0:
                await self._recording.exported(operation, caller, path, query)
            yield page.data
            rows += len(page.data)
            if page.next_cursor is None:
                return
            given = operation.query_model.model_validate({"cursor": page.next_cursor})
            query = query.model_copy(update={"cursor": cast("Any", given).cursor})

    def _require_platform_role(self, operation: AnyOperation, caller: Caller) -> None:
        """Before anything of the call is read, where only the platform's own people may."""
        access = self._matrix[operation.id]
        if access.least is None and not access.anyone and caller.actor.platform_role not in access.platform:
            raise NotPermitted(ProblemCode.ROLE_MISSING)

    def _require_certificate(self, operation: AnyOperation, caller: Caller) -> None:
        """A token that is stolen is then of no use to whoever has not the key of a certificate too."""
        required = self._certificates is not None and self._certificates.required_of_privileged
        if required and caller.certificate is None and self._matrix[operation.id].is_privileged(caller.actor):
            raise NotPermitted(ProblemCode.CLIENT_CERTIFICATE_MISSING)

    async def _require_membership(
        self, operation: AnyOperation, connection: Connection, caller: Caller, path: Parameters, body: BaseModel
    ) -> None:
        """Else `role_missing`; and what is not the actor's to see is not there, as if it had never been."""
        access = self._matrix[operation.id]
        if access.least is None or caller.actor.platform_role in access.platform or access.whose is None:
            return
        in_path: str | None = getattr(path, access.whose, None)
        owner = await self._owners[access.whose](connection, in_path or getattr(body, access.whose))
        role = None if owner is None else caller.actor.memberships.get(owner)
        if role is not None and role.reaches(access.least):
            return
        if role is not None or caller.actor.platform_role is not None:  # it may be seen, at least
            raise NotPermitted(ProblemCode.ROLE_MISSING, organization_id=owner if role is not None else None)
        absent = FieldProblem(access.whose, "there is nothing of this id")
        code = ProblemCode.NOT_FOUND if in_path else ProblemCode.INVALID_FIELDS
        # Also of what is not there: that it were written down, or not, would take another time, and tell which it is.
        raise NotPermitted(code, errors=() if in_path else (absent,))


def _no_version() -> Problem:
    return Problem(ProblemCode.PRECONDITION_FAILED, "There is no version to compare with here: leave If-Match out.")


def _claim(operation: AnyOperation, request: web.Request, caller: Caller, body: object) -> idempotency.Claim | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1:
        raise Problem(ProblemCode.MALFORMED_REQUEST, "Send one Idempotency-Key.")
    return idempotency.claim(
        keys[0], principal=caller.actor.principal, operation_id=operation.id, path=request.path, body=body
    )


def _storable(operation: AnyOperation, answer: Answer) -> idempotency.StoredAnswer:
    document = answer.model_dump(mode="json", exclude=set(operation.shown_once))
    return idempotency.StoredAnswer(operation.status, document, bool(operation.shown_once))


def _repeated(operation: AnyOperation, stored: idempotency.StoredAnswer) -> web.Response:
    if stored.secret_left_out:
        raise Problem(ProblemCode.SECRET_ALREADY_SHOWN, about=_location(operation, stored.document))
    response = _answer(operation, stored.status, stored.document)
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _answer(operation: AnyOperation, status: int, document: dict[str, object]) -> web.Response:
    response = web.Response(
        status=status, body=pydantic_core.to_json(document), content_type="application/json", charset=None
    )
    if (location := _location(operation, document)) is not None:
        response.headers["Location"] = location
    return response


def _location(operation: AnyOperation, document: dict[str, object]) -> str | None:
    # The fields are ids of our own making: nothing in them needs to be escaped.
    return (
        None if operation.location is None else BASE + operation.location.format_map(cast("dict[str, str]", document))
    )
