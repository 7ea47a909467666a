"""TLS towards servers that we call: stores, targets, key services, the control plane.

`ssl.create_default_context` is another thing on every Python: since 3.13 it refuses what RFC 5280 asks of certificates beyond
what makes them secure (a key identifier, the uses of an authority's key), and so the certificates of some hosted Redis and of
many private authorities. Here they are taken on all, or on none (docs/decisions/0043-certificates-of-servers.md)."""

from __future__ import annotations

import ssl
from pathlib import Path

from ostiary.tls.openssl import load_authorities


def verifying_context() -> ssl.SSLContext:
    """Verifies certificate and name, from TLS 1.2 on. It trusts nobody yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def context_towards_servers(authorities: str | Path | None = None) -> ssl.SSLContext:
    """Trusts the authorities in that PEM file, or else the system's. Raises OSError, ssl.SSLError among them."""
    context = verifying_context()
    if authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=authorities)
    return context


def configured_context(ca: str | None, ca_pem: bytes | None) -> ssl.SSLContext:
    """Trusts the authorities that were read from file `ca` with the configuration, or else the system's. Raises
    CertificateRefused."""
    if ca is None or ca_pem is None:
        return context_towards_servers()
    context = verifying_context()
    load_authorities(context, file=ca, pem=ca_pem)
    return context
