"""The clock of a gateway is set while calls are made (libfaketime: its wall clock alone, as a step of NTP does)."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest

from ostiary.core.signing import sign_request
from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.conftest import MakeSite
from tests.support.gateway_process import GatewayProcess, eventually

TARGET = "/local/clock"
HOUR = 3600


def library() -> Path:
    """Debian's package `faketime`."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Caller:
    """One connection, kept over everything."""

    def __init__(self, gateway: GatewayProcess, secret: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        self._connection.connect()
        self._socket = self._connection.sock
        self._secret = secret

    def bearer(self) -> int:
        return self._call({"Authorization": f"Bearer {self._secret}"})

    def signed(self) -> int:
        return self._call(sign_request(key_id="key_roomy", secret=self._secret.encode(), method="GET", target=TARGET))

    def _call(self, headers: dict[str, str]) -> int:
        self._connection.request("GET", TARGET, headers=headers)
        answer = self._connection.getresponse()
        answer.read()
        assert self._connection.sock is self._socket, "the connection was ended"
        return answer.status

    def close(self) -> None:
        self._connection.close()


def offset(gateway: GatewayProcess) -> float:
    lines = [line for line in gateway.admin("/metrics")[1].splitlines() if line.startswith("gateway_clock_offset")]
    return float(lines[0].split()[-1])


@pytest.mark.full
def test_a_clock_that_is_set_by_an_hour_mid_run(
    make_site: MakeSite, own_valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 59: NTP sets the clock by an hour, either way, and back. No process ends, no connection is cut, bearer calls go on,
    signed ones are refused only while the clock is wrong, and it is told."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    site = make_site(workers=2, redis=own_valkey.url())
    monkeypatch.setenv("LD_PRELOAD", str(library()))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    with site.gateway() as gateway:
        monkeypatch.delenv("LD_PRELOAD")
        workers = gateway.worker_pids()
        caller = Caller(gateway, site.secrets["key_roomy"])
        eventually(lambda: "gateway_clock_offset_seconds" in gateway.admin("/metrics")[1], "a measurement")
        assert (caller.bearer(), caller.signed()) == (200, 200)
        assert offset(gateway) < 1
        for steps, seconds in enumerate((HOUR, -HOUR), start=1):
            clock.write_text(f"{seconds:+d}")
            eventually(lambda: offset(gateway) > HOUR - 10, "the offset in the metrics")
            assert (caller.bearer(), caller.signed()) == (200, 401)
            eventually(lambda steps=steps: len(gateway.logged("clock_off")) >= steps, "the alarm")  # type: ignore[misc]
            clock.write_text("+0")
            eventually(lambda: offset(gateway) < 1, "the offset in the metrics")
            assert (caller.bearer(), caller.signed()) == (200, 200)
        assert gateway.logged("clock_stepped")
        gateway.wait_for_log("clock_right_again")
        assert gateway.worker_pids() == workers
        assert not gateway.logged("process_ended")
        caller.close()
