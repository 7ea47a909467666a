"""Writes into the audit log what operations do, and what was refused, and tells others of what was done: `dispatch` calls it
around every handler."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
from aiohttp import web
from pydantic import BaseModel

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import reading
from ostiary.control_plane.http.access import UNKNOWN, Actor, Caller
from ostiary.control_plane.http.auditing import (
    Audited,
    AuditedByItself,
    AuditedExport,
    AuditTrail,
    Entry,
    Outcome,
    RefusalBounds,
    differences,
    told,
)
from ostiary.control_plane.http.operations import AnyOperation, Method
from ostiary.control_plane.http.problems import NotPermitted, Problem, ProblemCode
from ostiary.control_plane.http.telling import Event, Telling

log = logging.getLogger("ostiary.control_plane")

# The id of the organization that a thing belongs to, by the thing's id; None when there is no such thing.
OwnerLookup = Callable[[Connection, str], Awaitable[str | None]]
Transaction = Callable[[Method], AbstractAsyncContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class Begun:
    """A change under way: the ids that its path has, what was there, and whose that was."""

    ids: dict[str, Any]
    before: dict[str, object] | None
    owner: str | None


class Recording:
    """`owners` as in `dispatch`. What was refused is written in a transaction of its own: that of the call is undone."""

    def __init__(
        self,
        *,
        log: AuditTrail,
        owners: Mapping[str, OwnerLookup],
        transaction: Transaction,
        telling: Telling | None = None,
        bounds: RefusalBounds | None = None,
    ) -> None:
        self._log = log
        self._owners = owners
        self._transaction = transaction
        self._telling = telling
        self._bounds = bounds or RefusalBounds()

    def check(self, operation: AnyOperation) -> None:
        """Raises ValueError for an operation that changes something and does not say what is to be told of it, or says it
        wrongly: at start, not in a call."""
        audited = operation.audited
        if not isinstance(audited, Audited):
            if operation.unbound != isinstance(audited, AuditedByItself) or (
                operation.method is not Method.GET and not operation.unbound and not operation.only_reads
            ):
                raise ValueError(
                    f"{operation.id} changes something, and does not say what is written into the audit log"
                )
            return
        made = audited.made_id is not None and audited.made_id in operation.answer.model_fields
        if audited.id_from not in operation.path_model.model_fields and not made:
            raise ValueError(f"{operation.id}: nothing gives {audited.id_from}, of which the audit log is to tell")
        if secrets := operation.shown_once & audited.record.model_fields.keys():
            raise ValueError(f"{operation.id}: {', '.join(sorted(secrets))} would get into the audit log")
        if audited.owner is not None:
            self._owners[audited.owner]

    async def begin(self, connection: Connection, operation: AnyOperation, path: BaseModel) -> Begun | None:
        """Before the handler. None: nothing is to be told."""
        audited = operation.audited
        if not isinstance(audited, Audited):
            return None
        ids = path.model_dump()
        if audited.id_from not in ids:
            return Begun(ids, None, None)
        await self._log.hold(connection, audited.resource, str(ids[audited.id_from]))
        before = await self._read(connection, audited, ids)
        # What is deleted leads nowhere afterwards.
        return Begun(ids, before, await self._owner(connection, audited, ids))

    async def end(
        self, connection: Connection, operation: AnyOperation, caller: Caller, begun: Begun, answer: BaseModel
    ) -> None:
        """After the handler, in its transaction."""
        audited = operation.audited
        assert isinstance(audited, Audited)  # noqa: S101  `begin` gave None else
        ids = begun.ids
        if audited.id_from not in ids:
            assert audited.made_id is not None  # noqa: S101  `check` saw to that
            ids = {**ids, audited.id_from: getattr(answer, audited.made_id)}
        before, after = differences(begun.before, await self._read(connection, audited, ids))
        entry = Entry(
            actor=caller.actor,
            address=caller.address,
            request_id=caller.request_id,
            operation=operation.id,
            resource_type=audited.resource,
            resource_id=str(ids[audited.id_from]),
            organization_id=begun.owner or await self._owner(connection, audited, ids),
            outcome=Outcome.DONE,
            before=before,
            after=after,
        )
        await self._done(connection, entry)

    async def note(
        self,
        operation: AnyOperation,
        caller: Caller,
        connection: Connection,
        *,
        resource_id: str,
        organization_id: str | None = None,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
        actor: Actor | None = None,
    ) -> None:
        """For what opens its own transactions: see `auditing.Note`."""
        assert operation.audited is not None  # noqa: S101  `check` saw to that
        entry = Entry(
            actor=actor or caller.actor,
            address=caller.address,
            request_id=caller.request_id,
            operation=operation.id,
            resource_type=operation.audited.resource,
            resource_id=resource_id,
            organization_id=organization_id,
            outcome=Outcome.DONE,
            before=before,
            after=after,
        )
        await self._done(connection, entry)

    async def _done(self, connection: Connection, entry: Entry) -> None:
        """The event comes first: both are numbered by the commit, in this order by everyone (see migration 0017)."""
        if self._telling is not None and entry.resource_id is not None:
            kind = self._telling.kind_of(entry.operation, entry.before, entry.after)
            if kind is not None:
                event = Event(
                    kind=kind,
                    resource_type=entry.resource_type,
                    resource_id=entry.resource_id,
                    organization_id=entry.organization_id,
                    request_id=entry.request_id,
                    payload={"before": entry.before, "after": entry.after},
                )
                await self._telling.outbox.append(connection, event)
        await self._log.append(connection, entry)

    async def exported(self, operation: AnyOperation, caller: Caller, path: BaseModel, query: BaseModel) -> None:
        """Before anything is given away. Raises Problem: what can't be written down is not given."""
        if not isinstance(operation.audited, AuditedExport):
            return
        asked = query.model_dump(mode="json", exclude_none=True, exclude={"cursor", "limit", "format"})
        entry = Entry(
            actor=caller.actor,
            address=caller.address,
            request_id=caller.request_id,
            operation=operation.id,
            resource_type=operation.audited.resource,
            resource_id=None,
            organization_id=getattr(path, "organization_id", None),
            outcome=Outcome.DONE,
            after={"exported": asked},
        )
        async with self._transaction(Method.POST) as connection:
            await self._log.append(connection, entry)

    async def refused(
        self, operation: AnyOperation, request: web.Request, problem: Problem, caller: Caller | None, request_id: str
    ) -> None:
        """What was refused for want of a right, within `RefusalBounds`; other problems are nothing to tell of, nor is that of
        reading, but for a token of the platform without its certificate. Never raises for what goes wrong in writing: the
        caller is refused all the same, and the log of the process has it."""
        stolen = problem.code is ProblemCode.CLIENT_CERTIFICATE_MISSING  # or so it looks
        if (operation.audited is None and not stolen) or not _wanted(problem):
            return
        actor = UNKNOWN if caller is None else caller.actor
        unwritten = self._bounds.take(actor.principal)
        if unwritten is None:
            return
        audited = operation.audited
        try:
            path = reading.path_parameters(operation.path_model, request)
        except Problem:  # not the id of anything: what a client writes into a path is not for the log
            path = None
        identifier = getattr(path, audited.id_from, None) if isinstance(audited, Audited) else None
        entry = Entry(
            actor=actor,
            address=request.remote,
            request_id=request_id,
            operation=operation.id,
            resource_type=re.sub("[^a-z]", "_", operation.tag) if audited is None else audited.resource,
            resource_id=None if identifier is None else str(identifier),
            organization_id=problem.organization_id if isinstance(problem, NotPermitted) else None,
            outcome=Outcome.REFUSED,
            code=problem.code.code,
            after={"more_refused": unwritten} if unwritten else None,
        )
        try:
            async with self._transaction(Method.POST) as connection:
                await self._log.append(connection, entry)
        except (Problem, asyncpg.PostgresError) as error:
            fields = {"request_id": request_id, "operation": operation.id, "error": type(error).__qualname__}
            log.error("refusal_not_in_audit_log", extra={"fields": fields})

    async def _read(self, connection: Connection, audited: Audited, ids: Mapping[str, Any]) -> dict[str, object] | None:
        try:
            return told(audited, await audited.read(connection, ids))
        except Problem as problem:
            if problem.code is ProblemCode.NOT_FOUND:
                return None
            raise

    async def _owner(self, connection: Connection, audited: Audited, ids: Mapping[str, Any]) -> str | None:
        if audited.owner is None or audited.owner not in ids:
            return None
        return await self._owners[audited.owner](connection, ids[audited.owner])


def _wanted(problem: Problem) -> bool:
    refused = (
        ProblemCode.ROLE_MISSING,
        ProblemCode.CREDENTIALS_MISSING,
        ProblemCode.CREDENTIALS_INVALID,
        ProblemCode.CLIENT_CERTIFICATE_REFUSED,
    )
    return isinstance(problem, NotPermitted) or problem.code in refused
