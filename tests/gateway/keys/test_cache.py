"""The cache is bounded, and what is in use stays."""

from __future__ import annotations

import os

from ostiary.core.model import Environment, Key
from ostiary.gateway.keys.cache import ABSENT_CAPACITY, ABSENT_SECONDS, KeyCache, KnownKey


def known_key(number: int) -> KnownKey:
    key = Key(
        id=f"key_{number}",
        environment=Environment.TEST,
        secret_sha256=number.to_bytes(32),
        secret=None,
        plan=None,
        scopes=frozenset(),
    )
    return KnownKey(key, signer=None, revision=1, epoch=0)


def test_cache_never_holds_more_than_its_capacity_and_keeps_what_is_in_use() -> None:
    """Else a million keys used once would fill memory, or push out the few that are used all the time."""
    cache = KeyCache(capacity=100)
    busy = known_key(0)
    cache.remember(busy)
    for number in range(1, 10_000):
        busy.used = True  # as every find does
        cache.remember(known_key(number))
        assert len(cache.known) == len(cache.by_secret) == min(number + 1, 100)
    assert cache.known["key_0"] is busy
    assert cache.evicted == 10_000 - 100


def test_eviction_ends_even_when_everything_is_in_use() -> None:
    """Else one insertion could walk through a million entries."""
    cache = KeyCache(capacity=1_000)
    for number in range(2_000):
        entry = known_key(number)
        entry.used = True
        cache.remember(entry)
    assert len(cache.known) == len(cache.by_secret) == 1_000


def test_key_whose_secret_changed_is_found_by_the_new_one_alone() -> None:
    """Else a replaced secret would go on working."""
    cache = KeyCache(capacity=10)
    cache.remember(known_key(1))
    changed = KnownKey(
        Key(
            id="key_1",
            environment=Environment.TEST,
            secret_sha256=(2).to_bytes(32),
            secret=None,
            plan=None,
            scopes=frozenset(),
        ),
        signer=None,
        revision=2,
        epoch=0,
    )
    cache.remember(changed)
    assert cache.by_secret == {(2).to_bytes(32): changed}


def test_absences_are_bounded_and_short_lived() -> None:
    """Row 69: random keys don't fill memory. And an absence that nobody takes back ends by itself."""
    now = 0.0
    cache = KeyCache(capacity=10, clock=lambda: now)
    cache.following(True)
    for _ in range(3 * ABSENT_CAPACITY):
        cache.remember_absent(os.urandom(32))
        cache.remember_absent(os.urandom(16).hex())
    assert cache.absent == 2 * ABSENT_CAPACITY
    cache.remember_absent("ak_test_1")
    assert cache.is_absent("ak_test_1")
    now = ABSENT_SECONDS
    assert not cache.is_absent("ak_test_1")


def test_no_absence_is_kept_while_nobody_would_tell_that_the_key_was_made() -> None:
    """Else a new key would be refused while the change feed is down."""
    cache = KeyCache(capacity=10)
    cache.remember_absent("ak_test_1")
    assert not cache.is_absent("ak_test_1")
    cache.following(True)
    cache.remember_absent("ak_test_1")
    assert cache.is_absent("ak_test_1")
    cache.following(False)
    assert not cache.is_absent("ak_test_1")


def test_nothing_is_remembered_once_postgres_was_away_for_too_long() -> None:
    """Else a look-up that still gets through would fill the cache with keys whose revocation nobody hears of."""
    cache = KeyCache(capacity=10)
    cache.remember(known_key(1))
    cache.expire()
    cache.remember(known_key(2))
    assert not cache.known
    assert not cache.by_secret
    cache.following(True)
    cache.remember(known_key(3))
    assert list(cache.known) == ["key_3"]


def test_a_key_that_calls_several_routes_in_turn_is_given_what_was_prepared_for_each() -> None:
    """One route would be held to the limits of another, and its calls metered as the other's."""
    key = known_key(1)
    first, second = object(), object()
    assert key.prepared(first) is None
    key.prepare(first, "first")
    assert key.prepared(second) is None
    key.prepare(second, "second")
    assert [key.prepared(place) for place in (first, second, second, first)] == ["first", "second", "second", "first"]
