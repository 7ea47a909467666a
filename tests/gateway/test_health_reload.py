"""Active checks over a reload: what was found stays, what is new begins."""

from __future__ import annotations

from dataclasses import replace

from ostiary.core.upstream import Health
from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.origin import answer_with, running_origin
from tests.support.waiting import until

HEALTH = Health("/healthz", every_seconds=0.02, unhealthy_after=2, healthy_after=2)
CALL = b"GET /call HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
FAILS = answer_with(b"HTTP/1.1 500 Wrong\r\nContent-Length: 0\r\n\r\n")


async def test_a_reload_brings_the_first_check() -> None:
    """The parts of a check are loaded with the first one; a reload must bring it as a start does."""
    async with (
        running_origin(FAILS) as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as running,
    ):
        slot = running.metrics.gauge("upstream_healthy", upstream="origin", target=f"127.0.0.1:{origin.port}")
        assert not origin.seen
        running.gateway.reload(configuration([upstream(origin.port, health=HEALTH)], [route()]))
        await until(lambda: running.metrics.values[slot] == 0.0, "the check holds")
        running.gateway.reload(configuration([upstream(origin.port)], [route()]))
        assert running.metrics.values[slot] == 1.0, "what is not checked counts as well"


async def test_a_reload_leaves_a_target_that_fails_its_checks_out() -> None:
    """Row 106: it would get its share of the calls after each reload, until the checks have found it bad anew."""
    async with running_origin(FAILS) as ill, running_origin() as well:
        target = upstream(ill.port, well.port, health=HEALTH)
        async with running_gateway(configuration([target], [route()])) as running:
            values = running.metrics.values
            slot = running.metrics.gauge("upstream_healthy", upstream="origin", target=f"127.0.0.1:{ill.port}")
            await until(lambda: values[slot] == 0.0, "the target is out")
            # The same checks go on; with others, the first of which is an hour away from the second, it is out as well.
            for health in (HEALTH, Health("/other", every_seconds=3600.0, unhealthy_after=100)):
                running.gateway.reload(configuration([replace(target, health=health)], [route()]))
                assert values[slot] == 0.0
                answers = [await talk(running.port, CALL) for _ in range(4)]
                assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
            assert not [seen for seen in ill.seen if seen.target == "/call"]


async def test_checks_that_a_reload_does_not_change_go_on_counting() -> None:
    """Row 106: with a reload now and then, no target would ever have failed often enough in a row."""
    health = Health("/healthz", every_seconds=0.2, unhealthy_after=3, healthy_after=2)
    async with running_origin(FAILS) as ill, running_origin() as well:
        settings = configuration([upstream(ill.port, well.port, health=health)], [route()])
        async with running_gateway(settings) as running:
            slot = running.metrics.gauge("upstream_healthy", upstream="origin", target=f"127.0.0.1:{ill.port}")
            checks = 0
            while running.metrics.values[slot]:
                await until(lambda: len(ill.seen) > checks or not running.metrics.values[slot], "one more check")  # noqa: B023
                checks = len(ill.seen)
                assert checks <= health.unhealthy_after, "a reload does not begin the row anew"
                running.gateway.reload(settings)
