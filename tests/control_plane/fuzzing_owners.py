"""Made-up calls by the owners of two organizations: what the one has read the other asks for, and must not get.

The program's check `object_level_authorization` does that. One owner makes all calls. If a GET gives them something by an id
that came from what they had made, or from a list that shows it to them and not to the other, the same is asked for with the
other's token: once for each operation and kind of thing. So nothing is found by calls that get nowhere. Therefore the owner
has things when the calls begin, ids are taken from what was answered before and along the links of the document, and nothing
is called that would end what they call by. How often the other has asked is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostiary.cli.client import Client, parse_address
from ostiary.control_plane.authorization import MATRIX
from tests.control_plane.fuzzing import Callers, only

# The session of the calls would end, or be barred for wrong passwords; the last takes what all else is in.
_UNDOING = frozenset({"signOut", "endMySession", "changePassword", "deleteOrganization"})
# What somebody may call who is known, and has no role over the platform.
OF_MEMBERS = tuple(
    name
    for name, access in MATRIX.items()
    if (access.least is not None or access.anyone) and not access.unknown and name not in _UNDOING
)
OF_OTHERS = tuple(name for name in MATRIX if name not in OF_MEMBERS)
# What makes and lists things that an operator's calls of OF_OTHERS are about.
FOR_IDS = ("createApp", "listApps", "createKey", "listKeys")

# The program learns ids from the other's answers, too. With one of each, half of its calls would be about what is not theirs.
_ORGANIZATIONS_OF_FIRST = 4
# Calls in a row, of up to six calls each.
_ROWS = 20
_PASSWORD = "seven horses in a row"


@dataclass(frozen=True, slots=True)
class Owner:
    """`name` is what the program calls them."""

    name: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TwoOwners:
    """The `first` makes all calls; what they have read, the `second` asks for."""

    first: Owner
    second: Owner


def two_owners(url: str, operator_token: str, mark: str = "") -> TwoOwners:
    """New ones, whose names end with the `mark`."""
    return TwoOwners(
        _owner(url, operator_token, f"acme{mark}", organizations=_ORGANIZATIONS_OF_FIRST),
        _owner(url, operator_token, f"globex{mark}", organizations=1),
    )


def _owner(url: str, operator_token: str, name: str, *, organizations: int) -> Owner:
    """Somebody who owns new organizations, in each of which there is a thing of each kind."""
    operator, unknown = Client(parse_address(url), operator_token), Client(parse_address(url), "")
    email, token = f"{name}@example.com", ""
    for number in range(organizations):
        organization = operator.post("/organizations", {"name": f"{name} {number}"})["id"]
        invitation = _invite(operator, organization, email, "owner")
        if not token:
            unknown.post("/invitations/accept", {"token": invitation, "password": _PASSWORD, "name": name})
            token = unknown.post("/access-tokens", {"email": email, "password": _PASSWORD})["access_token"]
        else:
            Client(operator.address, token).post("/me/invitations/accept", {"token": invitation})
        _furnish(Client(operator.address, token), organization)
    return Owner(name, token)


def _furnish(by_owner: Client, organization: str) -> None:
    app = by_owner.post("/apps", {"organization_id": organization, "name": "Shop"})["id"]
    by_owner.post(f"/apps/{app}/keys", {"name": "phone"})
    _invite(by_owner, organization, "guest@example.com", "viewer")


def _invite(by: Client, organization: str, email: str, role: str) -> str:
    made = by.post(f"/organizations/{organization}/invitations", {"email": email, "role": role})
    return str(made["token"])


def by_two_owners(directory: Path, owners: TwoOwners) -> Callers:
    """To whatever members may call. Wrong calls are made keyword by keyword alone, so that those at random and in a row get
    somewhere."""
    people = directory / "people.json"
    people.touch(mode=0o600)
    known = [_known_by_token(who) for who in (owners.first, owners.second)]
    people.write_text(json.dumps({"auth": known}), encoding="utf-8")
    settings = f"""
[auth.wfc]
path = "{people}"
user = "{owners.first.name}"
peers = ["{owners.first.name}", "{owners.second.name}"]

[phases.fuzzing.generation]
mode = "positive"
[phases.stateful.generation]
mode = "positive"
max-examples = {_ROWS}

# In a row, lists are read and then what they show. Plans are nobody's, and a session is a person's.
[[operations]]
exclude-method = "GET"
phases.stateful.enabled = false
[[operations]]
include-path-regex = "/(plans|me)"
phases.stateful.enabled = false
"""
    reported = ["--report", "ndjson", "--report-ndjson-path", str(_report(directory))]
    return Callers(settings, [*reported, *only(OF_MEMBERS)])


def _known_by_token(who: Owner) -> Mapping[str, Any]:
    """As a document of the Web Fuzzing Commons says it."""
    return {"name": who.name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {who.token}"}]}


def _report(directory: Path) -> Path:
    return directory / "calls.ndjson"


def asked_by_the_second(directory: Path, owners: TwoOwners) -> Counter[str]:
    """In the last run: how often the second asked for what the first had just read, by the path of the operation."""
    asked: Counter[str] = Counter()
    with _report(directory).open(encoding="utf-8") as lines:
        for line in lines:
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder") or {}
            cases = recorder.get("cases") or {}
            for case in cases.values():
                sent, before = case["value"], cases.get(case.get("parent_id") or "")
                # What a list shows to the second is asked for, too, and after another path than the list's.
                if (
                    sent.get("auth_identity") == owners.second.name
                    and before
                    and before["value"]["path"] == sent["path"]
                ):
                    asked[sent["path"]] += 1
    return asked
