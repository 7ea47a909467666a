"""Which scopes cover which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.scopes import covers, missing

WORDS = st.lists(st.sampled_from(["clients", "read", "own", "a", "*", ""]), min_size=1, max_size=4).map(":".join)


@pytest.mark.parametrize(
    ("granted", "needed", "holds"),
    [
        ("clients:read", "clients:read", True),
        ("clients:*", "clients:read", True),
        ("clients:*", "clients:read:own", True),
        ("clients:read:*", "clients:read:own", True),
        ("*", "clients:read", True),
        ("clients:*", "clients:*", True),
        ("*", "*", True),
        ("clients:*", "clients", False),
        ("clients:*", "clients:", False),
        ("clients:*", "clientsX:read", False),
        ("clients:*", "client:read", False),
        ("clients:read:*", "clients:read", False),
        ("clients*", "clients:read", False),
        ("*:read", "clients:read", False),
        ("cl*:read", "clients:read", False),
        ("clients.*", "clients.read", False),
        ("clients:read", "clients:*", False),
        ("clients:read", "*", False),
        ("Clients:*", "clients:read", False),
        (":*", "clients:read", False),
    ],
)
def test_a_wildcard_covers_what_is_below_it_and_nothing_else(granted: str, needed: str, holds: bool) -> None:
    """Row 68: a star that meant more than it says would open what nobody meant to open."""
    assert covers(frozenset({granted}), needed) is holds


@given(st.frozensets(WORDS, max_size=4), WORDS)
def test_a_scope_is_covered_by_itself_by_a_star_or_by_a_wildcard_that_begins_it(
    granted: frozenset[str], needed: str
) -> None:
    """Invariant: nothing is covered for another reason, and more scopes never cover less."""
    parts = needed.split(":")
    wider = {":".join((*parts[:count], "*")) for count in range(1, len(parts))} | {"*", needed}
    # What ends in an empty part is below nothing: `clients:` is no scope of `clients:*`.
    if not parts[-1] and len(parts) > 1:
        wider.discard(":".join((*parts[:-1], "*")))
    assert covers(granted, needed) is bool(granted & wider)
    assert not covers(granted, needed) or covers(granted | {"more"}, needed)


def test_all_of_these_and_one_of_those() -> None:
    """Both hold where a route has both."""
    assert missing(frozenset({"a", "c"}), {"a"}, {"b", "c"}) == ()
    assert missing(frozenset({"a:*"}), {"a:x"}, {"b", "a:y"}) == ()
    assert missing(frozenset({"a"}), {"a", "z"}, {"c", "b"}) == ("z", "b or c")
    assert missing(frozenset(), (), ()) == ()
