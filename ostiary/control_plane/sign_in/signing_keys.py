"""What signs access tokens: Ed25519, made when it is first needed, renewed every month, shared by all control planes through
Postgres, sealed there as signing secrets are.

A key is published before it is used: for ten minutes, in which every process and whoever fetched the JWKS learns of it. What
can't be opened any more (its KEK was taken away) is replaced: tokens that it signed verify on until they end."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ostiary.control_plane.http import Problem, ProblemCode, Transactions
from ostiary.control_plane.sign_in import store
from ostiary.control_plane.sign_in.store import StoredSigningKey
from ostiary.core.encryption import EncryptionError, Envelope, KeyServiceUnavailable

_log = logging.getLogger("ostiary.control_plane.sign_in")

RENEWED_AFTER = timedelta(days=30)
USED_AFTER = timedelta(minutes=10)
# Beyond its renewal, as long as the last token that it signed could live, and much longer.
KEPT_FOR = RENEWED_AFTER + timedelta(days=1)
# Another process may have made one.
_LOOK_SECONDS = 60.0
# A token with an unknown kid makes us look again, not more often than this.
_COOLDOWN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private: Ed25519PrivateKey = field(repr=False)


class SigningKeys:
    """Raises Problem when the database, or the service that keeps the KEK, can't be asked."""

    def __init__(self, *, transactions: Transactions, envelope: Envelope) -> None:
        self._transactions = transactions
        self._envelope = envelope
        self._known: Sequence[StoredSigningKey] = ()
        self._looked_at = float("-inf")
        self._opened: dict[str, SigningKey] = {}
        self._lock = asyncio.Lock()

    async def current(self) -> SigningKey:
        """What new tokens are signed by."""
        async with self._lock:
            await self._look(_LOOK_SECONDS)
            found = await self._best()
            if found is None or _age(found[0]) > RENEWED_AFTER:
                await self._make(instead_of=None if found is None else found[0].kid)
                found = await self._best()
            if found is None:
                raise Problem(ProblemCode.KEY_SERVICE_UNAVAILABLE, headers=[("Retry-After", "2")])
            return found[1]

    async def public(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this name, if it is one of ours."""
        async with self._lock:
            for seconds in (_LOOK_SECONDS, _COOLDOWN_SECONDS):
                await self._look(seconds)
                for key in self._known:
                    if key.kid == kid:
                        return Ed25519PublicKey.from_public_bytes(key.public_key)
        return None

    async def document(self) -> Mapping[str, object]:
        """The JWK Set (RFC 7517 §5, RFC 8037 §2)."""
        async with self._lock:
            await self._look(_LOOK_SECONDS)
        return {"keys": [_jwk(key) for key in self._known]}

    async def _look(self, seconds: float) -> None:
        if time.monotonic() - self._looked_at < seconds:
            return
        async with self._transactions.open(reads=True) as connection:
            self._known = await store.signing_keys(connection, since=datetime.now(UTC) - KEPT_FOR)
        self._looked_at = time.monotonic()
        self._opened = {key.kid: self._opened[key.kid] for key in self._known if key.kid in self._opened}

    async def _best(self) -> tuple[StoredSigningKey, SigningKey] | None:
        """The newest that is published for long enough; where there is none, the oldest of the others."""
        ready = [key for key in self._known if _age(key) >= USED_AFTER]
        for key in (*ready, *(key for key in reversed(self._known) if key not in ready)):
            if (opened := await self._open(key)) is not None:
                return key, opened
        return None

    async def _open(self, key: StoredSigningKey) -> SigningKey | None:
        if key.kid not in self._opened:
            try:
                octets = await asyncio.to_thread(
                    self._envelope.open, key.private_sealed, key.data_key_wrapped, key_id=_context(key.kid)
                )
                self._opened[key.kid] = SigningKey(key.kid, Ed25519PrivateKey.from_private_bytes(octets))
            except KeyServiceUnavailable as error:
                raise Problem(ProblemCode.KEY_SERVICE_UNAVAILABLE, headers=[("Retry-After", "2")]) from error
            except EncryptionError as error:
                _log.warning("signing_key_not_opened", extra={"fields": {"kid": key.kid, "reason": str(error)}})
                return None
        return self._opened[key.kid]

    async def _make(self, *, instead_of: str | None) -> None:
        """One more, unless another process has just made one."""
        private = Ed25519PrivateKey.generate()
        octets = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        kid = secrets.token_hex(8)
        try:
            sealed, wrapped = await asyncio.to_thread(self._envelope.seal, octets, key_id=_context(kid))
        except EncryptionError as error:
            if instead_of is not None:  # that one is good for a day more
                _log.error("signing_key_not_renewed", extra={"fields": {"reason": str(error)}})
                return
            raise Problem(ProblemCode.KEY_SERVICE_UNAVAILABLE, headers=[("Retry-After", "2")]) from error
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        known = [key.kid for key in self._known]
        async with self._transactions.open() as connection:
            await store.lock_signing_keys(connection)
            newest = await store.signing_keys(connection, since=datetime.now(UTC) - KEPT_FOR)
            if not newest or newest[0].kid in known:
                made = StoredSigningKey(kid, public, sealed, wrapped, datetime.now(UTC))
                await store.insert_signing_key(connection, made, forget_before=datetime.now(UTC) - KEPT_FOR)
                _log.info("signing_key_made", extra={"fields": {"kid": kid}})
        await self._look(0)


def _age(key: StoredSigningKey) -> timedelta:
    return datetime.now(UTC) - key.created_at


def _context(kid: str) -> str:
    # No key id has a colon: what is sealed for one can't be taken for the other.
    return f"token-signing:{kid}"


def _jwk(key: StoredSigningKey) -> Mapping[str, object]:
    x = base64.urlsafe_b64encode(key.public_key).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x}
