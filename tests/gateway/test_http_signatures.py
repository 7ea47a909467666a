"""Requests signed by RFC 9421, on the wire: what gets in, what does not, and what the upstream sees of it."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from ostiary.core.model import Authentication, Scheme
from ostiary.demo.stores import EmbeddedValkey
from tests.support.gateway import (
    EVERY_SCHEME,
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
from tests.support.signatures import HOST, content_digest, http_signed, signature_lines

ONLY = frozenset({Scheme.HTTP_SIGNATURE})


@pytest.fixture
async def gateway(origin: Origin, valkey_server: EmbeddedValkey) -> AsyncIterator[RunningGateway]:
    routes = [
        route("all", authentication=Authentication(schemes=EVERY_SCHEME)),
        route("only", "/only/**", authentication=Authentication(schemes=ONLY)),
        route(
            "strict", "/strict/**", authentication=Authentication(schemes=ONLY, components=("@authority", "x-tenant"))
        ),
        route("hmac", "/hmac/**", authentication=Authentication(schemes=frozenset({Scheme.HMAC}))),
        route("open", "/open/**"),
    ]
    keys = [key(), key("ak_test_other", b"o" * 40), key("ak_test_expired", b"e" * 40, expires_at=time.time() - 1)]
    settings = configuration([upstream(origin.port)], routes, keys=keys, redis=valkey_server.url())
    async with running_gateway(settings) as gateway:
        yield gateway


async def ask(gateway: RunningGateway, data: bytes) -> tuple[int, str]:
    """Status, and the code of an error."""
    response, body = parse(await talk(gateway.port, data), data.split(b" ", 1)[0])
    return response.status_code, json.loads(body)["code"] if response.status_code >= 400 else ""


INVALID = (401, "credentials_invalid")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("body", [None, b"hello", b"x" * 100_000], ids=["none", "small", "large"])
async def test_a_signed_call_gets_in_and_its_signature_stays_here(
    method: str, body: bytes | None, gateway: RunningGateway, origin: Origin
) -> None:
    """The signature is a credential: it never reaches the upstream. The digest of the body does, for it still holds."""
    assert await ask(gateway, http_signed(method=method, body=body)) == (200, "")
    (seen,) = origin.seen
    assert seen.body == (body or b"")
    assert seen.all("signature") == seen.all("signature-input") == []
    assert seen.one("x-ostiary-key") == "ak_test_client"
    assert seen.all("content-digest") == ([] if body is None else [content_digest(body)])


COVERED = {
    "@path and @query": [('"@method"', "GET"), ('"@path"', "/v1/c"), ('"@query"', "?a=1&b=%C3%BC")],
    "@request-target": [('"@method"', "GET"), ('"@request-target"', "/v1/c?a=1&b=%C3%BC")],
    "everything derived": [
        ('"@method"', "GET"),
        ('"@target-uri"', f"http://{HOST}/v1/c?a=1&b=%C3%BC"),
        ('"@authority"', HOST),
        ('"@scheme"', "http"),
        ('"@path"', "/v1/c"),
        ('"@query"', "?a=1&b=%C3%BC"),
        ('"@query-param";name="b"', "%C3%BC"),
    ],
    "headers": [
        ('"@method"', "GET"),
        ('"@target-uri"', f"http://{HOST}/v1/c?a=1&b=%C3%BC"),
        ('"x-list"', "one, two"),
        ('"x-empty"', ""),
        ('"host"', HOST),
        ('"user-agent"', "a/1"),
        ('"x-list";bs', ":b25l:, :dHdv:"),
        ('"x-dictionary";key="b"', "(1 2);x"),
    ],
}


@pytest.mark.parametrize("name", COVERED)
async def test_every_component_of_a_request_can_be_covered(name: str, gateway: RunningGateway) -> None:
    """RFC 9421 §2.1 and §2.2."""
    extra = (b"X-List: one", b"User-Agent: a/1", b"x-list:   two\t", b"X-Empty: ", b"X-Dictionary: a=1,  b=( 1  2 ); x")
    data = http_signed("/v1/c?a=1&b=%C3%BC", components=COVERED[name], extra=extra)
    assert await ask(gateway, data) == (200, "")


WHOLE = [('"@method"', "GET"), ('"@target-uri"', f"http://{HOST}/only/c?a=1")]
REFUSED = {
    "nothing": [],
    "no method": WHOLE[1:],
    "no target": WHOLE[:1],
    "path without query": [WHOLE[0], ('"@path"', "/only/c")],
    "query without path": [WHOLE[0], ('"@query"', "?a=1")],
    "authority is no target": [WHOLE[0], ('"@authority"', HOST)],
    "@status": [*WHOLE, ('"@status"', "200")],
    "of the request": [*WHOLE, ('"@method";req', "GET")],
    "of a trailer": [*WHOLE, ('"x-a";tr', "1")],
    "of an unknown type": [*WHOLE, ('"x-a";sf', "1")],
    "unknown derived": [*WHOLE, ('"@host"', HOST)],
    "signature-params": [*WHOLE, ('"@signature-params"', "()")],
    "upper case": [*WHOLE, ('"X-A"', "1")],
    "absent header": [*WHOLE, ('"x-b"', "")],
    "dropped header": [*WHOLE, ('"te"', "trailers")],
    "twice": [*WHOLE, WHOLE[0]],
    "twice by another order": [*WHOLE, ('"x-d";key="a"', "1"), ('"x-d";key="a"', "1")],
    "both bs and key": [*WHOLE, ('"x-d";bs;key="a"', "1")],
    "key that is not there": [*WHOLE, ('"x-d";key="z"', "1")],
    "key of no dictionary": [*WHOLE, ('"x-a";key="1"', "1")],
    "parameter that comes twice": [*WHOLE, ('"@query-param";name="b"', "1")],
    "no name": [*WHOLE, ('"@query-param"', "1")],
    "a number": [*WHOLE, ("1", "1")],
    "a token": [*WHOLE, ("date", "1")],
    "not ASCII": [*WHOLE, ('"x-u"', "\xfc")],
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_covered_or_can_not_be_is_refused(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 67: correctly signed, all of them; one that leaves method or target open could be put on another request."""
    extra = (b"X-A: 1", b"X-D: a=1", b"TE: trailers", "X-U: \xfc".encode("latin-1"))
    target = "/only/c?a=1" if name != "parameter that comes twice" else "/only/c?b=1&b=2"
    components = [(a, v.replace("/only/c?a=1", target)) for a, v in REFUSED[name]]
    assert await ask(gateway, http_signed(target, components=components, extra=extra)) == INVALID
    assert origin.seen == []


@pytest.mark.parametrize("name", ["Accept", "Origin", "User-Agent", "X-Tenant"])
async def test_a_covered_header_reaches_the_upstream(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Whoever is on the way could have it taken away by a `Connection` that nobody has signed, and the call would still be
    the client's."""
    parts = [*WHOLE, (f'"{name.lower()}"', "*/*")]
    lines = (f"{name}: */*".encode(), b"Connection: close, %b" % name.upper().encode())
    assert await ask(gateway, http_signed("/only/c?a=1", components=parts, extra=lines)) == INVALID
    assert origin.seen == []
    assert await ask(gateway, http_signed("/only/c?a=1", components=parts, extra=lines[:1])) == (200, "")
    assert origin.seen[0].one(name.lower()) == "*/*"


async def test_an_empty_query_must_be_covered_as_part_of_the_target(gateway: RunningGateway) -> None:
    """Row 64: `@query` is `?` for `/a` and for `/a?` alike (RFC 9421 §2.2.7), so one signature would hold for both."""
    parts = [('"@method"', "GET"), ('"@path"', "/only/c"), ('"@query"', "?")]
    assert await ask(gateway, http_signed("/only/c", components=parts)) == (200, "")
    assert await ask(gateway, http_signed("/only/c?", components=parts)) == INVALID
    assert await ask(gateway, http_signed("/only/c?")) == (200, "")
    parts[2] = ('"@query"', "?q=who?")
    assert await ask(gateway, http_signed("/only/c?q=who?", components=parts)) == (200, "")


def parameters(**changes: str | None) -> list[str]:
    usual = {
        "created": f"{int(time.time())}",
        "keyid": '"ak_test_client"',
        "nonce": f'"{secrets.token_hex(12)}"',
        "alg": '"hmac-sha256"',
    }
    return [f"{name}={value}" for name, value in (usual | changes).items() if value is not None]


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": '"sha1"'},
        {"alg": '"none"'},
        {"alg": '""'},
        {"alg": '"hmac-sha1"'},
        {"alg": '"hmac-sha256-v0"'},
        {"alg": '"HMAC-SHA256"'},
        {"alg": "hmac-sha256"},
        {"alg": '"rsa-v1_5-sha256"'},
        {"keyid": None},
        {"keyid": '""'},
        {"keyid": "ak_test_client"},
        {"keyid": '"../../etc"'},
        {"keyid": "1234567890"},
        {"nonce": None},
        {"nonce": '"short"'},
        {"nonce": '"' + "n" * 97 + '"'},
        {"nonce": '"0123456789 abcdef"'},
        {"nonce": "0123456789abcdef0"},
        {"created": None},
        {"created": '"1764421200"'},
        {"created": "1764421200.0"},
        {"created": "@1764421200"},
        {"created": "-5"},
        {"expires": '"9999999999"'},
    ],
    ids=str,
)
async def test_parameters_of_another_form_are_refused(
    changes: dict[str, str | None], gateway: RunningGateway, origin: Origin
) -> None:
    """Row 67: an algorithm that the client chooses is none; the rest is what makes a signature good once, and soon."""
    assert await ask(gateway, http_signed(parameters=parameters(**changes))) == INVALID
    assert origin.seen == []


@pytest.mark.parametrize("changes", [{"alg": None}, {"tag": '"theirs"'}, {"x": "1.5"}, {"y": '"a;b=(c)"'}], ids=str)
async def test_parameters_that_may_be_left_out_or_added_may(
    changes: dict[str, str | None], gateway: RunningGateway
) -> None:
    """The algorithm is the key's; what else a client signs is its own affair."""
    assert await ask(gateway, http_signed(parameters=parameters(**changes))) == (200, "")


@pytest.mark.parametrize("offset", [-299, 299])
async def test_created_within_the_skew_gets_in(offset: int, gateway: RunningGateway) -> None:
    """Row 58: clocks differ."""
    assert await ask(gateway, http_signed(created=int(time.time()) + offset)) == (200, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"created": str(int(time.time()) - 4000)},
        {"created": str(int(time.time()) + 4000)},
        {"created": str(int(time.time() * 1000))},
        {"expires": str(int(time.time()) - 2)},
        {"created": str(int(time.time()) + 200), "expires": str(int(time.time()) + 100)},
    ],
    ids=["old", "early", "milliseconds", "expired", "expired before it was made"],
)
async def test_a_signature_of_another_time_is_401(changes: dict[str, str | None], gateway: RunningGateway) -> None:
    """Row 58: an old call must not be kept for later, nor one outlive what its client has given it."""
    assert await ask(gateway, http_signed(parameters=parameters(**changes))) == (401, "timestamp_out_of_range")


async def test_a_replay_is_refused_and_says_so(gateway: RunningGateway, origin: Origin) -> None:
    """Row 57: a captured call must not work twice, and one nonce of a key is used up for all schemes that have nonces."""
    data = http_signed(method="POST", body=b"pay")
    assert await ask(gateway, data) == (200, "")
    assert await ask(gateway, data) == (401, "nonce_replayed")
    assert len(origin.seen) == 1


async def test_a_refused_signature_takes_no_nonce(gateway: RunningGateway) -> None:
    """Row 57: else whoever sees a nonce first could use it up."""
    nonce = secrets.token_hex(12)
    assert await ask(gateway, http_signed(nonce=nonce, secret=b"wrong" * 10)) == INVALID
    assert await ask(gateway, http_signed(nonce=nonce)) == (200, "")


async def test_a_nonce_of_base64_is_taken(gateway: RunningGateway) -> None:
    """Other people's clients make nonces so."""
    for nonce in ("b3k2pp5k7z-50gnwp.yemd", base64.b64encode(secrets.token_bytes(48)).decode()):
        data = http_signed(nonce=nonce)
        assert await ask(gateway, data) == (200, "")
        assert await ask(gateway, data) == (401, "nonce_replayed")


DIGESTS = {
    "sha-512": (content_digest(b"hello", "sha-512"), True),
    "both": (f"{content_digest(b'hello')}, {content_digest(b'hello', 'sha-512')}", True),
    "with one unknown": (f"md5=:AAAA:, {content_digest(b'hello')}", True),
    "of another body": (content_digest(b"hellp"), False),
    "one of two wrong": (f"{content_digest(b'hello')}, {content_digest(b'hellp', 'sha-512')}", False),
    "unknown alone": ("md5=:XUFAKrxLKna5cZ2REBfFkg==:", False),
    "cut": ("sha-256=:LPJNul+wow4m6Dsqxbnin==:", False),
    "not base64": ("sha-256=:%%%:", False),
    "a string": ('sha-256="LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="', False),
    "twice": (f"{content_digest(b'hello')}, {content_digest(b'hello')}", False),
    "hex": ("sha-256=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", False),
}


@pytest.mark.parametrize("name", DIGESTS)
async def test_the_body_is_what_its_digest_says(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 63: the digest is signed, and every digest that it names must hold."""
    digest, good = DIGESTS[name]
    answer = await ask(gateway, http_signed(method="POST", body=b"hello", digest=digest))
    assert answer == ((200, "") if good else INVALID)
    assert len(origin.seen) == good


async def test_a_body_whose_digest_is_not_covered_is_refused(gateway: RunningGateway, origin: Origin) -> None:
    """Row 63: the digest itself could be changed with the body."""
    parts = [('"@method"', "POST"), ('"@target-uri"', f"http://{HOST}/only/c")]
    assert await ask(gateway, http_signed("/only/c", method="POST", body=b"hello", components=parts)) == INVALID
    assert origin.seen == []


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
async def test_no_body_has_the_digest_of_nothing(algorithm: str, gateway: RunningGateway) -> None:
    """Row 60: clients that always send a digest send this one for a GET."""
    for body, status in ((b"", 200), (b"x", 401)):
        digest = content_digest(body, algorithm)
        parts = [*WHOLE, ('"content-digest"', digest)]
        data = http_signed("/only/c?a=1", components=parts, extra=(b"Content-Digest: " + digest.encode(),))
        assert (await ask(gateway, data))[0] == status


@pytest.mark.parametrize("size", [1, 300])
async def test_a_chunked_body_has_the_same_signature(size: int, gateway: RunningGateway, origin: Origin) -> None:
    """Row 61: the payload is signed, not its framing; trailers are dropped."""
    body = b"hello world " * 100
    lines = signature_lines("/only/c", method="POST", body=body)
    data = request("/only/c", *lines, b"Transfer-Encoding: chunked", method=b"POST")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    data += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nSignature: x\r\n\r\n"
    assert await ask(gateway, data) == (200, "")
    assert origin.seen[0].body == body
    assert origin.seen[0].one("content-length") == str(len(body))


async def test_a_compressed_body_is_signed_as_it_is_sent(gateway: RunningGateway, origin: Origin) -> None:
    """Row 62: the bytes on the wire are signed, and passed on as they are."""
    body = gzip.compress(b"hello" * 1000)
    extra = (b"Content-Encoding: gzip",)
    assert await ask(gateway, http_signed(method="POST", body=body, extra=extra)) == (200, "")
    assert origin.seen[0].body == body
    unpacked = http_signed(method="POST", body=body, digest=content_digest(b"hello" * 1000), extra=extra)
    assert await ask(gateway, unpacked) == INVALID


async def test_a_route_says_what_must_be_covered(gateway: RunningGateway) -> None:
    """An operator who has several hosts, or tenants by a header, wants them signed."""
    parts = [('"@method"', "GET"), ('"@target-uri"', f"http://{HOST}/strict/c")]
    more = [*parts, ('"@authority"', HOST), ('"x-tenant"', "7")]
    tenant = (b"X-Tenant: 7",)
    assert await ask(gateway, http_signed("/strict/c", components=parts, extra=tenant)) == INVALID
    assert await ask(gateway, http_signed("/strict/c", components=more[:3], extra=tenant)) == INVALID
    assert await ask(gateway, http_signed("/strict/c", components=more, extra=tenant)) == (200, "")


async def test_two_credentials_are_never_one(gateway: RunningGateway, origin: Origin) -> None:
    """Row 51: which of two counts must not be a matter of taste; a scheme that a route does not take is not its affair."""
    bearer = b"Authorization: Bearer " + SECRET
    assert await ask(gateway, http_signed(extra=(bearer,))) == INVALID
    assert await ask(gateway, http_signed(extra=(b"X-API-Key: " + SECRET,))) == INVALID
    assert await ask(gateway, http_signed(extra=(b"X-API-Key: ak_test_client:" + b"0" * 64,))) == INVALID
    assert origin.seen == []
    # Only a route that takes Authorization reads it.
    assert await ask(gateway, http_signed("/only/x", extra=(b"Authorization: Basic eDp5",))) == (200, "")
    assert origin.seen[0].one("authorization") == "Basic eDp5"


async def test_a_signature_for_the_upstream_passes_a_route_that_does_not_take_it(
    gateway: RunningGateway, origin: Origin
) -> None:
    """The headers are the upstream's where they are not our credential."""
    lines = signature_lines("/open/x")
    assert (await ask(gateway, request("/open/x", *lines)))[0] == 200
    assert b"Signature-Input: " + origin.seen[0].one("signature-input").encode() == lines[0]
    assert (await ask(gateway, request("/hmac/x", *lines))) == (401, "credentials_missing")


async def test_of_several_signatures_ours_has_our_tag_and_the_others_go_on(
    gateway: RunningGateway, origin: Origin
) -> None:
    """RFC 9421 §3.2: a verifier chooses by policy; theirs are for the upstream. More than four labels are refused."""
    ours = signature_lines("/only/c", parameters=[*parameters(), 'tag="ostiary"'])
    theirs = signature_lines("/only/c", label="theirs", secret=b"t" * 40, key_id="ak_theirs")
    assert await ask(gateway, request("/only/c", *theirs, *ours)) == (200, "")
    assert (origin.seen[0].all("signature-input"), origin.seen[0].all("signature")) == (
        [theirs[0].partition(b": ")[2].decode()],
        [theirs[1].partition(b": ")[2].decode()],
    )
    both = signature_lines("/only/c", label="b", parameters=[*parameters(), 'tag="ostiary"'])
    untagged = signature_lines("/only/c", label="b")
    for lines in ((*ours, *both), (*theirs, *untagged), (*theirs, *ours, *ours)):
        assert await ask(gateway, request("/only/c", *lines)) == INVALID
    many = [signature_lines("/only/c", label=f"l{number}") for number in range(4)]
    assert await ask(gateway, request("/only/c", *ours, *(line for lines in many for line in lines))) == INVALID
    ours = signature_lines("/only/c", parameters=[*parameters(), 'tag="ostiary"'])
    assert await ask(gateway, request("/only/c", *ours, *(line for lines in many[:3] for line in lines))) == (200, "")


GOOD = b'Signature-Input: sig1=("@method" "@target-uri");created=1;keyid="ak_test_client";nonce="0123456789abcdef"'
FIELDS = {
    "input alone": (GOOD,),
    "signature alone": (b"Signature: sig1=:AAAA:",),
    "both empty": (b"Signature-Input:", b"Signature:"),
    "another label": (GOOD, b"Signature: sig2=:" + b"A" * 43 + b"=:"),
    "of draft-cavage": (b'Signature: keyId="ak_test_client",algorithm="hmac-sha256",signature="AAAA"',),
    "a list": (b'Signature-Input: ("@method")', b"Signature: sig1=:AAAA:"),
    "no list": (b'Signature-Input: sig1="@method"', b"Signature: sig1=:AAAA:"),
    "a string": (GOOD, b'Signature: sig1="AAAA"'),
    "a list of bytes": (GOOD, b"Signature: sig1=(:AAAA:)"),
    "with a parameter": (GOOD, b"Signature: sig1=:" + b"A" * 43 + b"=:;a=1"),
    "too long": (GOOD + b";x=" + b"1" * 5000, b"Signature: sig1=:AAAA:"),
    "deep": (b"Signature-Input: sig1=" + b"(" * 4000, b"Signature: sig1=:AAAA:"),
    "33 components": (
        b"Signature-Input: sig1=(" + b" ".join(b'"a%d"' % n for n in range(33)) + b")",
        b"Signature: sig1=:AAAA:",
    ),
    "trailing comma": (GOOD + b",", b"Signature: sig1=:" + b"A" * 43 + b"=:"),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_fields_of_another_form_are_401(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 50: what is no signature is refused like a wrong one."""
    assert await ask(gateway, request("/only/c", *FIELDS[name])) == INVALID
    assert origin.seen == []


@pytest.mark.parametrize(
    "change",
    [
        lambda mark: mark.rstrip(b"="),
        lambda mark: mark[:-2] + bytes([mark[-2] + 1]) + b"=",
        lambda mark: mark[:20],
        lambda mark: mark + b"AAAA",
        lambda mark: b"",
        lambda mark: base64.urlsafe_b64encode(base64.b64decode(mark)) + b"-",
        lambda mark: base64.b64decode(mark).hex().encode(),
    ],
    ids=["unpadded", "spare bits", "cut", "longer", "empty", "url-safe", "hex"],
)
async def test_a_signature_has_exactly_one_spelling(change: object, gateway: RunningGateway) -> None:
    """Row 56: base64 has spare bits and optional padding; neither is a second spelling here."""
    lines = signature_lines("/only/c")
    mark = lines[1].removeprefix(b"Signature: sig1=:").removesuffix(b":")
    changed = b"Signature: sig1=:%b:" % change(mark)  # type: ignore[operator]  # a parametrized function
    assert changed != lines[1]
    assert await ask(gateway, request("/only/c", lines[0], changed)) == INVALID
    assert await ask(gateway, request("/only/c", *lines)) == (200, "")


async def test_fields_may_be_spelled_as_structured_fields_may(gateway: RunningGateway) -> None:
    """RFC 9651: blanks within a list and before parameters mean nothing; what is signed is the canonical spelling."""
    inner, mark = signature_lines("/only/c")
    spaced = inner.replace(b'("', b'(  "').replace(b'" "', b'"   "').replace(b";", b";  ")
    assert spaced != inner
    assert await ask(gateway, request("/only/c", spaced, mark)) == (200, "")


async def test_refusals_tell_nothing_apart(gateway: RunningGateway) -> None:
    """Row 53: unknown, badly signed and expired keys get the same bytes, so nobody can list keys."""
    answers = set()
    for parts in (
        {"key_id": "ak_test_nobody"},
        {"secret": b"wrong" * 10},
        {"key_id": "ak_test_expired", "secret": b"e" * 40},
        {"key_id": "ak_test_other"},
    ):
        data = await talk(gateway.port, http_signed("/only/c", **parts))
        kept = [line for line in data.split(b"\r\n") if not line.lower().startswith((b"x-request-id", b"date", b"{"))]
        answers.add(b"\r\n".join(kept))
    assert len(answers) == 1
    assert b"401" in next(iter(answers))


async def test_the_challenge_names_the_scheme(gateway: RunningGateway) -> None:
    """RFC 9110 §11.6.1: a client learns what the route takes."""
    response, _ = parse(await talk(gateway.port, request("/only/c")))
    challenge = dict(response.headers)[b"www-authenticate"]
    assert challenge == b'Signature realm="ostiary", headers="Signature-Input Signature"'
