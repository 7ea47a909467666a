"""Invariant: two things that are counted apart never share a name, and what one key is asked lies in one slot."""

from __future__ import annotations

import itertools

import pytest
from redis.crc import key_slot

from ostiary.core import keyspace
from ostiary.core.model import LimitBy

# The same text as key, app, organization, address and route: only the kind tells them apart.
SAME = "same"


def test_all_names_of_a_key_lie_in_one_slot() -> None:
    """Its plan, calls under way and nonces could not be decided in one call on a Redis Cluster."""
    names = [
        keyspace.plan_state("ak_live_1"),
        keyspace.leases("ak_live_1"),
        keyspace.nonce("ak_live_1", "nonce-1-xxxxxxxxxx"),
        keyspace.route_state("clients", LimitBy.KEY, subject(LimitBy.KEY, "ak_live_1")),
    ]
    assert len({key_slot(name.encode()) for name in names}) == 1
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("known", [True, False])
def test_limits_by_different_things_are_counted_apart(known: bool) -> None:
    """An app named like a key would use up the key's limit."""
    names = [
        keyspace.route_state(route, by, subject(by, SAME, known=known, route=route))
        for by, route in itertools.product(LimitBy, (SAME, "other"))
    ]
    assert len(set(names)) == len(names)


def subject(by: LimitBy, text: str, *, known: bool = True, route: str = SAME) -> str:
    who = text if known else None
    return keyspace.subject(by, route=route, key_id=who, app_id=who, organization_id=who, ip=text)
