"""docs/authorization.md, from the table that holds. Run as a module, it writes the page."""

from __future__ import annotations

from pathlib import Path

from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.http.access import Access, PlatformRole, Role

_HEAD = """\
# Who may do what

Made from `ostiary/control_plane/authorization.py` by `.venv/bin/python -m tests.support.authorization_page`: the table there
is what holds every call, and a test walks all of it (`tests/control_plane/test_authorization_walk.py`). Besides it, made-up
calls by the owners of two organizations look for what one gets of the other
([0031](decisions/0031-api-manners.md#made-up-calls)).

**yes**: on everything. **own**: in organizations where the caller has this role. **theirs**: for everyone who is known; what
is shown and changed is the caller's own, or of their organizations. **open**: also for who is not known; it makes them so.

What belongs to an organization that the caller has no role in is answered as if it were not there: 404 in a path, 422 in a
body, nothing in a list or for a filter. Where the caller may see a thing and not do this to it: 403 `role_missing`. Roles are
read with every call. Nobody gives, changes or takes a role above their own, whatever the table says.

Whoever has a role over the platform (operator, auditor; by the operator token, a platform token or as a user) makes
**privileged calls**: all but those that are open and those marked `·`, which are about nothing but the caller. Where
`control_plane.privileged.client_certificate` is `required`, these need a client certificate besides the token: else 403
`client_certificate_missing`, whatever the role would allow ([0034](decisions/0034-privileged-calls.md)).

| operation | operator | auditor | owner | admin | developer | viewer | no organization | not known |
|---|---|---|---|---|---|---|---|---|
"""


def path() -> Path:
    return Path(__file__).resolve().parents[2] / "docs" / "authorization.md"


def page() -> str:
    lines = []
    for name, access in MATRIX.items():
        members = [_member(access, role) for role in reversed(Role)]
        cells = [_platform(access, PlatformRole.OPERATOR), _platform(access, PlatformRole.AUDITOR), *members]
        everyone = "open" if access.unknown else "theirs" if access.anyone else ""
        mark = " ·" if access.oneself and not access.unknown else ""
        lines.append(f"| `{name}`{mark} | {' | '.join([*cells, everyone, 'open' if access.unknown else ''])} |")
    return _HEAD + "\n".join(lines) + "\n"


def _platform(access: Access, role: PlatformRole) -> str:
    return "open" if access.unknown else "yes" if role in access.platform else ""


def _member(access: Access, role: Role) -> str:
    if access.anyone:
        return "open" if access.unknown else "theirs"
    return "own" if access.least is not None and role.reaches(access.least) else ""


if __name__ == "__main__":
    path().write_text(page(), encoding="utf-8")
