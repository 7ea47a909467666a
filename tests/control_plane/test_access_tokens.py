"""Row 127: tokens that programs call with, ours and those of an outside issuer, and what passes itself off as one."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ostiary.control_plane.db import Connection
from ostiary.core.encryption import Envelope
from ostiary.core.issuers import Issuer, KeysAt, SignInIssuer
from ostiary.core.model import Configuration
from tests.control_plane.people import by_password, invited, person
from tests.control_plane.support import KEY_ENCRYPTION_KEY, Api, Reply, configuration_for, serving
from tests.support import issuers


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    return json.loads(unbase64(header)), json.loads(unbase64(claims))


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def joined(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    encoded = [issuers.base64url(json.dumps(each).encode()) for each in (header, claims)]
    return ".".join([*encoded, issuers.base64url(signature)])


async def signing_key(connection: Connection) -> Ed25519PrivateKey:
    """The one there is, opened as who has the KEK opens it."""
    row = await connection.fetchrow("SELECT * FROM token_signing_keys")
    assert row is not None
    envelope = Envelope(KEY_ENCRYPTION_KEY)
    octets = envelope.open(row["private_sealed"], row["data_key_wrapped"], key_id=f"token-signing:{row['kid']}")
    return Ed25519PrivateKey.from_private_bytes(octets)


async def refresh(api: Api, token: str) -> Reply:
    return await api.request("POST", "/access-tokens/refresh", token=None, json={"refresh_token": token})


async def test_a_token_of_ours_verifies_by_the_published_keys_and_says_no_role(api: Api) -> None:
    """A gateway, or any other service, can verify it; and what it says can't be older than the database."""
    rosa = await person(api, "rosa@example.com", platform_role="auditor")
    document = (await api.request("GET", "/.well-known/jwks.json", token=None)).document
    (key,) = document["keys"]
    assert set(key) == {"kty", "crv", "alg", "use", "kid", "x"}, "no private member"
    claims = jwt.decode(rosa.token, jwt.PyJWK(key), algorithms=["EdDSA"], audience="ostiary-control-plane")
    assert set(claims) == {"iss", "aud", "sub", "sid", "iat", "exp", "jti"}
    assert claims["exp"] - claims["iat"] == 900
    header, _ = parts(rosa.token)
    assert header == {"alg": "EdDSA", "typ": "ostiary-access+jwt", "kid": key["kid"]}


async def test_roles_and_revocations_hold_with_the_next_call(api: Api, connection: Connection) -> None:
    """Row 127: an old role in a token, a session that was ended, a user who was disabled."""
    rosa = await person(api, "rosa@example.com", platform_role="operator")
    assert (await api.get("/users", token=rosa.token)).status == 200
    await api.request("PATCH", f"/users/{rosa.id}", json={"platform_role": None})
    assert (await api.get("/users", token=rosa.token)).status == 403
    await api.request("PATCH", f"/users/{rosa.id}", json={"disabled": True})
    assert (await api.get("/me", token=rosa.token)).status == 401
    assert (await refresh(api, rosa.refresh_token)).status == 401
    await api.request("PATCH", f"/users/{rosa.id}", json={"disabled": False})
    assert (await api.get("/me", token=rosa.token)).status == 401, "its session has ended, for good"
    pair = (await by_password(api, "/access-tokens", "rosa@example.com")).document
    assert (await api.get("/me", token=pair["access_token"])).status == 200
    assert (await api.request("POST", "/sign-out", token=pair["access_token"])).status == 200
    assert (await api.get("/me", token=pair["access_token"])).status == 401
    assert (await refresh(api, pair["refresh_token"])).status == 401


async def test_what_passes_itself_off_as_a_token_of_ours_is_refused(api: Api) -> None:
    """Row 127."""
    rosa = await person(api, "rosa@example.com")
    (key,) = (await api.request("GET", "/.well-known/jwks.json", token=None)).document["keys"]
    header, claims = parts(rosa.token)
    signature = unbase64(rosa.token.split(".")[2])
    public = unbase64(key["x"])
    now = int(time.time())

    def by_hmac(secret: bytes, head: dict[str, Any]) -> str:
        signed = joined(head, claims).rpartition(".")[0]
        return f"{signed}.{issuers.base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def by_another(head: dict[str, Any], said: dict[str, Any]) -> str:
        other = Ed25519PrivateKey.generate()
        signed = joined(head, said).rpartition(".")[0]
        return f"{signed}.{issuers.base64url(other.sign(signed.encode()))}"

    stranger = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    own_jwk = {"kty": "OKP", "crv": "Ed25519", "x": issuers.base64url(stranger)}
    forged = {
        "alg none": joined({**header, "alg": "none"}, claims),
        "alg None": joined({**header, "alg": "nOnE"}, claims, signature),
        "no signature": joined(header, claims),
        "HS256 by the public key": by_hmac(public, {**header, "alg": "HS256"}),
        "HS256 by the JWK's text": by_hmac(key["x"].encode(), {**header, "alg": "HS256"}),
        "RS256": joined({**header, "alg": "RS256"}, claims, signature),
        "another key": by_another(header, claims),
        "kid of a file": by_another({**header, "kid": "../../../../dev/null"}, claims),
        "kid of SQL": by_another({**header, "kid": "' OR '1'='1"}, claims),
        "no kid": by_another({name: header[name] for name in ("alg", "typ")}, claims),
        "jku": by_another({**header, "jku": "https://attacker.example/keys"}, claims),
        "x5u": by_another({**header, "x5u": "https://attacker.example/cert"}, claims),
        "jwk": by_another({**header, "jwk": own_jwk}, claims),
        "crit": by_another({**header, "crit": ["b64"], "b64": False}, claims),
        "no typ": by_another({name: header[name] for name in ("alg", "kid")}, claims),
        "changed claims": joined(header, {**claims, "sub": "00000000-0000-4000-8000-000000000000"}, signature),
        "huge": joined(header, {**claims, "x": "y" * 20_000}, signature)[:7900],
        "expired": by_another(header, {**claims, "exp": now - 60}),
        "two parts": rosa.token.rpartition(".")[0],
        "padding": rosa.token + "=",
        "nothing": "..",
    }
    for name, token in forged.items():
        reply = await api.get("/me", token=token)
        assert (reply.status, reply.code) == (401, "credentials_invalid"), name
    assert (await api.get("/me", token=rosa.token)).status == 200


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("expired", {"exp": -60}),
        ("not yet", {"nbf": 600}),
        ("from the future", {"iat": 600, "exp": 1200}),
        ("no exp", {"exp": None}),
        ("long life", {"exp": 86400}),
        ("audience", {"aud": "another-service"}),
        ("no audience", {"aud": None}),
        ("issuer", {"iss": "urn:ostiary:another"}),
        ("no session", {"sid": None}),
        ("another user", {"sub": "00000000-0000-4000-8000-000000000000"}),
        ("sub is no id", {"sub": "' OR '1'='1"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_our_own_key_has_signed_is_held_to_its_claims(
    api: Api, connection: Connection, name: str, changes: dict[str, object]
) -> None:
    """Row 127: signed by the right key, and wrong all the same."""
    rosa = await person(api, "rosa@example.com")
    header, claims = parts(rosa.token)
    private = await signing_key(connection)
    now = int(time.time())
    said = {**claims, **{key: now + value if isinstance(value, int) else value for key, value in changes.items()}}
    said = {key: value for key, value in said.items() if value is not None}
    token = jwt.encode(said, private, algorithm="EdDSA", headers=header)
    assert (await api.get("/me", token=token)).status == 401, name
    assert (await api.get("/me", token=jwt.encode(claims, private, algorithm="EdDSA", headers=header))).status == 200


async def test_a_refresh_token_is_good_once_and_a_second_use_ends_its_session(api: Api) -> None:
    """Row 127: one that was copied works for the thief or for the owner, and then for neither (RFC 9700 §4.14.2)."""
    rosa = await person(api, "rosa@example.com")
    second = (await refresh(api, rosa.refresh_token)).document
    assert (await api.get("/me", token=second["access_token"])).status == 200
    third = (await refresh(api, second["refresh_token"])).document
    stolen = await refresh(api, rosa.refresh_token)
    assert (stolen.status, stolen.code) == (401, "credentials_invalid")
    for token in (rosa.token, second["access_token"], third["access_token"]):
        assert (await api.get("/me", token=token)).status == 401
    assert (await refresh(api, third["refresh_token"])).status == 401


async def test_of_two_refreshes_at_once_one_wins_and_the_session_ends(api: Api) -> None:
    rosa = await person(api, "rosa@example.com")
    replies = await asyncio.gather(*(refresh(api, rosa.refresh_token) for _ in range(4)))
    assert sorted(reply.status for reply in replies) == [200, 401, 401, 401]


async def test_signing_keys_rest_sealed_are_shared_and_renewed(database: str, connection: Connection) -> None:
    """Row 132: the private key stands nowhere in the open; and two control planes take each other's tokens."""
    configuration = configuration_for(database)
    async with serving(configuration) as first, serving(configuration) as second:
        rosa = await person(first, "rosa@example.com")
        assert (await second.get("/me", token=rosa.token)).status == 200
        (row,) = await connection.fetch("SELECT * FROM token_signing_keys")
        assert (await signing_key(connection)).private_bytes_raw() not in row["private_sealed"]
        await connection.execute("UPDATE token_signing_keys SET created_at = now() - interval '30 days 1 minute'")
    async with serving(configuration) as renewed:
        pair = (await by_password(renewed, "/access-tokens", "rosa@example.com")).document
        assert await connection.fetchval("SELECT count(*) FROM token_signing_keys") == 2
        published = (await renewed.request("GET", "/.well-known/jwks.json", token=None)).document["keys"]
        assert len(published) == 2
        kid = parts(pair["access_token"])[0]["kid"]
        assert kid == row["kid"], "a new key is published before it signs"
        await connection.execute(
            "UPDATE token_signing_keys SET created_at = now() - interval '11 minutes' WHERE kid <> $1", kid
        )
    async with serving(configuration) as later:
        pair = (await by_password(later, "/access-tokens", "rosa@example.com")).document
        assert parts(pair["access_token"])[0]["kid"] != kid
        assert (await later.get("/me", token=rosa.token)).status == 200, "what the old one signed is good until it ends"


async def test_a_signing_key_whose_kek_is_gone_is_replaced(database: str) -> None:
    async with serving(configuration_for(database)) as before:
        rosa = await person(before, "rosa@example.com")
    async with serving(configuration_for(database, key_encryption_key=bytes(32))) as after:
        pair = (await by_password(after, "/access-tokens", "rosa@example.com")).document
        for token in (rosa.token, pair["access_token"]):
            assert (await after.get("/me", token=token)).status == 200


# --- an outside issuer ------------------------------------------------------------------------------------------------

KEY = issuers.ec_key()


def outside(configuration: Configuration, keys: KeysAt | None = None, **changes: object) -> Configuration:
    issuer: Issuer = issuers.issuer(keys if keys is not None else [KEY], **changes)
    sign_in = SignInIssuer(issuer)
    return replace(configuration, control_plane=replace(configuration.control_plane, issuer=sign_in))


def minted(key: Any = KEY, algorithm: str = "ES256", **changes: object) -> str:
    said = {"email": "rosa@example.com", "email_verified": True, **changes}
    return issuers.mint(key, algorithm, issuers.claims(**said))


@pytest.fixture
async def api_with_issuer(configuration: Configuration) -> AsyncIterator[Api]:
    async with serving(outside(configuration)) as api:
        yield api


async def test_a_token_of_the_issuer_is_the_user_whose_address_it_vouches_for(
    api_with_issuer: Api, connection: Connection
) -> None:
    """A password that was there before is not: whoever chose it had an invitation, and perhaps not the address."""
    api = api_with_issuer
    rosa = await person(api, "rosa@example.com", platform_role="auditor")
    me = await api.get("/me", token=minted())
    assert (me.status, me.document["user"]["id"], me.document["platform_role"]) == (200, rosa.id, "auditor")
    assert (await api.get("/me", token=rosa.token)).status == 401
    assert (await by_password(api, "/sign-in", "rosa@example.com")).status == 401
    moved = await api.get("/me", token=minted(email="moved@example.com"))
    assert moved.document["user"]["id"] == rosa.id, "the subject is who it was, whatever its address"
    await api.request("PATCH", f"/users/{rosa.id}", json={"disabled": True})
    assert (await api.get("/me", token=minted())).status == 401


async def test_who_was_not_invited_does_not_become_a_user(api_with_issuer: Api, connection: Connection) -> None:
    api = api_with_issuer
    assert (await api.get("/me", token=minted())).status == 401
    organization_id = await api.organization()
    made = await invited(api, "rosa@example.com", organization_id=organization_id, role="developer")
    for unproved in ({"email_verified": False}, {"email_verified": None}, {"email_verified": "true"}, {"email": None}):
        assert (await api.get("/me", token=minted(**unproved))).status == 401, unproved
    me = await api.get("/me", token=minted())
    assert (me.status, me.document["memberships"]) == (200, [])
    accepted = await api.request(
        "POST", "/me/invitations/accept", token=minted(), json={"token": made.document["token"]}
    )
    assert accepted.status == 200, accepted.text
    assert (await api.get(f"/organizations/{organization_id}", token=minted())).status == 200


async def test_what_passes_itself_off_as_a_token_of_the_issuer_is_refused(api_with_issuer: Api) -> None:
    """Row 127."""
    api = api_with_issuer
    await person(api, "rosa@example.com")
    claims = issuers.claims(email="rosa@example.com", email_verified=True)
    stranger, rsa = issuers.ec_key(KEY.kid or ""), issuers.rsa_key()
    now = int(time.time())
    public = KEY.as_pem(private=False)
    signed = joined({"alg": "HS256", "kid": KEY.kid}, claims).rpartition(".")[0]
    forged = {
        "alg none": joined({"alg": "none", "kid": KEY.kid}, claims),
        "HS256 by the public key": f"{signed}.{issuers.base64url(hmac.digest(public, signed.encode(), 'sha256'))}",
        "another key of this kid": minted(stranger),
        "another kind of key": minted(rsa, "RS256"),
        "jku": issuers.mint(stranger, said=claims, jku="https://attacker.example/keys"),
        "x5u": issuers.mint(stranger, said=claims, x5u="https://attacker.example/cert"),
        "kid of a file": issuers.mint(stranger, said=claims, kid="../../etc/passwd"),
        "kid of SQL": issuers.mint(stranger, said=claims, kid="x' UNION SELECT 1--"),
        "expired": minted(exp=now - 60),
        "not yet": minted(nbf=now + 600),
        "no exp": minted(exp=None),
        "audience": minted(aud="https://other.example"),
        "no audience": minted(aud=None),
        "issuer": minted(iss="https://login.example.com"),
        "no subject": minted(sub=None),
        "huge": minted(padding="x" * 20_000)[:7900],
        "ours by their key": minted(iss="urn:ostiary:control-plane", aud="ostiary-control-plane"),
    }
    for name, token in forged.items():
        reply = await api.get("/me", token=token)
        assert (reply.status, reply.code) == (401, "credentials_invalid"), name
    assert (await api.get("/me", token=minted())).status == 200


async def test_keys_are_fetched_and_an_issuer_that_is_away_is_not_an_invalid_token(
    configuration: Configuration,
) -> None:
    """A caller throws a token away on 401."""
    async with issuers.key_server(KEY) as server:
        source = KeysAt(server.url, refresh_seconds=3600, cooldown_seconds=0.0)
        async with serving(outside(configuration, source)) as api:
            await person(api, "rosa@example.com")
            assert (await api.get("/me", token=minted())).status == 200
            renewed = issuers.ec_key("next")
            server.body = issuers.document(KEY, renewed)
            assert (await api.get("/me", token=minted(renewed))).status == 200
            server.status = 500
            unknown = issuers.ec_key("later")
            away = await api.get("/me", token=minted(unknown))
            assert (away.status, away.code) == (503, "issuer_unavailable")
            assert (await api.get("/me", token=minted(renewed))).status == 200, "what is known is believed meanwhile"
