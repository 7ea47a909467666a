"""A KEK that Vault Transit keeps (HashiCorp Vault, OpenBao): data keys go there to be wrapped and unwrapped.

    POST <mount>/encrypt/<key>, <mount>/decrypt/<key>    up to BATCH_MAX data keys in one call, each with its associated data

Through `hvac`. Its errors are never shown, nor kept: one about a batch that failed in part has the whole answer in its text,
and that has the data keys that did not fail, in the clear (seen with hvac 2.4)."""

from __future__ import annotations

import base64
import binascii
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac import exceptions
from requests.adapters import HTTPAdapter

from ostiary.core.encryption import EncryptionError, KeyServiceUnavailable, RemoteKeyWrapper, Wrapped
from ostiary.core.model import VaultTransit
from ostiary.key_encryption.vault_token import VaultToken
from ostiary.tls import verifying_context

# OpenBao refuses JSON with more than a thousand texts, and an item has four, with its names.
BATCH_MAX = 100
_DATA_KEY_BYTES = 32
_CIPHERTEXT_BYTES_MAX = 1024


class VaultKeyWrapper(RemoteKeyWrapper):
    """Calls take at most some `timeout_seconds` for the connection and as long for the answer. Safe to share between threads:
    calls go one after the other."""

    def __init__(self, name: str, settings: VaultTransit) -> None:
        # A connection and an answer, with a little for what is around them.
        seconds = 2 * settings.timeout_seconds + 0.5
        super().__init__(name, deadline_seconds=seconds, cache_seconds=settings.cache_seconds)
        self.settings = settings
        session = requests.Session()
        # The environment has no say: neither a .netrc, whose password would be sent along, nor another set of authorities.
        session.trust_env = False
        session.verify = settings.ca or _system_authorities()
        session.mount("https://", _Adapter())
        self._client = hvac.Client(
            url=settings.address,
            token="",  # None would be looked for in the environment and in ~/.vault-token
            namespace=settings.namespace,
            timeout=(settings.timeout_seconds, settings.timeout_seconds),
            # The token is in a header of Vault's own, which requests would take along to wherever it is sent.
            allow_redirects=False,
            session=session,
            verify=session.verify,
        )
        self._token = VaultToken(settings, name=name)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"VaultKeyWrapper({self.name!r})"

    def wrap_all(self, data_keys: Sequence[Wrapped]) -> list[bytes]:
        wrapped: list[bytes] = []
        for batch in _batches(data_keys):
            items = [{"plaintext": _base64(each.data_key), **self._binding(each)} for each in batch]
            results = self._ask(partial(_encrypt, where=self._where, items=items), items)
            for result in results:
                text = str(result.get("ciphertext") or "").encode()
                if not text.startswith(b"vault:v") or len(text) > _CIPHERTEXT_BYTES_MAX:
                    raise KeyServiceUnavailable(f"Vault does not wrap under {self._key}: {_refusal(result)}")
                wrapped.append(self.prefix + text)
        return wrapped

    def unwrap_all(self, wrapped: Sequence[Wrapped]) -> list[bytes | EncryptionError]:
        data_keys: list[bytes | EncryptionError] = []
        for batch in _batches(wrapped):
            items = [
                {"ciphertext": self.text_of(each.data_key).decode("ascii", "replace"), **self._binding(each)}
                for each in batch
            ]
            results = self._ask(partial(_decrypt, where=self._where, items=items), items)
            data_keys += [self._data_key(result) for result in results]
        return data_keys

    def newest_prefix(self) -> bytes:
        """With the version of the Transit key that Vault wraps under now: `vault:v3:`."""
        probe = self.wrap(bytes(_DATA_KEY_BYTES), context=b"")
        return probe[: probe.rindex(b":") + 1]

    def renew_if_due(self) -> None:
        self._call(lambda: self._token.renew_if_due(self._client))

    @property
    def _where(self) -> dict[str, str]:
        return {"name": self.settings.key, "mount_point": self.settings.mount}

    @property
    def _key(self) -> str:
        return f"{self.settings.mount}/{self.settings.key}"

    def _binding(self, each: Wrapped) -> dict[str, str]:
        return {"associated_data": _base64(self.bound_to(each.context))}

    def _data_key(self, result: dict[str, Any]) -> bytes | EncryptionError:
        if result.get("error"):
            return EncryptionError(f"Vault can't open the data key: {_refusal(result)}")
        try:
            data_key = base64.b64decode(str(result.get("plaintext") or ""), validate=True)
        except binascii.Error:
            data_key = b""
        if len(data_key) != _DATA_KEY_BYTES:
            return EncryptionError(
                "Vault opened the data key to something that is none; revoke this key and make a new one"
            )
        return data_key

    def _ask(self, ask: Callable[[Any], Any], items: Sequence[object]) -> list[dict[str, Any]]:
        """One result an item."""
        answer = self._call(lambda: self._authenticated(ask))
        try:
            results = list(answer["data"]["batch_results"])
        except (KeyError, TypeError):
            results = []
        if len(results) != len(items) or not all(isinstance(result, dict) for result in results):
            raise KeyServiceUnavailable(f"what answers at {self.settings.address} is no Vault, or not as we know it")
        return results

    def _authenticated(self, ask: Callable[[Any], Any]) -> object:
        client = self._client
        client.token = self._token.current(client)
        try:
            return ask(client.secrets.transit)
        except exceptions.Forbidden:
            if not self._token.refused():
                raise
        except requests.exceptions.ConnectionError as error:
            # A connection that was kept, and that Vault has ended since: once more, on a new one.
            if isinstance(error, requests.exceptions.Timeout | requests.exceptions.SSLError):
                raise
        client.token = self._token.current(client)
        return ask(client.secrets.transit)

    def _call(self, call: Callable[[], object]) -> Any:
        reason = ""
        with self._lock:
            try:
                return call()
            except KeyServiceUnavailable:
                raise
            except exceptions.InvalidRequest as error:
                found = error.json if isinstance(error.json, dict) else {}
                if isinstance(found.get("data"), dict) and "batch_results" in found["data"]:
                    return found  # some could not be opened, and each says so
                reason = f"refuses the call (400); is there a Transit key {self._key}, of a type with associated data?"
            except (exceptions.VaultError, requests.RequestException) as error:
                reason = self._reason(error)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"answers something that is not as we know it ({type(error).__name__})"
        # Out here, so that the error behind it is not kept with this one.
        raise KeyServiceUnavailable(f"Vault at {self.settings.address} {reason}")

    def _reason(self, error: Exception) -> str:
        match error:
            case exceptions.Forbidden() | exceptions.Unauthorized():
                return f"refuses our token: it has ended, or may not `update` {self._key}"
            case exceptions.InvalidPath():
                return f"has nothing at {self._key}"
            case exceptions.RateLimitExceeded():
                return "says that it is asked too often"
            case exceptions.VaultDown():
                return "is sealed, or down for maintenance"
            case requests.exceptions.SSLError():
                return "shows a certificate that is not trusted; see `ca`"
            case requests.exceptions.Timeout():
                return f"does not answer within {self.settings.timeout_seconds:g} s"
            case requests.exceptions.ConnectionError():
                return "can't be reached"
            case _:
                return f"fails: {type(error).__name__}"


def _encrypt(transit: Any, *, where: dict[str, str], items: list[dict[str, str]]) -> object:
    return transit.encrypt_data(batch_input=items, **where)


def _decrypt(transit: Any, *, where: dict[str, str], items: list[dict[str, str]]) -> object:
    return transit.decrypt_data(batch_input=items, **where)


def _batches(items: Sequence[Wrapped]) -> list[Sequence[Wrapped]]:
    return [items[first : first + BATCH_MAX] for first in range(0, len(items), BATCH_MAX)]


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _refusal(result: dict[str, Any]) -> str:
    """In our words: Vault's own may quote what it was given."""
    text = str(result.get("error") or "")
    if "version" in text:
        return "its version of the Transit key is no longer allowed; lower min_decryption_version until it is rewrapped"
    if "authentication" in text:
        return "it was altered, or belongs to another key id"
    return "it is not what this Transit key wrapped" if text else "it gave nothing"


class _Adapter(HTTPAdapter):
    """Verifies as `ostiary.tls.towards_servers`; requests adds the authorities."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=verifying_context())


def _system_authorities() -> str | bool:
    """The machine's own, where it has any: requests would take those of a package."""
    paths = ssl.get_default_verify_paths()
    found = paths.cafile or paths.openssl_cafile
    return found if found and Path(found).is_file() else True
