"""Invariant: a nonce is good once, and where that can't be known, signed writes are refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b

import pytest
import redis

from ostiary.core.model import Plan, StoreFailure, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway import node as node_module
from ostiary.gateway.limits import Outcome
from ostiary.gateway.limits.nonces import NodeNonces, NonceMemory, NonceRing, NonceTable, Taken
from ostiary.gateway.node import BUCKET_SLOTS, HEADER_BYTES, RINGS, NodeMemory
from ostiary.gateway.spawn import child_environment
from tests.gateway.limits.support import ask, decided, policy, running, settled, until_state
from tests.support.waiting import MACHINE_SECONDS

NONCE = "nonce-1-xxxxxxxxxx"
NO_LIMITS = policy(None)
SPACING_SECONDS = 0.0003  # of the nonces that several processes take at once
LIMITS = policy(Plan("p", windows=(Window(1000, 60),)))


async def test_a_replay_is_refused_by_every_worker_and_after_a_restart(own_valkey: EmbeddedValkey) -> None:
    """Row 57: a recorded call could be sent again to another worker, or after a deployment."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.ALLOWED
        for worker in (first, other):
            assert (await decided(worker, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED
        assert (await decided(other, NO_LIMITS, nonce=NONCE, key="ak_other")).outcome is Outcome.ALLOWED
    async with running(own_valkey.url()) as restarted:
        assert (await decided(restarted, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED


async def test_one_of_two_equal_nonces_of_one_tick_is_refused(own_valkey: EmbeddedValkey) -> None:
    """Row 57: two copies sent at once would both pass."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        signals = [ask(worker, NO_LIMITS, nonce=NONCE) for worker in (first, first, other)]
        outcomes = [(await settled(signal)).outcome for signal in signals]
    assert outcomes.count(Outcome.ALLOWED) == 1
    assert outcomes.count(Outcome.NONCE_REPLAYED) == 2


async def test_a_redis_that_lost_its_memory_leaves_what_each_worker_remembers(own_valkey: EmbeddedValkey) -> None:
    """Row 57: after a restart of a Redis without persistence a worker still refuses what it let in itself. What another
    worker let in it can't know: that needs persistence (appendonly), and docs/decisions/0003-limits.md says so."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.ALLOWED
        own_valkey.kill()
        own_valkey.start()
        await until_state(first, "away")
        await until_state(first, "connected")
        await until_state(other, "connected")
        assert redis.Redis.from_url(own_valkey.url()).keys("*nonce*") == []
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED


async def test_while_redis_is_away_signed_writes_are_refused_or_remembered(own_valkey: EmbeddedValkey) -> None:
    """Row 57: an attacker who can make Redis fail could replay. `closed` refuses signed writes, also without limits;
    `local` and `open` remember in the worker, and know what it let in before."""
    modes = (StoreFailure.CLOSED, StoreFailure.LOCAL, StoreFailure.OPEN)
    async with running(own_valkey.url()) as limiter:
        await decided(limiter, LIMITS, nonce=NONCE, write=True)
        own_valkey.kill()
        await until_state(limiter, "away")
        for mode in modes:
            for limits in (NO_LIMITS, LIMITS):
                fresh = f"nonce-{mode}-{limits is LIMITS}-xxxxxx"
                asked = [
                    await decided(limiter, limits, nonce=nonce, write=True, on_failure=mode)
                    for nonce in (NONCE, fresh, fresh)
                ]
                assert asked[0].outcome is Outcome.NONCE_REPLAYED
                if mode is StoreFailure.CLOSED:
                    assert [d.outcome for d in asked[1:]] == [Outcome.UNAVAILABLE] * 2
                else:
                    assert [d.outcome for d in asked[1:]] == [Outcome.ALLOWED, Outcome.NONCE_REPLAYED]
        # A read changes nothing when it is replayed: without limits there is nothing to be closed about.
        read = await decided(limiter, NO_LIMITS, nonce="nonce-read-xxxxxxx", on_failure=StoreFailure.CLOSED)
        assert read.outcome is Outcome.ALLOWED


async def test_signed_writes_are_refused_when_there_is_no_room_to_remember_them() -> None:
    """A flood of signed calls during an outage would push out the nonces that make replays known. What only reads goes on:
    replaying it changes nothing."""
    node = NodeMemory.create(buckets=2)
    room = 2 * BUCKET_SLOTS
    async with running("redis://127.0.0.1:1/0", node=node) as limiter:
        asked = {f"nonce-{n}-xxxxxxxxxx": Outcome.UNAVAILABLE for n in range(2 * room)}
        for nonce in asked:
            asked[nonce] = (await decided(limiter, NO_LIMITS, nonce=nonce, write=True)).outcome
        let_in = [nonce for nonce, outcome in asked.items() if outcome is Outcome.ALLOWED]
        assert BUCKET_SLOTS <= len(let_in) <= room
        assert set(asked.values()) == {Outcome.ALLOWED, Outcome.UNAVAILABLE}
        for nonce in let_in:
            assert (await decided(limiter, NO_LIMITS, nonce=nonce, write=True)).outcome is Outcome.NONCE_REPLAYED
        late = next(nonce for nonce, outcome in reversed(asked.items()) if outcome is Outcome.UNAVAILABLE)
        assert (await decided(limiter, NO_LIMITS, nonce=late)).outcome is Outcome.ALLOWED


async def test_a_call_refused_by_a_local_limit_leaves_its_nonce_unused() -> None:
    """A client told to wait could not send the same signed call again."""
    async with running(None) as limiter:
        tight, roomy = policy(Plan("p", windows=(Window(0, 60),))), LIMITS
        assert (await decided(limiter, tight, nonce=NONCE)).outcome is Outcome.RATE_LIMITED
        assert (await decided(limiter, roomy, nonce=NONCE)).outcome is Outcome.ALLOWED


async def test_a_node_that_has_no_redis_takes_a_call_once() -> None:
    """Row 57: whichever of its workers it is sent to. Another node knows nothing of it, which `config check` warns of."""
    node = NodeMemory.create(buckets=64)
    async with running(None, node=node) as first, running(None, node=node) as other, running(None) as elsewhere:
        outcomes = [
            (await decided(limiter, LIMITS, nonce=NONCE, write=True)).outcome for limiter in (first, other, elsewhere)
        ]
    assert outcomes == [Outcome.ALLOWED, Outcome.NONCE_REPLAYED, Outcome.ALLOWED]


async def test_workers_of_one_node_know_what_the_others_let_in(own_valkey: EmbeddedValkey) -> None:
    """Row 57: a call recorded before or during an outage could be sent again to another worker; and after it, to any."""
    node = NodeMemory.create(buckets=64)
    before, during = "nonce-before-xxxxxx", "nonce-during-xxxxxx"
    async with running(own_valkey.url(), node=node) as first, running(own_valkey.url(), node=node) as other:
        assert (await decided(first, LIMITS, nonce=before, write=True)).outcome is Outcome.ALLOWED
        own_valkey.kill()
        await until_state(first, "away")
        await until_state(other, "away")
        assert (await decided(other, LIMITS, nonce=before, write=True)).outcome is Outcome.NONCE_REPLAYED
        assert (await decided(first, LIMITS, nonce=during, write=True)).outcome is Outcome.ALLOWED
        assert (await decided(other, LIMITS, nonce=during, write=True)).outcome is Outcome.NONCE_REPLAYED
        async with running("redis://127.0.0.1:1/0", node=NodeMemory(os.dup(node.descriptor))) as replaced:
            assert (await decided(replaced, LIMITS, nonce=during, write=True)).outcome is Outcome.NONCE_REPLAYED
        own_valkey.start()
        await until_state(other, "connected")
        # Redis knows neither.
        assert (await decided(other, LIMITS, nonce=during, write=True)).outcome is Outcome.NONCE_REPLAYED
        assert (await decided(first, LIMITS, nonce=before, write=True)).outcome is Outcome.NONCE_REPLAYED


async def test_of_two_copies_one_passes_when_only_one_worker_has_lost_redis(own_valkey: EmbeddedValkey) -> None:
    """Row 57: one worker asks Redis, the other decides alone: each could let in a copy that the other does not see yet."""
    node = NodeMemory.create(buckets=64)
    few = policy(Plan("p", windows=(Window(1000, 60),), concurrency=1))
    async with running(own_valkey.url(), node=node) as connected, running("redis://127.0.0.1:1/0", node=node) as away:
        asking = ask(connected, few, nonce=NONCE, write=True)
        assert not asking.done
        assert (await decided(away, few, nonce=NONCE, write=True)).outcome is Outcome.ALLOWED
        assert (await settled(asking)).outcome is Outcome.NONCE_REPLAYED
        later = await decided(connected, few, nonce="nonce-2-xxxxxxxxxx", write=True)
        assert later.outcome is Outcome.ALLOWED, "the refused copy is not under way"


async def test_a_replay_takes_nothing_of_a_local_limit() -> None:
    """An attacker with one recorded call could use up its caller's limit."""
    async with running(None) as limiter:
        two = policy(Plan("p", windows=(Window(2, 60),)))
        assert (await decided(limiter, two, nonce=NONCE)).outcome is Outcome.ALLOWED
        for _ in range(3):
            assert (await decided(limiter, two, nonce=NONCE)).outcome is Outcome.NONCE_REPLAYED
        assert (await decided(limiter, two, nonce="nonce-2-xxxxxxxxxx")).outcome is Outcome.ALLOWED


# --- the memories ---------------------------------------------------------------------------------------------------------


def test_a_memory_of_nonces_forgets_by_time_and_is_bounded() -> None:
    """It would grow with the traffic, or refuse a nonce that may be used again."""
    memory = NonceMemory(3)
    memory.remember("a", now=0.0, life_seconds=10)
    assert memory.holds("a", 9.9)
    assert not memory.holds("a", 10.0)
    for number in range(100):
        memory.remember(str(number), now=20.0 + number, life_seconds=10)
        assert memory.holds(str(number), 20.0 + number)
        assert len(memory) <= 6
    assert memory.holds("97", 120.0 - 3)


def make_table(buckets: int = 64) -> tuple[NodeMemory, NonceTable]:
    node = NodeMemory.create(buckets=buckets)
    return node, NonceTable(node, HEADER_BYTES)


def mark_of(number: int) -> int:
    return int.from_bytes(blake2b(number.to_bytes(8, "little"), digest_size=8).digest(), "little", signed=True)


def test_a_table_forgets_by_time_and_what_is_used_again_counts_again() -> None:
    """It would refuse a nonce that may be used again, or let one pass because an older entry of it has ended."""
    _, table = make_table()
    mark = mark_of(1)
    assert table.take(mark, now=5.0, life_seconds=10) is Taken.YES
    assert table.take(mark, now=14.9, life_seconds=10) is Taken.USED
    assert not table.holds(mark, 16.0)
    assert table.take(mark, now=16.0, life_seconds=10) is Taken.YES
    assert table.holds(mark, 25.9)
    assert not table.holds(mark, 27.0)


def test_a_full_bucket_is_full_only_of_nonces_whose_time_has_not_passed() -> None:
    """A node would refuse signed writes for ever after its first busy minute; or forget what it let in."""
    _, table = make_table(buckets=2)
    marks = [mark_of(number) for number in range(1000) if mark_of(number) & 1]  # of one bucket
    for mark in marks[:BUCKET_SLOTS]:
        assert not table.is_full(mark, 0.0)
        assert table.take(mark, now=0.0, life_seconds=10) is Taken.YES
    late = marks[BUCKET_SLOTS]
    assert table.is_full(late, 9.0)
    assert table.take(late, now=9.0, life_seconds=10) is Taken.UNKNOWN
    assert all(table.holds(mark, 9.0) for mark in marks[:BUCKET_SLOTS])
    assert table.take(late, now=12.0, life_seconds=10) is Taken.YES


def test_a_mark_across_two_slots_is_no_mark() -> None:
    """Two neighbours could make a third nonce look used, and its caller be refused."""
    node, table = make_table(buckets=2)
    ring = NonceRing(node, 0)
    text = b"\x01bcdefgh\x01ijklmno"
    first, second, across = (int.from_bytes(text[at : at + 8], "little") for at in (0, 8, 2))
    assert across & 1 == first & 1
    for mark in (first, second):
        table.take(mark, now=0.0, life_seconds=10)
        ring.add(mark, until=10)
    assert node.memory.find(across.to_bytes(8, "little")) > 0
    assert not table.holds(across, 0.0)
    assert not ring._counts(across, 0.0)


def test_a_ring_has_the_last_that_were_written_each_until_its_time_has_passed() -> None:
    """The memory would end where it is full; or a reader would look through all of it for each call; or grow."""
    node = NodeMemory.create(buckets=2, workers=1024)
    writer, reader = NonceRing(node, 3), NonceRing(node, 3)
    size, marks = node.ring_marks, [mark_of(number) for number in range(5 * node.ring_marks)]
    for number, mark in enumerate(marks):
        writer.add(mark, until=10)
        if number % 100 == 0:
            assert reader.holds(mark, 0.0)
            assert not reader.holds(mark_of(-number - 1 & 2**40), 0.0)
            assert len(reader._seen) <= 2 * size
    assert all(reader.holds(mark, 9.0) for mark in marks[-size:])
    assert not any(reader.holds(mark, 9.0) for mark in marks[:-size])
    assert not reader.holds(marks[-1], 10.0)
    writer.add(marks[-1], until=30)
    assert reader.holds(marks[-1], 20.0)


def test_a_process_with_another_hash_shares_no_nonces(caplog: pytest.LogCaptureFixture) -> None:
    """It would look for marks that mean other nonces, and find none, or the wrong ones, without a word."""
    node = NodeMemory.create(buckets=64)
    assert node.has_same_hash()
    at = 8 * node_module._HASH_OF_PROBE
    node.memory[at : at + 8] = bytes(byte ^ 255 for byte in node.memory[at : at + 8])
    assert NodeNonces(node).take("a", 0.0, 60) is Taken.YES
    assert node.alone_until[0] == 0.0
    assert "nonces_not_shared" in caplog.text


def outcomes_at_once(node: NodeMemory, expressions: Sequence[str], rounds: int) -> list[tuple[str, ...]]:
    """Of each round, what a process of its own for each expression (of `nonces` and `nonce`) says, all at the same moment."""
    programs = [
        f"""
import sys, time
from ostiary.gateway.limits.nonces import NodeNonces
from ostiary.gateway.node import NodeMemory
nonces = NodeNonces(NodeMemory({node.descriptor}))
print("ready", flush=True)
start = float(sys.stdin.readline())
for number in range({rounds}):
    nonce = str(number)
    while time.monotonic() < start + number * {SPACING_SECONDS}:
        pass
    print({expression})
"""
        for expression in expressions
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[node.descriptor],
            env=child_environment(node),
        )
        for program in programs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        start = time.monotonic() + 0.1
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{start}\n")
            process.stdin.flush()
        return list(zip(*(process.communicate(timeout=30)[0].split() for process in processes), strict=True))
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_of_many_processes_that_take_the_same_nonces_one_gets_each() -> None:
    """Row 57: of two copies of a signed write sent at once to two workers, both could pass while Redis is away."""
    taking = "nonces.take(nonce, time.monotonic(), 60).name"
    rounds = outcomes_at_once(NodeMemory.create(buckets=64), [taking] * 3, 2_000)
    assert len(rounds) == 2_000
    assert all(outcomes.count("YES") == 1 for outcomes in rounds)


def test_what_redis_accepts_for_one_and_another_takes_alone_passes_once_at_most() -> None:
    """Row 57: each of two copies could pass, one worker asking Redis and the other without it, because each looks before the
    other has written."""
    accepting = "nonces.accepted(nonce, time.monotonic(), 60)"
    taking = "nonces.take(nonce, time.monotonic(), 60).name"
    rounds = outcomes_at_once(NodeMemory.create(buckets=64), [accepting, taking], 2_000)
    assert ("True", "YES") not in rounds
    assert {("True", "USED"), ("False", "YES")} & set(rounds)


def test_a_lock_ends_with_its_holder_and_one_that_is_stopped_holds_up_nobody() -> None:
    """Row 57: a worker killed, or stopped, with a lock in hand would hold up the signed calls of all."""
    node, table = make_table(buckets=2)
    mark = mark_of(1)
    bucket = mark & 1
    program = f"""
import fcntl, sys
fcntl.lockf({node.descriptor}, fcntl.LOCK_EX, 1, {HEADER_BYTES + bucket})
print("locked", flush=True)
sys.stdin.readline()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[node.descriptor],
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        began = time.monotonic()
        assert table.take(mark, now=0.0, life_seconds=10) is Taken.UNKNOWN
        assert time.monotonic() - began < 1.0 + MACHINE_SECONDS
    finally:
        holder.kill()
        holder.wait()
    assert table.take(mark, now=0.0, life_seconds=10) is Taken.YES


def test_each_process_has_a_ring_of_its_own_and_its_ring_is_free_when_it_is_gone() -> None:
    """Two that write to one ring would lose each other's nonces; and a hundred restarts later there would be none left."""
    node = NodeMemory.create(buckets=2)
    program = f"""
import sys
from ostiary.gateway.node import NodeMemory
node = NodeMemory({node.descriptor})
print(node.claim_ring(), flush=True)
sys.stdin.readline()
"""

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[node.descriptor],
            env=child_environment(node),
        )
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    running = [start() for _ in range(3)]
    try:
        assert [ring for _, ring in running] == [0, 1, 2]
        running[1][0].kill()
        running[1][0].wait()
        running.append(start())
        assert running[-1][1] == 1
        assert node.rings_used == 3 <= RINGS
    finally:
        for process, _ in running:
            process.kill()
            process.wait()
