"""The client certificate that a call's connection has shown, and whether privileged calls must have one.

TLS has verified it against `client_ca` in its handshake. That it has ended since, or is revoked, is asked with every call:
connections are kept, and OpenSSL asks no revocation list."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

from ostiary.control_plane.http.problems import Problem, ProblemCode
from ostiary.core.model import ClientCertificate, ControlPlaneSettings

# Connections of one client show the same one; each takes some 50 us to read, and is kept with its 2 KB.
_READ_MAX = 256


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """`serial`, with the DER of its issuer's name, is what a revocation list calls it. `expires_at` is in Unix seconds."""

    serial: tuple[bytes, int]
    expires_at: float


class ClientCertificates:
    """What the configuration says of them, which may change while calls are served."""

    def __init__(self, settings: ControlPlaneSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.follow(settings)

    def follow(self, settings: ControlPlaneSettings) -> None:
        """For every call from now on."""
        clients = settings.listen.tls[0].clients if settings.listen.tls else None
        self._revoked = frozenset() if clients is None else clients.revoked
        self.required_of_privileged = settings.privileged_certificate is ClientCertificate.REQUIRED

    def of(self, request: web.Request) -> ShownCertificate | None:
        """None if the connection has shown none. Raises Problem `client_certificate_refused`, by which the connection
        ends."""
        tls = request.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        if der is None:
            return None
        try:
            shown = _read(der)
        except (ValueError, TypeError) as error:  # OpenSSL has taken it, and its fields can't be read
            raise _refused() from error
        if shown.serial in self._revoked or shown.expires_at <= self._clock():
            raise _refused()
        return shown


@lru_cache(maxsize=_READ_MAX)
def _read(der: bytes) -> ShownCertificate:
    from cryptography import x509  # 30 ms where it is imported, which those without client certificates need not pay

    certificate = x509.load_der_x509_certificate(der)
    serial = (certificate.issuer.public_bytes(), certificate.serial_number)
    return ShownCertificate(serial, certificate.not_valid_after_utc.timestamp())


def _refused() -> Problem:
    return Problem(ProblemCode.CLIENT_CERTIFICATE_REFUSED, headers=[("Connection", "close")])
