"""TLS towards clients: 1.2 and up, one certificate or several by name (SNI), client certificates if they are asked for."""

from __future__ import annotations

import os
import ssl

from ostiary.core.model import Certificate, ClientCertificate
from ostiary.gateway.telemetry.metrics import shared_region

# For TLS 1.2; those of 1.3 are all good. Forward secrecy and authenticated encryption alone (RFC 9325 §4.2).
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class CertificateRefused(Exception):
    """OpenSSL does not take a certificate or its key; the text names the file and OpenSSL's reason."""


def server_context(certificates: tuple[Certificate, ...]) -> ssl.SSLContext | None:
    """None without certificates. The first is for clients that name no host, or one that no certificate is for.

    Tickets are sealed by keys of the context, so that a session of one context can't be resumed under the next: what a
    reload asks of clients is asked of all that connect after it. Raises CertificateRefused."""
    if not certificates:
        return None
    contexts = [_context(certificate) for certificate in certificates]
    by_name: dict[str, ssl.SSLContext] = {}
    for certificate, context in zip(certificates, contexts, strict=True):
        for name in certificate.names:
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Changes the certificate alone: what is asked of clients is the first context's, and the same for all
        (core/config/certificates.py)."""
        if name is not None:
            lower = name.lower()
            found = by_name.get(lower) or by_name.get("*." + lower.partition(".")[2])
            if found is not None:
                connection.context = found

    contexts[0].sni_callback = choose
    return contexts[0]


def _context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        _load_chain(context, certificate)
        if certificate.clients is not None:
            optional = certificate.clients.presence is ClientCertificate.OPTIONAL
            context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=certificate.clients.pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
        raise CertificateRefused(f"{certificate.cert}: OpenSSL does not take it: {reason}") from error
    return context


def _load_chain(context: ssl.SSLContext, certificate: Certificate) -> None:
    """OpenSSL takes files alone, so it gets nameless ones: what was read with the configuration is what is used, and the
    key is on no disk but its own."""
    chain, key = shared_region("certificate"), shared_region("key")
    try:
        for descriptor, content in ((chain, certificate.cert_pem), (key, certificate.key_pem)):
            os.write(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
        context.load_cert_chain(f"/dev/fd/{chain}", f"/dev/fd/{key}")
    finally:
        os.close(chain)
        os.close(key)
