"""Invariant: two values that are one in JSON have one text, and the text means the value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.canonical_json import canonical

# Beyond 2^53 the shortest text of a float is that of no whole number that it is equal to.
_FLOATS = st.floats(min_value=-(2.0**53), max_value=2.0**53)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_the_examples_of_rfc_8785_come_out_as_it_says() -> None:
    """Another program could not check a hash (RFC 8785 §3.2.2, §3.2.3)."""
    literals = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 1], "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]}"""
    )
    assert canonical({**literals, "numbers": [333333333.33333329, 4.5, 2e-3, 1]}).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,1],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    names = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    order = [4, 6, 7, 1, 5, 3]
    text = canonical(names).decode()
    assert [json.loads(text)[name] for name in json.loads(text)] == [2, *order]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (-0.0, "0"), (1e-7, "0.0000001"), (1e21, "1000000000000000000000"), (2**64, "18446744073709551616")],
)
def test_a_number_is_written_in_full(value: float, text: str) -> None:
    """Postgres gives numbers back so, and the hash would be another than the one that was made."""
    assert canonical(value).decode() == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1: 2}, b"x", {"a": object()}])
def test_what_has_no_text_is_refused(value: object) -> None:
    """It would be hashed as something else."""
    with pytest.raises((ValueError, TypeError)):
        canonical(value)


@settings(deadline=None)  # of a machine with other work, the time of one example says nothing
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_has_the_same_text_after_reading(value: float) -> None:
    """As below."""
    assert canonical(json.loads(canonical(value))) == canonical(value)


@settings(deadline=None)  # of a machine with other work, the time of one example says nothing
@given(_VALUES)
def test_the_text_means_the_value_and_is_the_same_after_reading(value: Any) -> None:
    """Whoever verifies reads what was stored; a text that changes with reading would look like a fraud."""
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text
