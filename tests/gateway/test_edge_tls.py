"""TLS towards clients: the right certificate for each name, nothing older than TLS 1.2, HTTP/1.1 as on any connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ostiary.core.model import Certificate, Listen
from ostiary.tls import server_context
from tests.support.certificates import issue, model
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Origin


def make_certificate(directory: Path, *names: str) -> Certificate:
    return model(issue(directory, *names))


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client got: the certificate's common name, the version, the protocol, and the answer to one request."""

    common_name: str
    version: str | None
    protocol: str | None
    answer: bytes


@pytest.fixture
async def gateway(origin: Origin, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    certificates = (
        make_certificate(tmp_path, "first.test", "also-first.test"),
        make_certificate(tmp_path, "second.test"),
        make_certificate(tmp_path, "*.wild.test"),
        make_certificate(tmp_path, "exact.wild.test"),
    )
    settings = configuration([upstream(origin.port)], [route()])
    listen = Listen("127.0.0.1", 0, tls=certificates)
    async with running_gateway(replace(settings, gateway=replace(settings.gateway, listen=listen))) as gateway:
        yield gateway


async def shake(
    port: int,
    name: str | None,
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    protocols: Sequence[str] = ("h2", "http/1.1"),
) -> Handshake:
    """Raises ssl.SSLError, or ConnectionError, where the handshake fails."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if newest is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL itself would not offer the old versions
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = newest
    context.set_alpn_protocols(list(protocols))
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or ""), 5
    )
    try:
        connection = writer.get_extra_info("ssl_object")
        loaded = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))
        (common_name,) = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        writer.write(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        return Handshake(str(common_name.value), connection.version(), connection.selected_alpn_protocol(), answer)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("name", "common_name"),
    [
        ("first.test", "first.test"),
        ("also-first.test", "first.test"),
        ("second.test", "second.test"),
        ("SECOND.test", "second.test"),
        ("a.wild.test", "*.wild.test"),
        ("exact.wild.test", "exact.wild.test"),
        ("b.a.wild.test", "first.test"),  # a star is one label (RFC 9525 §6.3)
        ("wild.test", "first.test"),
        ("unknown.test", "first.test"),
        (None, "first.test"),
    ],
)
async def test_the_name_that_the_client_asks_for_picks_the_certificate(
    name: str | None, common_name: str, gateway: RunningGateway
) -> None:
    """One gateway stands for several API domains: another's certificate is a failed connection for the client."""
    got = await shake(gateway.port, name)
    assert got.common_name == common_name
    assert got.answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.answer.endswith(b"\r\n\r\nok")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")  # that they are old is the point
@pytest.mark.parametrize("name", ["first.test", "second.test"])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_versions_before_1_2_are_refused(name: str, newest: ssl.TLSVersion, gateway: RunningGateway) -> None:
    """RFC 8996: TLS 1.0 and 1.1 must not be used; whichever certificate is asked for."""
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake(gateway.port, name, newest=newest)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")  # of the oldest that is offered
@pytest.mark.parametrize(
    ("newest", "version"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
async def test_versions_1_2_and_1_3_are_spoken(newest: ssl.TLSVersion, version: str, gateway: RunningGateway) -> None:
    """The refusals above are of the version, not of everything."""
    got = await shake(gateway.port, "second.test", newest=newest)
    assert (got.version, got.common_name) == (version, "second.test")


async def test_http_1_1_is_the_protocol_agreed_upon(gateway: RunningGateway) -> None:
    """Row 25: a client that would rather speak HTTP/2 must learn in the handshake that this server does not."""
    assert (await shake(gateway.port, "second.test")).protocol == "http/1.1"


async def test_the_upstream_learns_that_the_client_came_by_tls(gateway: RunningGateway, origin: Origin) -> None:
    """Otherwise it makes links with http:// for pages that were asked for with https://."""
    await shake(gateway.port, "first.test")
    assert origin.seen[0].one("x-forwarded-proto") == "https"


async def test_plain_http_on_the_tls_port_is_closed_without_an_answer(gateway: RunningGateway, origin: Origin) -> None:
    """Row 26: credentials that were sent in the clear must not reach an upstream as if they had been safe."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    try:
        data = await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        data = b""
    writer.close()
    assert b"HTTP/1.1 200" not in data
    assert origin.seen == []


def test_the_bound_on_versions_is_the_gateway_s_own(tmp_path: Path) -> None:
    """RFC 8996: many a system's OpenSSL refuses old versions by itself; others do not."""
    context = server_context((make_certificate(tmp_path, "first.test"), make_certificate(tmp_path, "second.test")))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_no_certificates_is_no_tls() -> None:
    """A gateway behind a TLS terminator speaks plain HTTP."""
    assert server_context(()) is None
