"""Invariant: what a cluster says about its slots is read as it is meant, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from ostiary.core import keyspace
from ostiary.core.model import LimitBy, Plan, Rate, RouteLimit, StoreFailure, Window
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.limits.crossing import groups, single_slot
from ostiary.gateway.limits.slots import Redirection, SlotRange, redirection, slot_of, slot_ranges
from tests.gateway.limits.support import policy


@pytest.mark.parametrize(
    ("name", "slot"),
    # As CLUSTER KEYSLOT of Redis 7.0.15 and 9.1.2 of Valkey answer.
    [
        ("123456789", 12739), ("foo", 12182), ("a{foo}b", 12182), ("{foo}{bar}", 12182),
        ("foo{}", 5542), ("foo{{bar}}", 4015), ("", 0),
    ],
)  # fmt: skip
def test_a_name_lies_where_redis_looks_for_it(name: str, slot: int) -> None:
    """Every command would be redirected."""
    assert slot_of(name) == slot


@pytest.mark.parametrize(
    ("refusal", "where"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirection(True, 3999, "127.0.0.1", 6381)),
        ("ASK 3999 redis-2.internal:6381", Redirection(False, 3999, "redis-2.internal", 6381)),
        ("MOVED 1 ::1:6381", Redirection(True, 1, "::1", 6381)),
        ("MOVED 1 :6381", Redirection(True, 1, "", 6381)),
        ("ASK 1 ?:6381", Redirection(False, 1, "", 6381)),
        ("MOVED 16384 127.0.0.1:6381", None),
        ("MOVED 1 127.0.0.1", None),
        ("MOVED x 127.0.0.1:1", None),
        ("NOSCRIPT No matching script. Please use EVAL.", None),
        ("MOVED", None),
    ],
)
def test_a_redirection_is_read(refusal: str, where: Redirection | None) -> None:
    """A refusal in an unknown form would end in an exception inside the event loop."""
    assert redirection(refusal) == where


def test_the_map_is_read() -> None:
    """A cluster that names its nodes in another way would not be found."""
    told = [
        [0, 5460, [b"10.0.0.1", 7000, b"id-1"], [b"10.0.0.4", 7000, b"id-4"]],
        [5461, 5461, [b"", 7001, b"id-2", [b"hostname", b"r"]]],
        [5462, 16383, [None, 7002, b"id-3"]],
    ]
    assert slot_ranges(told) == [
        SlotRange(0, 5460, "10.0.0.1", 7000),
        SlotRange(5461, 5461, "", 7001),
        SlotRange(5462, 16383, "", 7002),
    ]


@pytest.mark.parametrize(
    "told", [None, b"OK", [[1]], [[0, 99999, [b"h", 1]]], [[5, 4, [b"h", 1]]], [[0, 1, [b"h", b"x"]]], [0]]
)
def test_what_is_no_map_is_refused(told: object) -> None:
    """A port mixed up would raise inside the event loop."""
    with pytest.raises(ValueError):
        slot_ranges(told)


def question(*limits: RouteLimit, plan: Plan | None, nonce: bool = False, key: str | None = "ak_1") -> Question:
    asked = policy(plan, *limits)
    names = asked.names(key, "app_1", None, "192.0.2.1")
    spoken = keyspace.nonce(key or "192.0.2.1", "nonce-1-xxxxxxxxxx") if nonce else None
    return Question(asked, names, spoken, 600 if nonce else 0, StoreFailure.LOCAL, nonce)


WINDOW = Plan("p", Rate(5, 1, 5), windows=(Window(5, 60),), concurrency=3)


def test_what_concerns_one_subject_lies_in_one_slot() -> None:
    """The usual call would take several round trips."""
    slot = slot_of("{k:ak_1}")
    assert single_slot(question(plan=WINDOW, nonce=True)) == slot
    assert single_slot(question(RouteLimit(Window(1, 1), LimitBy.KEY), plan=WINDOW, nonce=True)) == slot
    assert single_slot(question(plan=None, nonce=True)) == slot
    assert single_slot(question(RouteLimit(Window(1, 1), LimitBy.IP), plan=None)) == slot_of("{i:192.0.2.1}")
    assert single_slot(question(RouteLimit(Window(1, 1), LimitBy.IP), plan=WINDOW)) == -1
    assert single_slot(question(RouteLimit(Window(1, 1), LimitBy.IP), plan=None, nonce=True)) == -1


def test_the_plan_and_the_nonce_come_last_and_what_is_shared_by_most_before_them() -> None:
    """Buckets, quotas, leases and nonces can't be given back exactly; a flood from one address would use up its route."""
    asked = question(
        RouteLimit(Window(1, 1), LimitBy.ROUTE),
        RouteLimit(Window(1, 1), LimitBy.IP),
        RouteLimit(Window(2, 1), LimitBy.KEY),
        plan=WINDOW,
        nonce=True,
    )
    grouped = groups(asked)
    ip, route, key = slot_of("{i:192.0.2.1}"), slot_of("{r:clients}"), slot_of("{k:ak_1}")
    assert grouped.slots == [ip, route, key]
    assert grouped.names[key] == ["ost:{k:ak_1}:plan", "ost:{k:ak_1}:leases", "ost:{k:ak_1}:key:clients"]
    piece = asked.policy.piece(tuple(grouped.parts[key]))
    whole = asked.policy.labels
    assert [label.kind for label in piece.labels] == ["rate", "window", "window", "concurrency"]
    assert set(piece.labels) <= set(whole)
    assert groups(question(RouteLimit(Window(1, 1), LimitBy.IP), plan=None, nonce=True)).slots == [ip, key]
