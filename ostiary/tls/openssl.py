"""What OpenSSL is given of certificates: what was read with the configuration, though it takes files alone; and what it
refuses of that."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from ostiary.nameless import nameless_memory


class CertificateRefused(Exception):
    """OpenSSL does not take a certificate or its key; the text names the file and OpenSSL's reason."""


def load_pair(context: ssl.SSLContext, *, file: str, cert_pem: bytes, key_pem: bytes) -> None:
    """The certificate of `file` with its chain, and its key, by nameless files: the key is on no disk but its own. Raises
    CertificateRefused."""
    chain, key = nameless_memory("certificate"), nameless_memory("key")
    try:
        for descriptor, content in ((chain, cert_pem), (key, key_pem)):
            os.write(descriptor, content)
            os.lseek(descriptor, 0, os.SEEK_SET)
        with _refusal_of(file):
            context.load_cert_chain(f"/dev/fd/{chain}", f"/dev/fd/{key}")
    finally:
        os.close(chain)
        os.close(key)


def load_authorities(context: ssl.SSLContext, *, file: str, pem: bytes) -> None:
    """Raises CertificateRefused."""
    with _refusal_of(file):
        context.load_verify_locations(cadata=pem.decode("ascii", "replace"))


@contextmanager
def _refusal_of(file: str) -> Iterator[None]:
    try:
        yield
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
        raise CertificateRefused(f"{file}: OpenSSL does not take it: {reason}") from error
