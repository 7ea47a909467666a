"""TLS towards clients: 1.2 and up, one certificate or several by name (SNI), client certificates if they are asked for."""

from __future__ import annotations

import ssl

from ostiary.core.model import Certificate, ClientCertificate
from ostiary.tls.openssl import load_authorities, load_pair

# For TLS 1.2; those of 1.3 are all good. Forward secrecy and authenticated encryption alone (RFC 9325 §4.2).
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


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
    load_pair(context, file=certificate.cert, cert_pem=certificate.cert_pem, key_pem=certificate.key_pem)
    if certificate.clients is not None:
        optional = certificate.clients.presence is ClientCertificate.OPTIONAL
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        load_authorities(context, file=certificate.clients.file, pem=certificate.clients.pem)
    return context
