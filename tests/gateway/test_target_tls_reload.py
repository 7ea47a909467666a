"""Files of an upstream's `tls` that are renewed while the gateway serves."""

from __future__ import annotations

import shutil
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Issued, issue
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.plain_gateway import CONFIGURATION, origin, running

TLS = "    tls: {ca: ca.pem, cert: shown.pem, key: shown.key}\n"


@pytest.fixture
def authority(tmp_path: Path) -> Issued:
    """Whose certificates the origin has, and takes."""
    return issue(tmp_path, "authority", authority=True)


@pytest.fixture
def stranger(tmp_path: Path) -> Issued:
    return issue(tmp_path, "stranger", authority=True)


@pytest.fixture
def configuration(authority: Issued, tmp_path: Path) -> Iterator[Path]:
    """Before an origin that wants a certificate. The files of its `tls` are the test's to put there."""
    path = tmp_path / "gateway.yaml"
    with origin(authority.sign("127.0.0.1").server(clients=authority)) as port:
        plain = CONFIGURATION.format(origin=port, number=0)
        path.write_text(plain.replace("http://", "https://").replace("routes:\n", f"{TLS}routes:\n"))
        yield path


def put(source: Path, place: Path) -> None:
    """In one step, as programs do that renew files."""
    fresh = place.with_suffix(".new")
    shutil.copyfile(source, fresh)
    fresh.replace(place)


def statuses(gateway: GatewayProcess) -> set[int]:
    """Of calls on ten new connections: those of every worker."""
    return {status(gateway) for _ in range(10)}


def status(gateway: GatewayProcess) -> int:
    try:
        gateway.get()
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_a_renewed_client_certificate_is_noticed_without_a_signal(
    configuration: Path, authority: Issued, stranger: Issued, tmp_path: Path
) -> None:
    """Row 111: who renews it touches no configuration: targets would refuse the old one from the day it expires. Half of a
    renewal changes nothing."""
    old, new = stranger.sign("old"), authority.sign("new")
    put(authority.cert, tmp_path / "ca.pem")
    put(old.cert, tmp_path / "shown.pem")
    put(old.key, tmp_path / "shown.key")
    with running(configuration) as gateway:
        assert statuses(gateway) == {502}
        put(new.cert, tmp_path / "shown.pem")
        refused = gateway.wait_for_log("reload_refused", generation=1)
        assert "is not the key of this certificate" in refused["problems"][0]
        put(new.key, tmp_path / "shown.key")
        gateway.wait_for_log("reloaded", generation=2)
        eventually(lambda: statuses(gateway) == {200}, "every worker shows the new one")


def test_a_renewed_authority_is_noticed_without_a_signal(
    configuration: Path, authority: Issued, stranger: Issued, tmp_path: Path
) -> None:
    """A target that gets its certificate of the next authority would be lost; an authority that is taken out would be
    trusted until somebody thinks of it."""
    shown = authority.sign("shown")
    put(stranger.cert, tmp_path / "ca.pem")
    put(shown.cert, tmp_path / "shown.pem")
    put(shown.key, tmp_path / "shown.key")
    with running(configuration) as gateway:
        assert statuses(gateway) == {502}
        put(authority.cert, tmp_path / "ca.pem")
        gateway.wait_for_log("reloaded", generation=2)
        eventually(lambda: statuses(gateway) == {200}, "every worker trusts the new one")
        put(stranger.cert, tmp_path / "ca.pem")
        gateway.wait_for_log("reloaded", generation=3)
        eventually(lambda: statuses(gateway) == {502}, "no worker trusts the old one, nor keeps a connection by it")
