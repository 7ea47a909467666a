"""`previous` of a key in the file: the secret before, until when it works, and what a change of the two means."""

from __future__ import annotations

import pytest

from ostiary.core.config.difference import compare
from ostiary.core.config.explanation import explain
from ostiary.core.credentials import secret_sha256
from tests.core.config.loading import SECRET, VALID, load, only_problem, varied

OLD = "the-secret-before-0123456789abcdefghi"
ENDS_AT = 1_798_761_600.0  # 2027-01-01


def with_previous(previous: str, more: str = "") -> str:
    return varied("plan: standard, scopes", f"previous: {previous}, {more} plan: standard, scopes")


ROTATED = with_previous(f'{{secret: "{OLD}", ends_at: 2027-01-01T00:00:00Z}}')


def test_a_key_of_the_file_has_two_generations() -> None:
    """Row 66: the caller would be cut off at the moment of the reload."""
    key = load(ROTATED).keys["ak_test_1"]
    assert (key.generation, key.secret_sha256) == (2, secret_sha256(SECRET.encode()))
    before = key.previous
    assert before is not None
    assert (before.generation, before.secret, before.secret_sha256) == (1, OLD.encode(), secret_sha256(OLD.encode()))
    assert (before.id, before.scopes, before.plan, before.expires_at) == (key.id, key.scopes, key.plan, ENDS_AT)
    assert OLD not in repr(key) + repr(before)


def test_the_secret_before_ends_no_later_than_the_key() -> None:
    """It would outlive what its holder was promised."""
    text = with_previous(f'{{secret: "{OLD}", ends_at: 2027-01-01T00:00:00Z}}', "expires_at: 2026-12-31T00:00:00Z,")
    before = load(text).keys["ak_test_1"].previous
    assert before is not None
    assert before.expires_at == ENDS_AT - 86_400


@pytest.mark.parametrize(
    ("previous", "path", "message"),
    [
        ("{ends_at: 2027-01-01T00:00:00Z}", "keys[0].previous", "the field 'secret' is missing"),
        (f"{{secret: {OLD}}}", "keys[0].previous", "the field 'ends_at' is missing"),
        (f"{{secret: {OLD}, ends_at: 7d}}", "keys[0].previous.ends_at", "must be a time such as"),
        ("{secret: short, ends_at: 2027-01-01T00:00:00Z}", "keys[0].previous.secret", "must be a secret of 32 to 256"),
        (
            '{secret: "${SECRET}", ends_at: 2027-01-01T00:00:00Z}',
            "keys[0].previous",
            "is the secret that the key has (give the one before, or remove `previous`)",
        ),
    ],
)
def test_a_wrong_previous_is_refused_by_name_and_shows_no_secret(previous: str, path: str, message: str) -> None:
    """A grace that never ends, or none where one was meant."""
    problem = only_problem(with_previous(previous))
    assert problem.path == path
    assert message in str(problem)
    assert OLD not in str(problem)


def test_no_other_key_has_the_secret_before() -> None:
    """One bearer secret would be two callers."""
    other = f'  - {{id: ak_test_2, secret: "{OLD}", environment: test, scopes: []}}\n'
    assert "has the same secret as the key 'ak_test_1'" in str(only_problem(ROTATED + other))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (VALID.replace("${SECRET}", OLD), ROTATED, "calls with the old secret work until 1798761600 (Unix seconds)"),
        (VALID.replace("${SECRET}", OLD), VALID, "calls with the old secret get 401 from now on; with `previous`"),
        (ROTATED, VALID, "calls with the secret before get 401 from now on"),
    ],
)
def test_config_diff_says_what_becomes_of_the_old_secret(before: str, after: str, told: str) -> None:
    """An operator would find out from the callers."""
    lines = [str(change) for change in compare(load(before), load(after))]
    assert told in "\n".join(lines)
    assert OLD not in "\n".join(lines)


def test_config_explain_knows_the_secret_before() -> None:
    """It would say that a key is unknown which gets in."""
    configuration = load(ROTATED)
    present, before = [
        str(explain(configuration, "GET", "http://x/v1/clients/1", {"x-api-key": secret})) for secret in (SECRET, OLD)
    ]
    assert present == before
    assert "ak_test_1 (test), plan standard" in present
