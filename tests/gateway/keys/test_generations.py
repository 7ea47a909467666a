"""A key that was rotated: both secrets until the grace is over, the present one after it, by id and by secret."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ostiary.core.credentials import secret_sha256
from ostiary.core.model import Environment, Key
from ostiary.core.signing import Signer
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.keys.cache import KeyCache
from ostiary.gateway.signal import Signal
from tests.gateway.keys.conftest import KeyDatabase, MadeKey, RingMaker, answer, driven, follow

MESSAGE = b"GET\n/\n1700000000\nnonce\nbody"


def proven(ring: KeyRing, known: KnownKey | None, message: bytes, signature: bytes) -> KnownKey | None:
    return ring.trial(known).proven(lambda signer: signer.verify(message, signature))


class Clock:
    """Unix seconds, as long as nobody moves it."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


class Rotated:
    """A ring, a clock that stands still, and a key whose secret before works for a minute more."""

    def __init__(self, ring: KeyRing, clock: Clock, old: MadeKey, new: MadeKey) -> None:
        self.ring = ring
        self.clock = clock
        self.old = old
        self.new = new

    async def by_secret(self, made: MadeKey) -> int | None:
        """The generation that a bearer is let in with."""
        known = await answer(self.ring.find_by_secret(made.secret))
        return None if known is None else known.key.generation

    async def by_signature(self, made: MadeKey) -> int | None:
        known = await answer(self.ring.find(made.id))
        signed = proven(self.ring, known, MESSAGE, Signer(made.secret).sign(MESSAGE))
        return None if signed is None else signed.key.generation

    async def both_ways(self) -> tuple[int | None, int | None]:
        """What the old secret and the new one are let in with, the same by both schemes."""
        ways = [
            (await self.by_secret(self.old), await self.by_secret(self.new)),
            (await self.by_signature(self.old), await self.by_signature(self.new)),
        ]
        assert ways[0] == ways[1]
        return ways[0]


@pytest.fixture
async def rotated(database: KeyDatabase, ring_of: RingMaker) -> Rotated:
    clock = Clock()
    old = await database.add()
    new = await database.rotate(old, ends_at=datetime.fromtimestamp(clock.now + 60, UTC))
    ring = ring_of(database.url, database.envelope, clock=clock)
    await follow(ring)
    return Rotated(ring, clock, old, new)


async def test_both_secrets_work_until_the_grace_is_over_to_the_second(rotated: Rotated) -> None:
    """Row 66: the old secret inside the grace is let in, outside it is not, whether the key is asked for or known."""
    assert await rotated.both_ways() == (1, 2)
    assert rotated.ring.status()["look_up_queries"] == 1, "the second look at either is at once"
    rotated.clock.now += 59.99
    assert await rotated.both_ways() == (1, 2)
    rotated.clock.now += 0.01
    assert await rotated.both_ways() == (None, 2)
    assert rotated.ring.status()["look_up_queries"] == 1, "what has ended is known, and costs no query"


async def test_an_old_secret_that_has_ended_before_it_is_asked_for_is_unknown(rotated: Rotated) -> None:
    """Row 66: a worker that has just started must not take it either."""
    rotated.clock.now += 60
    assert await rotated.by_secret(rotated.old) is None
    assert await rotated.both_ways() == (None, 2)


async def test_a_rotation_reaches_a_worker_that_knows_the_key(
    database: KeyDatabase, ring_of: RingMaker, rotated: Rotated
) -> None:
    """Row 66: the new secret would be refused, where the key was in use; and so would be the old one after the next."""
    assert await rotated.both_ways() == (1, 2)
    end = datetime.fromtimestamp(rotated.clock.now + 60, UTC)
    third = await database.rotate(rotated.new, ends_at=end)
    from_now = Rotated(rotated.ring, rotated.clock, rotated.new, third)
    async for _ in _turns():
        if await from_now.both_ways() == (2, 3):
            break
    assert await rotated.both_ways() == (None, 2), "rotating again ends the oldest"


async def test_a_generation_that_was_ended_early_is_refused_at_once(database: KeyDatabase, rotated: Rotated) -> None:
    """Row 66: whoever ends a leaked secret would see it work on for the grace, in workers that know it."""
    assert await rotated.both_ways() == (1, 2)
    await database.connection.execute(
        "UPDATE api_keys SET previous_ends_at = now(), previous_secret_sha256 = NULL, previous_secret_sealed = NULL, "
        "previous_data_key_wrapped = NULL WHERE id = $1",
        rotated.old.id,
    )
    async for _ in _turns():
        if await rotated.both_ways() == (None, 2):
            break


async def test_no_grace_outlives_the_key(database: KeyDatabase, rotated: Rotated) -> None:
    """Row 66: whatever another hand has written into the row."""
    await database.connection.execute(
        "UPDATE api_keys SET expires_at = to_timestamp($2) WHERE id = $1", rotated.old.id, rotated.clock.now + 30
    )
    assert await rotated.both_ways() == (1, 2)
    rotated.clock.now += 30
    assert await rotated.both_ways() == (None, None)


async def _turns(seconds: float = 5.0) -> AsyncIterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        await asyncio.sleep(0)
    raise AssertionError(f"not within {seconds} s")


async def test_a_tunnel_s_secret_is_what_ends_it(database: KeyDatabase, rotated: Rotated) -> None:
    """Rows 66, 70: a tunnel that was opened with the old secret would outlive it as long as the new one works."""
    ring = rotated.ring
    old, new = [await answer(ring.find_by_secret(made.secret)) for made in (rotated.old, rotated.new)]
    assert old is not None
    assert new is not None
    assert (await driven(ring.is_in_force(old)), await driven(ring.is_in_force(new))) == (True, True)
    rotated.clock.now += 60
    assert (await driven(ring.is_in_force(old)), await driven(ring.is_in_force(new))) == (False, True)
    third = await database.rotate(rotated.new, ends_at=datetime.fromtimestamp(rotated.clock.now + 60, UTC))
    async for _ in _turns():
        if await answer(ring.find_by_secret(third.secret)) is not None:
            break
    assert await driven(ring.is_in_force(new)), "which is the one before now"
    rotated.clock.now += 60
    assert not await driven(ring.is_in_force(new))


async def test_both_generations_belong_to_one_snapshot(rotated: Rotated) -> None:
    """Else calls with the old secret would run under limits that are no longer in force."""
    ring = rotated.ring
    for first, second in ((rotated.old, rotated.new), (rotated.new, rotated.old)):
        for made in (first, second):
            known = await answer(ring.find_by_secret(made.secret))
            assert known is not None
            known.prepare("clients", "policy")
        ring.forget_prepared()
        for made in (first, second):
            renewed = ring.find_by_secret(made.secret)
            assert isinstance(renewed, KnownKey)
            assert renewed.prepared("clients") is None
            assert renewed.key.secret_sha256 == secret_sha256(made.secret)
    present = ring.find(rotated.new.id)
    assert isinstance(present, KnownKey)
    assert ring.find_by_secret(rotated.new.secret) is present
    assert ring.find_by_secret(rotated.old.secret) is present.previous


# --- what a refusal, and a look at two secrets, may cost --------------------------------------------------------------


def fastest_seconds(
    ring: KeyRing, message: bytes, attempts: dict[str, tuple[KnownKey | None, bytes]]
) -> dict[str, float]:
    """Of each attempt (a key and a signature), of so many that one of them was not interrupted. By turns: what slows the
    machine for a while slows all of them."""
    fastest = dict.fromkeys(attempts, math.inf)
    for _ in range(60):
        for name, (known, signature) in attempts.items():
            started = time.perf_counter()
            proven(ring, known, message, signature)
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    return fastest


async def test_the_time_of_a_signature_does_not_tell_which_secret_it_was_or_whether_there_is_a_key(
    database: KeyDatabase, rotated: Rotated
) -> None:
    """Rows 53, 66: whoever measures would learn which ids are keys, which of them are being rotated, or which secret a
    caller has."""
    ring, message = rotated.ring, b"m" * 300_000  # so long that a signature more is seen
    single = await database.add()
    one, two = await answer(ring.find(single.id)), await answer(ring.find(rotated.old.id))
    wrong = b"0" * 64
    alike = fastest_seconds(
        ring,
        message,
        {
            "unknown": (None, wrong),
            "wrong": (one, wrong),
            "wrong, with two": (two, wrong),
            "the old secret": (two, Signer(rotated.old.secret).sign(message)),
            "the new secret": (two, Signer(rotated.new.secret).sign(message)),
            "who has one": (one, Signer(single.secret).sign(message)),
        },
    )
    plain = alike.pop("who has one")
    assert max(alike.values()) < 1.3 * min(alike.values()), alike
    assert plain < 0.7 * min(alike.values()), "who has one secret does not pay for two"


async def test_a_secret_that_can_not_be_opened_lets_nobody_in(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a signature under a secret that anyone can read in our source would pass."""
    made = await database.add()
    ring = ring_of(database.url, None)
    await follow(ring)
    known = await answer(ring.find(made.id))
    assert known is not None
    for secret in (b"nobody" * 8, made.secret):
        assert proven(ring, known, MESSAGE, Signer(secret).sign(MESSAGE)) is None
        assert proven(ring, None, MESSAGE, Signer(secret).sign(MESSAGE)) is None


# --- the cache --------------------------------------------------------------------------------------------------------


def two_generations(number: int) -> KnownKey:
    key = Key(
        id=f"key_{number}",
        environment=Environment.TEST,
        secret_sha256=b"new" + number.to_bytes(29),
        secret=None,
        plan=None,
        scopes=frozenset(),
        generation=2,
    )
    before = replace(key, secret_sha256=b"old" + number.to_bytes(29), generation=1, expires_at=1e12)
    previous = KnownKey(before, signer=None, revision=1, epoch=0)
    return KnownKey(key, signer=None, revision=1, epoch=0, previous=previous)


def test_a_cache_gives_up_both_generations_together_and_keeps_what_either_uses() -> None:
    """An old secret would outlive its key in memory, past every bound; or a key in use through it would be forgotten."""
    cache = KeyCache(capacity=100)
    busy = two_generations(0)
    cache.remember(busy)
    for number in range(1, 1000):
        assert busy.previous is not None
        busy.previous.used = True
        cache.remember(two_generations(number))
        assert len(cache.by_secret) == 2 * len(cache.known) <= 200
    assert cache.known["key_0"] is busy
    cache.forget("key_0")
    assert len(cache.by_secret) == 2 * len(cache.known) == 198


# --- keys of the file -------------------------------------------------------------------------------------------------

OLD, NEW = b"the-old-secret-" * 3, b"the-new-secret-" * 3


def file_key(secret: bytes, previous: bytes | None, ends_at: float) -> Key:
    key = Key(
        id="partner_1",
        environment=Environment.LIVE,
        secret_sha256=secret_sha256(secret),
        secret=secret,
        plan=None,
        scopes=frozenset(),
    )
    if previous is None:
        return key
    before = replace(key, secret=previous, secret_sha256=secret_sha256(previous), expires_at=ends_at)
    return replace(key, generation=2, previous=before)


async def test_a_key_of_the_file_has_a_secret_before_too(ring_of: RingMaker) -> None:
    """Row 66: who has no control plane would cut callers off at each change of a secret."""
    clock = Clock()
    ring = ring_of(None, file_keys={"partner_1": file_key(OLD, None, 0)}, clock=clock)
    opened = ring.find_by_secret(OLD)
    assert isinstance(opened, KnownKey)
    ring.replace_file_keys({"partner_1": file_key(NEW, OLD, clock.now + 60)})
    rotated = Rotated(ring, clock, MadeKey("partner_1", OLD), MadeKey("partner_1", NEW))
    assert await rotated.both_ways() == (1, 2)
    assert await driven(ring.is_in_force(opened))
    ring.forget_prepared()
    assert await rotated.both_ways() == (1, 2)
    clock.now += 60
    assert await rotated.both_ways() == (None, 2)
    assert not await driven(ring.is_in_force(opened))
    ring.replace_file_keys({"partner_1": file_key(NEW, None, 0)})
    assert not isinstance(ring.find_by_secret(OLD), Signal | KnownKey)
