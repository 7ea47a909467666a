"""TLS towards targets: nobody but the right server gets a request, and what is wrong stands in the log."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.core.upstream import Health, Target, TargetTls, Timeouts, Upstream
from ostiary.gateway.target_tls import client_context
from ostiary.tls import CertificateRefused
from tests.gateway.test_health import healthy
from tests.support.certificates import Issued, issue
from tests.support.fault_proxy import Ending, Faults, fault_proxy
from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.origin import OK, Origin, answer_with, running_origin
from tests.support.waiting import until

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
EMPTY_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
UNREACHABLE = b"HTTP/1.1 502 Upstream unreachable\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Issued:
    return issue(tmp_path, "authority", authority=True)


@asynccontextmanager
async def tls_origin(context: ssl.SSLContext, *, host: str = "127.0.0.1") -> AsyncIterator[Origin]:
    origin = Origin()
    server = await asyncio.start_server(origin.serve, host, 0, ssl=context)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()


def https(origin: Origin, tls: TargetTls | None, *, host: str = "127.0.0.1") -> Target:
    return Target("https", host, origin.port, tls=tls)


def of(*targets: Target) -> Upstream:
    return upstream(targets=targets)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [getattr(record, "fields", {}).get("reason") for record in caplog.records]
    return [reason for reason in found if reason is not None]


async def test_a_target_of_a_private_authority_is_verified_and_used(authority: Issued) -> None:
    """By its address, as SNI can't have it; HTTP/1.1 is agreed upon; the connection is kept."""
    async with tls_origin(authority.sign("127.0.0.1").server()) as origin:
        settings = configuration([of(https(origin, authority.trusted()))], [route()])
        async with running_gateway(settings) as gateway:
            for _ in range(3):
                assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert [seen.body for seen in origin.seen] == [b"x"] * 3
        assert len(origin.raw) == 1


async def test_server_name_is_what_is_asked_for_and_verified(authority: Issued) -> None:
    """A target that is known by its address has a certificate for its name."""
    context = authority.sign("api.internal").server()
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, _: asked.append(name)
    async with tls_origin(context) as origin:
        target = https(origin, authority.trusted(server_name="api.internal"))
        async with running_gateway(configuration([of(target)], [route()])) as gateway:
            assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert asked == ["api.internal"]
    assert origin.seen[0].one("host") == f"127.0.0.1:{origin.port}"


@pytest.mark.parametrize(
    ("names", "valid_for_hours", "known", "reason"),
    [
        (("127.0.0.1",), -0.5, True, "certificate refused: certificate has expired"),
        (("other.internal",), 1, True, "certificate refused: IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (("127.0.0.1",), 1, False, "certificate refused: unable to get local issuer certificate"),
    ],
    ids=["expired", "another's", "of an unknown authority"],
)  # fmt: skip
async def test_a_target_that_is_not_who_it_should_be_gets_nothing_and_another_is_asked(
    names: tuple[str, ...],
    valid_for_hours: float,
    known: bool,
    reason: str,
    authority: Issued,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 95: a request with its caller's data would go to whoever answers there. Nothing was sent, so a POST may go on."""
    signed = authority.sign(*names, valid_for=datetime.timedelta(hours=valid_for_hours))
    tls = authority.trusted() if known else issue(tmp_path, "stranger", authority=True).trusted()
    async with tls_origin(signed.server()) as wrong, running_origin() as right:
        async with running_gateway(configuration([of(https(wrong, tls))], [route()])) as gateway:
            assert (await talk(gateway.port, POST)).startswith(UNREACHABLE)
        assert reasons(caplog) == [f"upstream origin: {reason}" + ("." if "mismatch" in reason else "")]
        both = of(https(wrong, tls), Target("http", "127.0.0.1", right.port))
        async with running_gateway(configuration([both], [route()])) as gateway:
            for _ in range(2):
                assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert wrong.seen == []
        assert len(right.seen) == 2


@pytest.fixture
def strict_server(authority: Issued) -> Iterator[Callable[[ssl.TLSVersion], int]]:
    """Servers, by their ports, that want a client certificate. By OpenSSL alone, which tells a client why it is refused;
    uvloop only closes. Each answers all it is asked."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                    while tls.recv(65536):
                        tls.sendall(OK)

    def start(newest: ssl.TLSVersion) -> int:
        context = authority.sign("127.0.0.1").server(clients=authority)
        context.maximum_version = newest
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=serve, args=(listeners[-1], context)))
        threads[-1].start()
        return int(listeners[-1].getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize(
    ("newest", "reason"),
    [
        (ssl.TLSVersion.TLSv1_2, "SSLError while in the TLS handshake: [SSL: SSLV3_ALERT_HANDSHAKE_FAILURE]"),
        (
            ssl.TLSVersion.TLSv1_3,
            "it refused the gateway's certificate, or the lack of one: TLSV13_ALERT_CERTIFICATE_REQUIRED",
        ),
    ],
)
async def test_a_target_that_wants_a_certificate_gets_it_or_nothing(
    newest: ssl.TLSVersion,
    reason: str,
    authority: Issued,
    strict_server: Callable[[ssl.TLSVersion], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Row 95: with TLS 1.3 the refusal comes after the request was written, and still nobody has read it: it is a failed
    connection, not a lost call, and another target may be asked."""
    port = strict_server(newest)
    shown = Target("https", "127.0.0.1", port, tls=authority.trusted(show=authority.sign("gateway.internal")))
    bare = replace(shown, tls=authority.trusted())
    async with running_gateway(configuration([of(shown)], [route()])) as gateway:
        assert (await talk(gateway.port, EMPTY_POST)).startswith(b"HTTP/1.1 200 OK\r\n")
    async with running_gateway(configuration([of(bare)], [route()])) as gateway:
        assert (await talk(gateway.port, EMPTY_POST)).startswith(UNREACHABLE)
    (logged,) = reasons(caplog)
    assert logged.startswith(f"upstream origin: {reason}")
    async with running_origin() as other:
        both = of(bare, Target("http", "127.0.0.1", other.port))
        async with running_gateway(configuration([both], [route()])) as gateway:
            for _ in range(2):
                assert (await talk(gateway.port, EMPTY_POST)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(other.seen) == 2


async def test_a_server_without_tls_is_no_target_for_it(authority: Issued, caplog: pytest.LogCaptureFixture) -> None:
    """Row 95: a fall-back to plain HTTP would send secrets in the clear."""
    async with running_origin() as origin:
        target = https(origin, authority.trusted())
        async with running_gateway(configuration([of(target)], [route()])) as gateway:
            assert (await talk(gateway.port, POST)).startswith(UNREACHABLE)
    assert "in the TLS handshake" in reasons(caplog)[0]
    assert origin.seen == []


async def test_the_default_is_the_system_s_authorities_and_no_less(authority: Issued) -> None:
    """Row 95: without `tls` a target is verified all the same."""
    async with (
        tls_origin(authority.sign("127.0.0.1").server()) as origin,
        running_gateway(configuration([of(https(origin, None))], [route()])) as gateway,
    ):
        assert (await talk(gateway.port, POST)).startswith(UNREACHABLE)
    context = client_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert origin.seen == []


async def test_a_handshake_that_hangs_ends_at_the_time_to_connect(
    authority: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 96: the time to connect is to the end of the handshake; TCP alone answers nothing."""
    async with (
        tls_origin(authority.sign("127.0.0.1").server()) as origin,
        fault_proxy("127.0.0.1", origin.port) as proxy,
    ):
        proxy.to_client = Faults(ending=Ending.BLACKHOLE, after_bytes=100)
        timeouts = Timeouts(connect_seconds=0.3)
        slow = upstream(targets=(Target("https", "127.0.0.1", proxy.port, tls=authority.trusted()),), timeouts=timeouts)
        async with running_gateway(configuration([slow], [route()])) as gateway:
            assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 504 Upstream timeout\r\n")
        assert reasons(caplog) == ["upstream origin: no connection within 0.3 s, while in the TLS handshake"]
        proxy.heal()
        await proxy.until(lambda proxy: not proxy.links[0].open)  # nothing of the attempt is left


async def test_checks_are_made_by_the_same_tls(authority: Issued) -> None:
    """A target would be taken out, or left in, for what calls to it don't meet."""
    mine = authority.sign("gateway.internal")
    checked = Health(path="/healthz", every_seconds=0.05, unhealthy_after=2, healthy_after=1)
    async with (
        tls_origin(authority.sign("api.internal").server(clients=authority)) as origin,
        running_origin() as other,
    ):
        right = https(origin, authority.trusted(server_name="api.internal", show=mine))
        second = Target("http", "127.0.0.1", other.port)
        async with running_gateway(configuration([replace(of(right), health=checked)], [route()])) as gateway:
            await until(lambda: len(origin.seen) >= 3, "checks arrive")
            assert healthy(gateway, origin)
            wrong = https(origin, authority.trusted(show=mine))
            gateway.gateway.reload(configuration([replace(of(wrong, second), health=checked)], [route()]))
            await until(lambda: not healthy(gateway, origin), "the target whose name is another is taken out")


async def test_a_reload_takes_the_certificates_that_are_there_now(authority: Issued, tmp_path: Path) -> None:
    """A renewed client certificate that needed a restart would be found out on the day that the old one expires."""
    stranger = issue(tmp_path, "stranger", authority=True)
    mine = stranger.sign("gateway.internal", stem="mine")
    async with tls_origin(authority.sign("127.0.0.1").server(clients=authority)) as origin:

        def now(show: Issued) -> Upstream:
            return of(https(origin, authority.trusted(show=show)))

        async with running_gateway(configuration([now(mine)], [route()])) as gateway:
            assert (await talk(gateway.port, POST)).startswith(UNREACHABLE)
            renewed = authority.sign("gateway.internal", stem="mine")
            assert (renewed.cert, renewed.key) == (mine.cert, mine.key)
            gateway.gateway.reload(configuration([now(renewed)], [route()]))
            assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_certificate_that_openssl_refuses_leaves_the_old_one_in_force(authority: Issued) -> None:
    """Row 111: half a reload would serve some targets by the new configuration."""
    mine, other = authority.sign("gateway.internal"), authority.sign("other")
    tls = authority.trusted(show=mine)
    async with (
        tls_origin(authority.sign("127.0.0.1").server(clients=authority)) as origin,
        running_gateway(configuration([of(https(origin, tls))], [route()])) as gateway,
    ):
        unfit = of(https(origin, replace(tls, key_pem=other.key.read_bytes())))
        before = gateway.gateway.snapshot
        with pytest.raises(CertificateRefused, match=r"gateway\.internal\.pem: OpenSSL does not take it: "):
            gateway.gateway.reload(configuration([unfit], [route()]))
        assert gateway.gateway.snapshot is before
        assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("cut", [Ending.CLOSE, Ending.RESET])
async def test_an_answer_that_only_tls_could_end_is_not_ended_by_anybody_else(cut: Ending, authority: Issued) -> None:
    """Row 98: whoever sits between could cut an answer without a length short, and it would look whole (RFC 9112 §9.8)."""
    async with (
        tls_origin(authority.sign("127.0.0.1").server()) as origin,
        fault_proxy("127.0.0.1", origin.port) as proxy,
    ):
        origin.answer = answer_with(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000)
        target = Target("https", "127.0.0.1", proxy.port, tls=authority.trusted())
        async with running_gateway(configuration([of(target)], [route()])) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"x" * 1000)
                proxy.to_client = Faults(ending=cut)
                rest = b""
                try:
                    rest = await reader.read()
                except ConnectionResetError:
                    pass
            assert b"Transfer-Encoding: chunked\r\n" in head
            assert b"\r\n0\r\n\r\n" not in rest
            writer.close()
