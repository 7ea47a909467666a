"""Users as they come about in earnest: invited, accepted, signed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.control_plane.support import OPERATOR_TOKEN, Api, Reply

PASSWORD = "seven horses in a row"


@dataclass(frozen=True, slots=True)
class Person:
    id: str
    email: str
    token: str
    refresh_token: str


async def invited(api: Api, email: str, *, token: str = OPERATOR_TOKEN, **fields: Any) -> Reply:
    """Into an organization with `organization_id` and `role`; else into the platform."""
    organization_id = fields.pop("organization_id", None)
    path = "/invitations" if organization_id is None else f"/organizations/{organization_id}/invitations"
    return await api.request("POST", path, token=token, json={"email": email, **fields})


async def accepted(api: Api, invitation: str, password: str = PASSWORD, name: str = "Rosa Diaz") -> Reply:
    document = {"token": invitation, "password": password, "name": name}
    return await api.request("POST", "/invitations/accept", token=None, json=document)


async def by_password(api: Api, path: str, email: str, password: str = PASSWORD) -> Reply:
    return await api.request("POST", path, token=None, json={"email": email, "password": password})


async def person(api: Api, email: str, **fields: Any) -> Person:
    """A user with an access token. `fields` are those of `invited`."""
    made = await invited(api, email, **fields)
    assert made.status == 201, made.text
    user = await accepted(api, made.document["token"])
    assert user.status == 200, user.text
    pair = await by_password(api, "/access-tokens", email)
    assert pair.status == 200, pair.text
    tokens = pair.document
    return Person(user.document["user"]["id"], email, tokens["access_token"], tokens["refresh_token"])
