"""How we prove to Vault who we are: a token that stands in the configuration or in a file, or a sign-in by AppRole.

No token is in a log, an error or a representation. A file is read for every call: a Vault agent, or an orchestrator, renews
it there, and a call is rare."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from ostiary.core.encryption import KeyServiceUnavailable
from ostiary.core.model import AppRole, SecretFile, VaultTransit

# A token is replaced, or renewed, when so much of its life is left: a Vault that is away for the rest of it costs nothing.
_LEFT = 0.5
# Of a token that may not be looked at, or never ends: so often we look again.
_LOOK_AGAIN_SECONDS = 300.0
_LOOK_SOON_SECONDS = 10.0

_log = logging.getLogger("ostiary.key_encryption")

_TOKEN_BYTES_MAX = 16 * 1024


class VaultToken:
    """The token for one Vault. `current` may sign in first; `refused` says that it was not taken."""

    def __init__(self, settings: VaultTransit, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._signed_in: str | None = None
        self._good_until = 0.0
        self._look_at = 0.0

    def __repr__(self) -> str:
        return "VaultToken()"

    def current(self, client: Any) -> str:
        """Raises KeyServiceUnavailable when its file can't be read, and what a call to Vault raises."""
        token = self._settings.token
        if token is not None:
            return _read(token)
        if self._signed_in is None or time.monotonic() >= self._good_until:
            self._sign_in(client)
        assert self._signed_in is not None  # noqa: S101  _sign_in sets it or raises
        return self._signed_in

    def refused(self) -> bool:
        """Vault has refused the token: whether there may be another one at once."""
        signed_in, self._signed_in = self._signed_in, None
        return signed_in is not None

    def renew_if_due(self, client: Any) -> None:
        """For a token that was given: renews one that can be, and warns of one that can't and will end. Never raises for what
        Vault says of it: a token that may not look at itself may do its work all the same."""
        token, now = self._settings.token, time.monotonic()
        if token is None or now < self._look_at:
            return
        self._look_at = now + _LOOK_SOON_SECONDS  # should the call fail
        client.token = _read(token)
        found = client.auth.token.lookup_self()["data"]
        ttl, whole = float(found.get("ttl") or 0), float(found.get("creation_ttl") or 0)
        if whole <= 0:  # a root token, which never ends; of another 0 may be left, for that is told in whole seconds
            self._look_at = now + _LOOK_AGAIN_SECONDS
            return
        if not found.get("renewable"):
            # A file may be renewed by another; a text in the configuration is nobody else's to renew.
            if not isinstance(token, SecretFile):
                fields = {"key_encryption_key": self._name, "seconds_left": int(ttl)}
                _log.warning("vault_token_ends", extra={"fields": fields})
            self._look_at = now + _LOOK_AGAIN_SECONDS
            return
        if ttl <= whole * _LEFT:
            ttl = float(client.auth.token.renew_self()["auth"]["lease_duration"])
        self._look_at = now + max(min(ttl / 4, _LOOK_AGAIN_SECONDS), 0.2)

    def _sign_in(self, client: Any) -> None:
        role = self._settings.app_role
        assert isinstance(role, AppRole)  # noqa: S101  the configuration has either
        began = time.monotonic()
        client.token = ""  # an old one would be looked at first, and refused
        answer = client.auth.approle.login(
            role_id=_read(role.role_id), secret_id=_read(role.secret_id), use_token=False, mount_point=role.mount
        )
        self._signed_in = str(answer["auth"]["client_token"])
        lease_seconds = float(answer["auth"].get("lease_duration") or 0)
        self._good_until = began + (lease_seconds * _LEFT if lease_seconds else float("inf"))


def _read(secret: str | SecretFile) -> str:
    if isinstance(secret, str):
        return secret
    try:
        with Path(secret.path).open("rb") as file:
            text = file.read(_TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KeyServiceUnavailable(
            f"the file {secret.path} with what proves us to Vault can't be read: {reason}"
        ) from None
    if not text.isprintable() or not text:
        raise KeyServiceUnavailable(f"the file {secret.path} with what proves us to Vault is empty, or holds no token")
    return text
