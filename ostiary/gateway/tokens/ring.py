"""The callers of tokens as the request path asks: at once for a token that was verified before, else by verifying it.

A verified token is remembered by its SHA-256 until it ends, or its key is gone from the issuer's document: a warm call costs
a hash and a look-up. What is remembered is bounded; what falls out is verified again, in some 100 µs."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.issuers import Issuer
from ostiary.core.key_set import PublicKey
from ostiary.core.model import Key
from ostiary.core.token_signatures import SignatureRefused, verify_signature
from ostiary.core.tokens import ParsedToken, TokenRefused, check_claims, key_of, parse_token
from ostiary.gateway.failed_attempts import Gate
from ostiary.gateway.keys import KnownKey
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.tokens.issuer_keys import IssuerKeys

# Some 2 KB each with what the request path prepares for it: 40 MB in a worker that has this many tokens in use.
CAPACITY = 20_000
# How many used entries are passed over in the search for an unused one, so that one insertion has a bounded cost.
_SECOND_CHANCES = 16


class TokenCaller(KnownKey):
    """The caller of one token, as `issuer` was configured when it was verified with the key `signed_by`."""

    __slots__ = ("issuer", "signed_by", "subject_line")

    def __init__(self, key: Key, *, issuer: Issuer, signed_by: PublicKey, subject_line: bytes, epoch: int) -> None:
        super().__init__(key, signer=None, revision=0, epoch=epoch)
        self.issuer = issuer
        self.signed_by = signed_by
        self.subject_line = subject_line

    def __repr__(self) -> str:
        return f"TokenCaller({self.key.id!r})"

    def again(self, epoch: int) -> TokenCaller:
        """The same for another snapshot, with nothing prepared."""
        return TokenCaller(
            self.key, issuer=self.issuer, signed_by=self.signed_by, subject_line=self.subject_line, epoch=epoch
        )


class TokenRing:
    """`directory` is where key documents are kept over restarts, None for nowhere. `capacity` is how many verified tokens are
    remembered. `clock` is Unix seconds. With a `gate` nothing is verified for whoever has failed too often."""

    def __init__(
        self,
        *,
        directory: str | None,
        metrics: Metrics,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.time,
        gate: Gate | None = None,
    ) -> None:
        self._gate = gate
        self._directory = directory
        self._metrics = metrics
        self._capacity = capacity
        self._clock = clock
        self._epoch = 0
        self._known: OrderedDict[bytes, TokenCaller] = OrderedDict()
        self._issuers: dict[str, Issuer] = {}
        self._keys: dict[str, IssuerKeys] = {}
        self._started = False

    # --- what the request path asks

    def recall(self, token: bytes, issuers: Mapping[str, Issuer]) -> TokenCaller | None:
        """The caller of a token that was verified before, if the route takes its issuer. `issuers` are by `iss`."""
        digest = sha256(token).digest()
        caller = self._known.get(digest)
        if caller is None:
            return None
        if caller.expires_at <= self._clock():
            del self._known[digest]
            return None
        if caller.epoch != self._epoch:
            caller = self._known[digest] = caller.again(self._epoch)
        taken = issuers.get(caller.issuer.url)
        if taken is None or taken.name != caller.issuer.name:
            # Of an issuer that the route does not take, which may have the same `iss` as one that it does, and other
            # audiences: `verify` says so.
            return None
        caller.used = True
        return caller

    def stands(self, caller: TokenCaller) -> bool:
        """Whether a call that was let in may go on (a tunnel): its token has not ended, its issuer is configured as it
        was, and has not dropped the key."""
        issuer = caller.issuer
        keys = self._keys.get(issuer.name)
        return (
            caller.expires_at > self._clock()
            and self._issuers.get(issuer.name) == issuer
            and keys is not None
            and keys.key_set is not None
            and caller.signed_by.thumbprint in keys.key_set.thumbprints
        )

    def let_try(self, address: str) -> None:
        """To be called before `verify`. Raises Barred when too many attempts from this address have failed."""
        if self._gate is not None:
            self._gate.check(address)

    async def verify(self, token: bytes, issuers: Mapping[str, Issuer]) -> TokenCaller:
        """The caller of a token that is not remembered. Raises TokenRefused, and KEYS_UNAVAILABLE where the issuer's keys are
        not known for certain."""
        parsed = parse_token(token)
        claimed = parsed.claims.get("iss")
        issuer = issuers.get(claimed) if isinstance(claimed, str) else None
        if issuer is None:
            raise TokenRefused("iss is no issuer of this route")
        # What is refused for its claims costs no cryptography, and no fetch.
        check_claims(issuer, parsed, self._clock())
        key, subject = key_of(issuer, parsed.claims)
        signed_by = await self._verify_signature(issuer, parsed, token)
        caller = TokenCaller(
            key,
            issuer=issuer,
            signed_by=signed_by,
            subject_line=b"X-Ostiary-Subject: %b\r\n" % subject.encode(),
            epoch=self._epoch,
        )
        if self._issuers.get(issuer.name) == issuer:  # else a reload came while a document was fetched
            self._remember(sha256(token).digest(), caller)
        return caller

    async def _verify_signature(self, issuer: Issuer, parsed: ParsedToken, token: bytes) -> PublicKey:
        keys = self._keys.get(issuer.name)
        if keys is None:
            raise TokenRefused("the issuer has just been removed")
        candidates = self._candidates(keys, parsed)
        if not candidates and (newer := keys.await_newer()) is not None:
            await newer
            candidates = self._candidates(keys, parsed)
        if not candidates:
            if keys.uncertain:
                raise GatewayError(
                    ErrorCode.KEYS_UNAVAILABLE,
                    f"the keys of the issuer {issuer.name} can't be fetched, and this one is not known",
                    headers=(("Retry-After", "1"),),
                )
            raise TokenRefused("no key of the issuer has its kid")
        for candidate in candidates:
            try:
                verify_signature(issuer, parsed, token, candidate)
            except SignatureRefused as error:
                reason = str(error)
                continue
            return candidate
        raise TokenRefused(reason)

    def _candidates(self, keys: IssuerKeys, parsed: ParsedToken) -> tuple[PublicKey, ...]:
        return () if keys.key_set is None else keys.key_set.find(parsed.kid, parsed.algorithm)

    def _remember(self, digest: bytes, caller: TokenCaller) -> None:
        if len(self._known) >= self._capacity:
            self._evict()
        self._known[digest] = caller

    def _evict(self) -> None:
        """Second chance, as in keys/cache.py."""
        for _ in range(_SECOND_CHANCES):
            digest = next(iter(self._known))
            caller = self._known[digest]
            if not caller.used or caller.expires_at <= self._clock():
                break
            caller.used = False
            self._known.move_to_end(digest)
        del self._known[next(iter(self._known))]

    # --- configuration and life

    def follow(self, issuers: Mapping[str, Issuer]) -> None:
        """These are the issuers from now on. The keys of one whose document is the same stay, and so do its verified tokens
        if nothing about it has changed."""
        before = self._issuers
        self._issuers = dict(issuers)
        self._epoch += 1
        for name in before.keys() - issuers.keys():
            self._keys.pop(name).close()
        for name, issuer in issuers.items():
            keys = self._keys.get(name)
            if keys is None or keys.source != issuer.keys:
                self._keys[name] = self._make_keys(issuer, before=keys)
        self._withdraw({name for name, issuer in before.items() if issuers.get(name) != issuer})

    def _make_keys(self, issuer: Issuer, before: IssuerKeys | None) -> IssuerKeys:
        keys = IssuerKeys(
            issuer, directory=self._directory, metrics=self._metrics, changed=self._keys_gone, clock=self._clock
        )
        if before is not None:
            keys.inherit(before)
            before.close()
        if self._started:
            keys.start()
        return keys

    def _keys_gone(self, name: str) -> None:
        """What a key has signed that its issuer no longer has is worth nothing."""
        key_set = self._keys[name].key_set
        left = frozenset() if key_set is None else key_set.thumbprints
        self._forget(
            digest
            for digest, caller in self._known.items()
            if caller.issuer.name == name and caller.signed_by.thumbprint not in left
        )

    def _withdraw(self, names: set[str]) -> None:
        if names:
            self._forget(digest for digest, caller in self._known.items() if caller.issuer.name in names)

    def _forget(self, digests: Iterable[bytes]) -> None:
        for digest in list(digests):
            del self._known[digest]

    def start(self) -> None:
        """Begins to fetch. Does not wait for any issuer."""
        self._started = True
        for keys in self._keys.values():
            keys.start()

    def close(self) -> None:
        self._started = False
        for keys in self._keys.values():
            keys.close()

    def status(self) -> dict[str, object]:
        """What /status shows: no token and no subject."""
        return {
            "verified_tokens": len(self._known),
            "verified_tokens_max": self._capacity,
            "issuers": {name: keys.status() for name, keys in self._keys.items()},
        }
