"""What /status says of the upstreams, however many there are: a status that does not fit its message ends the worker."""

from __future__ import annotations

import json

from ostiary.core.model import Environment, Match
from ostiary.core.upstream import Breaker, Target, Upstream
from ostiary.gateway.channel import MESSAGE_BYTES_MAX
from ostiary.gateway.upstream_status import TARGETS_SHOWN_MAX
from tests.support.gateway import configuration, route, running_gateway


async def test_a_status_of_many_targets_fits_and_shows_those_that_are_out() -> None:
    """The supervisor ends a worker that sends what is no message."""
    count = 1500
    host = "a-host-whose-name-is-as-long-as-a-label-of-a-name-may-be-000000.example.internal"
    upstreams = [
        Upstream(f"{number:064}", (Target("http", host, number + 1), Target("http", host, 60_000)), breaker=Breaker())
        for number in range(count)
    ]
    routes = [
        route(each.name, match=Match(path=f"/{each.name}"), upstreams={Environment.LIVE: each.name})
        for each in upstreams
    ]
    async with running_gateway(configuration(upstreams, routes)) as running:
        last = running.gateway.snapshot.groups[upstreams[-1].name].members[0]
        last.health.checked(passes=False)
        status = running.gateway.status()
        assert len(json.dumps(status)) < MESSAGE_BYTES_MAX / 2
        shown = status["upstreams"]
        assert isinstance(shown, dict)
        assert sum(len(targets) for targets in shown.values()) == TARGETS_SHOWN_MAX
        assert shown[upstreams[-1].name] == [
            {
                "target": f"{host}:{count}",
                "healthy": False,
                "ejected": False,
                "in_flight": 0,
                "waiting": 0,
            }
        ]
