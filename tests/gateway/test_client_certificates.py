"""Client certificates: who may connect, what the upstream learns of it, and what a handshake may cost."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ostiary.core.model import ClientCertificate, ClientLimits, Listen
from tests.support.certificates import Issued, issue, model
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


@dataclass
class Parties:
    """`server` is the gateway's, `authority` what it takes clients of, `client` one of those, `stranger` of another."""

    server: Issued
    other_server: Issued
    authority: Issued
    client: Issued
    expired: Issued
    stranger: Issued


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    authority = issue(tmp_path, "authority", authority=True)
    strange = issue(tmp_path, "strange-authority", authority=True)
    return Parties(
        server=issue(tmp_path, "a.test"),
        other_server=issue(tmp_path, "b.test"),
        authority=authority,
        client=authority.sign("client"),
        expired=authority.sign("expired", valid_for=datetime.timedelta(minutes=-1)),
        stranger=strange.sign("stranger"),
    )


@asynccontextmanager
async def gateway_of(
    origin: Origin,
    parties: Parties,
    presence: ClientCertificate = ClientCertificate.REQUIRED,
    limits: ClientLimits | None = None,
) -> AsyncIterator[RunningGateway]:
    base = configuration([upstream(origin.port)], [route()], client_limits=limits)
    tls = tuple(
        model(server, clients=parties.authority, presence=presence) for server in (parties.server, parties.other_server)
    )
    listen = Listen("127.0.0.1", 0, tls=tls)
    async with running_gateway(replace(base, gateway=replace(base.gateway, listen=listen))) as gateway:
        yield gateway


def context_of(certificate: Issued | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = newest
    if certificate is not None:
        context.load_cert_chain(certificate.cert, certificate.key)
    return context


async def ask(port: int, context: ssl.SSLContext, request: bytes = GET, name: str = "a.test") -> bytes:
    """Raises ssl.SSLError or ConnectionError where the gateway does not take the client."""
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name), 5
    )
    try:
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 5)
        if not answer:
            raise ConnectionResetError
        return answer
    finally:
        writer.close()


REFUSED = (ssl.SSLError, ConnectionError)


@pytest.mark.parametrize("name", ["a.test", "b.test", "unknown.test"])
@pytest.mark.parametrize("who", [None, "stranger", "expired"])
async def test_without_a_good_certificate_there_is_no_connection(
    origin: Origin, parties: Parties, who: str | None, name: str
) -> None:
    """Whatever name it asks for: a client chooses its SNI."""
    async with gateway_of(origin, parties) as gateway:
        with pytest.raises(REFUSED):
            await ask(gateway.port, context_of(getattr(parties, who) if who else None), name=name)
        assert origin.seen == []
        assert gateway.count("tls_handshakes_total", result="failed") == 1
        assert gateway.gateway.room.total == 0


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("presence", list(ClientCertificate))
async def test_the_upstream_learns_which_certificate_the_client_has(
    origin: Origin, parties: Parties, presence: ClientCertificate, newest: ssl.TLSVersion
) -> None:
    """RFC 9440 §2.1: the certificate as a structured field of bytes; the upstream decides by it who calls."""
    async with gateway_of(origin, parties, presence) as gateway:
        answer = await ask(gateway.port, context_of(parties.client, newest))
    assert answer.startswith(b"HTTP/1.1 200")
    assert origin.seen[0].one("client-cert") == f":{base64.b64encode(parties.client.der).decode()}:"


async def test_optional_lets_a_client_in_without_one_and_says_nothing_of_it(origin: Origin, parties: Parties) -> None:
    """Some clients of an API have certificates before the others do."""
    async with gateway_of(origin, parties, ClientCertificate.OPTIONAL) as gateway:
        assert (await ask(gateway.port, context_of(None))).startswith(b"HTTP/1.1 200")
        with pytest.raises(REFUSED):
            await ask(gateway.port, context_of(parties.stranger))
    (seen,) = origin.seen
    assert seen.all("client-cert") == []


@pytest.mark.parametrize("who", [None, "client"])
async def test_a_client_can_t_say_itself_which_certificate_it_has(
    origin: Origin, parties: Parties, who: str | None
) -> None:
    """RFC 9440 §4: an upstream that believes the header would believe the client."""
    forged = GET[:-2] + b"client-cert: :Zm9yZ2Vk:\r\nClient-Cert-Chain: :Zm9yZ2Vk:\r\n\r\n"
    async with gateway_of(origin, parties, ClientCertificate.OPTIONAL) as gateway:
        await ask(gateway.port, context_of(getattr(parties, who) if who else None), forged)
    (seen,) = origin.seen
    expected = [f":{base64.b64encode(parties.client.der).decode()}:"] if who else []
    assert seen.all("client-cert") == expected
    assert seen.all("client-cert-chain") == []


async def test_a_session_of_before_a_reload_is_not_resumed_past_what_is_asked_now(
    origin: Origin, parties: Parties
) -> None:
    """A ticket from a time without client certificates would be a way in without one."""
    base = configuration([upstream(origin.port)], [route()])

    def listening(**changes: Issued) -> object:
        listen = Listen("127.0.0.1", 0, tls=(model(parties.server, **changes),))  # type: ignore[arg-type]  # `clients`
        return replace(base, gateway=replace(base.gateway, listen=listen))

    context = context_of(None, ssl.TLSVersion.TLSv1_2)
    async with running_gateway(listening()) as gateway:  # type: ignore[arg-type]  # a Configuration
        session = await asyncio.to_thread(_session, gateway.port, context, None)
        assert session is not None
        gateway.gateway.reload(listening(clients=parties.authority))  # type: ignore[arg-type]  # a Configuration
        with pytest.raises(REFUSED):
            await asyncio.to_thread(_session, gateway.port, context, session)


def _session(port: int, context: ssl.SSLContext, before: ssl.SSLSession | None) -> ssl.SSLSession | None:
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        secured = context.wrap_socket(sock, server_hostname="a.test", session=before)
        secured.sendall(GET)
        if not secured.recv(1000):
            raise ConnectionResetError
        return secured.session


# --- what a handshake may cost ----------------------------------------------------------------------------------------


async def test_a_client_that_never_says_hello_is_closed_at_the_time_for_a_head(
    origin: Origin, parties: Parties
) -> None:
    """Row 35: it would hold its connection for ever, without a byte sent."""
    limits = ClientLimits(head_seconds=0.2)
    async with gateway_of(origin, parties, limits=limits) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        assert gateway.count("tls_handshakes_total", result="timeout") == 1
        assert gateway.gateway.handshakes == set()
        assert gateway.gateway.room.total == 0


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", id="half a hello"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="plain HTTP"),
        pytest.param(bytes(range(256)) * 4096, id="1 MiB of rubbish"),
    ],
)
async def test_a_client_that_gives_up_in_the_handshake_leaves_nothing_behind(
    origin: Origin, parties: Parties, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 26: scanners do so all day; each would take a place, or a line of the log, for good."""
    async with gateway_of(origin, parties) as gateway:
        caplog.clear()  # what it says at its start is about this machine
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        writer.close()
        async with asyncio.timeout(2):
            while gateway.count("tls_handshakes_total", result="failed") < 1:  # noqa: ASYNC110  a counter tells nobody
                await asyncio.sleep(0.01)
        assert gateway.gateway.room.total == 0
        assert [record for record in caplog.records if record.levelname in ("INFO", "WARNING", "ERROR")] == []


async def test_a_request_in_one_flight_with_the_end_of_the_handshake_is_answered(
    origin: Origin, parties: Parties
) -> None:
    """TLS 1.3 lets a client send it at once: it must not be lost between handshake and connection."""
    async with gateway_of(origin, parties) as gateway:
        for _ in range(20):
            assert (await ask(gateway.port, context_of(parties.client))).startswith(b"HTTP/1.1 200")
        assert gateway.count("tls_handshakes_total", result="ok") == 20


async def test_a_client_over_its_bound_costs_no_handshake(origin: Origin, parties: Parties) -> None:
    """Row 36: a handshake is the most costly thing a stranger can ask for."""
    limits = ClientLimits(connections_per_address=2)
    async with gateway_of(origin, parties, limits=limits) as gateway:
        opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(3)]
        try:
            assert await asyncio.wait_for(opened[2][0].read(), 2) == b""
        except ConnectionResetError:
            pass
        refused = gateway.count("client_connections_refused_total", reason="connections_per_address")
        assert refused == 1
        for _, writer in opened:
            writer.close()
