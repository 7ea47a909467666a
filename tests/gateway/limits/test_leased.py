"""Invariant: what workers spend of leased limits by themselves is never more than Redis has counted for them."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count

import pytest
import redis

from ostiary.core.model import Cost, Period, Plan, StoreFailure
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome
from tests.gateway.limits.decision_log import merged
from tests.gateway.limits.leasing import Leased, Load, hammer, leased_quota, leased_rate, leased_window
from tests.gateway.limits.support import Observed, Proxy, ask, decided, policy, running, settled, until_state
from tests.gateway.limits.test_failures import stopped
from tests.gateway.limits.verifier import Subject, Verdict, verify
from tests.support.waiting import until

# A slot of five minutes: none ends in a test but once in a thousand runs, and then it is begun anew.
DAY = policy(Plan("p", windows=(leased_window(1_000_000, 86_400),)))

_keys = (f"ak_leased_{number}" for number in count())


# --- several workers, one of them killed --------------------------------------------------------------------------------

SECONDS = 5.0
KILL_AFTER_SECONDS = 2.5
LOADS = (
    Load(Subject("roomy", Plan("p", windows=(leased_window(1_000_000, 60),))), 400),
    Load(Subject("window", Plan("p", windows=(leased_window(1500, 3),))), 500),
    Load(Subject("bucket", Plan("p", rate=leased_rate(500, 1, 500))), 400),
    Load(
        Subject(
            "several",
            Plan(
                "p",
                leased_rate(600, 1, 900),
                (leased_window(2000, 4),),
                (leased_quota(10**6, Period.DAY),),
            ),
            rests=True,
        ),
        800,
        on_seconds=0.4,
        cycle_seconds=0.9,
        cost=2,
    ),
)


@dataclass(frozen=True)
class Judged:
    leased: Leased
    verdicts: dict[str, Verdict]


@pytest.fixture(scope="module")
def judged(valkey_server: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """Two nodes of two workers, each asked for its part of every load; one worker is killed with its slices in hand."""
    with redis.Redis.from_url(valkey_server.url(database=6)) as client:
        client.flushdb()
    leased = hammer(
        valkey_server.url(database=6),
        tmp_path_factory.mktemp("leased"),
        LOADS,
        seconds=SECONDS,
        kill_after=KILL_AFTER_SECONDS,
    )
    verdicts = verify(merged(leased.logs), [load.subject for load in LOADS])
    return Judged(leased, {verdict.subject.name: verdict for verdict in verdicts})


@pytest.mark.parametrize("name", [load.subject.name for load in LOADS])
def test_workers_of_two_nodes_keep_a_leased_limit_also_when_one_is_killed(judged: Judged, name: str) -> None:
    """Rows 71, 72: what each worker holds would come on top of the limit, or be forgotten with its worker and given twice."""
    verdict = judged.verdicts[name]
    print(verdict.line())
    assert verdict.findings == []
    assert verdict.admitted > 0
    if name == "roomy":
        assert verdict.admitted == verdict.asked
    if name == "window":
        assert verdict.rules[0].most > 0.95 * verdict.rules[0].bound, "or the verifier could not see it broken"


def test_most_calls_of_a_busy_key_ask_nobody(judged: Judged) -> None:
    """Leasing would save Redis nothing."""
    assert judged.leased.alone == 0
    roomy = judged.verdicts["roomy"]
    assert judged.leased.spent > 0.8 * roomy.asked * 3 / 4


# --- one worker ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(valkey_server: EmbeddedValkey) -> str:
    url = valkey_server.url(database=7)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def counted(url: str, key: str) -> int:
    """What Redis has counted of a window alone."""
    with redis.Redis.from_url(url) as client:
        raw = client.get(f"ost:{{k:{key}}}:plan")
    return 0 if raw is None else int(struct.unpack_from("<d", raw, raw.index(b"|") + 1)[0])


async def until_sliced(limiter: Limiter, limits: LimitPolicy, key: str, *, decisions: int = 30) -> int:
    """Calls 500 times a second until so many calls were spent of slices; how many there were in all."""
    made = 0
    before = spent(limiter)
    async with asyncio.timeout(10):
        while spent(limiter) < before + decisions:
            decision = await decided(limiter, limits, key=key, on_failure=StoreFailure.CLOSED)
            assert decision.outcome is Outcome.ALLOWED
            made += 1
            await asyncio.sleep(0.002)
    return made


async def until_held(url: str, limiter: Limiter, limits: LimitPolicy, key: str) -> int:
    """As `until_sliced`, and on until Redis has counted more than was called: something is held."""
    made = await until_sliced(limiter, limits, key)
    async with asyncio.timeout(10):
        while counted(url, key) <= made * limits.cost:
            await decided(limiter, limits, key=key)
            made += 1
    return made


def spent(limiter: Limiter) -> int:
    return int(str(limiter.status()["decided_from_slices"]))


def remaining(decision: Decision) -> int:
    return int(decision.headers.partition(b"r=")[2].partition(b";")[0])


async def test_a_caller_that_rests_has_used_what_it_called_and_no_more(database: str) -> None:
    """A slice that nobody spends would be a part of the limit that nobody has."""
    key = next(_keys)
    async with running(database) as limiter:
        made = await until_held(database, limiter, DAY, key)
        await until(lambda: counted(database, key) == made, "what is held is given back")


async def test_a_worker_that_ends_gives_back_what_it_holds(database: str) -> None:
    """Each restart would cost every busy caller a slice a worker."""
    keys = [next(_keys) for _ in range(3)]
    async with running(database) as limiter:
        made = [await until_held(database, limiter, DAY, key) for key in keys]
    assert [counted(database, key) for key in keys] == made


async def test_what_remains_is_told_as_redis_knew_it_less_what_was_spent_since(database: str) -> None:
    """A client would be told of calls that are not there, or not of those that are."""
    key = next(_keys)
    limits = policy(Plan("p", windows=(leased_window(50_000, 86_400),)))
    async with running(database) as limiter:
        made = await until_sliced(limiter, limits, key)
        for _ in range(10):
            decision = await decided(limiter, limits, key=key)
            made += 1
            # Less by a slice at most: what was given back while the next one was asked for is not told.
            assert 50_000 - made - 100 <= remaining(decision) <= 50_000 - made
            assert b"X-RateLimit-Limit: 50000\r\n" in decision.headers


async def test_signed_calls_are_counted_in_redis_one_by_one(database: str) -> None:
    """A slice knows no nonces: a recorded call would pass again."""
    key = next(_keys)
    async with running(database) as limiter:
        await until_sliced(limiter, DAY, key)
        before = spent(limiter)
        for number in range(5):
            await decided(limiter, DAY, key=key, nonce=f"nonce-{number:012}")
        replayed = await decided(limiter, DAY, key=key, nonce=f"nonce-{1:012}", write=True)
        assert replayed.outcome is Outcome.NONCE_REPLAYED
        assert spent(limiter) == before
        async with running(database) as other:  # so that Redis says it, and no worker's memory
            assert (await decided(other, DAY, key=key, nonce=f"nonce-{2:012}")).outcome is Outcome.NONCE_REPLAYED
            await until_sliced(other, DAY, key)
            assert (await decided(other, DAY, key=key, nonce=f"nonce-{3:012}")).outcome is Outcome.NONCE_REPLAYED
            await until_sliced(other, DAY, key)


@pytest.mark.parametrize(("cost", "difference"), [(1, -1), (0, -2), (7, 5), (100_000, 99_998)])
async def test_what_a_call_of_a_slice_turns_out_to_cost_is_counted(database: str, cost: int, difference: int) -> None:
    """It would be charged a guess, or what another call has cost."""
    key = next(_keys)
    limits = policy(
        Plan("p", windows=(leased_window(1_000_000, 86_400),)),
        cost=Cost(2, response_header="x-cost", at_most=100_000),
    )
    async with running(database) as limiter:
        made = 2 * await until_sliced(limiter, limits, key)
        charge = None
        while charge is None or charge.alone or not hasattr(charge, "slice"):
            charge = (await decided(limiter, limits, key=key)).charge
            made += 2
        limiter.settle(charge, cost)
        await until(lambda: counted(database, key) == made + difference, "all is counted and the rest given back")


async def test_a_slice_is_spent_while_redis_is_away_and_then_the_route_has_its_way(database: str) -> None:
    """Row 74: calls that Redis has counted would be refused; or calls be let in that nobody has counted."""
    key = next(_keys)
    server, _, number = database.rpartition("/")
    async with AsyncExitStack() as redis_there:
        proxy = await redis_there.enter_async_context(Proxy(int(server.rpartition(":")[2])))
        async with running(f"redis://127.0.0.1:{proxy.port}/{number}") as limiter:
            made = await until_held(database, limiter, DAY, key)
            await redis_there.aclose()
            await until_state(limiter, "away")
            held = counted(database, key) - made
            outcomes = [
                (await decided(limiter, DAY, key=key, on_failure=StoreFailure.CLOSED)).outcome for _ in range(held + 5)
            ]
            allowed = outcomes.count(Outcome.ALLOWED)
            assert 0 < allowed <= held
            assert outcomes == [Outcome.ALLOWED] * allowed + [Outcome.UNAVAILABLE] * (held + 5 - allowed)


async def test_slices_are_taken_again_after_a_redis_that_did_not_answer(
    valkey_server: EmbeddedValkey, database: str
) -> None:
    """Row 75: each busy caller would ask for every call from then on."""
    key = next(_keys)
    observed = Observed()
    async with running(database, observe=observed) as limiter:
        await until_sliced(limiter, DAY, key)
        with stopped(valkey_server.pid):
            async with asyncio.timeout(10):
                while "unanswered" not in observed.slices:
                    await decided(limiter, DAY, key=key)
                    await asyncio.sleep(0.002)
        await until_state(limiter, "connected")
        await until_sliced(limiter, DAY, key)


async def test_a_slice_that_redis_does_not_grant_makes_no_call_wait_or_fail(database: str) -> None:
    """A busy caller would be refused by a Redis that forgot the script, or is short of calls."""
    key = next(_keys)
    observed = Observed()
    limits = policy(Plan("p", windows=(leased_window(400, 86_400),)))
    with redis.Redis.from_url(database) as client:
        async with running(database, observe=observed) as limiter, running(database) as other:
            await until_sliced(limiter, limits, key, decisions=5)
            client.script_flush()
            outcomes = []
            for _ in range(500):
                outcomes.append((await decided(limiter, limits, key=key)).outcome)
                outcomes.append((await decided(other, limits, key=key)).outcome)
                await asyncio.sleep(0)
            assert set(outcomes) == {Outcome.ALLOWED, Outcome.RATE_LIMITED}
            assert observed.failures == []
    assert counted(database, key) == 400


async def test_a_call_of_a_slice_is_decided_at_once(database: str) -> None:
    """It would wait for a turn of the loop, if not for Redis."""
    key = next(_keys)
    async with running(database) as limiter:
        await until_sliced(limiter, DAY, key)
        signals = [ask(limiter, DAY, key=key) for _ in range(5)]
        assert all(signal.done for signal in signals)
        assert {(await settled(signal)).outcome for signal in signals} == {Outcome.ALLOWED}
