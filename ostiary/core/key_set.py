"""A JWK Set (RFC 7517 §5): the public keys of an issuer, as its document has them at one time. Pure: nothing is fetched here.

PyJWT reads the keys. What could not safely verify anything is left out, with a word on why: symmetric keys, keys for
encryption, RSA below 2048 bits, curves that none of our algorithms uses. A document may hold such keys beside good ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ostiary.core.issuers import Algorithm
from ostiary.core.tokens import TokenRefused, read_json_object

DOCUMENT_BYTES_MAX: Final = 256 * 1024  # a key with its chain of certificates is some 6 KiB
KEYS_MAX: Final = 100
_RSA_BITS_MIN: Final = 2048  # RFC 7518 §3.3
_RSA_BITS_MAX: Final = 8192  # verifying takes time that grows with it

_ALGORITHMS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("RSA", ""): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


class KeySetRefused(Exception):
    """The document is no JWK Set; the text says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`thumbprint` is what the key is, whatever it is called. `public` is PyJWT's: a public key of `cryptography`."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: tuple[str, ...]
    public: Any


@dataclass(frozen=True, slots=True)
class KeySet:
    """`left_out` says which keys of the document are not used and why, by their place."""

    keys: tuple[PublicKey, ...]
    left_out: tuple[str, ...] = ()

    @property
    def thumbprints(self) -> frozenset[tuple[str, ...]]:
        return frozenset(key.thumbprint for key in self.keys)

    def find(self, kid: str | None, algorithm: str) -> tuple[PublicKey, ...]:
        """Those that a token may be signed by: of its `kid`; or, without one, the one key that its algorithm fits."""
        fitting = tuple(key for key in self.keys if algorithm in key.algorithms)
        if kid is None:
            return fitting if len(fitting) == 1 else ()
        return tuple(key for key in fitting if key.kid == kid)


def parse_key_set(document: bytes) -> KeySet:
    """Raises KeySetRefused."""
    if len(document) > DOCUMENT_BYTES_MAX:
        raise KeySetRefused(f"larger than {DOCUMENT_BYTES_MAX >> 10} KiB")
    try:
        entries = read_json_object(document, "document").get("keys")
    except TokenRefused as error:
        raise KeySetRefused(str(error)) from error
    if not isinstance(entries, list):
        raise KeySetRefused("no list `keys`: that is no JWK Set (RFC 7517)")
    if len(entries) > KEYS_MAX:
        raise KeySetRefused(f"more than {KEYS_MAX} keys")
    keys: list[PublicKey] = []
    left_out: list[str] = []
    for place, entry in enumerate(entries):
        key = _read(entry)
        if isinstance(key, str):
            left_out.append(f"keys[{place}]: {key}")
        else:
            keys.append(key)
    return KeySet(tuple(keys), tuple(left_out))


def _read(entry: object) -> PublicKey | str:
    """The key, or why it is not used."""
    from jwt.algorithms import (
        get_default_algorithms,
    )  # 20 ms where it is imported: gateways without issuers don't pay it
    from jwt.exceptions import InvalidKeyError

    if not isinstance(entry, dict):
        return "no JSON object"
    kty, crv, kid, use, alg = (entry.get(name) for name in ("kty", "crv", "kid", "use", "alg"))
    if kid is not None and not isinstance(kid, str):
        return "its kid is no text"
    if use is not None and use != "sig":
        return "not for signatures"
    operations = entry.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return "not for verifying"
    fitting = _ALGORITHMS.get((str(kty), "" if kty == "RSA" else str(crv)))
    if fitting is None:
        return "a symmetric key" if kty == "oct" else "a kind of key that is not used"
    if alg is not None:
        fitting = fitting & {str(alg)}
        if not fitting:
            return "its alg is not used, or not of its kind"
    members = ("n", "e") if kty == "RSA" else ("crv", "x", "y") if kty == "EC" else ("crv", "x")
    public_members = {"kty": str(kty)} | {name: entry[name] for name in members if isinstance(entry.get(name), str)}
    try:
        # Its public members alone: a private key that was published by mistake is at least not handed about.
        public = get_default_algorithms()[min(fitting)].from_jwk(public_members)
    except (InvalidKeyError, ValueError, KeyError, TypeError, OverflowError):
        return "it can't be read"
    if kty == "RSA" and not _RSA_BITS_MIN <= public.key_size <= _RSA_BITS_MAX:
        return f"an RSA key of less than {_RSA_BITS_MIN} or more than {_RSA_BITS_MAX} bits"
    return PublicKey(kid, frozenset(fitting), tuple(public_members.values()), public)


def algorithms_of(key_set: KeySet) -> frozenset[Algorithm]:
    """What its keys can verify."""
    return frozenset(Algorithm(name) for key in key_set.keys for name in key.algorithms)
