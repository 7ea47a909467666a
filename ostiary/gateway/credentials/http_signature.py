"""Scheme `http-signature`: HTTP Message Signatures (RFC 9421), over what the client says they cover and at least over method,
target, and the digest of the body if there is one."""

from __future__ import annotations

import time
from hashlib import sha256, sha512
from typing import Final

from ostiary.core.content_digest import Digest, parse_content_digest
from ostiary.core.errors import ErrorCode
from ostiary.core.http_signatures import Claim, SignatureRefused, read_claim
from ostiary.core.signature_base import Recipe, SignedMessage, Uncoverable
from ostiary.core.structured_fields import Malformed
from ostiary.gateway.credentials.holding import hold_body, take_at_once
from ostiary.gateway.credentials.refusal import refuse, why_unverified
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.phases.admit import is_trusted
from ostiary.gateway.signal import Signal
from ostiary.gateway.wire.held_body import Hash

_SIGNATURE_FIELDS: Final = frozenset((b"signature-input", b"signature"))
_SMALL_S: Final = 0x73  # with which both begin: most lines are told by it
_CLOCK_DETAIL: Final = (
    "`created` must be the current Unix time in seconds, and `expires` not past. Check this machine's clock."
)


class Hashes:
    """Of a body that arrives: those that its digest names."""

    __slots__ = ("_digest", "_sha256", "_sha512", "all")

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._sha256 = None if digest.sha256 is None else sha256()
        self._sha512 = None if digest.sha512 is None else sha512()
        self.all: list[Hash] = [each for each in (self._sha256, self._sha512) if each is not None]

    def hold(self) -> bool:
        """Whether the body, which has come, is what the digest says."""
        by_256 = None if self._sha256 is None else self._sha256.digest()
        return self._digest.holds(by_256, None if self._sha512 is None else self._sha512.digest())


async def check(exchange: Exchange, keys: KeyRing) -> None:
    """Sets `scheme`, `known_key`, `nonce` and the body. Raises CREDENTIALS_INVALID, TIMESTAMP_OUT_OF_RANGE, KEYS_UNAVAILABLE,
    BODY_TOO_LARGE for a body past the bound of signed ones, and OVERLOADED when there is no room to hold it."""
    exchange.scheme = "http-signature"
    head, body = exchange.head, exchange.body
    values = head.values
    try:
        claim = read_claim(values.get(b"signature-input", b""), values.get(b"signature", b""))
    except SignatureRefused as error:
        refuse(exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, str(error))
    _check_coverage(exchange, claim)
    _check_freshness(exchange, claim)
    found = keys.find(claim.key_id, exchange.ip)
    known = await found if isinstance(found, Signal) else found
    if known is not None:
        exchange.claimed_key_id = claim.key_id
    # After the gate, which `find` asks: to gather what is covered may take milliseconds, and who is barred is to cost none.
    message = SignedMessage(head.method, b"http", values.get(b"host", b""), head.target, head.lines, values)
    _set_origin(exchange, message)
    try:
        base = claim.recipe.base(message, claim.parameters)
    except Uncoverable as uncoverable:
        refuse(exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, str(uncoverable))
    trial = keys.trial(known)
    body_holds, waited = True, False
    if body is not None:
        if not claim.recipe.covers_digest:
            refuse(
                exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, "a body, and content-digest is not covered"
            )
        digest = _digest_of(exchange, message)
        whole = take_at_once(exchange, body)
        if whole is not None:
            body_holds = digest.is_of(whole)
        else:
            waited = True
            hashes = Hashes(digest)
            await hold_body(exchange, body, hashes.all)
            body_holds = hashes.hold()
    elif claim.recipe.covers_digest:
        body_holds = _digest_of(exchange, message).is_of(b"")
    proven = trial.proven(lambda signer: claim.is_verified_by(signer, base))
    if proven is not None and waited and not await keys.is_in_force(proven):
        proven = known = None  # it has ended while its body came
    if proven is None or not body_holds:
        reason = why_unverified(known) if body_holds else "the body is not that of Content-Digest"
        refuse(exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, reason)
    _leave_to_upstream(exchange, claim)
    exchange.nonce = claim.nonce
    exchange.known_key = proven


def _set_origin(exchange: Exchange, message: SignedMessage) -> None:
    """Scheme and host as the client sent them: those of its connection, or what a trusted proxy says of the one that it has
    ended. A proxy that says two things says nothing."""
    client, values = exchange.client, message.values
    if client.secure:
        message.scheme = b"https"
    trusted = exchange.snapshot.trusted_proxies
    if trusted and is_trusted(client.peer, trusted):
        proto = values.get(b"x-forwarded-proto", b"").lower()
        if proto == b"https" or proto == b"http":
            message.scheme = proto
        host = values.get(b"x-forwarded-host")
        if host and b"," not in host:
            message.host = host


def _digest_of(exchange: Exchange, message: SignedMessage) -> Digest:
    """What the body must come to. Raises CREDENTIALS_INVALID."""
    try:
        return parse_content_digest(message.content_digest)
    except Malformed as error:
        refuse(exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, str(error))


def _check_coverage(exchange: Exchange, claim: Claim) -> None:
    """A signature that leaves open what it is for could be put on another request."""
    route, recipe = exchange.route, claim.recipe
    assert route is not None  # noqa: S101  match has set it
    if not recipe.covers_request:
        refuse(exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, "method and target are not covered")
    if route.components and not route.components <= recipe.identifiers:
        refuse(
            exchange,
            "http-signature",
            ErrorCode.CREDENTIALS_INVALID,
            "a component is not covered that the route asks for",
        )
    target = exchange.head.target
    if recipe.query_alone and target.find(b"?") == len(target) - 1:
        refuse(
            exchange,
            "http-signature",
            ErrorCode.CREDENTIALS_INVALID,
            "an empty query, which @query does not tell from none; @target-uri does",
        )
    options = exchange.head.values.get(b"connection")
    if options is not None and _ends_here(recipe, options):
        refuse(
            exchange, "http-signature", ErrorCode.CREDENTIALS_INVALID, "a header is covered that Connection takes away"
        )


def _ends_here(recipe: Recipe, options: bytes) -> bool:
    """Whether a covered header is one that `Connection` names. Some are read before they are taken away: the signature would
    hold, and the upstream not get them."""
    names = {option.strip(b" \t") for option in options.lower().split(b",")}
    return any(step.name in names for step in recipe.steps)


def _check_freshness(exchange: Exchange, claim: Claim) -> None:
    now = time.time()
    expired = claim.expires is not None and (claim.expires < int(now) or claim.expires < claim.created)
    if expired or not exchange.snapshot.skew.takes(claim.created, now):
        reason = "expires is past" if expired else "created is out of range"
        refuse(exchange, "http-signature", ErrorCode.TIMESTAMP_OUT_OF_RANGE, reason, _CLOCK_DETAIL)


def _leave_to_upstream(exchange: Exchange, claim: Claim) -> None:
    """Our signature goes no further; those of others do."""
    head = exchange.head
    head.lines = [
        line
        for line in head.lines
        if line[0] | 0x20 != _SMALL_S or line.partition(b":")[0].lower() not in _SIGNATURE_FIELDS
    ]
    if claim.other_inputs:
        head.lines.append(b"Signature-Input: " + claim.other_inputs)
    if claim.other_signatures:
        head.lines.append(b"Signature: " + claim.other_signatures)
