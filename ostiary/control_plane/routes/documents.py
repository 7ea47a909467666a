"""Documents checked and compared, in threads: ten thousand routes take seconds, and the API answers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ostiary.control_plane.http import FieldProblem, Problem, ProblemCode
from ostiary.control_plane.routes.consequences import Consequence, KeyGroup, with_consequences
from ostiary.control_plane.routes.model import RouteVersion
from ostiary.core.config import ConfigurationError
from ostiary.core.config import Problem as Mistake
from ostiary.core.config.composition import CheckedDocument, check_published
from ostiary.core.config.difference import Change, ChangeKind, compare

# What stands in the place of no version: nothing is routed.
_NOTHING = check_published("version: 1\nroutes: []\n", name="")


class Documents:
    """Knows the document that was checked last, since the version in force is compared with again and again."""

    def __init__(self) -> None:
        self._last: tuple[str, CheckedDocument] | None = None

    async def check(self, text: str) -> CheckedDocument:
        """Raises Problem `invalid_fields` with every mistake, its line and its mend."""
        try:
            return await asyncio.to_thread(check_published, text, name="document")
        except ConfigurationError as error:
            raise Problem(ProblemCode.INVALID_FIELDS, errors=[_field(each) for each in error.problems]) from error

    def remember(self, sha256: str, checked: CheckedDocument) -> None:
        """What has just become the version in force will be asked for next."""
        self._last = sha256, checked

    def known(self, sha256: str) -> CheckedDocument | None:
        """The document of this checksum, if it is the one that was in force when that was asked last."""
        return self._last[1] if self._last is not None and self._last[0] == sha256 else None

    async def in_force(self, version: RouteVersion | None) -> CheckedDocument | None:
        """What the version in force says; without one, that nothing is routed. None if this release does not take it any
        more."""
        if version is None:
            return _NOTHING
        if self._last is None or self._last[0] != version.sha256:
            try:
                self._last = version.sha256, await asyncio.to_thread(check_published, version.document, name="document")
            except ConfigurationError:
                return None
        return self._last[1]

    async def compare(
        self, before: CheckedDocument, after: CheckedDocument, groups: Sequence[KeyGroup] | None
    ) -> tuple[list[Consequence], bool]:
        """Every difference in meaning, and what it means for the keys; False if those could not be counted."""
        return await asyncio.to_thread(_compare, before, after, groups)


def _compare(
    before: CheckedDocument, after: CheckedDocument, groups: Sequence[KeyGroup] | None
) -> tuple[list[Consequence], bool]:
    changes = [*compare(before.configuration, after.configuration), *_references(before, after)]
    return with_consequences(changes, before.configuration, after.configuration, groups)


def _references(before: CheckedDocument, after: CheckedDocument) -> list[Change]:
    """What hosts put in by themselves: here it can only be told that it is asked for."""
    meaning = "each gateway puts in its own value"
    gone, new = sorted(before.references - after.references), sorted(after.references - before.references)
    return [
        *(Change(ChangeKind.REMOVED, "reference", None, _shown(text), None, None) for text in gone),
        *(Change(ChangeKind.ADDED, "reference", None, None, _shown(text), meaning) for text in new),
    ]


def _shown(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _field(mistake: Mistake) -> FieldProblem:
    where = f"{mistake.path}: " if mistake.path else ""
    mend = f" ({mistake.mend})" if mistake.mend else ""
    return FieldProblem("document", f"{where}{mistake.message}{mend}", line=mistake.line, column=mistake.column)
