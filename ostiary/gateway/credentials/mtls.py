"""Scheme `mtls`: the client certificate of the connection (RFC 8446 §4.4.2), which is a key by configuration."""

from __future__ import annotations

import time

from ostiary.core.errors import ErrorCode
from ostiary.gateway.credentials.refusal import refuse
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.peer_certificate import PeerCertificate
from ostiary.gateway.signal import Signal


async def check(exchange: Exchange, keys: KeyRing, certificate: PeerCertificate) -> None:
    """Sets `scheme`, `known_key` and `subject_line`. Raises CREDENTIALS_INVALID, KEYS_UNAVAILABLE.

    Its end is looked at with every call: a connection may outlive its certificate, and a resumed session is not verified
    anew."""
    exchange.scheme = "mtls"
    if certificate.expires_at <= time.time():
        refuse(exchange, "mtls", ErrorCode.CREDENTIALS_INVALID, "the client certificate has expired")
    key_id = exchange.snapshot.certificates.key_id(certificate)
    if key_id is None:
        refuse(exchange, "mtls", ErrorCode.CREDENTIALS_INVALID, "the client certificate is no key, or is revoked")
    found = keys.find(key_id)
    known = await found if isinstance(found, Signal) else found
    if known is None:
        refuse(exchange, "mtls", ErrorCode.CREDENTIALS_INVALID, "unknown, revoked or expired key")
    exchange.known_key = known
    exchange.subject_line = certificate.subject_line


def still_holds(exchange: Exchange, key_id: str) -> bool:
    """Whether a call that this certificate has opened (a tunnel) may go on, under the configuration that is in force now."""
    client = exchange.client
    certificate = client.certificate
    return (
        certificate is not None
        and certificate.expires_at > time.time()
        and client.snapshot.certificates.key_id(certificate) == key_id
    )
