"""TLS towards targets: always verified, 1.2 and up, HTTP/1.1. One context for all targets that ask the same of it: the
system's authorities alone are some 400 KiB and 20 ms."""

from __future__ import annotations

import ssl
from collections.abc import Iterable

from ostiary.core.upstream import Target, TargetTls, Upstream
from ostiary.tls import configured_context, load_pair


class TargetContexts:
    """The contexts of a configuration, each made once."""

    def __init__(self) -> None:
        self._made: dict[TargetTls | None, ssl.SSLContext] = {}

    def make(self, upstreams: Iterable[Upstream]) -> None:
        """For every target, so that none is refused later. Raises CertificateRefused."""
        for upstream in upstreams:
            for target in upstream.targets:
                self.of(target)

    def of(self, target: Target) -> ssl.SSLContext | None:
        """None for a target that speaks plain HTTP. Raises CertificateRefused."""
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


def client_context(tls: TargetTls | None, *, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """Raises CertificateRefused."""
    tls = tls or TargetTls()
    context = configured_context(tls.ca, tls.ca_pem)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if tls.cert is not None and tls.cert_pem is not None and tls.key_pem is not None:
        load_pair(context, file=tls.cert, cert_pem=tls.cert_pem, key_pem=tls.key_pem)
    return context
