"""`listen.tls`, of the gateway and of the control plane: certificates, their keys, whose client certificates are taken."""

from __future__ import annotations

import time
from datetime import UTC
from typing import TYPE_CHECKING

from ostiary.core.config.fields import Record, Values, optional, required
from ostiary.core.config.kinds import Choice
from ostiary.core.config.pem import NO_CERTIFICATE, PemFile, certificates, unfit
from ostiary.core.config.reading import Refused
from ostiary.core.config.revocation import NOTHING_REVOKED, RevocationFile, read_revocations
from ostiary.core.model import Certificate, ClientAuthorities, ClientCertificate

if TYPE_CHECKING:
    from cryptography import x509

_CERT = required("cert", PemFile(), "The certificate and its chain, PEM, its own first.")
_KEY = required("key", PemFile(), "The certificate's private key, PEM, without a passphrase.")
_CLIENT_CA = optional(
    "client_ca", PemFile(), "The authorities of client certificates, PEM. All certificates have the same."
)
_CLIENT_CERTIFICATE = optional(
    "client_certificate",
    Choice(ClientCertificate),
    "Whether a client must have a certificate of `client_ca`, or may; `required` if `client_ca` is given. Upstreams of the "
    "gateway get it as `Client-Cert` (RFC 9440).",
)
_CLIENT_CRL = optional(
    "client_crl",
    RevocationFile(),
    "Which client certificates are revoked: a list (CRL, RFC 5280) of each authority that has some. A file that changes is "
    "read again, and ends the connections of those it names.",
)


def _certificate(values: Values) -> Certificate | Refused:
    cert, key, authorities = values[_CERT], values[_KEY], values[_CLIENT_CA]
    if authorities is None and values[_CLIENT_CERTIFICATE] is not None:
        return values.problem(_CLIENT_CERTIFICATE, "means nothing without client_ca", "add client_ca, or remove it")
    if authorities is None and values[_CLIENT_CRL] is not None:
        return values.problem(_CLIENT_CRL, "means nothing without client_ca", "add client_ca, or remove it")
    if authorities is not None and not certificates(authorities):
        return values.problem(_CLIENT_CA, *NO_CERTIFICATE)
    chain = certificates(cert)
    if not chain:
        return values.problem(_CERT, *NO_CERTIFICATE)
    if (problem := unfit(chain[0], key)) is not None:
        return values.problem(_KEY, *problem)
    clients = None
    if authorities is not None:
        presence = values[_CLIENT_CERTIFICATE] or ClientCertificate.REQUIRED
        lists = values[_CLIENT_CRL]
        revocations = NOTHING_REVOKED
        if lists is not None:
            read = read_revocations(lists, certificates(authorities), values.place_of(_CLIENT_CRL), values.reading)
            if isinstance(read, Refused):
                return read
            revocations = read
        clients = ClientAuthorities(
            file=authorities.path,
            pem=authorities.content,
            presence=presence,
            revocation_file=lists and lists.path,
            revoked=revocations.revoked,
            revocation_until=revocations.until,
        )
    expires_at = chain[0].not_valid_after_utc.timestamp()
    if expires_at <= time.time():
        when = chain[0].not_valid_after_utc.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        values.reading.warn(values.place_of(_CERT), f"the certificate has expired, on {when}", "renew it")
    return Certificate(
        cert=cert.path,
        key=key.path,
        cert_pem=cert.content,
        key_pem=key.content,
        names=_names(chain[0]),
        expires_at=expires_at,
        clients=clients,
    )


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names, in lower case (RFC 9525: the subject's common name is none)."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


CERTIFICATE: Record[Certificate] = Record(
    "Certificate",
    "One certificate of a listener. With several, the client's SNI chooses. A file that changes is read again.",
    (_CERT, _KEY, _CLIENT_CA, _CLIENT_CERTIFICATE, _CLIENT_CRL),
    _certificate,
)
