"""Tokens as callers send them: what gets in, what does not, and what the upstream learns. Minted by joserfc, or by hand where
no library would."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ostiary.core.issuers import Algorithm, ByClaim, Issuer, KeysAt
from ostiary.core.model import Authentication, Environment, Plan, Route, Scheme, Upgrade, Window
from tests.support.gateway import (
    KEY_ID,
    SECRET,
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    talk,
    upstream,
)
from tests.support.issuers import (
    AUDIENCE,
    URL,
    base64url,
    claims,
    document,
    ec_key,
    ed_key,
    issuer,
    key_server,
    mint,
    rsa_key,
)
from tests.support.messages import parse, request
from tests.support.origin import Origin
from tests.support.tunnels import tunnel_origin, upgrade_request
from tests.support.waiting import until

EC, OTHER_EC, ED, EC_384 = ec_key(), ec_key("ec"), ed_key(), ec_key("ec-384", "P-384")
JWT = Authentication(schemes=frozenset({Scheme.JWT}), issuers=("corp",))


@asynccontextmanager
async def gateway_of(
    origin: Origin, corp: Issuer, *routes: Route, more: tuple[Issuer, ...] = (), plans: dict[str, Plan] | None = None
) -> AsyncIterator[RunningGateway]:
    base = configuration([upstream(origin.port)], routes or [route(authentication=JWT)], keys=[key()], plans=plans)
    issuers = {each.name: replace(each, plans=frozenset(plans or {})) for each in (corp, *more)}
    async with running_gateway(replace(base, issuers=issuers)) as gateway:
        yield gateway


def corp(**changes: object) -> Issuer:
    return issuer((EC, rsa_key(), ED, EC_384), **changes)


async def call(
    gateway: RunningGateway, token: str | bytes, *lines: bytes, target: str = "/"
) -> tuple[int, str, dict[str, str]]:
    """Status, code of the problem, headers."""
    sent = token.encode() if isinstance(token, str) else token
    response, body = parse(await talk(gateway.port, request(target, b"Authorization: Bearer " + sent, *lines)))
    headers = {name.decode(): value.decode() for name, value in response.headers}
    code = json.loads(body)["code"] if "problem" in headers.get("content-type", "") else ""
    return response.status_code, code, headers


# --- what gets in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "algorithm"),
    [
        (EC, "ES256"),
        (EC_384, "ES384"),
        (ED, "EdDSA"),
        *((rsa_key(), name) for name in ("RS256", "RS512", "PS256", "PS384")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_token_of_another_library_gets_in_and_stays_here(by: object, algorithm: str, origin: Origin) -> None:
    """A token that reached an upstream could be used by it."""
    async with gateway_of(origin, corp()) as gateway:
        token = mint(by, algorithm)  # type: ignore[arg-type]  # a key of joserfc
        assert (await call(gateway, token))[0] == 200
        assert (await call(gateway, token))[0] == 200  # from memory
        assert gateway.count("api_key_auth_attempts_total", scheme="jwt", result="accepted") == 2
    seen = origin.seen[0]
    assert seen.all("authorization") == []
    assert seen.one("x-ostiary-subject") == "user-1"
    assert seen.one("x-ostiary-environment") == "live"
    assert seen.one("x-ostiary-scopes") == "read"
    assert seen.one("x-ostiary-key") == f"jwt:live:corp:{hashlib.sha256(b'user-1').hexdigest()[:32]}"
    assert token.encode() not in b"".join(origin.raw.values() if isinstance(origin.raw, dict) else origin.raw)


async def test_claims_say_plan_app_organization_environment_and_scopes(origin: Origin) -> None:
    """What a token says of its caller is what limits and usage go by."""
    app, organization = "6f2a2c3e-0c1f-4f57-9a3b-6f1d2f7f0b11", "0b7f4cf4-64b4-4c52-b7a2-f33d7bb0c9d2"
    mapped = corp(
        environment=ByClaim(("env",)),
        plan=ByClaim(("realm", "tier"), "free"),
        app=ByClaim(("app",)),
        organization=organization,
        subject=("client_id",),
        scopes=("permissions",),
    )
    said = claims(
        env="test", realm={"tier": "gold"}, app=app.upper(), client_id="billing", permissions=["a", "b c", "x:*", 5]
    )
    async with gateway_of(origin, mapped, plans={"gold": Plan("gold"), "free": Plan("free")}) as gateway:
        assert (await call(gateway, mint(EC, said=said)))[0] == 200
        assert (await call(gateway, mint(EC, said=claims(env="live", client_id="billing"))))[0] == 200
        for wrong in (
            claims(env="test", client_id="billing", realm={"tier": "platinum"}),  # no such plan: no limits
            claims(env="staging", client_id="billing"),
            claims(client_id="billing"),
            claims(env="test", client_id="billing", app="not a uuid"),
            claims(env="test", client_id=""),
            claims(env="test", client_id="a\nX-Ostiary-Key: forged"),
            claims(env="test", client_id="é"),
            claims(env="test", client_id="x" * 256),
            claims(env="test"),
        ):
            assert (await call(gateway, mint(EC, said=wrong)))[:2] == (401, "credentials_invalid")
        assert gateway.count("api_key_usage_total", app=app, plan="gold", environment="test") == 1
        assert gateway.count("api_key_usage_total", app="", plan="free", environment="live") == 1
    told, bare = origin.seen
    assert [
        told.one(f"x-ostiary-{name}") for name in ("plan", "app", "organization", "environment", "subject", "scopes")
    ] == [*("gold", app, organization, "test", "billing", "a")]
    assert bare.one("x-ostiary-plan") == "free"
    assert bare.one("x-ostiary-key") != told.one("x-ostiary-key")  # live and test are counted apart


async def test_bearer_keys_and_tokens_share_a_route_and_are_told_apart(origin: Origin) -> None:
    """Callers move from keys to tokens one by one."""
    both = Authentication(schemes=frozenset({Scheme.JWT, Scheme.BEARER}), issuers=("corp",))
    async with gateway_of(origin, corp(), route(authentication=both)) as gateway:
        assert (await call(gateway, mint(EC)))[0] == 200
        assert (await call(gateway, SECRET))[0] == 200
        assert (await call(gateway, mint(OTHER_EC)))[:2] == (401, "credentials_invalid")
        assert (await call(gateway, b"x" * 40))[:2] == (401, "credentials_invalid")
        assert (await call(gateway, mint(EC), b"X-API-Key: " + SECRET))[:2] == (401, "credentials_invalid")
    assert [seen.one("x-ostiary-key").partition(":")[0] for seen in origin.seen] == ["jwt", KEY_ID]


async def test_a_route_takes_tokens_of_its_own_issuers_alone(origin: Origin) -> None:
    """A token that was verified for one route and is remembered would otherwise open the other."""
    partner = issuer([OTHER_EC], name="partner", url="https://partner.example/")
    theirs = Authentication(schemes=frozenset({Scheme.JWT}), issuers=("partner",))
    routes = (route(authentication=JWT), route("theirs", "/theirs/**", authentication=theirs))
    token, other = mint(EC), mint(OTHER_EC, said=claims(iss="https://partner.example/"))
    async with gateway_of(origin, corp(), *routes, more=(partner,)) as gateway:
        assert (await call(gateway, token))[0] == 200
        assert (await call(gateway, token, target="/theirs/x"))[:2] == (401, "credentials_invalid")
        assert (await call(gateway, other, target="/theirs/x"))[0] == 200
        assert (await call(gateway, other))[:2] == (401, "credentials_invalid")
        # The partner's key under our issuer's name, with our key's id.
        assert (await call(gateway, mint(OTHER_EC, kid="ec")))[:2] == (401, "credentials_invalid")


async def test_issuers_of_one_name_are_told_apart_by_their_audience(origin: Origin) -> None:
    """One identity provider, two APIs: a token for the one that was used there would otherwise open the other, with the
    environment and the plan that it has there."""
    other = corp(name="other", audiences=("https://admin.example.com",), environment="test")
    theirs = Authentication(schemes=frozenset({Scheme.JWT}), issuers=("other",))
    routes = (route(authentication=JWT), route("admin", "/admin/**", authentication=theirs))
    token, admin = mint(EC), mint(EC, said=claims(aud="https://admin.example.com"))
    both = mint(EC, said=claims(aud=[AUDIENCE, "https://admin.example.com"]))
    async with gateway_of(origin, corp(), *routes, more=(other,)) as gateway:
        for _ in range(2):
            assert (await call(gateway, token))[0] == 200
            assert (await call(gateway, token, target="/admin/x"))[:2] == (401, "credentials_invalid")
            assert (await call(gateway, admin, target="/admin/x"))[0] == 200
            assert (await call(gateway, admin))[:2] == (401, "credentials_invalid")
            assert (await call(gateway, both))[0] == 200
            assert (await call(gateway, both, target="/admin/x"))[0] == 200
    assert [seen.one("x-ostiary-environment") for seen in origin.seen] == ["live", "test", "live", "test"] * 2


async def test_the_limits_of_a_plan_are_each_subject_s_own(origin: Origin) -> None:
    """However many tokens one caller has, it has one budget; and a key whose id looks alike has another."""
    plans = {"small": Plan("small", windows=(Window(2, 3600),))}
    async with gateway_of(origin, corp(plan="small"), plans=plans) as gateway:
        statuses = [(await call(gateway, mint(EC, said=claims(jti=str(n)))))[0] for n in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert (await call(gateway, mint(EC, said=claims(sub="user-2"))))[0] == 200


async def test_a_token_ends_when_it_says_although_it_is_remembered(origin: Origin) -> None:
    """A cache that forgot the end of a token would make every token eternal."""
    async with gateway_of(origin, corp()) as gateway:
        token = mint(EC)
        assert (await call(gateway, token))[0] == 200
        gateway.gateway._tokens._clock = lambda: time.time() + 301
        assert (await call(gateway, token))[:2] == (401, "credentials_invalid")


# --- what does not get in (row 127) -----------------------------------------------------------------------------------


def by_hand(header: object, said: object, sign: Callable[[bytes], bytes] = lambda _: b"x" * 64) -> str:
    """A token whose parts are JSON, or bytes as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, said)]
    signed = ".".join(map(base64url, parts)).encode()
    return f"{signed.decode()}.{base64url(sign(signed))}"


def ecdsa(signed: bytes) -> bytes:
    """As EC signs, in the form of RFC 7518 §3.4."""
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(ecdsa_der(signed))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def ecdsa_der(signed: bytes) -> bytes:
    private = EC.private_key
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private.sign(signed, ec.ECDSA(hashes.SHA256()))


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


ES = {"alg": "ES256", "kid": "ec"}
RSA_PEM = rsa_key().public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
NOW = int(time.time())


def looser(token: str) -> str:
    """The same bytes, with bits set that base64url leaves over."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def good() -> str:
    return by_hand(ES, claims(), ecdsa)


def doubled(name: str) -> bytes:
    said = json.dumps(claims())
    return f'{said[:-1]}, "{name}": {json.dumps(claims()[name])}}}'.encode()


BAD: dict[str, Callable[[], str | bytes]] = {
    "alg none": lambda: by_hand({"alg": "none"}, claims(), lambda _: b""),
    "alg none, signed": lambda: by_hand({"alg": "none", "kid": "ec"}, claims(), ecdsa),
    "alg nOnE": lambda: by_hand({"alg": "nOnE"}, claims()),
    "no alg": lambda: by_hand({"kid": "ec"}, claims(), ecdsa),
    "alg a list": lambda: by_hand({"alg": ["ES256"], "kid": "ec"}, claims(), ecdsa),
    "alg null": lambda: by_hand({"alg": None, "kid": "ec"}, claims(), ecdsa),
    "HS256 by the public key as PEM": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, claims(), hs256(RSA_PEM)),
    "HS256 by the public key as JWK": lambda: by_hand(
        {"alg": "HS256", "kid": "rsa"}, claims(), hs256(json.dumps(rsa_key().as_dict(private=False)).encode())
    ),
    "HS256 by the key set": lambda: by_hand({"alg": "HS256", "kid": "ec"}, claims(), hs256(document(EC))),
    "HS256 by nothing": lambda: by_hand({"alg": "HS256", "kid": "ec"}, claims(), hs256(b"")),
    "an algorithm of another key": lambda: by_hand({"alg": "RS256", "kid": "ec"}, claims(), ecdsa),
    "another curve's algorithm": lambda: by_hand({"alg": "ES384", "kid": "ec"}, claims(), ecdsa),
    "kid a path": lambda: by_hand(ES | {"kid": "../../../../dev/null"}, claims(), hs256(b"")),
    "kid SQL": lambda: by_hand(ES | {"kid": "x' UNION SELECT 'secret'--"}, claims(), ecdsa),
    "kid a URL": lambda: by_hand(ES | {"kid": "http://evil.example/keys"}, claims(), ecdsa),
    "kid a number": lambda: by_hand(ES | {"kid": 1}, claims(), ecdsa),
    "kid huge": lambda: by_hand(ES | {"kid": "k" * 300}, claims(), ecdsa),
    "kid of another key": lambda: by_hand(ES | {"kid": "ec-384"}, claims(), ecdsa),
    "no kid, and several keys fit": lambda: mint(rsa_key(), "RS256", kid=None)[:-4] + "AAAA",
    "another key's signature": lambda: mint(OTHER_EC),
    "jku": lambda: mint(OTHER_EC, jku="https://evil.example/keys"),
    "x5u": lambda: mint(OTHER_EC, x5u="https://evil.example/chain.pem"),
    "jwk in the header": lambda: mint(OTHER_EC, jwk=OTHER_EC.as_dict(private=False)),
    "crit": lambda: by_hand(ES | {"crit": ["exp"]}, claims(), ecdsa),
    "crit empty": lambda: by_hand(ES | {"crit": []}, claims(), ecdsa),
    "b64 false": lambda: by_hand(ES | {"b64": False, "crit": ["b64"]}, claims(), ecdsa),
    "zip": lambda: by_hand(ES | {"zip": "DEF"}, claims(), ecdsa),
    "expired": lambda: mint(EC, said=claims(exp=NOW - 1)),
    "expired by a string": lambda: by_hand(ES, claims(exp=str(NOW + 300)), ecdsa),
    "exp true": lambda: by_hand(ES, claims(exp=True), ecdsa),
    "exp 1e400": lambda: by_hand(ES, json.dumps(claims(exp=7)).replace(": 7", ": 1e400").encode(), ecdsa),
    "exp NaN": lambda: by_hand(ES, json.dumps(claims(exp=7)).replace(": 7", ": NaN").encode(), ecdsa),
    "exp of 5000 digits": lambda: by_hand(
        ES, json.dumps(claims(exp=7)).replace(": 7", ": " + "9" * 5000).encode(), ecdsa
    ),
    "no exp": lambda: mint(EC, said=claims(exp=None)),
    "not yet": lambda: mint(EC, said=claims(nbf=int(time.time()) + 600)),
    "nbf a text": lambda: by_hand(ES, claims(nbf="soon"), ecdsa),
    "issued in the future": lambda: mint(EC, said=claims(iat=int(time.time()) + 600)),
    "another audience": lambda: mint(EC, said=claims(aud="https://other.example.com")),
    "an audience that begins alike": lambda: mint(EC, said=claims(aud=AUDIENCE + ".evil.example")),
    "no audience": lambda: mint(EC, said=claims(aud=None)),
    "audience a mapping": lambda: by_hand(ES, claims(aud={AUDIENCE: 1}), ecdsa),
    "audiences with a number": lambda: by_hand(ES, claims(aud=[AUDIENCE, 1]), ecdsa),
    "another issuer": lambda: mint(EC, said=claims(iss="https://evil.example/")),
    "an issuer without its slash": lambda: mint(EC, said=claims(iss=URL[:-1])),
    "no issuer": lambda: mint(EC, said=claims(iss=None)),
    "issuer a list": lambda: by_hand(ES, claims(iss=[URL]), ecdsa),
    "no subject": lambda: mint(EC, said=claims(sub=None)),
    "subject a number": lambda: by_hand(ES, claims(sub=7), ecdsa),
    "a claim twice": lambda: by_hand(ES, doubled("sub"), ecdsa),
    "alg twice": lambda: by_hand(b'{"alg": "none", "kid": "ec", "alg": "ES256"}', claims(), ecdsa),
    "claims a list": lambda: by_hand(ES, [claims()], ecdsa),
    "header a text": lambda: by_hand(b'"ES256"', claims(), ecdsa),
    "claims no JSON": lambda: by_hand(ES, b"{", ecdsa),
    "claims not UTF-8": lambda: by_hand(ES, b'{"sub": "\xff"}', ecdsa),
    "claims 6000 deep": lambda: by_hand(ES, b"[" * 6000, ecdsa),
    "huge": lambda: by_hand(ES, claims(pad="x" * 16_384), ecdsa),
    "signature in DER": lambda: by_hand(ES, claims(), ecdsa_der),
    "signature of zeros": lambda: by_hand(ES, claims(), lambda _: bytes(64)),
    "signature cut short": lambda: by_hand(ES, claims(), lambda signed: ecdsa(signed)[:-1]),
    "signature longer": lambda: by_hand(ES, claims(), lambda signed: ecdsa(signed) + b"\0"),
    "no signature": lambda: good().rpartition(".")[0] + ".",
    "bits left over": lambda: looser(good()),
    "padding": lambda: good() + "==",
    "the other alphabet": lambda: good().replace("-", "+").replace("_", "/") + "+",
    "a space within": lambda: good().replace(".", " .", 1),
    "two parts": lambda: good().rpartition(".")[0],
    "four parts": lambda: good() + ".x",
    "dots alone": lambda: "..",
    "five parts, encrypted": lambda: "a.b.c.d.e",
    "another claim, same signature": lambda: ".".join(
        (good().split(".")[0], base64url(json.dumps(claims(sub="admin")).encode()), good().split(".")[2])
    ),
}


async def test_no_bad_token_gets_in(origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    """Row 127: each of them is 401 with one answer, and nothing of it is logged. (RFC 8725)"""
    caplog.set_level("INFO")
    answers = set()
    async with gateway_of(origin, corp()) as gateway:
        assert (await call(gateway, good()))[0] == 200  # the hand that makes the bad ones makes good ones too
        for name, make in BAD.items():
            token = make()
            status, code, headers = await call(gateway, token)
            answers.add((status, code, headers.get("www-authenticate")))
            assert (status, code) == (401, "credentials_invalid"), name
            assert str(token)[-40:] not in caplog.text or len(token) < 10, name
    assert answers == {(401, "credentials_invalid", 'Bearer realm="ostiary"')}
    assert len(origin.seen) == 1


@pytest.mark.parametrize(
    ("changes", "said", "header"),
    [
        pytest.param({"algorithms": frozenset({Algorithm.RS256})}, {}, {}, id="an algorithm that is not taken"),
        pytest.param({"required": {("token_use",): "access"}}, {}, {}, id="without a required claim"),
        pytest.param({"required": {("token_use",): "access"}}, {"token_use": "id"}, {}, id="with another"),
        pytest.param({"required": {("roles",): "api"}}, {"roles": ["user", ["api"]]}, {}, id="within a list in a list"),
        pytest.param({"token_types": frozenset({"at+jwt"})}, {}, {}, id="of another type"),
        pytest.param({"lifetime_seconds_max": 60.0}, {}, {}, id="longer than is taken"),
        pytest.param({"lifetime_seconds_max": 60.0}, {"iat": None}, {}, id="longer, and does not say since when"),
    ],
)
async def test_what_the_operator_asks_for_must_be_there(
    changes: dict[str, object], said: dict[str, object], header: dict[str, str], origin: Origin
) -> None:
    """Row 127: an ID token, or one for a person, is signed by the same keys."""
    async with gateway_of(origin, corp(**changes)) as gateway:
        assert (await call(gateway, mint(EC, said=claims(**said), **header)))[:2] == (401, "credentials_invalid")
        rsa = Algorithm.RS256 in corp(**changes).algorithms and len(corp(**changes).algorithms) == 1
        right = claims(token_use="access", roles=["user", "api"], exp=int(time.time()) + 50)
        by, algorithm = (rsa_key(), "RS256") if rsa else (EC, "ES256")
        assert (await call(gateway, mint(by, algorithm, said=right, typ="application/at+jwt")))[0] == 200


async def test_skew_is_allowed_both_ways_and_no_more(origin: Origin) -> None:
    """An issuer's clock is not ours."""
    async with gateway_of(origin, corp(skew_seconds=30.0)) as gateway:
        now = int(time.time())
        for said, status in (
            (claims(exp=now - 20), 200),
            (claims(exp=now - 40), 401),
            (claims(nbf=now + 20, iat=now + 20), 200),
            (claims(nbf=now + 45), 401),
            (claims(iat=now + 45), 401),
        ):
            assert (await call(gateway, mint(EC, said=said)))[0] == status, said


async def test_a_token_without_end_is_taken_where_the_operator_says_so(origin: Origin) -> None:
    """Some issuers make no others."""
    async with gateway_of(origin, corp(expiry_required=False)) as gateway:
        assert (await call(gateway, mint(EC, said=claims(exp=None))))[0] == 200
        assert (await call(gateway, mint(EC, said=claims(exp=1))))[0] == 401


async def test_scopes_of_a_token_are_not_wildcards(origin: Origin) -> None:
    """Many issuers let a client ask for any word as a scope: `*` must not open everything. Row 68: 403, once it is known
    who calls."""
    needs = replace(JWT, scopes={"GET": frozenset({"clients:read"})})
    async with gateway_of(origin, corp(), route(authentication=needs)) as gateway:
        for scope, status in (("clients:read other", 200), ("clients:*", 403), ("*", 403), ("", 403), (None, 403)):
            assert (await call(gateway, mint(EC, said=claims(scope=scope))))[0] == status, scope
        assert (await call(gateway, mint(EC, said=claims(scope=None, scp=["clients:read"]))))[0] == 200
        assert (await call(gateway, mint(OTHER_EC, said=claims(scope="nothing"))))[0] == 401


async def test_remembered_tokens_are_bounded_and_used_ones_stay(origin: Origin) -> None:
    """Row 69: a flood of tokens must not fill memory, nor push out those in use."""
    async with gateway_of(origin, corp()) as gateway:
        ring = gateway.gateway._tokens
        ring._capacity = 8
        in_use = mint(EC, said=claims(sub="regular"))
        for n in range(30):
            assert (await call(gateway, in_use))[0] == 200
            assert (await call(gateway, mint(EC, said=claims(sub=f"user-{n}"))))[0] == 200
        assert ring.status()["verified_tokens"] == 8
        assert hashlib.sha256(in_use.encode()).digest() in ring._known


async def test_a_test_token_does_not_reach_a_live_upstream(origin: Origin) -> None:
    """Row 65: the environment of a token is a key's."""
    live_alone = route(authentication=JWT, upstreams={Environment.LIVE: "origin"})
    async with gateway_of(origin, corp(environment="test"), live_alone) as gateway:
        assert (await call(gateway, mint(EC)))[:2] == (403, "environment_mismatch")
    assert origin.seen == []


async def test_a_tunnel_ends_with_its_token() -> None:
    """Row 107: a WebSocket that outlived the token which opened it would need none."""
    async with tunnel_origin() as origin:
        routes = [route(authentication=JWT, upgrades=frozenset({Upgrade.WEBSOCKET}))]
        settings = replace(configuration([upstream(origin.port)], routes), issuers={"corp": corp()})
        async with running_gateway(settings) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(upgrade_request(b"Authorization: Bearer " + mint(EC).encode()))
            assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            gateway.gateway._tokens._clock = lambda: time.time() + 301
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()


async def test_a_reload_that_changes_an_issuer_holds_for_tokens_that_were_verified(origin: Origin) -> None:
    """An operator who takes an audience away means the tokens in use too."""
    async with gateway_of(origin, corp()) as gateway:
        token = mint(EC)
        assert (await call(gateway, token))[0] == 200
        before = gateway.gateway.snapshot.configuration
        gateway.gateway.reload(before)
        assert gateway.gateway._tokens.status()["verified_tokens"] == 1  # nothing has changed: nothing is verified anew
        assert (await call(gateway, token))[0] == 200
        gateway.gateway.reload(replace(before, issuers={"corp": corp(audiences=("https://elsewhere.example",))}))
        assert (await call(gateway, token))[:2] == (401, "credentials_invalid")
        gateway.gateway.reload(replace(before, issuers={"corp": issuer([OTHER_EC])}))
        assert (await call(gateway, token))[:2] == (401, "credentials_invalid")


async def test_a_call_that_waits_over_a_reload_leaves_nothing_of_before(origin: Origin) -> None:
    """What it prepares for its caller is of the route it began with: the next call would have its scopes and its upstream,
    for as long as the caller goes on calling."""
    async with key_server(EC) as server:
        server.hold = asyncio.Event()
        fetched = issuer(KeysAt(server.url))
        token = mint(EC)
        async with gateway_of(origin, fetched) as gateway:
            first = asyncio.create_task(call(gateway, token))
            keys = gateway.gateway._tokens._keys["corp"]
            await until(lambda: bool(keys._waiting), "the call waits for the issuer's keys")
            before = gateway.gateway.snapshot.configuration
            guarded = replace(JWT, scopes={"*": frozenset({"admin"})})
            gateway.gateway.reload(replace(before, routes=(route(authentication=guarded),)))
            server.hold.set()
            assert (await first)[0] == 200
            assert (await call(gateway, token))[:2] == (403, "scope_missing")
