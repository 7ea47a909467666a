"""The path that is matched is the path that is signed and forwarded, under each of the three path policies."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator

import pytest

from ostiary.core.model import Authentication, Match, PathPolicy, Scheme
from ostiary.core.signing import EMPTY_BODY_SHA256, Signer, hmac_message
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
from tests.support.origin import Origin, running_origin

SIGNED = Authentication(schemes=frozenset({Scheme.HMAC}))


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with running_origin() as origin:
        yield origin


@pytest.fixture
async def gateway(origin: Origin) -> AsyncIterator[RunningGateway]:
    """Each policy below a prefix of its own, and beside it a route that a step aside would lead to."""
    routes = [
        route(policy.value, paths=policy, match=Match(path=f"/{policy.value}/**"), authentication=SIGNED)
        for policy in PathPolicy
    ]
    routes.append(
        route("inner", paths=PathPolicy.NORMALIZE, match=Match(path="/normalize/inner"), authentication=SIGNED)
    )
    routes.append(route("secret", match=Match(path="/secret/**"), authentication=SIGNED))
    async with running_gateway(configuration([upstream(origin.port)], routes, keys=[key()])) as gateway:
        yield gateway


async def ask(gateway: RunningGateway, target: bytes, signed: bytes) -> int:
    """The status for a request to `target` with the signature of one to `signed`."""
    timestamp, nonce = b"%d" % time.time(), secrets.token_hex(12).encode()
    mark = Signer(SECRET).sign(hmac_message(b"GET", signed, timestamp, nonce, EMPTY_BODY_SHA256))
    data = await talk(
        gateway.port,
        b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-API-Key: %b:%b\r\nX-Timestamp: %b\r\nX-Nonce: %b\r\n\r\n"
        % (target, KEY_ID.encode(), mark, timestamp, nonce),
    )
    return int(data[9:12])


async def test_a_normalized_path_is_matched_signed_and_forwarded_as_one_string(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Row 38: were one of the three the path as it was sent, a signature for one resource would open another."""
    sent, normalized = b"/normalize/a/../%69nner?q=/../%2e", b"/normalize/inner?q=/../%2e"
    assert await ask(gateway, sent, normalized) == 200
    assert await ask(gateway, sent, sent) == 401
    assert [seen.target.encode() for seen in origin.seen] == [normalized]
    assert gateway.count("http_requests_total", route="inner", method="GET", status="200") == 1


async def test_a_raw_path_is_matched_signed_and_forwarded_as_it_came(gateway: RunningGateway, origin: Origin) -> None:
    """Row 40: an upstream that keeps names with slashes in its paths must get them as they are."""
    sent = b"/raw/a%2Fb//c/../d%5c/%252e"
    assert await ask(gateway, sent, sent) == 200
    assert await ask(gateway, sent, b"/raw/a%2Fb/d%5c/%252e") == 401
    assert [seen.target.encode() for seen in origin.seen] == [sent]


@pytest.mark.parametrize("path", [b"/strict/../secret/x", b"/strict/%2e%2e/secret/x", b"/strict//x", b"/strict/a%2fb"])
async def test_a_strict_route_refuses_what_is_not_plain(path: bytes, gateway: RunningGateway, origin: Origin) -> None:
    """Rows 38-40: the default takes no path that two servers could read differently."""
    assert await ask(gateway, path, path) == 400
    assert origin.seen == []


@pytest.mark.parametrize(
    "path", [b"/normalize/../secret/x", b"/normalize/%2e%2e/secret/x", b"/normalize/a/../../secret/x", b"//secret/x"]
)
async def test_normalizing_leads_to_no_route_that_has_not_asked_for_it(
    path: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 38, 39: where a path leads decides whether it may be normalized, not where it begins."""
    assert await ask(gateway, path, b"/secret/x") == 400
    assert await ask(gateway, path, path) == 400
    assert origin.seen == []
