from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.contestant import RunningSide
from benchmarks.gateway import status
from benchmarks.handshakes import NewClients
from benchmarks.handshakes import run as new_clients
from benchmarks.load import LoadFailed, LoadResult
from benchmarks.measure import Plan, exchange
from benchmarks.paced import Pace, PacedLoad
from benchmarks.requests import HOST, plain_request
from benchmarks.rig import SMALL_ANSWER_BYTES, Rig, Role, running_rig
from benchmarks.sweeps import connections, limits, messages, reloading, schemes
from benchmarks.sweeps.catalogue import SWEEPS
from benchmarks.sweeps.measuring import measure_sweep
from benchmarks.sweeps.plot import CURVES_MAX
from benchmarks.sweeps.sweep import AxisKind, Case, Run, Sweep
from tests.support.gateway_process import eventually


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_every_sweep_can_be_drawn(sweep: Sweep) -> None:
    """Curves that can't be told apart, or two cases at one place, would be found after minutes of measuring."""
    curves = dict.fromkeys(case.curve for case in sweep.cases)
    assert 1 <= len(curves) <= CURVES_MAX
    places = [(case.curve, case.point) for case in sweep.cases]
    assert len(set(places)) == len(places)
    if sweep.kind is AxisKind.NUMBERS:
        assert all(case.number > 0 for case in sweep.cases)


def test_as_many_connections_are_asked_for_as_a_worker_takes() -> None:
    """A worker leaves half of its descriptors to the upstream; one connection more would wait for ever."""
    assert connections.connections_max(1_048_576) == 10_000
    assert connections.connections_max(20_000) == 9_900


@pytest.fixture(scope="module")
def full() -> Iterator[Rig]:
    with running_rig(with_stores=True) as rig:
        yield rig


@pytest.fixture(scope="module")
def bare() -> Iterator[Rig]:
    with running_rig(with_stores=False) as rig:
        yield rig


@contextmanager
def started(sweep: Sweep, rig: Rig, *, only: str = "") -> Iterator[dict[str, RunningSide]]:
    """All sides of the sweep, or those whose name begins so, by name."""
    chosen = [contestant for contestant in sweep.sides(rig) if contestant.name.startswith(only)]
    sides = {contestant.name: contestant.start(rig) for contestant in chosen}
    try:
        yield sides
    finally:
        for side in sides.values():
            rig.processes.stop(side.started)


def forged(request: bytes) -> bytes:
    """With another last character in its credential: a digit of the signature, a letter of the secret or the token."""
    for name, end in (
        (b"\r\nSignature: ", b"=:\r\n"),
        (b"\r\nX-API-Key: ", b"\r\n"),
        (b"\r\nAuthorization: ", b"\r\n"),
    ):
        if name in request:
            begin = request.index(name) + len(name)
            last = request.index(end, begin) - 2
            other = b"a" if request[last : last + 1] != b"a" else b"b"
            return request[:last] + other + request[last + 1 :]
    raise ValueError("a request without a credential")


@pytest.mark.full
def test_every_scheme_is_measured_as_it_is_checked(full: Rig, tmp_path: Path) -> None:
    """A route that lets everyone in would make its scheme look cheap."""
    with started(schemes.SCHEMES, full) as sides:
        port = sides["ostiary-schemes"].port
        for body in schemes.BODIES.values():
            for scheme, writing in schemes.writings(body).items():
                file = writing(full.directory / "one.requests", 0.01)
                request = file.path.read_bytes()[: file.request_bytes]
                if scheme != "anonymous":
                    assert exchange(port, forged(request))[0] == 401, scheme
                assert exchange(port, request) == (200, SMALL_ANSWER_BYTES), scheme
                again = 401 if scheme in ("hmac", "http-signature") else 200
                assert exchange(port, request)[0] == again, scheme
        certified = Pace(
            port=sides["ostiary-schemes-tls"].port,
            connections=2,
            seconds=2.0,
            requests=str(tmp_path / "request"),
            request_bytes=len(plain_request("/v1/mtls/1")),
            answer_bytes=SMALL_ANSWER_BYTES,
            certificate=str(full.directory / "client.pem"),
            key=str(full.directory / "client.key"),
        )
        (tmp_path / "request").write_bytes(plain_request("/v1/mtls/1"))
        load = PacedLoad(certified)
        load.run()
        assert load.answered > 0
        context = ssl.create_default_context(cafile=str(full.directory / "server.pem"))
        assert _status(context, certified.port, plain_request("/v1/mtls/1")) == 401


def _status(context: ssl.SSLContext, port: int, request: bytes) -> int:
    """Of an answer over TLS to a client without a certificate."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(request)
        return int(connection.recv(4096)[9:12])


@pytest.mark.full
def test_every_algorithm_of_limits_lets_its_calls_in(full: Rig) -> None:
    """A run of which one call is refused is no result."""
    with started(limits.LIMITS, full) as sides:
        port = sides["ostiary-limits"].port
        for algorithm in limits.ALGORITHMS:
            assert exchange(port, plain_request(f"/v1/{algorithm}/1", "X-Tenant: a\r\n"))[0] == 200, algorithm


@pytest.mark.full
def test_new_clients_are_answered_by_every_side_of_tls(bare: Rig) -> None:
    """What is counted is a whole handshake and a good answer."""
    closing = plain_request(connections.TARGET, "Connection: close\r\n").decode()
    with started(connections.TLS, bare) as sides:
        for name in ("ostiary-open-tls", "nginx-tls"):
            assert new_clients(NewClients(sides[name].port, 2, 0.3, closing)).answered > 0, name


@pytest.mark.full
def test_messages_come_back_through_every_side(bare: Rig) -> None:
    """What is counted is a message that came back as it was."""
    with started(messages.MESSAGES, bare) as sides:
        for side in sides.values():
            for size in messages.SIZES.values():
                load = PacedLoad(Pace(side.port, 2, 1.0, target="/messages", message_bytes=size))
                load.run()
                assert load.answered > 0


@pytest.mark.full
def test_a_reload_comes_in_force_in_each_run_or_the_run_is_none(bare: Rig) -> None:
    """A gateway that refuses to reload would be measured at rest."""
    with started(reloading.RELOAD, bare, only="ostiary-10-routes") as sides:
        side = sides["ostiary-10-routes"]
        assert side.admin_port is not None
        before = int(status(side.admin_port)["generation"])

        @contextmanager
        def load(_: Rig, loaded: RunningSide, seconds: float) -> Iterator[Run]:
            def run() -> LoadResult:
                assert loaded.admin_port is not None
                port = loaded.admin_port
                eventually(lambda: int(status(port)["generation"]) > before, "a reload came in force")
                return LoadResult(1, 1.0, 1, 1)

            yield run

        with reloading.while_reloading(load, seconds_min=1.0)(bare, side, 1.0) as run:
            assert run().requests == 1

        @contextmanager
        def none(_: Rig, loaded: RunningSide, seconds: float) -> Iterator[Run]:
            yield lambda: LoadResult(1, 1.0, 1, 1)

        # What is broken is never in force, however often it is read.
        (configuration,) = bare.directory.glob(f"{side.port}-*.yaml")
        configuration.write_text("version: 0\n")
        broken = reloading.while_reloading(none, seconds_min=1.0)
        with broken(bare, side, 1.0) as run, pytest.raises(LoadFailed, match="no reload"):
            run()


@pytest.mark.full
def test_a_point_that_fails_is_told_and_the_others_go_on() -> None:
    """Fifteen minutes of figures must not be lost with one of them."""
    good = connections.WORKER_COUNTS.cases[0]

    @contextmanager
    def failing(_: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        def run() -> LoadResult:
            raise LoadFailed("all were refused")

        yield run

    bad = Case("Ostiary", "none", good.side, failing)
    sides = connections.WORKER_COUNTS.sides
    sweep = Sweep("few", "few", "", "workers", AxisKind.STEPS, lambda rig: sides(rig)[:1], (good, bad))
    said: list[str] = []
    result = measure_sweep(sweep, Plan(runs=1, seconds=1.0), said.append)
    assert [case for case, _ in result.samples] == [good]
    assert [(case, reason) for case, reason in result.failed] == [(bad, "all were refused")]
    assert result.samples[0][1][0].cpu_us[Role.GATEWAY] > 1.0
    assert any("left out: Ostiary, none" in line for line in said)
