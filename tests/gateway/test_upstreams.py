"""Which target takes a request: each balance gives what its name says, and a target that is out takes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from ostiary.core.upstream import Balance, Target, Upstream
from ostiary.gateway.resilience.target_health import TargetHealth
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.telemetry.upstream_meters import UpstreamMeters
from ostiary.gateway.upstreams import Member, UpstreamGroup
from ostiary.gateway.wire.deadlines import Deadlines
from ostiary.gateway.wire.dialing import Dialer
from ostiary.gateway.wire.pool import TargetPool
from ostiary.gateway.wire.resolver import Resolver
from tests.support.gateway import configuration, route, running_gateway, talk
from tests.support.origin import Seen, answer_ok, running_origin

CALLERS = [f"ak_live_{number:022}" for number in range(6000)]


async def group_of(balance: Balance, weights: Sequence[int], *, panic_share: float = 0.5) -> UpstreamGroup:
    """Targets on ports 9001, 9002 ...; nothing is connected, choosing is arithmetic."""
    targets = tuple(Target("http", "10.0.0.1", 9001 + number, weight) for number, weight in enumerate(weights))
    deadlines = Deadlines(every_sweep=lambda: None)
    resolver = Resolver()
    pools = tuple(
        TargetPool(target, dialer=Dialer(target, seconds=1.0, resolver=resolver), deadlines=deadlines)
        for target in targets
    )
    upstream = Upstream("planner", targets, balance=balance, panic_share=panic_share)
    meters = UpstreamMeters(Metrics.in_memory(), "planner", [target.label for target in targets])
    return UpstreamGroup(upstream, pools, health=[TargetHealth() for _ in pools], guard=None, meters=meters)


def chosen(group: UpstreamGroup, key: str = "", tried: Sequence[Member] = (), *, now: float = 0.0) -> int:
    """The number of the target chosen."""
    member = group.choose(key, now, tried)
    assert member is not None
    return member.number


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 1, 1), (3, 2, 1), (1000, 1)])
async def test_round_robin_gives_each_target_exactly_its_weight(weights: tuple[int, ...]) -> None:
    """A machine twice as strong takes twice the calls, in every round of them."""
    group = await group_of(Balance.ROUND_ROBIN, weights)
    for _ in range(3):
        round_of = Counter(chosen(group) for _ in range(sum(weights)))
        assert [round_of[number] for number in range(len(weights))] == list(weights)


async def test_round_robin_spreads_a_heavy_target_s_turns() -> None:
    """Five calls in a row to the strongest machine would be a burst that its share does not mean."""
    group = await group_of(Balance.ROUND_ROBIN, (5, 1, 1))
    turns = [chosen(group) for _ in range(14)]
    assert turns[:7] == turns[7:] == [0, 0, 1, 0, 2, 0, 0]


async def test_least_connections_goes_where_the_least_is_under_way_for_its_weight() -> None:
    """A slow target would otherwise gather calls until it falls."""
    group = await group_of(Balance.LEAST_CONNECTIONS, (1, 1, 2))
    for number, in_flight in enumerate((3, 1, 3)):
        group.members[number].pool.in_flight = in_flight
    assert chosen(group) == 1
    group.members[1].pool.in_flight = 2
    assert chosen(group) == 2  # three calls on a weight of two


async def test_least_connections_fills_targets_by_their_weights() -> None:
    """Without calls that end, the calls under way stand in the proportion of the weights."""
    group = await group_of(Balance.LEAST_CONNECTIONS, (1, 2, 3))
    for _ in range(600):
        group.members[chosen(group)].pool.in_flight += 1
    assert [member.pool.in_flight for member in group.members] == [100, 200, 300]


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1, 1), (1, 2), (3, 2, 1), (10, 1)])
async def test_consistent_hash_gives_callers_to_targets_by_their_weights(weights: tuple[int, ...]) -> None:
    """A target that gets more than its share is the one that falls first."""
    group = await group_of(Balance.CONSISTENT_HASH, weights)
    counts = Counter(chosen(group, key) for key in CALLERS)
    for number, weight in enumerate(weights):
        share = len(CALLERS) * weight / sum(weights)
        assert counts[number] == pytest.approx(share, abs=4 * share**0.5)  # four standard deviations, about


async def test_consistent_hash_sends_a_caller_to_the_same_target_in_every_worker() -> None:
    """A cache behind the gateway is worth nothing if each worker chooses its own target."""
    one, other = [await group_of(Balance.CONSISTENT_HASH, (2, 1, 1)) for _ in range(2)]
    assert [chosen(one, key) for key in CALLERS] == [chosen(other, key) for key in CALLERS]


async def test_a_target_that_leaves_moves_its_own_callers_alone() -> None:
    """Otherwise one failure empties the caches of all; its callers are shared out over the rest."""
    group = await group_of(Balance.CONSISTENT_HASH, (1, 1, 1, 1))
    before = [chosen(group, key) for key in CALLERS]
    group.members[2].health.checked(passes=False)
    after = [chosen(group, key) for key in CALLERS]
    moved = [new for old, new in zip(before, after, strict=True) if old == 2]
    assert all(old == new for old, new in zip(before, after, strict=True) if old != 2)
    counts = Counter(moved)
    assert set(counts) == {0, 1, 3}
    assert max(counts.values()) < 1.4 * min(counts.values())


@pytest.mark.parametrize("balance", list(Balance))
async def test_targets_that_are_unhealthy_full_or_tried_are_left_out(balance: Balance) -> None:
    """Row 106: each of the three is a call that would fail."""
    group = await group_of(balance, (1, 1, 1))
    group.members[0].health.checked(passes=False)
    assert {chosen(group, key) for key in CALLERS[:50]} <= {1, 2}
    assert {chosen(group, key, [group.members[1]]) for key in CALLERS[:50]} == {2}
    assert group.choose("", 0.0, group.members[1:]) is None


@pytest.mark.parametrize("balance", list(Balance))
async def test_when_no_target_is_healthy_all_are_asked(balance: Balance) -> None:
    """Row 106: the checks themselves may be what is wrong; refusing everything is no better than trying."""
    group = await group_of(balance, (1, 1, 1))
    for member in group.members:
        member.health.checked(passes=False)
    assert len({chosen(group, key) for key in CALLERS[:50]}) == (1 if balance is Balance.LEAST_CONNECTIONS else 3)
    assert chosen(group, "", group.members[:2]) == 2


async def test_least_connections_steers_real_calls_past_a_target_that_hangs() -> None:
    """The count that the choice goes by is that of calls under way: a target that answers nothing keeps what it has."""
    release = asyncio.Event()

    async def hang(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer_ok(seen, reader, writer)

    async with running_origin(hang) as slow, running_origin() as quick:
        targets = tuple(Target("http", "127.0.0.1", port) for port in (slow.port, quick.port))
        upstream = Upstream("origin", targets, balance=Balance.LEAST_CONNECTIONS)
        async with running_gateway(configuration([upstream], [route()])) as gateway:
            data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            first = asyncio.create_task(talk(gateway.port, data))
            async with asyncio.timeout(5):
                while not slow.seen:  # noqa: ASYNC110  the origin tells by what it has seen
                    await asyncio.sleep(0.005)
            for _ in range(10):
                assert (await talk(gateway.port, data)).startswith(b"HTTP/1.1 200")
            assert (len(slow.seen), len(quick.seen)) == (1, 10)
            release.set()
            assert (await first).startswith(b"HTTP/1.1 200")
