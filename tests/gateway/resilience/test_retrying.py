"""Whether a failed attempt is made again: over all that can be known of one, never where a thing could be done twice."""

from __future__ import annotations

from itertools import product

from ostiary.core.upstream import Retries
from ostiary.gateway.resilience.retrying import Try, may_retry

BOTH = (False, True)
EAGER = Retries(attempts=3, on=frozenset({"connect", "reset", "timeout", "503"}))
NEVER = Retries(attempts=1, on=frozenset())
TRIES = [
    Try(number, cause, answered=answered, stale=stale)
    for number, cause, answered, stale in product((1, 2, 3), ("connect", "reset", "timeout", "503"), BOTH, BOTH)
    if not stale or (cause == "reset" and not answered)
]


def test_what_may_have_been_done_is_not_done_again() -> None:
    """A payment would be made twice."""
    for attempt, repeatable in product(TRIES, BOTH):
        again = may_retry(EAGER, attempt, idempotent=False, repeatable=repeatable)
        assert not again or (attempt.cause == "connect" and repeatable)


def test_a_body_that_was_handed_on_is_not_asked_for_again() -> None:
    """The gateway keeps no copy: the upstream would get the rest of it for the whole."""
    for attempt, idempotent in product(TRIES, BOTH):
        assert not may_retry(EAGER, attempt, idempotent=idempotent, repeatable=False)


def test_attempts_are_bounded_but_for_a_connection_that_its_server_had_given_up() -> None:
    """An upstream that fails would be asked for ever; one that closes idle connections would fail calls."""
    for attempt in TRIES:
        assert may_retry(NEVER, attempt, idempotent=True, repeatable=True) == attempt.stale
        if attempt.number >= EAGER.attempts:
            assert may_retry(EAGER, attempt, idempotent=True, repeatable=True) == attempt.stale


def test_an_answer_that_broke_off_is_not_begun_anew() -> None:
    """Some of it has reached the gateway: what the upstream did for it may be done."""
    attempt = Try(1, "reset", answered=True, stale=False)
    assert not may_retry(EAGER, attempt, idempotent=True, repeatable=True)
    assert may_retry(EAGER, attempt._replace(answered=False), idempotent=True, repeatable=True)
