"""Which scheme and authority a signature of RFC 9421 is for: those that the client has used, by TLS and behind proxies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, Configuration, Listen, Network, Scheme
from tests.support.certificates import issue, model
from tests.support.gateway import configuration, key, route, running_gateway, talk, upstream
from tests.support.messages import request
from tests.support.origin import Origin
from tests.support.signatures import HOST, signature_lines

TARGET = "/v1/c?a=1"


def settings(origin: Origin, trusted: tuple[Network, ...] = ()) -> Configuration:
    only = Authentication(schemes=frozenset({Scheme.HTTP_SIGNATURE}))
    return configuration([upstream(origin.port)], [route(authentication=only)], keys=[key()], trusted_proxies=trusted)


def signed(uri: str, authority: str, *lines: bytes) -> bytes:
    """A request to HOST whose signature is for that URI."""
    components: Sequence[tuple[str, str]] = [
        ('"@method"', "GET"),
        ('"@target-uri"', uri),
        ('"@authority"', authority),
        ('"@scheme"', uri.partition(":")[0]),
    ]
    return request(TARGET, *signature_lines(TARGET, components=components), *lines)


HERE = (ip_network("127.0.0.0/8"),)
ELSEWHERE = (ip_network("192.0.2.0/24"),)
OUTSIDE = ("https://shop.example" + TARGET, "shop.example")
FORWARDED = (b"X-Forwarded-Proto: https", b"X-Forwarded-Host: shop.example")


@pytest.mark.parametrize(
    ("trusted", "signed_for", "lines", "status"),
    [
        (HERE, OUTSIDE, FORWARDED, b"200"),
        (HERE, ("https://api.test" + TARGET, HOST), FORWARDED[:1], b"200"),
        (HERE, ("http://api.test" + TARGET, HOST), (), b"200"),
        (HERE, ("http://api.test" + TARGET, HOST), FORWARDED, b"401"),
        (ELSEWHERE, OUTSIDE, FORWARDED, b"401"),
        ((), OUTSIDE, FORWARDED, b"401"),
        ((), ("http://api.test" + TARGET, HOST), FORWARDED, b"200"),
        (HERE, OUTSIDE, (b"X-Forwarded-Proto: https, http", FORWARDED[1]), b"401"),
        (HERE, OUTSIDE, (*FORWARDED, b"X-Forwarded-Host: other.example"), b"401"),
        (HERE, OUTSIDE, (b"X-Forwarded-Proto: gopher", FORWARDED[1]), b"401"),
    ],
    ids=[
        *(
            "both are forwarded",
            "the scheme alone",
            "nothing",
            "signed for the inner hop",
            "another's proxy",
            "no proxy",
        ),
        *("what a client claims changes nothing", "two schemes", "two hosts", "an unknown scheme"),
    ],
)
async def test_a_trusted_proxy_says_what_the_client_used_and_nobody_else(
    trusted: tuple[Network, ...], signed_for: tuple[str, str], lines: tuple[bytes, ...], status: bytes, origin: Origin
) -> None:
    """Row 46: a signature for one site must not be turned into one for another by a header that anyone can send."""
    async with running_gateway(settings(origin, trusted)) as gateway:
        answer = await talk(gateway.port, signed(*signed_for, *lines))
    assert answer[9:12] == status


@pytest.mark.parametrize(("scheme", "status"), [("https", b"200"), ("http", b"401")])
async def test_by_tls_the_scheme_is_https(scheme: str, status: bytes, origin: Origin, tmp_path: Path) -> None:
    """A signature for http is not one for https: it may have been read on the way."""
    base = settings(origin)
    listen = Listen("127.0.0.1", 0, tls=(model(issue(tmp_path, HOST)),))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with running_gateway(replace(base, gateway=replace(base.gateway, listen=listen))) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
        writer.write(signed(f"{scheme}://{HOST}{TARGET}", HOST))
        assert (await reader.readline())[9:12] == status
        writer.close()


async def test_the_host_is_as_it_was_sent_and_the_authority_lower_case(origin: Origin) -> None:
    """RFC 9421 §2.2.2 and §2.2.3: what a client writes in its URL is what it signs."""
    async with running_gateway(settings(origin)) as gateway:
        data = signed("http://API.test:80" + TARGET, HOST).replace(b"Host: api.test", b"Host: API.test:80")
        assert (await talk(gateway.port, data))[9:12] == b"200"
        data = signed("http://api.test" + TARGET, HOST).replace(b"GET /", b"GET http://api.test/")
        assert (await talk(gateway.port, data))[9:12] == b"200"
