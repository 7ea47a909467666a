"""A KEK that Vault keeps, against a real OpenBao."""

from __future__ import annotations

import http.server
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ostiary.core.encryption import (
    EncryptionError,
    Envelope,
    KeyServiceUnavailable,
    KeyWrappers,
    LocalKeyWrapper,
    Wrapped,
    WrongKeyEncryptionKey,
)
from ostiary.core.model import KeyEncryption, SecretFile
from ostiary.key_encryption import CannotUseKeyEncryption, key_wrappers
from ostiary.key_encryption.vault import BATCH_MAX, VaultKeyWrapper
from tests.support.certificates import issue
from tests.support.vault_server import VaultServer, running_vault
from tests.support.waiting import MACHINE_SECONDS


def data_keys(count: int) -> list[Wrapped]:
    return [Wrapped(os.urandom(32), f"ak_live_{number}".encode()) for number in range(count)]


def wrapped(kek: VaultKeyWrapper, keys: list[Wrapped]) -> list[Wrapped]:
    return [Wrapped(each, key.context) for each, key in zip(kek.wrap_all(keys), keys, strict=True)]


def test_what_was_wrapped_is_unwrapped_in_as_many_calls_as_it_takes(vault: VaultServer) -> None:
    """OpenBao refuses a batch that is too large as a whole."""
    kek = VaultKeyWrapper("vault", vault.settings(token=vault.narrow_token()))
    keys = data_keys(2 * BATCH_MAX + 1)
    assert kek.unwrap_all(wrapped(kek, keys)) == [key.data_key for key in keys]


def test_a_data_key_is_bound_to_its_key_id_and_the_others_of_its_batch_are_opened(vault: VaultServer) -> None:
    """Else a row's secret could be moved to another row; and one altered row would stop a hundred keys."""
    kek = VaultKeyWrapper("vault", vault.settings())
    keys = data_keys(4)
    batch = wrapped(kek, keys)
    batch[1] = batch[1]._replace(context=b"ak_live_0")
    batch[2] = batch[2]._replace(data_key=kek.prefix + b"vault:v1:AAAA")
    opened = kek.unwrap_all(batch)
    assert opened[0] == keys[0].data_key
    assert opened[3] == keys[3].data_key
    assert isinstance(opened[1], EncryptionError)
    assert "belongs to another key id" in str(opened[1])
    assert isinstance(opened[2], EncryptionError)


def test_an_error_shows_no_data_key_and_no_token(vault: VaultServer) -> None:
    """Row 132: hvac's error about a batch that failed in part has the whole answer in its text, data keys included."""
    token = vault.narrow_token()
    kek = VaultKeyWrapper("vault", vault.settings(token=token))
    keys = data_keys(3)
    batch = wrapped(kek, keys)
    batch[2] = batch[2]._replace(context=b"another")
    opened = kek.unwrap_all(batch)
    shown = [repr(opened[2]), repr(kek), repr(kek.settings)]
    vault.client.auth.token.revoke(token)
    with pytest.raises(KeyServiceUnavailable, match="refuses our token") as refused:
        kek.unwrap_all(batch)
    assert refused.value.__context__ is None
    shown += ["".join(traceback.format_exception(refused.value))]
    for secret in (token, *(key.data_key.hex() for key in keys)):
        assert secret not in "".join(shown)


def test_a_token_that_is_renewed_in_its_file_is_taken_from_there(vault: VaultServer, tmp_path: Path) -> None:
    """A Vault agent writes a new token into its file; to restart every gateway for it would be a call for each at night."""
    file = tmp_path / "token"
    file.write_text(old := vault.narrow_token())
    kek = VaultKeyWrapper("vault", vault.settings(token=SecretFile(str(file))))
    (key,) = data_keys(1)
    kek.wrap_all([key])
    vault.client.auth.token.revoke(old)
    with pytest.raises(KeyServiceUnavailable):
        kek.wrap_all([key])
    file.write_text(vault.narrow_token() + "\n")
    kek.wrap_all([key])
    file.unlink()
    with pytest.raises(KeyServiceUnavailable, match="can't be read"):
        kek.wrap_all([key])


def test_a_role_signs_in_again_when_its_token_has_ended(vault: VaultServer, tmp_path: Path) -> None:
    """Tokens of a role live for minutes."""
    kek = VaultKeyWrapper("vault", vault.settings(token=None, app_role=vault.app_role(tmp_path, token_ttl="10m")))
    (key,) = data_keys(1)
    kek.wrap_all([key])
    first = kek._client.token
    kek.wrap_all([key])
    assert kek._client.token == first
    vault.client.auth.token.revoke(first)
    kek.wrap_all([key])
    assert kek._client.token != first


@pytest.mark.parametrize("late_seconds", [0.0, 1.2])
def test_a_token_that_can_be_renewed_does_not_end(vault: VaultServer, late_seconds: float) -> None:
    """Openings may be days apart, and tokens live for hours. Of one in its last second Vault says that it has 0 left, which
    it says of root tokens, too."""
    (key,) = data_keys(1)
    for attempts_left in range(4, -1, -1):
        began = now = time.monotonic()
        kek = VaultKeyWrapper("vault", vault.settings(token=vault.narrow_token(period="2s")))
        longest_pause = 0.0
        while now < began + 4.0:
            if now >= began + late_seconds:
                kek.renew_if_due()
            time.sleep(0.05)
            before, now = now, time.monotonic()
            longest_pause = max(longest_pause, now - before)
        try:
            kek.wrap_all([key])
            return
        except KeyServiceUnavailable:
            # A machine that stood still for a part of the token's life had no time to renew it.
            if longest_pause < 0.5 or not attempts_left:
                raise


def test_a_vault_that_hangs_or_is_away_is_told_within_the_deadline(vault: VaultServer) -> None:
    """Row 118: else a call would wait for as long as a connection can hang."""
    patient = VaultKeyWrapper("vault", vault.settings())
    kek = VaultKeyWrapper("vault", vault.settings(timeout_seconds=0.3))
    (key,) = data_keys(1)
    patient.wrap_all([key])
    vault.pause()
    try:
        began = time.monotonic()
        with pytest.raises(KeyServiceUnavailable, match="does not answer within"):
            kek.wrap_all([key])
        assert time.monotonic() - began < kek.deadline_seconds + MACHINE_SECONDS
    finally:
        vault.resume()
    patient.wrap_all([key])
    away = VaultKeyWrapper("vault", vault.settings(address="http://127.0.0.1:1"))
    with pytest.raises(KeyServiceUnavailable, match="can't be reached"):
        away.wrap_all([key])


def test_the_certificate_of_vault_is_verified(tmp_path: Path) -> None:
    """Whoever stands between would be given the token and every data key."""
    authority = issue(tmp_path, "authority", authority=True)
    other = issue(tmp_path, "other", authority=True)
    (key,) = data_keys(1)
    with running_vault(tmp_path / "vault", authority=authority) as server:
        VaultKeyWrapper("vault", server.settings(ca=str(authority.cert))).wrap_all([key])
        for ca in (str(other.cert), None):
            with pytest.raises(KeyServiceUnavailable, match="certificate that is not trusted"):
                VaultKeyWrapper("vault", server.settings(ca=ca)).wrap_all([key])


@contextmanager
def redirecting() -> Iterator[tuple[str, list[str | None]]]:
    """A server that sends everyone on to itself, and the tokens that it got."""
    tokens: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            tokens.append(self.headers.get("X-Vault-Token"))
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", tokens
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_token_is_not_sent_on_to_where_an_answer_points(vault: VaultServer) -> None:
    """It is in a header that requests does not know to be a secret."""
    with redirecting() as (address, tokens):
        kek = VaultKeyWrapper("vault", vault.settings(address=address))
        with pytest.raises(KeyServiceUnavailable):
            kek.wrap_all(data_keys(1))
        assert len(tokens) == 1


def test_nothing_of_the_environment_is_sent_or_believed(
    vault: VaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """hvac takes a token from the environment or from the home directory where it is given none."""
    role = vault.app_role(tmp_path)
    monkeypatch.setenv("VAULT_TOKEN", "canary-of-the-environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    kek = VaultKeyWrapper("vault", vault.settings(token=None, app_role=role))
    assert kek._client.token == ""
    kek.wrap_all(data_keys(1))


def test_several_keks_open_what_each_has_wrapped_and_one_wraps(vault: VaultServer) -> None:
    """While one follows another, rows of both are there."""
    old, new = LocalKeyWrapper(os.urandom(32)), VaultKeyWrapper("vault", vault.settings())
    before, after = KeyWrappers({"old": old}, current="old"), KeyWrappers({"old": old, "new": new}, current="new")
    first = Envelope(before).seal(b"one", key_id="ak_1")
    second = Envelope(after).seal(b"two", key_id="ak_2")
    assert Envelope(after).open(*first, key_id="ak_1") == b"one"
    assert Envelope(after).open(*second, key_id="ak_2") == b"two"
    assert second[1].startswith(new.prefix)
    with pytest.raises(WrongKeyEncryptionKey, match="there is old"):
        Envelope(before).open(*second, key_id="ak_2")
    assert Envelope(after).service_of(first[1]) is None
    assert Envelope(after).service_of(second[1]) is new


def test_a_new_version_of_the_transit_key_shows_in_what_is_wrapped(vault: VaultServer) -> None:
    """`ostiary keys rewrap` goes by it, so that an old version can be retired in Vault."""
    kek = VaultKeyWrapper("vault", vault.settings())
    (key,) = data_keys(1)
    before = kek.newest_prefix()
    assert kek.wrap_all([key])[0].startswith(before)
    vault.client.secrets.transit.rotate_key("ostiary")
    after = kek.newest_prefix()
    assert after != before
    assert after.startswith(kek.prefix + b"vault:v")


def test_without_hvac_the_mend_is_told(vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: whoever has no Vault need not install it."""
    monkeypatch.setitem(sys.modules, "ostiary.key_encryption.vault", None)
    with pytest.raises(CannotUseKeyEncryption, match=r"pip install 'ostiary\[vault\]'"):
        key_wrappers(KeyEncryption("vault", {"vault": vault.settings()}))
    key_wrappers(KeyEncryption("file", {"file": bytes(32)}))
