"""Keys as callers send them: what gets in, what does not, and that every refusal looks alike."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from ostiary.core.credentials import generate_secret
from ostiary.core.model import Authentication, Environment, Scheme
from ostiary.demo.stores import EmbeddedValkey
from tests.support.gateway import (
    EVERY_SCHEME,
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
from tests.support.messages import parse, request
from tests.support.origin import Origin

EVERY = Authentication(schemes=EVERY_SCHEME, scopes={"GET": frozenset({"read"}), "*": frozenset({"write"})})
OURS = generate_secret(Environment.TEST).encode()


def signature(secret: bytes, *parts: bytes) -> bytes:
    """HMAC by the standard library, from the contract's words alone."""
    return hmac.new(secret, b"\n".join(parts), hashlib.sha256).hexdigest().encode()


def signed(
    target: str = "/v1/clients?limit=10",
    *,
    method: bytes = b"GET",
    body: bytes = b"",
    secret: bytes = SECRET,
    key_id: str = KEY_ID,
    timestamp: bytes | None = None,
    nonce: bytes | None = None,
    extra: tuple[bytes, ...] = (),
) -> bytes:
    """A request signed by the contract, every part replaceable."""
    timestamp = timestamp if timestamp is not None else b"%d" % time.time()
    nonce = nonce if nonce is not None else secrets.token_hex(16).encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    mark = signature(secret, method, target.encode(), timestamp, nonce, digest)
    lines = (b"X-API-Key: %b:%b" % (key_id.encode(), mark), b"X-Timestamp: " + timestamp, b"X-Nonce: " + nonce, *extra)
    if body:
        lines = (*lines, b"Content-Length: %d" % len(body))
    return request(target, *lines, method=method, body=body)


@pytest.fixture
async def gateway(origin: Origin, valkey_server: EmbeddedValkey) -> AsyncIterator[RunningGateway]:
    routes = [
        route("all", authentication=EVERY),
        route("hmac", "/hmac/**", authentication=Authentication(schemes=frozenset({Scheme.HMAC}))),
        route(
            "live",
            "/live/**",
            authentication=Authentication(schemes=EVERY_SCHEME),
            upstreams={Environment.LIVE: "live"},
        ),
    ]
    keys = [
        key(scopes={"read", "write"}),
        key("ak_test_reader", b"r" * 40, scopes={"read"}),
        key("ak_test_expired", b"e" * 40, scopes={"read", "write"}, expires_at=time.time() - 1),
        key("ak_test_placed", b"p" * 40, scopes={"read"}, networks=(ip_network("192.0.2.0/24"),)),
        key("ak_test_page", b"o" * 40, scopes={"read"}, origins={"https://good.test"}),
        key("ak_test_ours", OURS, scopes={"read"}),
    ]
    upstreams = [upstream(origin.port), upstream(origin.port, name="live")]
    settings = configuration(upstreams, routes, keys=keys, redis=valkey_server.url())
    async with running_gateway(settings) as gateway:
        yield gateway


async def ask(gateway: RunningGateway, data: bytes) -> tuple[int, dict[str, object], dict[str, str]]:
    method = data.split(b" ", 1)[0]
    response, body = parse(await talk(gateway.port, data), method)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    problem = json.loads(body) if headers.get("content-type") == "application/problem+json" else {}
    return response.status_code, problem, headers


@pytest.mark.parametrize(
    "lines",
    [
        (b"X-API-Key: " + SECRET,),
        (b"Authorization: Bearer " + SECRET,),
        (b"authorization: bearer " + SECRET,),
        (b"X-API-Key: " + OURS,),
    ],
    ids=["x-api-key", "authorization", "lower-case", "our format"],
)
async def test_a_bearer_key_gets_in_and_stays_here(
    lines: tuple[bytes, ...], gateway: RunningGateway, origin: Origin
) -> None:
    """A key that reached an upstream would be in its logs."""
    status, _, _ = await ask(gateway, request("/", *lines))
    assert status == 200
    raw = bytes(origin.raw[0])
    assert SECRET not in raw
    assert OURS not in raw
    assert origin.seen[0].one("x-ostiary-key") in (KEY_ID, "ak_test_ours")
    assert origin.seen[0].one("x-ostiary-environment") == "test"


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 100_000])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_signed_call_gets_in(method: bytes, body: bytes, gateway: RunningGateway, origin: Origin) -> None:
    """Row 60: with and without a body, by the contract's own words."""
    status, problem, _ = await ask(gateway, signed(method=method, body=body))
    assert (status, problem) == (200, {})
    assert origin.seen[0].body == body
    assert origin.seen[0].all("x-timestamp") == origin.seen[0].all("x-nonce") == origin.seen[0].all("x-api-key") == []


async def test_a_chunked_body_has_the_same_signature(gateway: RunningGateway, origin: Origin) -> None:
    """Row 61: the payload is signed, not its framing."""
    whole = signed(method=b"POST", body=b"hello")
    chunked = whole.replace(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n").removesuffix(b"hello")
    status, _, _ = await ask(gateway, chunked + b"".join(b"1\r\n%c\r\n" % octet for octet in b"hello") + b"0\r\n\r\n")
    assert status == 200
    assert origin.seen[0].body == b"hello"


async def test_hmac_body_is_taken_where_the_route_allows_it_alone(gateway: RunningGateway, origin: Origin) -> None:
    """It can be replayed on another path, so a route must have asked for it."""
    line = b"X-API-Key: %b:%b" % (KEY_ID.encode(), signature(SECRET, b'{"amount":1000}'))
    data = request("/v1/payments", line, b"Content-Length: 15", method=b"POST", body=b'{"amount":1000}')
    assert (await ask(gateway, data))[0] == 200
    assert (await ask(gateway, data.replace(b"/v1/payments", b"/hmac/payments")))[0] == 401
    assert len(origin.seen) == 1


@pytest.mark.parametrize("filling", [b"", b"x" * 70_000 + b"\n"], ids=["in memory", "on disk"])
@pytest.mark.parametrize("scheme", ["hmac", "http-signature"])
async def test_what_another_scheme_signs_is_no_body(
    scheme: str, filling: bytes, gateway: RunningGateway, origin: Origin
) -> None:
    """One secret signs by all schemes. Who has seen one signed call could otherwise send, on a route that takes
    `hmac-body`, a call that nobody has made: the signed text as its body, with the signature of that text."""
    stamp, nonce = b"%d" % time.time(), b"0123456789abcdef"
    text = b"\n".join((b"GET", b"/v1/clients", stamp, nonce, hashlib.sha256(b"").hexdigest().encode()))
    if scheme == "http-signature":
        text = b'"@method": GET\n"@signature-params": ("@method");created=%b;keyid="k";nonce="%b"' % (stamp, nonce)
    body = filling + text
    lines = (b"X-API-Key: %b:%b" % (KEY_ID.encode(), signature(SECRET, body)), b"Content-Length: %d" % len(body))
    status, problem, _ = await ask(gateway, request("/v1/payments", *lines, method=b"POST", body=body))
    assert (status, problem["code"]) == (401, "credentials_invalid")
    assert origin.seen == []


MISSING = [(), (b"X-API-Key:",), (b"X-API-Key:   ",)]
INVALID = [
    b"X-API-Key: :",
    b"X-API-Key: ak_test_client",
    b"X-API-Key: ak_test_client:",
    b"X-API-Key: a:b:c:d",
    b"X-API-Key: " + b"a" * 10_000,
    "X-API-Key: schlüssel".encode(),
    b"X-API-Key: ak_test_client:" + b"0" * 64,
    b"X-API-Key: ak_test_nobody:" + b"0" * 64,
    b"X-API-Key: " + SECRET + b"," + SECRET,
    b"X-API-Key: wrong",
    b"X-API-Key: " + OURS[:-1] + b"!",
    b"Authorization: Basic " + SECRET,
    b"Authorization: Bearer",
    b"Authorization: Bearer  ",
    b"Authorization: Bearer " + SECRET + b" x",
    b"Authorization: " + SECRET,
]


def told(lines: tuple[bytes, ...]) -> str:
    """As the id of a test, which is the same in every run."""
    return repr(lines).replace(OURS[:-1].decode(), "OURS")


@pytest.mark.parametrize("lines", [*MISSING, *((line,) for line in INVALID)], ids=told)
async def test_no_credential_or_a_bad_one_is_401_with_a_challenge(
    lines: tuple[bytes, ...], gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 50, 52: one answer for everything that is not a credential."""
    extra = (b"X-Timestamp: %d" % time.time(), b"X-Nonce: 0123456789abcdef") if b":" in b"".join(lines)[11:] else ()
    status, problem, headers = await ask(gateway, request("/hmac/x" if extra else "/", *lines, *extra))
    assert status == 401
    assert problem["code"] in ("credentials_missing", "credentials_invalid")
    assert headers["www-authenticate"]
    assert origin.seen == []


@pytest.mark.parametrize("where", ["/?api_key={}", "/?X-API-Key={}", "cookie"])
async def test_a_key_in_query_or_cookie_is_no_credential(where: str, gateway: RunningGateway) -> None:
    """Row 52: queries are logged everywhere."""
    secret = SECRET.decode()
    data = request("/", b"Cookie: X-API-Key=" + SECRET) if where == "cookie" else request(where.format(secret))
    status, problem, _ = await ask(gateway, data)
    assert (status, problem["code"]) == (401, "credentials_missing")


@pytest.mark.parametrize(
    "lines", [(b"X-API-Key: " + SECRET, b"X-API-Key: bad"), (b"X-API-Key: bad", b"X-API-Key: " + SECRET)]
)
async def test_two_credentials_are_never_one(lines: tuple[bytes, ...], gateway: RunningGateway) -> None:
    """Row 51: which of two headers counts must not be a matter of taste."""
    assert (await ask(gateway, request("/", *lines)))[0] == 400
    both = (b"X-API-Key: " + SECRET, b"Authorization: Bearer " + SECRET)
    assert (await ask(gateway, request("/", *both)))[0] == 401
    joined = b"X-API-Key: " + SECRET + b", " + SECRET
    assert (await ask(gateway, request("/", joined)))[0] == 401


async def test_refusals_tell_nothing_apart(gateway: RunningGateway) -> None:
    """Row 53: unknown, badly signed and expired keys get the same bytes, so nobody can list keys."""
    answers = []
    for data in (
        signed(key_id="ak_test_nobody"),
        signed(secret=b"wrong" * 10),
        signed(key_id="ak_test_expired", secret=b"e" * 40),
    ):
        status, problem, headers = await ask(gateway, data)
        del problem["request_id"], headers["x-request-id"]
        answers.append((status, problem, headers))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 401


async def test_the_log_has_the_reason_that_no_answer_has(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 53: a caller who is told nothing asks the operator, who has to find out why, and which key it was."""
    caplog.set_level(logging.INFO)
    mistyped = OURS[:-1] + (b"0" if OURS[-1:] != b"0" else b"1")
    for data, reason, key_id in (
        (signed(secret=b"wrong" * 10), "the signature does not verify", KEY_ID),
        (signed(key_id="ak_test_nobody"), "unknown, revoked or expired key", None),
        (signed(key_id="ak_test_expired", secret=b"e" * 40), "unknown, revoked or expired key", None),
        (request("/", b"X-API-Key: " + mistyped), "checksum of the key does not hold", None),
        (request("/hmac/x", b"X-API-Key: " + SECRET), "X-API-Key without a signature", None),
    ):
        caplog.clear()
        assert (await ask(gateway, data))[0] == 401
        (record,) = [each for each in caplog.records if each.getMessage() == "credentials_invalid"]
        fields = record.__dict__["fields"]
        assert (fields["reason"], fields["claimed_key_id"], fields["key_id"]) == (reason, key_id, None)


MUTATIONS = {
    "method": lambda data: data.replace(b"POST ", b"PUT ", 1),
    "path": lambda data: data.replace(b"/v1/clients", b"/v1/client5", 1),
    "query": lambda data: data.replace(b"limit=10", b"limit=11", 1),
    "parameter order": lambda data: data.replace(b"?limit=10&a=1", b"?a=1&limit=10", 1),
    "percent-encoding": lambda data: data.replace(b"?limit", b"?%6cimit", 1),
    "body": lambda data: data.replace(b"hello", b"hellp", 1),
    "nonce": lambda data: data.replace(b"X-Nonce: 0", b"X-Nonce: 1", 1),
    "key": lambda data: data.replace(b"ak_test_client", b"ak_test_reader", 1),
}


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_changed_byte_is_401(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 55: what was signed is what counts; the signature covers every part."""
    nonce = b"0" + secrets.token_hex(12).encode()
    good = signed("/v1/clients?limit=10&a=1", method=b"POST", body=b"hello", nonce=nonce)
    bad = MUTATIONS[name](good)
    assert bad != good
    status, problem, _ = await ask(gateway, bad)
    assert (status, problem["code"]) == (401, "credentials_invalid")
    assert origin.seen == []
    assert (await ask(gateway, good))[0] == 200  # and a refused signature has taken nothing


async def test_every_flipped_bit_of_a_request_is_refused(gateway: RunningGateway, origin: Origin) -> None:
    """Row 55: no bit of the signed parts is without effect."""
    nonce = b"bitflip0" + secrets.token_hex(8).encode()
    good = signed("/v1/c?a=1", method=b"POST", body=b"ab", nonce=nonce)
    places = [good.index(part) + at for part in (b"POST", b"/v1/c?a=1", nonce) for at in range(len(part))]
    places += range(good.index(b"X-API-Key: ") + 11, good.index(b"\r\nX-Timestamp"))
    places += range(good.index(b"X-Timestamp: ") + 13, good.index(b"\r\nX-Nonce"))
    places += [len(good) - 1, len(good) - 2]
    for place in places:
        for bit in range(7):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            data = await talk(gateway.port, bytes(bad))
            assert data[9:12] in (b"400", b"401", b"404", b"501", b"505"), bytes(bad)
    assert origin.seen == []
    assert (await ask(gateway, good))[0] == 200


@pytest.mark.parametrize(
    "cut", [lambda s: s.upper(), lambda s: s[:-1], lambda s: s[:1], lambda s: s + b"0", lambda s: b""]
)
async def test_a_signature_has_exactly_one_spelling(cut: object, gateway: RunningGateway) -> None:
    """Row 56: a prefix or another spelling accepted would make forgery a matter of length."""
    good = signed()
    mark = good.split(b"ak_test_client:")[1].split(b"\r\n")[0]
    while mark.isdigit() or mark == mark.upper():
        good = signed()
        mark = good.split(b"ak_test_client:")[1].split(b"\r\n")[0]
    status, _, _ = await ask(gateway, good.replace(mark, cut(mark)))  # type: ignore[operator]  # a parametrized function
    assert status == 401


async def test_a_replay_is_refused_and_says_so(gateway: RunningGateway, origin: Origin) -> None:
    """Row 57: a captured call must not work twice."""
    data = signed(method=b"POST", body=b"pay")
    assert (await ask(gateway, data))[0] == 200
    status, problem, headers = await ask(gateway, data)
    assert (status, problem["code"]) == (401, "nonce_replayed")
    assert headers["www-authenticate"]
    assert len(origin.seen) == 1


@pytest.mark.parametrize("offset", [-299, 299, 0])
async def test_a_timestamp_within_the_skew_gets_in(offset: int, gateway: RunningGateway) -> None:
    """Row 58: clocks differ."""
    assert (await ask(gateway, signed(timestamp=b"%d" % (time.time() + offset))))[0] == 200


@pytest.mark.parametrize("stamp", [-302, 302, b"-1", b"1.5", b"1" * 20, b"", b"ms", b"+1"], ids=str)
async def test_a_timestamp_outside_the_skew_is_401(stamp: int | bytes, gateway: RunningGateway) -> None:
    """Row 58: an old call must not be kept for later."""
    value = b"%d" % (time.time() + stamp) if isinstance(stamp, int) else stamp
    if value == b"ms":
        value = b"%d" % (time.time() * 1000)
    status, problem, _ = await ask(gateway, signed(timestamp=value))
    assert (status, problem["code"]) == (401, "timestamp_out_of_range")


async def test_a_reload_that_raises_the_skew_makes_no_old_call_current(gateway: RunningGateway) -> None:
    """Rows 57, 58: what was recorded before it, and is forgotten, could be sent once more."""
    before = gateway.gateway.snapshot.configuration
    wider = replace(before, gateway=replace(before.gateway, signature_skew_seconds=900))
    assert (await ask(gateway, signed(timestamp=b"%d" % (time.time() + 400))))[0] == 401
    gateway.gateway.reload(wider)
    gateway.gateway.reload(wider)
    assert (await ask(gateway, signed(timestamp=b"%d" % (time.time() + 400))))[0] == 200
    assert (await ask(gateway, signed(timestamp=b"%d" % (time.time() - 290))))[0] == 200
    assert (await ask(gateway, signed(timestamp=b"%d" % (time.time() - 400))))[0] == 401


async def test_what_a_key_may_do_by_one_method_it_may_not_do_by_another(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Row 65: what was found for a key's reads is kept for its next call, and would let it write."""
    reader = b"X-API-Key: " + b"r" * 40
    for method, expected in ((b"GET", 200), (b"DELETE", 403), (b"GET", 200), (b"DELETE", 403), (b"POST", 403)):
        assert (await ask(gateway, request("/", reader, method=method)))[0] == expected, method
    assert [seen.method for seen in origin.seen] == ["GET", "GET"]


async def test_scopes_addresses_origins_and_environments_hold(gateway: RunningGateway, origin: Origin) -> None:
    """Rows 65, 68: authority is checked after identity, and names what is missing by its code alone."""

    async def code(data: bytes) -> object:
        status, problem, _ = await ask(gateway, data)
        assert status == 403
        return problem["code"]

    assert await code(request("/", b"X-API-Key: " + b"r" * 40, method=b"DELETE")) == "scope_missing"
    assert await code(request("/", b"X-API-Key: " + b"p" * 40)) == "ip_not_allowed"
    assert await code(request("/", b"X-API-Key: " + b"o" * 40, b"Origin: https://evil.test")) == "origin_not_allowed"
    assert await code(request("/live/x", b"X-API-Key: " + SECRET)) == "environment_mismatch"
    assert origin.seen == []
    assert (await ask(gateway, request("/", b"X-API-Key: " + b"o" * 40, b"Origin: https://good.test")))[0] == 200


async def test_a_signed_body_past_its_bound_is_413(gateway: RunningGateway, origin: Origin) -> None:
    """Row 33: a body has to be kept until its signature is known, so it is bounded."""
    status, problem, _ = await ask(gateway, signed(method=b"POST", body=b"x" * ((1 << 20) + 1)))
    assert (status, problem["code"]) == (413, "body_too_large")
    assert origin.seen == []
