"""The rules of plans: a change is the next published version, valid as a whole or not made; a plan that keys have stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import FieldProblem, Problem, ProblemCode
from ostiary.control_plane.plans import store
from ostiary.control_plane.plans.model import NewPlan, Plan, PlanPage, PlanTerms, plan_of
from ostiary.control_plane.routes import Edited, InForce, Routes
from ostiary.core import model as core
from ostiary.core.config import ConfigurationError
from ostiary.core.config import Problem as Mistake
from ostiary.core.config.composition import CheckedDocument, check_published
from ostiary.core.config.document import parse_document
from ostiary.core.config.plan_edit import EMPTY, CannotEdit, expected, refers, same, with_plan
from ostiary.core.config.plans import read_plan
from ostiary.core.published import DOCUMENT_BYTES_MAX

Document = Mapping[str, object]


class Plans:
    """`in_file` are the plans of the configuration, by name, which stay while this process runs; None where they are
    published. Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, routes: Routes, in_file: Mapping[str, core.Plan] | None) -> None:
        self._routes = routes
        self._in_file = in_file

    async def plans(self, connection: Connection) -> PlanPage:
        found, version = await self._in_force(connection)
        data = tuple(plan_of(found[name], version) for name in sorted(found))
        return PlanPage(data=data, next_cursor=None, total=len(data))

    async def plan(self, connection: Connection, name: str) -> Plan:
        found, version = await self._in_force(connection)
        if name not in found:
            raise _no_such_plan()
        return plan_of(found[name], version)

    async def create(self, connection: Connection, new: NewPlan, *, author: str) -> Plan:
        self._require_published()
        document = _read(new.name, new)

        def edit(before: InForce) -> Edited:
            if new.name in before.checked.configuration.plans:
                raise Problem(
                    ProblemCode.CONFLICT, "There is a plan of this name already.", about=f"/api/v1/plans/{new.name}"
                )
            return _edited(before, new.name, document)

        return await self._publish(connection, new.name, edit, author=author, note=new.note or f"plan {new.name} added")

    async def replace(self, connection: Connection, name: str, terms: PlanTerms, *, author: str) -> Plan:
        """What says the same already makes no version: replacing is safe to repeat."""
        self._require_published()
        document = _read(name, terms)
        plan = read_plan(name, document)

        def edit(before: InForce) -> Edited | None:
            known = before.checked.configuration.plans.get(name)
            if known is None:
                raise _no_such_plan()
            if known == plan and not refers(_plans_of(before).get(name)):
                return None
            return _edited(before, name, document)

        return await self._publish(connection, name, edit, author=author, note=terms.note or f"plan {name} changed")

    async def delete(self, connection: Connection, name: str, *, author: str, note: str | None) -> Plan:
        """As it was. No key in force may have it."""
        self._require_published()
        plan = await self.plan(connection, name)
        await store.claim(connection, name)
        if (held := await store.holders(connection, name)).keys:
            keys = "1 key in force has it" if held.keys == 1 else f"{held.keys} keys in force have it"
            apps = "1 app" if held.apps == 1 else f"{held.apps} apps"
            raise Problem(ProblemCode.CONFLICT, f"{keys}, of {apps}: give them another plan first, or revoke them.")

        def edit(before: InForce) -> Edited:
            if name not in before.checked.configuration.plans:
                raise _no_such_plan()
            return _edited(before, name, None)

        try:
            await self._routes.edit(connection, edit, author=author, note=note or f"plan {name} removed")
        except ConfigurationError as error:
            told = "; ".join(map(_told, error.problems[:3]))
            raise Problem(ProblemCode.CONFLICT, f"What is published still needs it: {told}.") from error
        number, _ = await self._routes.in_force(connection)
        return plan.model_copy(update={"version": number})

    async def _publish(
        self, connection: Connection, name: str, edit: Callable[[InForce], Edited | None], *, author: str, note: str
    ) -> Plan:
        try:
            await self._routes.edit(connection, edit, author=author, note=note)
        except ConfigurationError as error:
            # The plan by itself is valid: with what else is published, it is not.
            problems = [FieldProblem("", _told(each), pointer="#") for each in error.problems]
            raise Problem(ProblemCode.INVALID_FIELDS, errors=problems) from error
        return await self.plan(connection, name)

    async def _in_force(self, connection: Connection) -> tuple[Mapping[str, core.Plan], int | None]:
        if self._in_file is not None:
            return self._in_file, None
        number, checked = await self._routes.in_force(connection)
        return checked.configuration.plans, number or None

    def _require_published(self) -> None:
        if self._in_file is not None:
            raise Problem(
                ProblemCode.CONFLICT,
                "Plans stand in the configuration file here, and are changed there. They are published, and changed over the "
                "API, where that file says `routes: {from: control_plane}`.",
            )


def _read(name: str, terms: PlanTerms) -> Document:
    """The plan as it is written down. Raises Problem `invalid_fields` with all that is wrong with it."""
    document = terms.document()
    try:
        read_plan(name, document)
    except ConfigurationError as error:
        raise Problem(ProblemCode.INVALID_FIELDS, errors=[_field(each) for each in error.problems]) from error
    return document


def _edited(before: InForce, name: str, plan: Document | None) -> Edited:
    """The next version. Raises Problem `conflict` where the one in force is written in a way that can't be changed in place:
    nothing but this plan may become another, comments included. Raises ConfigurationError if what comes out is not valid."""
    try:
        text = with_plan(before.text or EMPTY, name, plan)
        wanted = expected(before.checked.normal_form, name, plan)
        checked = _checked(text)
        if not same(checked.normal_form, wanted):
            raise CannotEdit
    except CannotEdit as error:
        raise Problem(
            ProblemCode.CONFLICT,
            "The document in force is written in a way that its plans can't be changed in place (with anchors, perhaps). "
            "Change it as a whole: ostiary routes show, then ostiary routes apply.",
            about="/api/v1/routes",
        ) from error
    return Edited(text, checked)


def _checked(text: str) -> CheckedDocument:
    """Raises ConfigurationError for what is wrong in meaning, CannotEdit for what is no document any more."""
    try:
        return check_published(text, name="document")
    except ConfigurationError:
        if len(text.encode()) <= DOCUMENT_BYTES_MAX:
            try:
                parse_document(text, file="document")
            except ConfigurationError as error:  # an alias has lost its anchor
                raise CannotEdit from error
        raise


def _plans_of(before: InForce) -> Mapping[str, object]:
    normal_form = before.checked.normal_form
    plans = normal_form.get("plans") if isinstance(normal_form, dict) else None
    return plans if isinstance(plans, dict) else {}


def _no_such_plan() -> Problem:
    return Problem(ProblemCode.NOT_FOUND, "There is no such plan.")


def _field(mistake: Mistake) -> FieldProblem:
    field = re.sub(r"\[(\d+)\]", r".\1", mistake.path)
    mend = f" ({mistake.mend})" if mistake.mend else ""
    return FieldProblem(field, mistake.message + mend, pointer=None if field else "#")


def _told(mistake: Mistake) -> str:
    where = f"{mistake.path}: " if mistake.path else ""
    return f"{where}{mistake.message}" + (f" ({mistake.mend})" if mistake.mend else "")
