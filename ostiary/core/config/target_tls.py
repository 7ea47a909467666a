"""`tls` of an upstream: how its targets are checked, and what certificate they are shown. The files are read with the
configuration, so that one that is no good is refused with its line, and what is in force does not change with a file."""

from __future__ import annotations

from typing import Final, NamedTuple

from ostiary.core.config.addresses import ServerName
from ostiary.core.config.fields import Kind, Record, Schema, Values, optional
from ostiary.core.config.kinds import read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.upstream import TargetTls

PEM_BYTES_MAX: Final = 512 * 1024  # a chain of three certificates is 6 KiB, all public authorities together are 220 KiB


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


_CA = optional(
    "ca", PemFile(), "The authorities that may have signed their certificates, PEM; the system's if not given."
)
_SERVER_NAME = optional(
    "server_name", ServerName(), "The name that is asked for (SNI) and verified; the target's host if not given."
)
_CERT = optional("cert", PemFile(), "The certificate that the gateway shows them, and its chain, PEM, its own first.")
_KEY = optional("key", PemFile(), "That certificate's private key, PEM, without a passphrase.")

_NO_CERTIFICATE: Final = ("has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----")


def _tls(values: Values) -> TargetTls | Refused:
    ca, cert, key = values[_CA], values[_CERT], values[_KEY]
    if ca is not None and not _has_certificate(ca.content):
        return values.problem(_CA, *_NO_CERTIFICATE)
    if values.given(_CERT) is not values.given(_KEY):
        lone, other = (_CERT, "key") if values.given(_CERT) else (_KEY, "cert")
        return values.problem(lone, f"means nothing without {other}", f"add {other}, or remove it")
    if cert is not None and key is not None:
        if not _has_certificate(cert.content):
            return values.problem(_CERT, *_NO_CERTIFICATE)
        if (problem := _unfit(cert.content, key.content)) is not None:
            return values.problem(_KEY, *problem)
    return TargetTls(
        ca=ca and ca.path,
        ca_pem=ca and ca.content,
        server_name=values[_SERVER_NAME],
        cert=cert and cert.path,
        cert_pem=cert and cert.content,
        key=key and key.path,
        key_pem=key and key.content,
    )


def _has_certificate(pem: bytes) -> bool:
    from cryptography import x509  # 30 ms, which files without certificates need not pay

    try:
        return bool(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return False


def _unfit(cert_pem: bytes, key_pem: bytes) -> tuple[str, str] | None:
    """Why the key can't be used, and the mend. Nothing of the key is in it."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(key_pem, password=None)
        of_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certified = x509.load_pem_x509_certificates(cert_pem)[0].public_key()
        if of_key != certified.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            return "is not the key of this certificate", "give the key that the certificate was requested with"
    except TypeError:
        return "is encrypted, and nobody is there to type its passphrase", "openssl pkey -in KEY -out PLAIN"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key in PEM form", "it begins with -----BEGIN PRIVATE KEY-----"
    return None


TLS: Record[TargetTls] = Record(
    "Upstream tls",
    "How `https` targets are checked, which they always are, and what they are shown. A reload reads the files again.",
    (_CA, _SERVER_NAME, _CERT, _KEY),
    _tls,
)
