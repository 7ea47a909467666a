"""The certificate that a client has shown in its handshake, as the scheme `mtls` and the request's headers need it.

A certificate belongs to its connection, and is read once for it. TLS has verified it against `client_ca` by then, also
where a session was resumed: the session holds the certificate, and is of no use under another configuration
(tls/towards_clients.py)."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ostiary.core.model import CertificateName, CertificateUse

if TYPE_CHECKING:
    from cryptography import x509

SUBJECT_BYTES_MAX: Final = 1024  # of the header X-Ostiary-Subject; usual ones have 100


class UnreadableCertificate(Exception):
    """OpenSSL has taken it, and its fields can't be read."""


class PeerCertificate:
    """`names` are what it is known by, in the order in which they are looked for. `serial` with the DER of its issuer's name
    is what a revocation list calls it. Times are Unix seconds."""

    __slots__ = ("expires_at", "key_id", "key_id_of", "names", "serial", "subject_line")

    def __init__(self, der: bytes) -> None:
        """Raises UnreadableCertificate."""
        from cryptography import (
            x509,
        )  # 30 ms where it is imported, which gateways without client certificates don't pay
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        try:
            certificate = x509.load_der_x509_certificate(der)
            self.expires_at = certificate.not_valid_after_utc.timestamp()
            self.serial = (certificate.issuer.public_bytes(), certificate.serial_number)
            public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            uris, hosts = _alternative_names(certificate)
            common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            # Of several common names the last is the most specific (RFC 4514 §2.1 writes it first).
            common_names = tuple(str(name.value) for name in common[-1:])
            subject = certificate.subject.rfc4514_string() or next(iter((*uris, *hosts)), "")
        except (ValueError, TypeError) as error:
            raise UnreadableCertificate(type(error).__name__) from error
        self.names: tuple[tuple[CertificateName, tuple[str, ...]], ...] = (
            (CertificateName.SHA256, (sha256(der).hexdigest(),)),
            (CertificateName.SPKI_SHA256, (sha256(public).hexdigest(),)),
            (CertificateName.URI, uris),
            (CertificateName.DNS, hosts),
            (CertificateName.COMMON_NAME, common_names),
        )
        self.subject_line = b"X-Ostiary-Subject: %b\r\n" % _in_header(subject)
        # Which key it is under one CertificateTable, so that a connection asks once.
        self.key_id: str | None = None
        self.key_id_of: CertificateTable | None = None


def _alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = names.get_values_for_type(x509.DNSName)
    return tuple(uris), tuple(host.lower() for host in hosts)


def _in_header(subject: str) -> bytes:
    r"""What is no visible ASCII is escaped as RFC 4514 §2.4 has it, each byte as `\C3`: an authority may put anything into a
    name, and no line of a head may come of it."""
    escaped = b"".join(
        bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%02X" % byte for byte in subject.encode("utf-8", "replace")
    )
    return escaped.strip(b" ")[:SUBJECT_BYTES_MAX]


class CertificateTable:
    """Which client certificate is which key, and which are revoked: of one snapshot."""

    def __init__(self, uses: tuple[CertificateUse, ...], revoked: frozenset[tuple[bytes, int]]) -> None:
        self._key_ids: Mapping[tuple[CertificateName, str], str] = {(use.by, use.value): use.key_id for use in uses}
        self._revoked = revoked

    def is_revoked(self, certificate: PeerCertificate) -> bool:
        return certificate.serial in self._revoked

    def key_id(self, certificate: PeerCertificate) -> str | None:
        """The most exact name that stands for a key decides; None if none does, if two of one sort stand for different
        keys, or if the certificate is revoked."""
        if certificate.key_id_of is not self:
            certificate.key_id = self._find(certificate)
            certificate.key_id_of = self
        return certificate.key_id

    def _find(self, certificate: PeerCertificate) -> str | None:
        if self.is_revoked(certificate):
            return None
        for by, values in certificate.names:
            found = {key_id for value in values if (key_id := self._key_ids.get((by, value))) is not None}
            if found:
                return found.pop() if len(found) == 1 else None
        return None
