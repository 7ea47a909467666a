"""Which key-encryption keys there are, and what is refused about them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.config import load_text
from ostiary.core.config.difference import compare
from ostiary.core.config.key_encryption import parse_kek
from ostiary.core.config.problems import ConfigurationError
from ostiary.core.model import AppRole, Configuration, SecretFile, VaultTransit

KEK = bytes(range(32))
FIRST, SECOND = "11" * 32, "22" * 32
VAULT = "address: https://vault.internal:8200, key: ostiary, token: '${TOKEN}'"
ENVIRONMENT = {"FIRST": FIRST, "SECOND": SECOND, "TOKEN": "canary-of-the-token"}


def load(several: str, tmp_path: Path, besides: str = "") -> Configuration:
    text = f"version: 1\nroutes: []\nstores: {{{besides}key_encryption_keys: {several}}}\n"
    return load_text(text, name=str(tmp_path / "f.yaml"), environment=ENVIRONMENT)


def test_keys_of_the_file_of_the_environment_and_of_vault(tmp_path: Path) -> None:
    """What is renewed while the gateway runs (token, role) is kept as the place that it is read from."""
    (tmp_path / "kek").write_text(SECOND + "\n")
    (tmp_path / "token").write_text("canary\n")
    stores = load(
        "{current: vault, keys: {first: {secret: '${FIRST}'}, second: {secret: file:kek}, vault: {vault: {address: "
        "'https://vault:8200/', key: ostiary, mount: secrets/transit/, namespace: team, token: file:token, timeout: 500ms, "
        "cache_for: 10m}}, agent: {vault: {address: 'http://127.0.0.1:8100', key: other, app_role: {role_id: a-role, "
        "secret_id: file:token}}}}}",
        tmp_path,
    ).stores
    assert stores.key_encryption is not None
    keys = stores.key_encryption.keys
    assert stores.key_encryption.current == "vault"
    assert keys["first"] == bytes.fromhex(FIRST)
    assert keys["second"] == bytes.fromhex(SECOND)
    token = SecretFile(str(tmp_path / "token"))
    assert keys["vault"] == VaultTransit(
        "https://vault:8200", "ostiary", "secrets/transit", "team", None, token, None, 0.5, 600.0
    )
    agent = keys["agent"]
    assert isinstance(agent, VaultTransit)
    assert agent.app_role == AppRole("a-role", token)
    assert (agent.token, agent.timeout_seconds, agent.cache_seconds, agent.mount) == (None, 2.0, 3600.0, "transit")
    assert "canary" not in repr(stores) + repr(keys)


@pytest.mark.parametrize(
    ("several", "path", "message"),
    [
        ("{current: x, keys: {a: {secret: '${FIRST}'}}}", "current", "is none of the keys"),
        ("{keys: {a: {secret: '${FIRST}'}}}", "", "the field 'current' is missing"),
        ("{current: a, keys: {a: {}}}", "keys.a", "must have either secret or vault"),
        (
            f"{{current: a, keys: {{a: {{secret: '${{FIRST}}', vault: {{{VAULT}}}}}}}}}",
            "keys.a",
            "must have either secret",
        ),
        (
            "{current: a, keys: {a: {secret: '${FIRST}'}, b: {secret: '${FIRST}'}}}",
            "keys",
            "two of them are the same key",
        ),
        ("{current: a, keys: {a: {secret: '${TOKEN}'}}}", "keys.a.secret", "must be a secret of 43 to 64"),
        (
            "{current: a, keys: {a: {vault: {address: 'https://v:8200', key: k}}}}",
            "keys.a.vault",
            "must have either token or app_role",
        ),
        (
            "{current: a, keys: {a: {vault: {address: 'http://vault.internal:8200', key: k, token: '${TOKEN}'}}}}",
            "keys.a.vault.address",
            "plain HTTP to another machine would show it the token and every data key",
        ),
        (
            "{current: a, keys: {a: {vault: {address: 'https://u:canary@v:8200', key: k, token: '${TOKEN}'}}}}",
            "keys.a.vault.address",
            "must be the URL of Vault",
        ),
        (
            "{current: a, keys: {a: {vault: {address: 'https://v:8200/v1/transit', key: k, token: '${TOKEN}'}}}}",
            "keys.a.vault.address",
            "the address ends with the port",
        ),
        (
            "{current: a, keys: {a: {vault: {address: 'https://v:8200', key: k, token: file:missing}}}}",
            "keys.a.vault.token",
            "the secret's file, 'file:missing', does not exist",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused(several: str, path: str, message: str, tmp_path: Path) -> None:
    """A gateway that starts with the wrong keys answers 401 to every signed call."""
    with pytest.raises(ConfigurationError) as refused:
        load(several, tmp_path)
    whole = ".".join(filter(None, ("stores.key_encryption_keys", path)))
    assert any(problem.path == whole and problem.message.startswith(message) for problem in refused.value.problems), (
        str(refused.value)
    )
    assert "canary" not in str(refused.value)


def test_one_form_or_the_other(tmp_path: Path) -> None:
    """Which of them held would be a matter of taste."""
    with pytest.raises(ConfigurationError, match="stands beside key_encryption_keys"):
        load("{current: a, keys: {a: {secret: '${FIRST}'}}}", tmp_path, "key_encryption_key: '${SECOND}', ")


def test_a_difference_shows_names_and_places_and_no_secret(tmp_path: Path) -> None:
    """`config diff` is pasted into tickets."""
    before = load("{current: a, keys: {a: {secret: '${FIRST}'}}}", tmp_path)
    after = load(f"{{current: b, keys: {{a: {{secret: '${{FIRST}}'}}, b: {{vault: {{{VAULT}}}}}}}}}", tmp_path)
    (change,) = compare(before, after)
    assert change.before == "a (a secret) (current)"
    assert change.after == "a (a secret), b transit/ostiary of https://vault.internal:8200 (current)"
    assert FIRST not in str(change)
    assert "canary" not in str(change)


# --- the text of a key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        KEK.hex(),
        KEK.hex().upper(),
        base64.b64encode(KEK).decode(),
        base64.b64encode(KEK).decode().rstrip("="),
        f"  {base64.b64encode(KEK).decode()}\n",
    ],
)
def test_key_encryption_key_is_read_in_each_of_its_forms(text: str) -> None:
    """`openssl rand -base64 32` and `-hex 32`, with the newline a file ends in."""
    assert parse_kek(text) == KEK


def test_key_encryption_key_is_read_in_both_base64_alphabets() -> None:
    """Secret stores give either."""
    kek = b"\xfb\xff" * 16
    assert parse_kek(base64.b64encode(kek).decode()) == parse_kek(base64.urlsafe_b64encode(kek).decode()) == kek


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canary",
        "canary" * 20,
        KEK.hex()[:-1],
        KEK.hex()[:-1] + "g",
        base64.b64encode(KEK + b"1").decode(),
        "é" * 44,
    ],
)
def test_wrong_key_encryption_key_text_is_refused_without_the_text(text: str) -> None:
    """Else a typing error would be a weak key, or stand in the log."""
    with pytest.raises(ValueError, match="32 bytes") as raised:
        parse_kek(text)
    assert not text or text not in str(raised.value)


@given(st.text())
def test_any_text_is_a_key_or_a_clear_error(text: str) -> None:
    """Configuration files hold anything."""
    try:
        assert len(parse_kek(text)) == 32
    except ValueError as error:
        assert "32 bytes" in str(error)  # noqa: PT017  both outcomes are right
