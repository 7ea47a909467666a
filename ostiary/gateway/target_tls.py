"""TLS towards targets: always verified, 1.2 and up, HTTP/1.1. One context for all targets that ask the same of it: the
system's authorities alone are some 400 KiB and 20 ms."""

from __future__ import annotations

import os
import ssl
import tempfile

from ostiary.core.upstream import Target, TargetTls


class TlsRefused(Exception):
    """OpenSSL does not take a file of an upstream's `tls`; the text names it, and OpenSSL's reason."""


class TargetContexts:
    """The contexts of a configuration, each made once."""

    def __init__(self) -> None:
        self._made: dict[TargetTls | None, ssl.SSLContext] = {}

    def of(self, target: Target) -> ssl.SSLContext | None:
        """None for a target that speaks plain HTTP. Raises TlsRefused."""
        if target.scheme != "https":
            return None
        context = self._made.get(target.tls)
        if context is None:
            context = self._made[target.tls] = client_context(target.tls)
        return context

    def keep(self, used: set[TargetTls | None]) -> None:
        """Forgets the others. Connections that are open go on."""
        for tls in self._made.keys() - used:
            del self._made[tls]


def client_context(tls: TargetTls | None) -> ssl.SSLContext:
    """Raises TlsRefused."""
    tls = tls or TargetTls()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        if tls.ca_pem is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(cadata=tls.ca_pem.decode("ascii", "replace"))
        if tls.cert_pem is not None and tls.key_pem is not None:
            _load_chain(context, tls.cert_pem, tls.key_pem)
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
        raise TlsRefused(f"tls of an upstream ({tls.ca or tls.cert}): OpenSSL does not take it: {reason}") from error
    return context


def _load_chain(context: ssl.SSLContext, cert_pem: bytes, key_pem: bytes) -> None:
    """OpenSSL reads files alone, so it gets one without a name: what was read with the configuration is what is used."""
    with tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else open(os.memfd_create("tls"), "w+b") as file:
        file.write(cert_pem + b"\n" + key_pem)
        file.flush()
        file.seek(0)
        context.load_cert_chain(f"/dev/fd/{file.fileno()}")
