"""JWTs of the one outside issuer that may be configured (`control_plane.issuer`): verified as strictly as ours (RFC 8725),
and read for who calls, never for what they may."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from ostiary.control_plane.http import Problem, ProblemCode
from ostiary.core.issuers import Issuer, KeysAt, SignInIssuer
from ostiary.core.key_set import KeySet, KeySetRefused, PublicKey, parse_key_set
from ostiary.core.token_signatures import SignatureRefused, verify_signature
from ostiary.core.tokens import SUBJECT_CHARACTERS_MAX, ParsedToken, TokenRefused, check_claims, claim_at
from ostiary.key_documents.fetch import FetchFailed, fetch_document

_log = logging.getLogger("ostiary.control_plane.sign_in")


@dataclass(frozen=True, slots=True)
class OutsideClaims:
    """`email` is None if the issuer does not vouch for it."""

    issuer: str
    subject: str
    email: str | None


class OutsideIssuer:
    def __init__(self, configured: SignInIssuer) -> None:
        self._configured = configured
        self._keys = _Keys(configured)

    @property
    def url(self) -> str:
        return self._configured.issuer.url

    async def verified(self, parsed: ParsedToken, token: bytes) -> OutsideClaims:
        """Raises TokenRefused, and Problem `issuer_unavailable` when its keys can't be had now."""
        issuer = self._configured.issuer
        check_claims(issuer, parsed, time.time())
        keys = await self._keys.find(parsed)
        if not any(_signed(issuer, parsed, token, key) for key in keys):
            raise TokenRefused("no key of the issuer has signed it")
        subject, email = parsed.claims.get("sub"), claim_at(parsed.claims, self._configured.email)
        if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARACTERS_MAX or "\0" in subject:
            raise TokenRefused("the subject is missing, or longer than 255 characters")
        vouched = not self._configured.verified_email_required or parsed.claims.get("email_verified") is True
        return OutsideClaims(issuer.url, subject, email if isinstance(email, str) and vouched else None)


def _signed(issuer: Issuer, parsed: ParsedToken, token: bytes, key: PublicKey) -> bool:
    try:
        verify_signature(issuer, parsed, token, key)
    except SignatureRefused:
        return False
    return True


class _Keys:
    """Those of its document: fetched when they are needed, again when they are old or a token names one that is not there,
    and believed for a bounded time while they can't be renewed."""

    def __init__(self, configured: SignInIssuer) -> None:
        self._source = configured.issuer.keys
        self._known: KeySet | None = None
        self._fetched_at = float("-inf")
        self._attempted_at = float("-inf")
        self._failed = False
        self._lock = asyncio.Lock()
        if not isinstance(self._source, KeysAt):
            self._known = parse_key_set(self._source.document)

    async def find(self, parsed: ParsedToken) -> tuple[PublicKey, ...]:
        source = self._source
        if isinstance(source, KeysAt):
            await self._renew(source, wanted=False)
        found = () if self._known is None else self._known.find(parsed.kid, parsed.algorithm)
        if not found and isinstance(source, KeysAt):
            await self._renew(source, wanted=True)
            found = () if self._known is None else self._known.find(parsed.kid, parsed.algorithm)
            if not found and self._failed:  # it may well exist
                raise Problem(ProblemCode.ISSUER_UNAVAILABLE, headers=[("Retry-After", "5")])
        return found

    async def _renew(self, source: KeysAt, *, wanted: bool) -> None:
        async with self._lock:
            now = time.monotonic()
            if now - self._fetched_at > source.stale_seconds:
                self._known = None
            due = wanted or now - self._fetched_at > source.refresh_seconds
            if not due or now - self._attempted_at < source.cooldown_seconds:
                return
            self._attempted_at = now
            try:
                self._known = parse_key_set(await fetch_document(source))
                self._fetched_at, self._failed = time.monotonic(), False
            except (FetchFailed, KeySetRefused) as error:
                self._failed = True
                _log.warning("issuer_keys_not_fetched", extra={"fields": {"reason": str(error)}})
