"""Failed attempts over HTTP: what is answered, what is asked of nobody, and who goes on."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import asyncpg
import h11
import pytest

from ostiary.core.credentials import generate_key_id, generate_secret
from ostiary.core.issuers import Issuer
from ostiary.core.model import Authentication, Environment, FailedAttempts, Scheme
from ostiary.core.signature_base import SignedMessage
from ostiary.core.signing import sign_request
from ostiary.core.token_signatures import verify_signature
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.credentials import http_signature
from ostiary.gateway.tokens import ring
from tests.gateway.keys.conftest import KeyDatabase, make_key, until
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
from tests.support.issuers import claims, ec_key, issuer, mint
from tests.support.messages import parse, request
from tests.support.origin import Origin
from tests.support.signatures import signature_lines

ATTACKER, OTHER = "198.51.100.7", "198.51.100.8"
BOUND = 10
SCHEMES = Authentication(schemes=frozenset({Scheme.BEARER, Scheme.HMAC, Scheme.HTTP_SIGNATURE}))


@pytest.fixture
async def database(migrated_database: str) -> AsyncIterator[KeyDatabase]:
    connection = await asyncpg.connect(migrated_database)
    database = KeyDatabase(migrated_database, connection)
    await database.begin()
    yield database
    await connection.close()


@asynccontextmanager
async def gateway_at(
    origin: Origin, *, postgres: str | None = None, redis: str | None = None, issuers: tuple[Issuer, ...] = ()
) -> AsyncIterator[RunningGateway]:
    schemes = SCHEMES.schemes | {Scheme.JWT} if issuers else SCHEMES.schemes
    authentication = Authentication(schemes=schemes, issuers=tuple(each.name for each in issuers))
    settings = configuration(
        [upstream(origin.port)],
        [route(authentication=authentication)],
        keys=[key()],
        redis=redis,
        trusted_proxies=(ip_network("127.0.0.1/32"),),
        failed_attempts=FailedAttempts(per_address=BOUND, per_key=1000),
    )
    stores = replace(settings.stores, postgres=postgres)
    settings = replace(settings, stores=stores, issuers={each.name: each for each in issuers})
    async with running_gateway(settings) as gateway:
        now = time.monotonic()  # it stands still, or a busy machine would give back attempts
        gateway.gateway._gate._clock = lambda: now
        if postgres is not None:
            await until(lambda: gateway.gateway._keys.status()["following_changes"] is True)
        yield gateway


async def call(gateway: RunningGateway, address: str, headers: dict[str, str]) -> tuple[int, h11.Response, bytes]:
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    answer, body = parse(await talk(gateway.port, request("/x", b"X-Forwarded-For: " + address.encode(), *lines)))
    return answer.status_code, answer, body


def bearer(secret: bytes | str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret if isinstance(secret, str) else secret.decode()}"}


def signed(secret: bytes = SECRET, key_id: str = KEY_ID) -> dict[str, str]:
    return sign_request(key_id=key_id, secret=secret, method="GET", target="/x")


def queries(gateway: RunningGateway) -> int:
    count = gateway.gateway._keys.status()["look_up_queries"]
    assert isinstance(count, int)
    return count


async def test_a_flood_of_made_up_keys_is_not_looked_up_and_known_keys_go_on(
    origin: Origin, database: KeyDatabase
) -> None:
    """Row 69: 429 with Retry-After and no question to Postgres; while who shares the address goes on with the key that it has
    been using, and another address with any."""
    warm, cold = await database.add(), await database.add()
    async with gateway_at(origin, postgres=database.url) as gateway:
        assert (await call(gateway, ATTACKER, bearer(warm.secret)))[0] == 200
        answers = [await call(gateway, ATTACKER, bearer(generate_secret(Environment.TEST))) for _ in range(3 * BOUND)]
        assert Counter(status for status, *_ in answers) == {401: BOUND, 429: 2 * BOUND}
        asked = queries(gateway)
        assert asked <= BOUND + 1
        status, answer, body = await call(gateway, ATTACKER, bearer(cold.secret))
        assert status == 429
        assert dict(answer.headers)[b"retry-after"] == b"6"
        assert json.loads(body)["code"] == "rate_limited"
        assert b"www-authenticate" not in dict(answer.headers)
        assert queries(gateway) == asked
        assert (await call(gateway, ATTACKER, bearer(warm.secret)))[0] == 200
        assert (await call(gateway, OTHER, bearer(cold.secret)))[0] == 200
        # Now it is known, wherever it is used.
        assert (await call(gateway, ATTACKER, bearer(cold.secret)))[0] == 200
        assert gateway.count("failed_attempts_barred_total", by="address") == 2 * BOUND + 1
        assert gateway.count("api_key_auth_attempts_total", scheme="bearer", result="rate_limited") == 2 * BOUND + 1


async def test_tokens_that_do_not_hold_are_soon_not_verified_and_known_ones_go_on(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 69: a signature costs more to verify than to make up."""
    verified = 0

    def counting(*arguments: object) -> None:
        nonlocal verified
        verified += 1
        verify_signature(*arguments)  # type: ignore[arg-type]  # whatever it was given

    monkeypatch.setattr(ring, "verify_signature", counting)
    mine, other = ec_key(), ec_key()
    async with gateway_at(origin, issuers=(issuer((mine,)),)) as gateway:
        token = bearer(mint(mine, "ES256"))
        assert (await call(gateway, ATTACKER, token))[0] == 200
        answers = [await call(gateway, ATTACKER, bearer(mint(other, "ES256"))) for _ in range(BOUND + 5)]
        assert Counter(status for status, *_ in answers) == {401: BOUND, 429: 5}
        assert verified == 1 + BOUND
        assert (await call(gateway, ATTACKER, token))[0] == 200
        assert (await call(gateway, OTHER, bearer(mint(mine, "ES256", claims(sub="another")))))[0] == 200
        assert gateway.count("api_key_auth_attempts_total", scheme="jwt", result="rate_limited") == 5


async def test_who_is_barred_has_nothing_gathered_that_a_signature_covers(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 69: a list of components costs its sender nothing, and to gather them a worker some milliseconds."""
    gathered = 0

    class Counting(SignedMessage):
        def __init__(self, *arguments: Any) -> None:
            nonlocal gathered
            gathered += 1
            super().__init__(*arguments)

    monkeypatch.setattr(http_signature, "SignedMessage", Counting)
    async with gateway_at(origin) as gateway:
        for _ in range(BOUND + 5):
            lines = signature_lines("/x", key_id=generate_key_id(Environment.TEST), secret=b"wrong" * 8)
            headers = dict(line.decode().split(": ", 1) for line in lines)
            await call(gateway, ATTACKER, headers)
    assert gathered == BOUND


async def test_bad_signatures_stop_the_attacker_and_not_the_owner(origin: Origin) -> None:
    """Row 69: the id of a key is no secret."""
    async with gateway_at(origin) as gateway:
        assert (await call(gateway, ATTACKER, signed()))[0] == 200
        answers = [await call(gateway, ATTACKER, signed(b"wrong" * 8)) for _ in range(BOUND + 5)]
        assert Counter(status for status, *_ in answers) == {401: BOUND, 429: 5}
        assert (await call(gateway, OTHER, signed()))[0] == 200
        assert (await call(gateway, ATTACKER, signed()))[0] == 429  # that key, from there: not even verified
        assert (await call(gateway, ATTACKER, bearer(SECRET)))[0] == 200  # who has the secret is not who guesses


async def test_every_reason_is_answered_alike_once_an_address_waits(origin: Origin) -> None:
    """Row 53: a 401 for one reason, and 429 for the other, would tell which keys there are."""
    unknown = generate_key_id(Environment.TEST)
    made_up = generate_secret(Environment.TEST)
    tries = [
        signed(b"wrong" * 8),
        signed(key_id=unknown),
        bearer(made_up),
        bearer(made_up[:-1] + ("0" if made_up[-1] != "0" else "1")),
        signed() | {"X-API-Key": f"{KEY_ID}:"},
        signed() | {"X-API-Key": "::::"},
    ]
    async with gateway_at(origin) as gateway:
        for _ in range(BOUND):
            await call(gateway, ATTACKER, bearer(generate_secret(Environment.TEST)))
        seen = set()
        for headers in tries:
            status, answer, body = await call(gateway, ATTACKER, headers | {"X-Request-Id": "same"})
            fields = tuple(field for field in answer.headers if field[0] != b"date")
            seen.add((status, fields, body))
        assert len(seen) == 1
        assert next(iter(seen))[0] == 429


async def test_replays_end_without_asking_redis(origin: Origin, valkey_server: EmbeddedValkey) -> None:
    """Row 69: a recorded call that is sent again and again is refused by its nonce, which is a question to Redis each."""
    async with gateway_at(origin, redis=valkey_server.url()) as gateway:
        recorded = signed()
        assert (await call(gateway, ATTACKER, recorded))[0] == 200
        answers = [await call(gateway, ATTACKER, recorded) for _ in range(BOUND + 20)]
        assert Counter(status for status, *_ in answers) == {401: BOUND, 429: 20}


async def test_what_says_nothing_about_a_secret_is_not_counted(origin: Origin) -> None:
    """A client without a key, or with a wrong clock, tries nobody's; to be told so is what it needs."""
    async with gateway_at(origin) as gateway:
        late = signed() | {"X-Timestamp": "1000000000"}
        for headers in ({}, late):
            answers = [await call(gateway, ATTACKER, headers) for _ in range(2 * BOUND)]
            assert {status for status, *_ in answers} == {401}
        assert (await call(gateway, ATTACKER, bearer(make_key().secret)))[0] == 401


async def test_a_reload_changes_the_bound_and_forgets_nothing(origin: Origin) -> None:
    """To raise it during an attack must not set the attacker free."""
    async with gateway_at(origin) as gateway:
        for _ in range(BOUND):
            await call(gateway, ATTACKER, bearer(make_key().secret))
        assert (await call(gateway, ATTACKER, bearer(make_key().secret)))[0] == 429
        old = gateway.gateway.snapshot.configuration
        for bound, status in ((FailedAttempts(per_address=5), 429), (None, 401)):
            gateway.gateway.reload(replace(old, gateway=replace(old.gateway, failed_attempts=bound)))
            assert (await call(gateway, ATTACKER, bearer(make_key().secret)))[0] == status
