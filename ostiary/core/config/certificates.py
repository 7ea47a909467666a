"""`gateway.listen.tls`: certificates, their keys, and whose client certificates are taken. The files are read with the
configuration, so that a pair that does not fit is refused with its line, and what is in force does not change with a file."""

from __future__ import annotations

import time
from datetime import UTC
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ostiary.core.config.fields import Kind, Record, Schema, Values, optional, required
from ostiary.core.config.kinds import Choice, read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import Certificate, ClientAuthorities, ClientCertificate

# A chain of three certificates is 6 KiB, all public authorities together are 220 KiB.
PEM_BYTES_MAX: Final = 512 * 1024


class Pem(NamedTuple):
    path: str
    content: bytes


class PemFile(Kind[Pem]):
    """A PEM file, read with the configuration. Its content is never shown: it may be a private key."""

    def read(self, place: Place, reading: Reading) -> Pem | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        content = reading.followed_file(place, text.value, bytes_max=PEM_BYTES_MAX)
        return content if isinstance(content, Refused) else Pem(str(reading.path(text.value)), content)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @property
    def words(self) -> str:
        return "a PEM file, relative to the configuration's folder"


_CERT = required("cert", PemFile(), "The certificate and its chain, PEM, its own first.")
_KEY = required("key", PemFile(), "The certificate's private key, PEM, without a passphrase.")
_CLIENT_CA = optional(
    "client_ca", PemFile(), "The authorities of client certificates, PEM. All certificates have the same."
)
_CLIENT_CERTIFICATE = optional(
    "client_certificate",
    Choice(ClientCertificate),
    "Whether a client must have a certificate of `client_ca`, or may; `required` if `client_ca` is given. The upstream gets "
    "it as `Client-Cert` (RFC 9440).",
)


def _certificate(values: Values) -> Certificate | Refused:
    cert, key, authorities = values[_CERT], values[_KEY], values[_CLIENT_CA]
    if authorities is None and values[_CLIENT_CERTIFICATE] is not None:
        return values.problem(_CLIENT_CERTIFICATE, "means nothing without client_ca", "add client_ca, or remove it")
    clients = None
    if authorities is not None:
        clients = ClientAuthorities(
            file=authorities.path,
            pem=authorities.content,
            presence=values[_CLIENT_CERTIFICATE] or ClientCertificate.REQUIRED,
        )
        if not _certificates(authorities.content):
            return values.problem(
                _CLIENT_CA, "has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----"
            )
    chain = _certificates(cert.content)
    if not chain:
        return values.problem(_CERT, "has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----")
    problem = _unfit(chain[0], key.content)
    if problem is not None:
        return values.problem(_KEY, *problem)
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


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        return []


def _unfit(certificate: x509.Certificate, key_pem: bytes) -> tuple[str, str] | None:
    """Why the key can't be used, and the mend. Nothing of the key is in it."""
    try:
        key = load_pem_private_key(key_pem, password=None)
        mine = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        theirs = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except TypeError:
        return "is encrypted, and nobody is there to type its passphrase", "openssl pkey -in KEY -out PLAIN"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key in PEM form", "it begins with -----BEGIN PRIVATE KEY-----"
    if mine != theirs:
        return "is not the key of this certificate", "give the key that the certificate was requested with"
    return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names, in lower case (RFC 9525: the subject's common name is none)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


CERTIFICATE: Record[Certificate] = Record(
    "Certificate",
    "One certificate of the gateway. With several, the client's SNI chooses. A file that changes is read again.",
    (_CERT, _KEY, _CLIENT_CA, _CLIENT_CERTIFICATE),
    _certificate,
)


def same_for_all_names(certificates: tuple[Certificate, ...]) -> bool:
    """Whether all certificates ask the same of clients. They must: a client that names one host in its SNI may name another
    in its Host header, and so choose what is asked of it (CVE-2025-23419 is the same by way of a resumed session)."""
    return len({certificate.clients for certificate in certificates}) <= 1
