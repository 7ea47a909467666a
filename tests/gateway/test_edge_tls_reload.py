"""Certificates that change while the gateway serves."""

from __future__ import annotations

import asyncio
import datetime
import math
import os
import signal
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from ostiary.core.model import Certificate, Configuration, Listen
from ostiary.gateway.reload import needs_restart
from ostiary.tls import CertificateRefused
from tests.support.certificates import issue, model
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.gateway_process import TinyGateway, eventually
from tests.support.origin import Origin
from tests.support.samples import samples

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


def settings(origin: Origin, *certificates: Certificate) -> Configuration:
    base = configuration([upstream(origin.port)], [route()])
    return replace(base, gateway=replace(base.gateway, listen=Listen("127.0.0.1", 0, tls=certificates)))


class Client:
    """A connection by TLS, and the serial number of the certificate it was shown."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, gateway: RunningGateway) -> Client:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        opened = asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname="a.test")
        return cls(*await asyncio.wait_for(opened, 5))

    @property
    def serial(self) -> int:
        shown = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown).serial_number

    async def ask(self) -> bytes:
        self._writer.write(GET)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)
        await self._reader.readexactly(2)
        return head

    def close(self) -> None:
        self._writer.close()


async def serial_shown(gateway: RunningGateway) -> int:
    client = await Client.connect(gateway)
    client.close()
    return client.serial


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    origin: Origin, tmp_path: Path
) -> None:
    """A renewal would cost a restart every sixty days, or every open connection."""
    first, second = issue(tmp_path, "a.test", stem="1"), issue(tmp_path, "a.test", stem="2")
    async with running_gateway(settings(origin, model(first))) as gateway:
        old = await Client.connect(gateway)
        await old.ask()
        gateway.gateway.reload(settings(origin, model(second)))
        assert old.serial == first.certificate.serial_number
        assert (await old.ask()).startswith(b"HTTP/1.1 200")
        assert await serial_shown(gateway) == second.certificate.serial_number
        old.close()


async def test_a_certificate_that_openssl_refuses_leaves_the_old_one_in_force(origin: Origin, tmp_path: Path) -> None:
    """Row 111: half a reload would serve nobody."""
    good, other = issue(tmp_path, "a.test", stem="good"), issue(tmp_path, "a.test", stem="other")
    unfit = replace(model(other), key_pem=model(good).key_pem)
    async with running_gateway(settings(origin, model(good))) as gateway:
        with pytest.raises(CertificateRefused, match=r"other\.pem: OpenSSL does not take it: "):
            gateway.gateway.reload(settings(origin, unfit))
        assert await serial_shown(gateway) == good.certificate.serial_number


async def test_tls_is_turned_on_and_off_by_a_reload(origin: Origin, tmp_path: Path) -> None:
    """What is in force is one thing: the configuration that was accepted last."""
    issued = issue(tmp_path, "a.test")
    async with running_gateway(settings(origin)) as gateway:
        gateway.gateway.reload(settings(origin, model(issued)))
        assert await serial_shown(gateway) == issued.certificate.serial_number
        gateway.gateway.reload(settings(origin))
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(GET)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200")
        writer.close()


def test_certificates_are_reloaded_and_the_socket_takes_a_restart(tmp_path: Path) -> None:
    """A change that can't take effect must be refused, and one that can must not be."""
    base = configuration([upstream(1)], [route()])

    def with_listen(**changes: object) -> Configuration:
        listen = replace(base.gateway.listen, **changes)  # type: ignore[arg-type]  # fields of Listen
        return replace(base, gateway=replace(base.gateway, listen=listen))

    assert needs_restart(base, with_listen(tls=(model(issue(tmp_path, "a.test")),))) == ()
    for changes in ({"host": "::"}, {"port": 1}, {"workers": 9}):
        assert needs_restart(base, with_listen(**changes)) == ("gateway.listen",)


# --- the files, followed by the supervisor ---------------------------------------------------------------------------


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[TinyGateway]:
    issue(tmp_path, "a.test", stem="edge")
    with TinyGatewayWithTls(tmp_path) as running:
        yield running.wait_ready()


class TinyGatewayWithTls(TinyGateway):
    def configuration(self, *routes: str, **changes: object) -> str:
        plain = super().configuration(*routes, **changes)
        return plain.replace("workers: 2}", "workers: 2, tls: {cert: edge.pem, key: edge.key}}")


def renew(directory: Path, *, days: int = 1) -> tuple[Path, Path]:
    """A new pair beside the one in force, not yet in its place."""
    issued = issue(directory, "a.test", stem="next", valid_for=datetime.timedelta(days=days))
    return issued.cert, issued.key


def expiry_seconds(gateway: TinyGateway) -> float:
    return samples(gateway.admin("/metrics")[1])["tls_certificate_expiry_seconds", (("certificate", "a.test"),)]


def test_a_renewed_certificate_file_is_noticed_without_a_signal(supervised: TinyGateway, tmp_path: Path) -> None:
    """ACME clients renew the files and touch no configuration: the old one would be served until it expires."""
    assert 0 < expiry_seconds(supervised) <= 3600
    cert, key = renew(tmp_path)
    key.replace(tmp_path / "edge.key")
    cert.replace(tmp_path / "edge.pem")
    supervised.wait_for_log("reloaded", generation=2)
    eventually(lambda: 3600 < expiry_seconds(supervised) <= 86400, "the new expiry is told")


def test_a_certificate_that_does_not_fit_its_key_is_refused_until_it_does(
    supervised: TinyGateway, tmp_path: Path
) -> None:
    """Row 111: half of a renewal changes nothing, not even for a worker that is replaced meanwhile; the other half does."""
    cert, key = renew(tmp_path)
    cert.replace(tmp_path / "edge.pem")
    refused = supervised.wait_for_log("reload_refused", generation=1)
    assert any(
        "edge" not in problem or "is not the key of this certificate" in problem for problem in refused["problems"]
    )
    victim = supervised.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    supervised.wait_for_workers(without=victim)
    key.replace(tmp_path / "edge.key")
    supervised.wait_for_log("reloaded", generation=2)


def test_an_expired_certificate_is_a_warning_and_a_negative_gauge(supervised: TinyGateway, tmp_path: Path) -> None:
    """A gateway that refuses to start with it serves nobody; one that says nothing is found out by its clients."""
    issue(tmp_path, "a.test", stem="edge", valid_for=datetime.timedelta(minutes=-1))
    supervised.wait_for_log("reloaded", generation=2)
    assert expiry_seconds(supervised) < 0
    assert any("has expired" in warning for warning in supervised.status()["warnings"])


def test_a_certificate_that_is_gone_has_no_expiry(supervised: TinyGateway) -> None:
    """An alert for a certificate that is in nobody's hands would never end."""
    supervised.path.write_text(supervised.path.read_text().replace(", tls: {cert: edge.pem, key: edge.key}", ""))
    supervised.wait_for_log("reloaded", generation=2)
    eventually(lambda: math.isnan(expiry_seconds(supervised)), "the gauge is NaN")
