"""`stores.key_encryption_key` and `stores.key_encryption_keys`: what wraps the data keys that encrypt signing secrets."""

from __future__ import annotations

import base64
import binascii
import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from ostiary.core.config.fields import Field, Kind, MapOf, Record, Schema, Values, defaulted, optional, required
from ostiary.core.config.kinds import Duration, Secret, TextKind, read_text
from ostiary.core.config.pem import NO_CERTIFICATE, PemFile, certificates
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import AppRole, KeyEncryption, SecretFile, VaultTransit

# The name of the KEK that stands alone, in `stores.key_encryption_key`. Local KEKs are told by their value, so a file may
# go from the one form to the other and back.
ALONE: Final = "key_encryption_key"

# A KEK that nothing needs any more is removed; more than this many are no plan.
_KEYS_MAX: Final = 16


def parse_kek(text: str) -> bytes:
    """The 32 bytes of a key-encryption key written as base64 (either alphabet, padding optional) or as 64 hex digits; blanks
    around it are ignored. Raises ValueError, without the text."""
    stripped = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", stripped):
        return bytes.fromhex(stripped)
    standard = stripped.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        kek = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        kek = b""
    if len(kek) != 32:
        raise ValueError("a key-encryption key is 32 bytes, in base64 or hexadecimal")
    return kek


class EncryptionKey(Kind[bytes]):
    """32 bytes, as base64 (44 characters) or hexadecimal (64). Never shown."""

    _SECRET: Final = Secret(43, 64)

    def read(self, place: Place, reading: Reading) -> bytes | Refused:
        text = self._SECRET.read(place, reading)
        if isinstance(text, Refused):
            return text
        try:
            return parse_kek(text)
        except ValueError:
            return reading.problem(place, f"must be {self.words}", "make one: openssl rand -base64 32")

    def schema(self) -> Schema:
        return self._SECRET.schema()

    @property
    def words(self) -> str:
        return "a secret of 32 bytes, written in base64 or as 64 hexadecimal digits"


class RenewedSecret(Kind[str | SecretFile]):
    """A secret that others may renew in its file while this process runs: `file:/path` is read again each time it is
    needed. It is read once at load as well, so that a file that is missing is told with its line."""

    _SECRET: Final = Secret(1, 4096)

    def read(self, place: Place, reading: Reading) -> str | SecretFile | Refused:
        text = self._SECRET.read(place, reading)
        if isinstance(text, Refused):
            return text
        written = reading.text(place)
        if not isinstance(written, Refused) and written.value.startswith("file:"):
            path = reading.path(place, written.value.removeprefix("file:"))
            return path if isinstance(path, Refused) else SecretFile(str(path))
        return text

    def schema(self) -> Schema:
        return self._SECRET.schema()

    @property
    def words(self) -> str:
        return "a secret: `file:/path`, which is read anew whenever it is needed, or `${NAME}`"


class ServiceAddress(Kind[str]):
    """Where Vault is. Plain HTTP carries a token in the clear, so it is for this machine alone (an agent beside us)."""

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            parts = urlsplit(text.value)
            _ = parts.port
        except ValueError:
            return reading.problem(place, f"must be {self.words}", "write https://host:8200")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            return reading.problem(place, f"must be {self.words}", "write https://host:8200")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            return reading.problem(place, "the address ends with the port", "the mount has a field of its own")
        if parts.scheme == "http" and not _is_this_machine(parts.hostname):
            return reading.problem(
                place, "plain HTTP to another machine would show it the token and every data key", "use https"
            )
        return text.value.rstrip("/")

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^https?://[^/?#@]+/?$|\$\{"}

    @property
    def words(self) -> str:
        return "the URL of Vault or OpenBao, `https://host:8200`"


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_ROLE_ID = required("role_id", RenewedSecret(), "The role.")
_SECRET_ID = required("secret_id", RenewedSecret(), "Its secret.")
_ROLE_MOUNT = defaulted(
    "mount", TextKind(r"[A-Za-z0-9_./-]{1,128}", "a mount path"), "Where the method is mounted.", "approle"
)
APP_ROLE: Record[AppRole] = Record(
    "AppRole",
    "How a process signs in at Vault by itself. A token that has ended is replaced by another sign-in.",
    (_ROLE_ID, _SECRET_ID, _ROLE_MOUNT),
    lambda values: AppRole(role_id=values[_ROLE_ID], secret_id=values[_SECRET_ID], mount=values[_ROLE_MOUNT]),
)

_ADDRESS = required("address", ServiceAddress(), "Where it is.")
_KEY = required(
    "key", TextKind(r"[A-Za-z0-9_.-]{1,128}", "the name of a Transit key: letters, digits, `.`, `-`, `_`"), "Its name."
)
_MOUNT = defaulted(
    "mount", TextKind(r"[A-Za-z0-9_./-]{1,128}", "a mount path"), "Where the Transit engine is mounted.", "transit"
)
_NAMESPACE = optional(
    "namespace", TextKind(r"[A-Za-z0-9_./-]{1,256}", "a namespace"), "The namespace, if there are any."
)
_CA = optional("ca", PemFile(), "The authorities that may have signed its certificate, PEM; the system's if not given.")
_TOKEN = optional("token", RenewedSecret(), "The token; one that can be renewed is renewed in time.")
_APP_ROLE = optional("app_role", APP_ROLE, "How to sign in, instead of a token.")
_TIMEOUT = defaulted("timeout", Duration("100ms", "30s"), "The longest wait for one answer.", "2s")
_CACHE = defaulted(
    "cache_for",
    Duration("10s", "7d"),
    "How long a gateway uses a data key that Vault has opened. Keys in use are opened anew at half of it; so while Vault is "
    "away they work on for at least half of it, and at most all of it.",
    "1h",
)


def _vault(values: Values) -> VaultTransit | Refused:
    if (values.given(_TOKEN)) is values.given(_APP_ROLE):
        return values.reading.problem(
            values.place, "must have either token or app_role", "token: file:/run/ostiary/vault-token"
        )
    ca = values[_CA]
    if ca is not None and not certificates(ca):
        return values.problem(_CA, *NO_CERTIFICATE)
    return VaultTransit(
        address=values[_ADDRESS],
        key=values[_KEY],
        mount=values[_MOUNT].strip("/"),
        namespace=values[_NAMESPACE],
        ca=ca and ca.path,
        token=values[_TOKEN],
        app_role=values[_APP_ROLE],
        timeout_seconds=values[_TIMEOUT],
        cache_seconds=values[_CACHE],
    )


VAULT: Record[VaultTransit] = Record(
    "Vault Transit",
    "A key-encryption key that Vault, or OpenBao, keeps and never gives out: a Transit key of a type with associated data "
    "(`aes256-gcm96`). The role needs `update` on `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`, and nothing else. "
    "Needs `pip install 'ostiary[vault]'`.",
    (_ADDRESS, _KEY, _MOUNT, _NAMESPACE, _CA, _TOKEN, _APP_ROLE, _TIMEOUT, _CACHE),
    _vault,
)

_SECRET = optional("secret", EncryptionKey(), "The key itself: `file:/path` or `${NAME}`.")
_VAULT = optional("vault", VAULT, "Where the key is kept.")


def _kek(values: Values) -> bytes | VaultTransit | Refused:
    if values.given(_SECRET) is values.given(_VAULT):
        return values.reading.problem(values.place, "must have either secret or vault")
    chosen: bytes | VaultTransit | None = values[_SECRET] if values.given(_SECRET) else values[_VAULT]
    return Refused.REFUSED if chosen is None else chosen  # it was refused, and that is noted


KEK: Record[bytes | VaultTransit] = Record(
    "Key-encryption key", "A key that wraps data keys: itself, or where it is kept.", (_SECRET, _VAULT), _kek
)

_NAME = TextKind(r"[a-z0-9][a-z0-9_-]{0,63}", "a name of lower-case letters, digits, `_` and `-`")
_CURRENT = required("current", _NAME, "The name of the one that wraps what is made from now on. The others only open.")
_KEYS = required(
    "keys",
    MapOf(_NAME, KEK, high=_KEYS_MAX),
    "By name. The name of one that Vault keeps stands in the rows that it wrapped: never change it, nor give it to another.",
)


def _key_encryption(values: Values) -> KeyEncryption | Refused:
    keys, current = values[_KEYS], values[_CURRENT]
    if current not in keys:
        return values.problem(_CURRENT, "is none of the keys", f"there is {', '.join(sorted(keys)) or 'none'}")
    local = [key for key in keys.values() if isinstance(key, bytes)]
    if len(set(local)) < len(local):
        return values.problem(_KEYS, "two of them are the same key", "remove one")
    return KeyEncryption(current=current, keys=keys)


KEY_ENCRYPTION: Record[KeyEncryption] = Record(
    "Key encryption keys",
    "Several key-encryption keys, so that one can follow another while the gateway serves: add the new one everywhere, make "
    "it `current`, run `ostiary keys rewrap`, remove the old one.",
    (_CURRENT, _KEYS),
    _key_encryption,
)


def the_only_one(key: bytes) -> KeyEncryption:
    return KeyEncryption(current=ALONE, keys={ALONE: key})


def fields() -> tuple[Field[bytes | None], Field[KeyEncryption | None]]:
    """Those of `stores`."""
    return (
        optional(
            "key_encryption_key",
            EncryptionKey(),
            "Wraps the data keys that encrypt signing secrets in Postgres. Needed for signed calls with keys of the control "
            "plane.",
        ),
        optional("key_encryption_keys", KEY_ENCRYPTION, "The same with several keys, or with one that Vault keeps."),
    )
