"""PEM files: read with the configuration, so that one that is no good is refused with its line, and what is in force does
not change with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ostiary.core.config.fields import Kind, Schema
from ostiary.core.config.kinds import read_text
from ostiary.core.config.reading import Place, Reading, Refused

if TYPE_CHECKING:
    from cryptography import x509  # 30 ms where it is imported, which files without certificates need not pay

# A chain of three certificates is 6 KiB, all public authorities together are 220 KiB.
PEM_BYTES_MAX: Final = 512 * 1024

# What is wrong and the mend, as `Values.problem` takes them.
NO_CERTIFICATE: Final = ("has no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----")


class Pem(NamedTuple):
    """A file and what stood in it; that can't be known of one `elsewhere`."""

    path: str
    content: bytes
    elsewhere: bool = False


class PemFile(Kind[Pem]):
    """A PEM file, or another as `words` say, whose change is a change of the configuration. Its content is never shown: it
    may be a private key."""

    def __init__(
        self, words: str = "a PEM file, relative to the configuration's folder", bytes_max: int = PEM_BYTES_MAX
    ) -> None:
        self._words = words
        self._bytes_max = bytes_max

    def read(self, place: Place, reading: Reading) -> Pem | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        path = reading.path(place, text.value)
        if isinstance(path, Refused):
            return path
        if reading.is_elsewhere(place):
            return Pem(str(path), b"", elsewhere=True)
        content = reading.followed_file(place, text.value, bytes_max=self._bytes_max)
        return content if isinstance(content, Refused) else Pem(str(path), content)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}

    @property
    def words(self) -> str:
        return self._words


def certificates(pem: Pem) -> list[x509.Certificate]:
    """Those of the file in their order; none if it is not PEM, or one of them can't be read."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return x509.load_pem_x509_certificates(pem.content)
    except (ValueError, UnsupportedAlgorithm):
        return []


def unfit(certificate: x509.Certificate, key_pem: Pem) -> tuple[str, str] | None:
    """Why the key is not the certificate's or can't be used, and the mend. Nothing of the key is in it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(key_pem.content, password=None)
        of_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certified = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except TypeError:
        return "is encrypted, and nobody is there to type its passphrase", "openssl pkey -in KEY -out PLAIN"
    except (ValueError, UnsupportedAlgorithm):
        return "is no private key in PEM form", "it begins with -----BEGIN PRIVATE KEY-----"
    if of_key != certified:
        return "is not the key of this certificate", "give the key that the certificate was requested with"
    return None
