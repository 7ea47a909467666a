"""Certificates for tests: an authority, and what it or nobody has signed."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ostiary.core.model import Certificate, ClientAuthorities, ClientCertificate
from ostiary.core.upstream import TargetTls

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

    def sign(self, *names: str, valid_for: datetime.timedelta = HOUR, stem: str | None = None) -> Issued:
        """As `issue`, by this authority and in its folder."""
        return issue(self.cert.parent, *names, by=self, valid_for=valid_for, stem=stem)

    @property
    def serial(self) -> tuple[bytes, int]:
        """What a revocation list calls it."""
        return self.certificate.issuer.public_bytes(), self.certificate.serial_number

    def revocation_list(self, *revoked: Issued, valid_for: datetime.timedelta = HOUR) -> bytes:
        """Of this authority, PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(min(now, now + valid_for) - HOUR)
            .next_update(now + valid_for)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(self, *, clients: Issued | None = None) -> ssl.SSLContext:
        """What a server shows; with `clients` it wants a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(self.cert, self.key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.cert)
        return context

    def trusted(self, *, server_name: str | None = None, show: Issued | None = None) -> TargetTls:
        """As the configuration has it for targets whose certificates this authority signs."""
        return TargetTls(
            ca=str(self.cert),
            ca_pem=self.cert.read_bytes(),
            server_name=server_name,
            cert=str(show.cert) if show else None,
            cert_pem=show.cert.read_bytes() if show else None,
            key=str(show.key) if show else None,
            key_pem=show.key.read_bytes() if show else None,
        )


def issue(
    directory: Path,
    *names: str,
    by: Issued | None = None,
    valid_for: datetime.timedelta = HOUR,
    stem: str | None = None,
    authority: bool = False,
    common_name: str | None = None,
) -> Issued:
    """For `names`, DNS names, addresses and URIs, of which the first is the common name. Signed by `by`, or by itself;
    expired if `valid_for` is negative."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid_for) - HOUR)
        .not_valid_after(now + valid_for)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(by.private_key if by else key, hashes.SHA256())
    )
    stem = stem or names[0].replace("*", "any").replace(":", "_").replace("/", "_")
    issued = Issued(directory / f"{stem}.pem", directory / f"{stem}.key", certificate, key)
    issued.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    issued.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return issued


def _name(text: str) -> x509.GeneralName:
    if "://" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def model(
    issued: Issued,
    *,
    clients: Issued | None = None,
    presence: ClientCertificate = ClientCertificate.REQUIRED,
    revoked: Iterable[Issued] = (),
) -> Certificate:
    """As the configuration has it for the gateway's own side; `revoked` are client certificates."""
    extension = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    authorities = None
    if clients is not None:
        authorities = ClientAuthorities(
            str(clients.cert), clients.cert.read_bytes(), presence, revoked=frozenset(each.serial for each in revoked)
        )
    return Certificate(
        cert=str(issued.cert),
        key=str(issued.key),
        cert_pem=issued.cert.read_bytes(),
        key_pem=issued.key.read_bytes(),
        names=tuple(extension.get_values_for_type(x509.DNSName)),
        expires_at=issued.certificate.not_valid_after_utc.timestamp(),
        clients=authorities,
    )
