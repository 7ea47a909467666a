"""Scheme `mtls`: which key a client certificate is, and that it stops being one when it ends, is revoked or is mapped
anew."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ostiary.core.model import (
    Authentication,
    CertificateName,
    CertificateUse,
    ClientCertificate,
    Configuration,
    Environment,
    Listen,
    Route,
    Scheme,
    Upgrade,
)
from ostiary.gateway.peer_certificate import PeerCertificate
from tests.gateway.keys.conftest import KeyDatabase
from tests.gateway.test_client_certificates import REFUSED, ask, context_of
from tests.support.certificates import Issued, issue, model
from tests.support.gateway import KEY_ID, SECRET, RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.messages import parse, request
from tests.support.origin import Origin
from tests.support.tunnels import tunnel_origin, upgrade_request

MTLS = Authentication(schemes=frozenset({Scheme.MTLS}))
MTLS_OR_BEARER = Authentication(schemes=frozenset({Scheme.MTLS, Scheme.BEARER}))
URI = "spiffe://example.com/billing"


@dataclass
class Parties:
    server: Issued
    authority: Issued
    client: Issued
    other: Issued


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    authority = issue(tmp_path, "authority", authority=True)
    return Parties(
        issue(tmp_path, "a.test"),
        authority,
        authority.sign("Client One", "client.test", URI),
        authority.sign("other.test"),
    )


def use(by: CertificateName, value: str, key_id: str = KEY_ID) -> CertificateUse:
    return CertificateUse(by, value, key_id)


def settings(
    port: int,
    parties: Parties,
    *uses: CertificateUse,
    routes: tuple[Route, ...] = (),
    revoked: tuple[Issued, ...] = (),
    presence: ClientCertificate = ClientCertificate.OPTIONAL,
) -> Configuration:
    keys = [key(scopes={"read"}), key("ak_live_other", b"o" * 40, environment=Environment.LIVE)]
    base = configuration([upstream(port)], routes or [route(authentication=MTLS_OR_BEARER)], keys=keys)
    tls = (model(parties.server, clients=parties.authority, presence=presence, revoked=revoked),)
    gateway = replace(base.gateway, listen=Listen("127.0.0.1", 0, tls=tls))
    return replace(base, gateway=gateway, certificates=uses)


async def status(gateway: RunningGateway, certificate: Issued | None, *lines: bytes) -> int:
    answer = await ask(gateway.port, context_of(certificate), request("/", *lines))
    return parse(answer)[0].status_code


def spki(issued: Issued) -> str:
    public = issued.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


# --- who it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", list(CertificateName))
async def test_a_certificate_is_a_key_by_each_of_its_names(
    by: CertificateName, origin: Origin, parties: Parties
) -> None:
    """Partners renew as they can: with the same key, under the same name, or by telling us the next fingerprint."""
    values = {
        CertificateName.SHA256: hashlib.sha256(parties.client.der).hexdigest(),
        CertificateName.SPKI_SHA256: spki(parties.client),
        CertificateName.URI: URI,
        CertificateName.DNS: "client.test",
        CertificateName.COMMON_NAME: "Client One",
    }
    async with running_gateway(settings(origin.port, parties, use(by, values[by]))) as gateway:
        assert await status(gateway, parties.client) == 200
        assert await status(gateway, parties.other) == 401
        assert gateway.count("api_key_auth_attempts_total", scheme="mtls", result="accepted") == 1
        assert gateway.count("api_key_auth_attempts_total", scheme="mtls", result="credentials_invalid") == 1
    (seen,) = origin.seen
    assert seen.one("x-ostiary-key") == KEY_ID
    assert seen.one("x-ostiary-scopes") == "read"
    assert seen.one("x-ostiary-subject") == "CN=Client One"
    assert seen.all("client-cert") != []


async def test_other_schemes_go_on_beside_it(origin: Origin, parties: Parties) -> None:
    """A partner's clients get certificates one after the other."""
    async with running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI))) as gateway:
        assert await status(gateway, None) == 401
        assert await status(gateway, None, b"X-API-Key: " + SECRET) == 200
        # What the request itself carries counts, also where the connection has a certificate.
        assert await status(gateway, parties.client, b"X-API-Key: " + b"o" * 40) == 200
        assert await status(gateway, parties.client, b"X-API-Key: wrong") == 401
        answer = await ask(gateway.port, context_of(None), request("/"))
        challenge = dict(parse(answer)[0].headers)[b"www-authenticate"]
    assert challenge == b'Bearer realm="ostiary", ClientCertificate realm="ostiary"'
    assert [seen.one("x-ostiary-key") for seen in origin.seen] == [KEY_ID, "ak_live_other"]
    assert all(seen.all("x-ostiary-subject") == [] for seen in origin.seen)


async def test_a_route_without_the_scheme_does_not_look_at_certificates(origin: Origin, parties: Parties) -> None:
    """Where keys alone are taken, a certificate is no way around them."""
    routes = (route(authentication=Authentication(schemes=frozenset({Scheme.BEARER}))),)
    async with running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI), routes=routes)) as gateway:
        assert await status(gateway, parties.client) == 401
        assert await status(gateway, parties.client, b"X-Ostiary-Subject: CN=admin", b"X-API-Key: " + SECRET) == 200
    assert origin.seen[0].all("x-ostiary-subject") == []


async def test_of_several_names_the_most_exact_decides_and_a_tie_is_nobody(origin: Origin, parties: Parties) -> None:
    """Which of two keys a caller is must not depend on the order of names in a certificate."""
    fingerprint = use(CertificateName.SHA256, hashlib.sha256(parties.client.der).hexdigest())
    other = use(CertificateName.URI, URI, "ak_live_other")
    async with running_gateway(settings(origin.port, parties, other, fingerprint)) as gateway:
        assert await status(gateway, parties.client) == 200
    twice = (use(CertificateName.DNS, "client one"), use(CertificateName.DNS, "client.test", "ak_live_other"))
    async with running_gateway(settings(origin.port, parties, *twice)) as gateway:
        assert await status(gateway, parties.client) == 401
    assert [seen.one("x-ostiary-key") for seen in origin.seen] == [KEY_ID]


def test_a_subject_can_t_break_out_of_its_header(tmp_path: Path) -> None:
    """Row 103: an authority signs what it is given."""
    named = issue(tmp_path, "odd.test", common_name="Zoë\r\nX-Ostiary-Key: forged")
    line = PeerCertificate(named.der).subject_line
    assert line.count(b"\r\n") == 1
    assert line == b"X-Ostiary-Subject: CN=Zo\\C3\\AB\\0D\\0AX-Ostiary-Key: forged\r\n"


async def test_a_certificate_is_a_key_of_the_control_plane_too_until_that_is_revoked(
    origin: Origin, parties: Parties, migrated_database: str
) -> None:
    """Row 70: most keys are there, and `ostiary keys revoke` is what an operator reaches for."""
    connection = await asyncpg.connect(migrated_database)
    try:
        database = KeyDatabase(migrated_database, connection)
        await database.begin()
        made = await database.add(scopes=["read"])
        base = settings(origin.port, parties, use(CertificateName.URI, URI, made.id))
        async with (
            running_gateway(replace(base, stores=replace(base.stores, postgres=migrated_database))) as gateway,
            connected(gateway, parties.client) as way,
        ):
            assert (await exchange(way))[0] == 200
            await database.revoke(made)
            async with asyncio.timeout(5):
                while (await exchange(way))[0] == 200:  # noqa: ASYNC110  a revocation tells callers nothing
                    await asyncio.sleep(0.02)
            assert (await exchange(way))[0] == 401
    finally:
        await connection.close()
    assert origin.seen[0].one("x-ostiary-organization") == database.organization_id


# --- when it ends -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(
    gateway: RunningGateway, certificate: Issued
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.port, ssl=context_of(certificate), server_hostname="a.test"
    )
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(way: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> tuple[int, bool]:
    """Status, and whether the connection goes on."""
    reader, writer = way
    writer.write(request("/", close=False))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12]), b"connection: close" not in head.lower()


async def test_a_certificate_that_ends_while_its_connection_lives_is_no_key_any_more(
    origin: Origin, parties: Parties
) -> None:
    """A client that never disconnects would otherwise have its certificate for ever."""
    async with (
        running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI))) as gateway,
        connected(gateway, parties.client) as way,
    ):
        assert (await exchange(way))[0] == 200
        assert (await exchange(way))[0] == 200
        (connection,) = gateway.gateway.connections
        assert connection.certificate is not None
        connection.certificate.expires_at = time.time() - 1
        assert (await exchange(way))[0] == 401


async def test_a_revoked_certificate_gets_no_connection_and_loses_the_one_it_has(
    origin: Origin, parties: Parties
) -> None:
    """Row 70: revoked is revoked, for connections that are there, and for routes that pass the certificate on alone."""
    routes = (route(authentication=MTLS), route("open", "/open"))
    before = settings(origin.port, parties, use(CertificateName.URI, URI), routes=routes)
    after = settings(origin.port, parties, use(CertificateName.URI, URI), routes=routes, revoked=(parties.client,))
    async with running_gateway(before) as gateway:
        async with connected(gateway, parties.client) as way, connected(gateway, parties.client) as idle:
            assert (await exchange(way))[0] == 200
            assert (await exchange(idle))[0] == 200
            gateway.gateway.reload(after)
            assert (await exchange(way))[0] == 401
            assert await asyncio.wait_for(idle[0].read(), 5) == b""
        with pytest.raises(REFUSED):
            await ask(gateway.port, context_of(parties.client), request("/open"))
        assert parse(await ask(gateway.port, context_of(parties.other), request("/open")))[0].status_code == 200
        assert gateway.count("tls_handshakes_total", result="failed") == 1


async def test_a_mapping_that_is_taken_away_holds_for_connections_that_are_there(
    origin: Origin, parties: Parties
) -> None:
    """The operator looks at the file, not at who is connected."""
    async with (
        running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI))) as gateway,
        connected(gateway, parties.client) as way,
    ):
        assert (await exchange(way))[0] == 200
        gateway.gateway.reload(settings(origin.port, parties, use(CertificateName.URI, URI, "ak_live_other")))
        assert (await exchange(way))[0] == 200
        gateway.gateway.reload(settings(origin.port, parties))
        assert (await exchange(way))[0] == 401
    assert [seen.one("x-ostiary-key") for seen in origin.seen] == [KEY_ID, "ak_live_other"]


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_resumed_session_has_the_certificate_of_its_first_connection(
    newest: ssl.TLSVersion, origin: Origin, parties: Parties
) -> None:
    """RFC 8446 §2.2: no certificate is sent when a session is resumed; without it such a client would be nobody, or keep
    what was revoked since."""
    async with running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI))) as gateway:
        context = context_of(parties.client, newest)
        session, _, first = await asyncio.to_thread(_resume, gateway.port, context, None)
        session, reused, second = await asyncio.to_thread(_resume, gateway.port, context, session)
        assert (reused, first, second) == (True, b"200", b"200")
        table = gateway.gateway.snapshot.certificates
        table._revoked = frozenset({parties.client.serial})  # as a reload would, that left the TLS context as it is
        with pytest.raises(REFUSED):
            await asyncio.to_thread(_resume, gateway.port, context, session)
    assert {seen.one("x-ostiary-subject") for seen in origin.seen} == {"CN=Client One"}


def _resume(port: int, context: ssl.SSLContext, before: ssl.SSLSession | None) -> tuple[ssl.SSLSession, bool, bytes]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
        context.wrap_socket(sock, server_hostname="a.test", session=before) as secured,
    ):
        secured.sendall(request("/"))
        answer = secured.recv(4096)
        if not answer:
            raise ConnectionResetError
        session = secured.session
        assert session is not None
        return session, bool(secured.session_reused), answer[9:12]


async def test_a_tunnel_ends_when_its_certificate_is_revoked(parties: Parties) -> None:
    """Row 107: a tunnel is one call that may last for days."""
    routes = (route(authentication=MTLS, upgrades=frozenset({Upgrade.WEBSOCKET})),)
    async with tunnel_origin() as upstream_end:
        before = settings(upstream_end.port, parties, use(CertificateName.URI, URI), routes=routes)
        async with running_gateway(before) as gateway, connected(gateway, parties.client) as (reader, writer):
            writer.write(upgrade_request())
            assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            after = settings(
                upstream_end.port, parties, use(CertificateName.URI, URI), routes=routes, revoked=(parties.client,)
            )
            gateway.gateway.reload(after)
            assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_an_expired_certificate_gets_no_connection(origin: Origin, parties: Parties) -> None:
    """As without the scheme: TLS itself refuses it."""
    expired = parties.authority.sign("late.test", URI, valid_for=datetime.timedelta(minutes=-1))
    async with running_gateway(settings(origin.port, parties, use(CertificateName.URI, URI))) as gateway:
        with pytest.raises(REFUSED):
            await status(gateway, expired)
