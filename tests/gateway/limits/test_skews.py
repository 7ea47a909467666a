"""Invariant: a call that a node took by its skew, and has forgotten, is current for no node before the same Redis."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core import keyspace
from ostiary.core.resources import lua_script
from ostiary.core.signing import Skew, nonce_lifetime_seconds
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.node import BEAT_SECONDS, GONE_SECONDS
from tests.gateway.limits.support import node_memory, running
from tests.support.waiting import until

HOUR = 3600


class Nodes:
    """Beats of nodes whose clocks a test sets, as `Heartbeat` sends them."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.client.delete(keyspace.nodes(), keyspace.skews())

    def beat(self, name: str, skew: int, now: int) -> tuple[int, int]:
        """What the node is told: the least of the smaller skews, and until when."""
        taken_below = now + skew + int(GONE_SECONDS) + 1
        keys = keyspace.nodes(), keyspace.skews()
        life_us = int(GONE_SECONDS * 1_000_000)
        _, least, before = self.client.eval(lua_script("beat"), 2, *keys, name, life_us, skew, taken_below, now - skew)
        return int(least), int(before)


@given(
    small=st.integers(1, HOUR),
    large=st.integers(1, HOUR),
    served=st.integers(0, 2 * HOUR),
    taken_at=st.floats(0.0, 1.0),
    ahead=st.floats(-1.0, 1.0),
    sent_after=st.integers(0, 2 * HOUR),
    late=st.integers(0, int(BEAT_SECONDS)),
)
def test_what_one_node_took_and_forgot_is_current_for_no_other(
    valkey_server: EmbeddedValkey,
    *,
    small: int,
    large: int,
    served: int,
    taken_at: float,
    ahead: float,
    sent_after: int,
    late: int,
) -> None:
    """Row 57: for any two skews, whenever the call was taken and is sent again. The one that took it has ended after its last
    beat, the other has asked within its own."""
    nodes = Nodes(valkey_server.url())
    served_before = int(served * taken_at)
    forgotten_after = nonce_lifetime_seconds(small) + sent_after
    heard = int(time.time())  # as Redis's clock has it
    sent = heard + late
    taken = sent - forgotten_after
    began = taken - served_before
    timestamp = taken + int(small * ahead)
    assert Skew(small).takes(timestamp, taken)
    first_beats = range(began, min(taken, heard) + 1, int(BEAT_SECONDS))
    for beat in {first_beats[0], first_beats[-1]}:
        nodes.beat("small", small, beat)
    skew = Skew(large).heeding(*nodes.beat("large", large, heard), heard)
    assert not skew.takes(timestamp, sent)


def test_only_smaller_skews_are_told_and_of_calls_that_may_be_current(valkey_server: EmbeddedValkey) -> None:
    """What is long past would refuse calls for nothing."""
    nodes = Nodes(valkey_server.url())
    now = int(time.time())
    reach = int(GONE_SECONDS) + 1
    assert nodes.beat("a", 300, now) == (0, 0)
    assert nodes.beat("b", 600, now) == (300, now + 300 + reach)
    assert nodes.beat("c", 60, now) == (0, 0)
    assert nodes.beat("b", 600, now) == (60, now + 300 + reach), "the least of them, for as long as any of them"
    assert nodes.beat("c", 60, now - 100) == (0, 0)
    assert nodes.beat("b", 600, now) == (60, now + 300 + reach), "a clock that is behind takes nothing back"
    later = now + 60 + reach + 600
    assert nodes.beat("b", 600, later - 1) == (60, now + 300 + reach)
    assert nodes.beat("b", 600, later) == (300, now + 300 + reach)
    assert nodes.beat("d", 0, now) == (0, 0), "one that judges no signatures"
    assert 3 * HOUR < nodes.client.ttl(keyspace.skews()) <= 4 * HOUR


def test_a_node_whose_clock_is_years_ahead_binds_no_other_for_years(valkey_server: EmbeddedValkey) -> None:
    """Whoever raises the skew of the others, to serve on while that clock is mended, would wonder why nothing changes."""
    nodes = Nodes(valkey_server.url())
    now = int(time.time())
    nodes.beat("ahead", 60, now + 10 * 365 * 24 * HOUR)
    _, dated_before = nodes.beat("b", 600, now)
    assert 0 <= dated_before - (now + 60 + HOUR) <= 2


def test_a_skew_of_before_two_hours_is_forgotten(valkey_server: EmbeddedValkey) -> None:
    """Who tries many skews would have all of them looked through with every beat, for ever."""
    nodes = Nodes(valkey_server.url())
    now = int(time.time())
    for skew in range(1, 100):
        nodes.beat("a", skew, now - 3 * HOUR)
    nodes.beat("a", 300, now)
    assert nodes.client.zrange(keyspace.skews(), 0, -1) == [b"300"]


async def test_a_worker_knows_of_smaller_skews_when_it_begins(own_valkey: EmbeddedValkey) -> None:
    """Row 57: the first call after a restart may be a recorded one; and what the node knew was for the skew before."""
    node = node_memory()
    async with running(own_valkey.url(), node=node, skew_seconds=60) as limiter:
        assert limiter.smaller_skews == [(0, 0), (0, 0)]
    async with running(own_valkey.url(), node=node, skew_seconds=600) as limiter:
        own, of_node = limiter.smaller_skews
        assert own == of_node
        seconds, dated_before = own
        assert seconds == 60
        assert 0 <= dated_before - (int(time.time()) + 60 + GONE_SECONDS) <= 2


async def test_a_worker_that_starts_does_not_rely_on_what_its_node_heard_before(own_valkey: EmbeddedValkey) -> None:
    """Row 57: that may be as old as a beat."""
    node = node_memory()
    async with running(own_valkey.url(), node=node, skew_seconds=600):
        redis.Redis.from_url(own_valkey.url()).zadd(keyspace.skews(), {"30": time.time() + 1000})
        async with running(own_valkey.url(), node=node, skew_seconds=600) as later:
            assert later.smaller_skews[0][0] == 30


async def test_workers_of_one_node_that_differ_ask_each_for_itself(own_valkey: EmbeddedValkey) -> None:
    """Row 57: in a rolling restart with another skew what one worker is told is nothing to the other, and replaces it."""
    node = node_memory()
    async with (
        running(own_valkey.url(), node=node, skew_seconds=60) as before,
        running(own_valkey.url(), node=node, skew_seconds=600) as after,
    ):
        redis.Redis.from_url(own_valkey.url()).zadd(keyspace.skews(), {"30": time.time() + 1000})
        await until(lambda: before.smaller_skews[0][0] == after.smaller_skews[0][0] == 30, "both have asked again")


async def test_a_gateway_that_starts_without_redis_hears_of_smaller_skews_when_it_is_back(tmp_path: Path) -> None:
    """Row 57: until its next beat it would take what was taken by a smaller skew before."""
    with EmbeddedValkey(tmp_path / "valkey", keep=True) as valkey:
        async with running(valkey.url(), node=node_memory(), skew_seconds=60):
            pass
        valkey.stop()
        async with running(valkey.url(), node=node_memory(), skew_seconds=600) as late:
            assert late.smaller_skews == []
            valkey.start()
            await until(lambda: late.smaller_skews != [], "it has asked")
            assert late.smaller_skews[0][0] == 60


@pytest.mark.parametrize("reply", [b"", 3, [1, 2], [1, -1, 5], [1, 60, 1 << 41], [1, 5000, 5], ["1", 60, 5]], ids=repr)
async def test_what_is_no_answer_of_the_script_changes_nothing(own_valkey: EmbeddedValkey, reply: object) -> None:
    """A proxy, or somebody's module, in the place of Redis must not end a worker, nor make it judge by nonsense."""
    async with running(own_valkey.url(), node=node_memory(), skew_seconds=600) as limiter:
        assert limiter._heartbeat is not None
        limiter._heartbeat._heard(600, True, reply)
        assert limiter.smaller_skews == [(0, 0), (0, 0)]
        assert limiter.nodes == 1
