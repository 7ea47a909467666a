"""The path that is matched is the path that is signed and forwarded, under each of the three path policies."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from urllib.parse import unquote_to_bytes

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
from tests.support.origin import Origin

SIGNED = Authentication(schemes=frozenset({Scheme.HMAC}))


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


@pytest.mark.parametrize(
    "rest",
    [
        b"a%00b",
        b"a%0d%0aX: y",
        b"%0a",
        b"%7F",
        b"%zz",
        b"%",
        b"%1",
        b"%c0%af",
        b"%C0%AE%C0%AE",
        b"%e0%80%af",
        b"%F0%80%80%AF",
    ],
)
@pytest.mark.parametrize("policy", [policy.value.encode() for policy in PathPolicy])
async def test_what_means_nothing_is_refused_under_every_policy(
    policy: bytes, rest: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 41: a broken escape, an encoded control character and an overlong character are of use to nobody but an attacker,
    on a route that passes paths on as they are as well."""
    path = b"/" + policy + b"/" + rest
    assert await ask(gateway, path, path) == 400
    assert origin.seen == []


@pytest.mark.parametrize(
    ("sent", "normalized"),
    [
        (b"a/../b", b"b"),
        (b"%2e%2e", None),
        (b"a/%2E%2e/b", b"b"),
        (b".%2e/x", None),
        (b"a/..;/b", None),
        (b"a\\..\\b", None),
        (b"a//b", b"a/b"),
        (b"./a", b"a"),
        (b"a%2fb", None),
        (b"a%5Cb", None),
        (b"a%252fb", None),
        (b"%252e%252e/b", None),
        (b"%e9", None),
        (b"%C3%a9", b"%C3%a9"),
        (b"%c3%a9%41", b"%c3%a9%41"),
        (b"./%c3%a9%41", b"%C3%A9A"),
        (b"a|b", None),
    ],
)
async def test_each_kind_of_escape_under_each_policy(
    sent: bytes, normalized: bytes | None, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 38, 39, 40: raw passes each on as it came, normalize what it can resolve for certain, strict what is plain."""
    assert await ask(gateway, b"/raw/" + sent, b"/raw/" + sent) == 200
    if normalized is None:
        assert await ask(gateway, b"/normalize/" + sent, b"/normalize/" + sent) == 400
    else:
        assert await ask(gateway, b"/normalize/" + sent, b"/normalize/" + normalized) == 200
    strict = 200 if unquote_to_bytes(sent).decode("utf-8", "replace") in ("é", "éA") else 400
    assert await ask(gateway, b"/strict/" + sent, b"/strict/" + sent) == strict
    expected = [b"/raw/" + sent]
    if normalized is not None:
        expected.append(b"/normalize/" + normalized)
    if strict == 200:
        expected.append(b"/strict/" + sent)
    assert [seen.target.encode() for seen in origin.seen] == expected


@pytest.mark.parametrize(
    "path",
    [
        b"//admin",
        b"/./admin",
        b"/admin/",
        b"/%61dmin",
        b"/x/../admin",
        b"/admin/.",
        b"/%2e/admin",
        b"/admin%2f",
        b"/;/../admin",
        b"/admin?x",
        b"/admin/?x",
        b"/%2fadmin",
        b"/admin%00",
        b"/.;/admin",
        b"/a%2f..%2fadmin",
        b"\\admin",
        b"/\\admin",
    ],
)
async def test_no_spelling_of_a_path_steps_around_its_route(path: bytes, origin: Origin) -> None:
    """Row 39: an open route beside a protected one takes none of the protected one's spellings (CVE-2021-43557)."""
    routes = [route("open"), route("admin", match=Match(path="/admin"), authentication=SIGNED)]
    async with running_gateway(configuration([upstream(origin.port)], routes, keys=[key()])) as gateway:
        answer = await talk(gateway.port, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer[9:12] in (b"400", b"401")
    assert origin.seen == []


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
