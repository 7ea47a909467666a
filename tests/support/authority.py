"""An authority of a test's own, and the certificates that it signs."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ostiary.core.upstream import TargetTls

HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Signed:
    """A certificate with its key, as files."""

    cert: Path
    key: Path

    def server(self, *, clients: Authority | None = None) -> ssl.SSLContext:
        """What a server shows; with `clients` it wants a certificate of that authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.load_cert_chain(self.cert, self.key)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.cert)
        return context


class Authority:
    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = directory / f"{name}.pem"
        certificate = self._build(self._subject, self._key, [], HOUR, authority=True)
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def sign(self, *names: str, valid_for: datetime.timedelta = HOUR, stem: str | None = None) -> Signed:
        """For DNS names and addresses; expired if `valid_for` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = self._build(subject, key, [_name(each) for each in names], valid_for, authority=False)
        stem = stem or names[0].replace(":", "_")
        signed = Signed(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        signed.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        signed.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return signed

    def trusted(self, *, server_name: str | None = None, show: Signed | None = None) -> TargetTls:
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

    def _build(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        valid_for: datetime.timedelta,
        *,
        authority: bool,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + valid_for) - HOUR)
            .not_valid_after(now + valid_for)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
