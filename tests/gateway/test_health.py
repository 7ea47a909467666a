"""Active checks: a target that fails them takes no calls, and takes calls again when it is well."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ostiary.core.upstream import Balance, Health, Target, Upstream
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk
from tests.support.origin import Origin, Seen, answer_ok, running_origin
from tests.support.waiting import until

HEALTH = Health(path="/healthz", every_seconds=0.05, unhealthy_after=3, healthy_after=2)
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Patient:
    """An origin's answer whose checks fail while it is `ill`."""

    def __init__(self) -> None:
        self.ill = False
        self.checks = 0

    async def __call__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if seen.target != "/healthz":
            await answer_ok(seen, reader, writer)
            return
        self.checks += 1
        status = b"503 Ill" if self.ill else b"204 Well"
        writer.write(b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"Content-Length: 0\r\n" if self.ill else b""))


def settings(*ports: int) -> Upstream:
    targets = tuple(Target("http", "127.0.0.1", port) for port in ports)
    return Upstream("origin", targets, balance=Balance.ROUND_ROBIN, health=HEALTH)


def healthy(gateway: RunningGateway, origin: Origin) -> bool:
    """As `/status` says."""
    upstreams = gateway.gateway.status()["upstreams"]
    assert isinstance(upstreams, dict)
    return bool(next(each["healthy"] for each in upstreams["origin"] if each["target"].endswith(f":{origin.port}")))


def calls(origin: Origin) -> int:
    return sum(seen.target == "/" for seen in origin.seen)


async def test_a_target_that_fails_its_checks_is_left_out_and_comes_back() -> None:
    """Row 106: every second call would fail while one of two targets is down, and one that is never asked again is lost."""
    patient = Patient()
    async with (
        running_origin(patient) as first,
        running_origin(Patient()) as second,
        running_gateway(configuration([settings(first.port, second.port)], [route()])) as gateway,
    ):
        for _ in range(4):
            await talk(gateway.port, GET)
        assert (calls(first), calls(second)) == (2, 2)

        patient.ill = True
        checks = patient.checks
        await until(lambda: not healthy(gateway, first), "the first target is taken out")
        assert patient.checks - checks >= HEALTH.unhealthy_after
        for _ in range(4):
            assert (await talk(gateway.port, GET)).startswith(b"HTTP/1.1 200")
        assert (calls(first), calls(second)) == (2, 6)
        gauge = gateway.metrics.gauge("upstream_healthy", upstream="origin", target=f"127.0.0.1:{first.port}")
        assert gateway.metrics.values[gauge] == 0.0

        patient.ill = False
        checks = patient.checks
        await until(lambda: healthy(gateway, first), "the first target is taken in again")
        assert patient.checks - checks >= HEALTH.healthy_after
        for _ in range(4):
            await talk(gateway.port, GET)
        assert (calls(first), calls(second)) == (4, 8)
        assert gateway.metrics.values[gauge] == 1.0


async def test_a_single_failed_check_takes_nothing_out() -> None:
    """Row 106: a target must not flap with every packet that is lost."""
    patient = Patient()
    async with (
        running_origin(patient) as origin,
        running_origin(Patient()) as other,
        running_gateway(configuration([settings(origin.port, other.port)], [route()])) as gateway,
    ):
        for _ in range(3):
            checks = patient.checks
            patient.ill = True
            await until(lambda: patient.checks > checks, "a check failed")  # noqa: B023  awaited at once
            patient.ill = False
            checks = patient.checks
            await until(lambda: patient.checks > checks, "a check held")  # noqa: B023  as above
            assert healthy(gateway, origin)


async def test_a_target_that_nobody_listens_at_is_left_out() -> None:
    """Row 106: a refused connection is a failed check, not the end of checking."""
    async with running_origin(Patient()) as well:
        async with running_origin(Patient()) as gone:
            port = gone.port
        gone = Origin(port=port)
        async with running_gateway(configuration([settings(port, well.port)], [route()])) as gateway:
            await until(lambda: not healthy(gateway, gone), "the target is taken out")
            for _ in range(4):
                assert (await talk(gateway.port, GET)).startswith(b"HTTP/1.1 200")


async def test_a_reload_without_checks_ends_them_and_takes_every_target_in() -> None:
    """Checks that went on under an old configuration would take targets out of the new one."""
    patient = Patient()
    patient.ill = True
    async with running_origin(patient) as origin, running_origin(Patient()) as other:
        checked = settings(origin.port, other.port)
        async with running_gateway(configuration([checked], [route()])) as gateway:
            await until(lambda: not healthy(gateway, origin), "the target is taken out")
            gateway.gateway.reload(configuration([replace(checked, health=None)], [route()]))
            assert healthy(gateway, origin)
            checks = patient.checks
            for _ in range(6):
                await talk(gateway.port, GET)
            assert calls(origin) == 3
            # A check that was on its way when the configuration changed may still arrive; none after it.
            assert patient.checks <= checks + 1
