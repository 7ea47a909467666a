"""Tokens of programs that work for the platform, or for one organization."""

from __future__ import annotations

from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from ostiary.core.credentials import TokenKind, generate_token, token_kind
from tests.control_plane.support import Api


async def created(api: Api, **fields: Any) -> dict[str, Any]:
    reply = await api.post("/platform-tokens", {"name": "deploy", **fields})
    assert reply.status == 201, reply.text
    document: dict[str, Any] = reply.document
    return document


async def test_a_token_is_shown_once_and_has_its_role_alone(api: Api, connection: Connection) -> None:
    """Row 132: nothing but its hash is kept."""
    own, foreign = await api.organization("Own"), await api.organization("Foreign")
    operator = await created(api, platform_role="operator")
    auditor = await created(api, platform_role="auditor")
    admin = await created(api, organization_id=own, role="admin")
    assert token_kind(operator["token"]) is TokenKind.PLATFORM
    assert (await api.get("/users", token=operator["token"])).status == 200
    assert (await api.get("/users", token=auditor["token"])).status == 200
    assert (await api.request("POST", "/organizations", token=auditor["token"], json={"name": "x"})).status == 403
    assert (await api.get("/users", token=admin["token"])).status == 403
    assert (await api.get(f"/organizations/{own}", token=admin["token"])).status == 200
    assert (await api.get(f"/organizations/{foreign}", token=admin["token"])).status == 404
    assert [each["id"] for each in (await api.get("/organizations", token=admin["token"])).document["data"]] == [own]
    assert (await api.get("/me", token=admin["token"])).document["principal"] == f"token:{admin['id']}"
    listed = await api.get("/platform-tokens")
    assert {each["hint"] for each in listed.document["data"]} == {
        each["token"][-4:] for each in (operator, auditor, admin)
    }
    rows = "".join(row["row"] for row in await connection.fetch("SELECT t::text AS row FROM platform_tokens t"))
    for each in (operator, auditor, admin):
        assert each["token"] not in listed.text + rows
    used = await connection.fetchval("SELECT count(*) FROM platform_tokens WHERE last_used_at IS NOT NULL")
    assert used == 3


@pytest.mark.parametrize("end", ["revoked", "expired", "mistyped", "unknown", "another kind"])
async def test_a_token_that_does_not_hold_is_refused(api: Api, connection: Connection, end: str) -> None:
    made = await created(api, platform_role="operator", expires_in_days=1)
    token = made["token"]
    assert (await api.get("/users", token=token)).status == 200
    match end:
        case "revoked":
            for _ in range(2):
                revoked = await api.request("DELETE", f"/platform-tokens/{made['id']}")
                assert revoked.document["state"] == "revoked"
        case "expired":
            await connection.execute("UPDATE platform_tokens SET expires_at = now()")
        case "mistyped":
            token = token[:-1] + ("A" if token[-1] != "A" else "B")
        case "unknown":
            token = generate_token(TokenKind.PLATFORM)
        case _:
            token = token.replace("pt_", "rt_")
    refused = await api.get("/users", token=token)
    assert (refused.status, refused.code) == (401, "credentials_invalid")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"platform_role": "owner"},
        {"platform_role": "operator", "role": "admin"},
        {"organization_id": "00000000-0000-4000-8000-000000000000"},
        {"organization_id": "00000000-0000-4000-8000-000000000000", "role": "admin"},
        {"role": "admin"},
        {"platform_role": "operator", "expires_in_days": 0},
        {"platform_role": "operator", "expires_in_days": 367},
    ],
    ids=str,
)
async def test_a_token_has_one_role_and_an_end(refusing_api: Api, fields: dict[str, Any]) -> None:
    reply = await refusing_api.post("/platform-tokens", {"name": "x", **fields})
    assert reply.status == 422, reply.text
