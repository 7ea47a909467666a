"""The page that says which test holds which row of the failure matrix."""

from __future__ import annotations

import pytest

from tests.support.failure_matrix import NamedTest, Row, Section, named_tests, read_sections, render, rows_named

NOTATION = {"R": "refused"}
SECTIONS = (Section("Framing", (Row(1, "both lengths", "R", "RFC 9112"), Row(2, "a | b", "R", ""))),)

SOURCE = '''
"""Row 9: a module's docstring names no test."""

def test_a():
    """Row 1: what would break."""

class TestGroup:
    async def test_b(self):
        """Without it ... Rows 1, 2: both."""

def helper():
    """Row 2: no test."""

def test_c():
    """Says nothing of row 2."""
'''


@pytest.mark.parametrize(
    ("docstring", "numbers"),
    [
        ("Row 57: a replay", {57}),
        ("Rows 71, 72: any window", {71, 72}),
        ("Rows 1-3 and 5: framing", {1, 2, 3, 5}),
        ("Rows 1, 2,\n    3: a list that goes on in the next line", {1, 2, 3}),
        ("First.\n\nRow 7: more\nRow 8: and more", {7, 8}),
        ("row 57: lower case", set()),
        ("Row 57 without a colon", set()),
    ],
)
def test_rows_are_read_from_docstrings(docstring: str, numbers: set[int]) -> None:
    assert rows_named(docstring) == numbers


def test_tests_of_functions_and_classes_are_found_by_their_docstrings() -> None:
    """A test that is not found leaves its row open on the page, or worse, the other way round."""
    assert list(named_tests(SOURCE, "tests/test_x.py")) == [
        NamedTest("tests/test_x.py::test_a", frozenset({1})),
        NamedTest("tests/test_x.py::TestGroup::test_b", frozenset({1, 2})),
    ]


def test_a_row_without_a_test_is_listed_as_open() -> None:
    page = render(NOTATION, SECTIONS, [NamedTest("tests/test_x.py::test_a", frozenset({1}))])
    assert "| 1 | both lengths | R (RFC 9112) | [a](../tests/test_x.py) |" in page
    assert "| 2 | a \\| b | R | *open* |" in page
    assert "- Framing: 2\n" in page
    assert "1 of 2 rows" in page


def test_a_row_that_does_not_exist_is_refused() -> None:
    """A typing mistake in a docstring would claim a row that nobody can look up."""
    with pytest.raises(ValueError, match="names row 99"):
        render(NOTATION, SECTIONS, [NamedTest("tests/test_x.py::test_a", frozenset({99}))])


def test_a_number_that_stands_twice_is_refused() -> None:
    row = "{row: 1, done: a, answer: b}"
    with pytest.raises(ValueError, match=r"twice: \[1\]"):
        read_sections(f"notation: {{}}\nsections: [{{title: A, rows: [{row}, {row}]}}]")
