"""Secrets of people and of programs that manage the platform: made, used, used wrongly. Each is known by its name."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from ostiary.core.config import load_file
from ostiary.core.encryption import Envelope
from ostiary.key_encryption import key_wrappers
from tests.endurance.site import ControlPlane, Site

EMAIL = "rosa@secrecy.example"


class Answer(NamedTuple):
    status: int
    head: str
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def shown(self) -> bytes:
        return self.head.encode() + self.body


def ask(
    control_plane: ControlPlane,
    method: str,
    path: str,
    body: object = None,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Without credentials unless they are given. A body of bytes is sent as it is."""
    fields = {"Content-Type": "application/json", **(headers or {})}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310  our own
        f"{control_plane.url}/api/v1{path}", method=method, data=data, headers=fields
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  our own
            return Answer(answer.status, str(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, str(error.headers), error.read())


def signed_in(site: Site, control_plane: ControlPlane) -> dict[str, str]:
    """By every way there is. What was good once is among them too."""
    operator = site.secrets["operator_token"]

    def made(path: str, body: object, token: str | None = operator) -> Answer:
        answer = ask(control_plane, "POST", path, body, token=token)
        assert answer.status in (200, 201), answer
        return answer

    passwords = [f"canary {secrets.token_hex(20)}" for _ in range(2)]
    invited = [
        str(made("/invitations", {"email": email, "platform_role": "operator"}).document["token"])
        for email in (EMAIL, "paul@secrecy.example")
    ]
    made("/invitations/accept", {"token": invited[0], "password": passwords[0], "name": "Rosa"}, None)
    first = made("/access-tokens", {"email": EMAIL, "password": passwords[0]}, None).document
    second = made("/access-tokens/refresh", {"refresh_token": first["refresh_token"]}, None).document
    change = {"current_password": passwords[0], "new_password": passwords[1]}
    made("/me/password", change, second["access_token"])
    browser = made("/sign-in", {"email": EMAIL, "password": passwords[1]}, None)
    cookie = SimpleCookie(browser.head.partition("Set-Cookie: ")[2].splitlines()[0])
    (session,) = (each.value for each in cookie.values())
    program = made("/platform-tokens", {"name": "deploy", "platform_role": "operator"}).document
    return {
        "password": passwords[1],
        "password before": passwords[0],
        "invitation token": invited[0],
        "invitation token that nobody used": invited[1],
        # Of a JWT the rest is the same of many, or names its user.
        "access token": str(second["access_token"]).rpartition(".")[2],
        "refresh token": str(second["refresh_token"]),
        "refresh token before": str(first["refresh_token"]),
        "session": session,
        "platform token": str(program["token"]),
        **_signing_keys(site.path, site.postgres),
    }


def misused(control_plane: ControlPlane, canaries: Mapping[str, str]) -> list[bytes]:
    """Every answer to calls that carry one of these where it is wrong, spoilt, good no more, or in a place of another."""
    cookie, platform = canaries["session"], canaries["platform token"]
    password, refresh = canaries["password"], canaries["refresh token"]
    broken = json.dumps({"email": EMAIL, "password": password}).encode()[:-1]
    answers = [
        ask(control_plane, "GET", "/me", token=f"{platform[:-1]}{'0' if platform[-1] != '0' else '1'}"),
        ask(control_plane, "GET", "/me", token=cookie),
        ask(control_plane, "GET", "/me", token=f"eyJhbGciOiJFZERTQSJ9.e30.{canaries['access token']}"),
        ask(control_plane, "GET", f"/users/{platform}", token=platform),
        ask(control_plane, "GET", f"/users?cursor={refresh}", token=platform),
        ask(control_plane, "POST", "/sign-out", headers={"Cookie": f"ostiary_session={cookie}"}),
        ask(control_plane, "GET", "/me", headers={"Cookie": f"ostiary_session={cookie}; other={refresh}"}),
        ask(control_plane, "POST", "/sign-in", {"email": password, "password": EMAIL}),
        ask(control_plane, "POST", "/sign-in", {"email": EMAIL, "password": canaries["password before"]}),
        ask(control_plane, "POST", "/sign-in", {"email": EMAIL, "password": password, password: refresh}),
        ask(control_plane, "POST", "/access-tokens", broken),
        ask(control_plane, "POST", f"/access-tokens?token={refresh}", {"email": EMAIL, "password": password}),
        ask(
            control_plane,
            "POST",
            "/invitations/accept",
            {"token": canaries["invitation token"], "password": password, "name": platform},
        ),
        ask(
            control_plane,
            "POST",
            "/organizations",
            {"name": password},
            token=platform,
            headers={"Idempotency-Key": f"{refresh} {cookie}", "If-Match": canaries["invitation token"]},
        ),
    ]
    return [answer.shown for answer in answers]


def used_twice(control_plane: ControlPlane, canaries: Mapping[str, str]) -> bytes:
    """A refresh token that somebody else has used, too: the end of its session."""
    return ask(
        control_plane, "POST", "/access-tokens/refresh", {"refresh_token": canaries["refresh token before"]}
    ).shown


def _signing_keys(file: Path, postgres: str) -> dict[str, str]:
    """What signs access tokens, which no answer has: taken out of its seal."""

    async def rows() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(postgres)
        try:
            return await connection.fetch("SELECT kid, private_sealed, data_key_wrapped FROM token_signing_keys")
        finally:
            await connection.close()

    encryption = load_file(file).stores.key_encryption
    assert encryption is not None
    envelope = Envelope(key_wrappers(encryption))
    found = {
        f"signing key {kid}": envelope.open(sealed, wrapped, key_id=f"token-signing:{kid}").hex()
        for kid, sealed, wrapped in asyncio.run(rows())
    }
    assert found, "nobody has signed in"
    return found
