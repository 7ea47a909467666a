"""TLS towards clients: 1.2 and up, one certificate or several by name (SNI)."""

from __future__ import annotations

import ssl

from ostiary.core.model import Certificate


def server_context(certificates: tuple[Certificate, ...]) -> ssl.SSLContext | None:
    """None without certificates. The first is for clients that name no host, or one that no certificate is for."""
    if not certificates:
        return None
    contexts = [_context(certificate) for certificate in certificates]
    by_name: dict[str, ssl.SSLContext] = {}
    for certificate, context in zip(certificates, contexts, strict=True):
        for name in _names(certificate):
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
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
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


def _names(certificate: Certificate) -> list[str]:
    from cryptography import x509

    with open(certificate.cert, "rb") as file:
        loaded = x509.load_pem_x509_certificate(file.read())
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
