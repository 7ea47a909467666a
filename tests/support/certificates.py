"""Certificates for tests: an authority, and what it or nobody has signed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ostiary.core.model import Certificate, ClientAuthorities, ClientCertificate

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in files."""

    cert: Path
    key: Path
    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def issue(
    directory: Path,
    *names: str,
    by: Issued | None = None,
    valid_for: datetime.timedelta = HOUR,
    stem: str | None = None,
    authority: bool = False,
) -> Issued:
    """For `names`, of which the first is the common name; signed by `by`, or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid_for) - HOUR)
        .not_valid_after(now + valid_for)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(by.private_key if by else key, hashes.SHA256())
    )
    stem = stem or names[0].replace("*", "any")
    issued = Issued(directory / f"{stem}.pem", directory / f"{stem}.key", certificate, key)
    issued.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    issued.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return issued


def model(
    issued: Issued, *, clients: Issued | None = None, presence: ClientCertificate = ClientCertificate.REQUIRED
) -> Certificate:
    """As the configuration gives it to a gateway."""
    extension = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    authorities = ClientAuthorities(str(clients.cert), clients.cert.read_bytes(), presence) if clients else None
    return Certificate(
        cert=str(issued.cert),
        key=str(issued.key),
        cert_pem=issued.cert.read_bytes(),
        key_pem=issued.key.read_bytes(),
        names=tuple(extension.get_values_for_type(x509.DNSName)),
        expires_at=issued.certificate.not_valid_after_utc.timestamp(),
        clients=authorities,
    )
