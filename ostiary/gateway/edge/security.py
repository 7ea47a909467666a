"""What browsers are told to be careful about, rendered at load."""

from __future__ import annotations

from ostiary.core.edge import Framing, SecurityHeaders


class SecurityLines:
    """Each line with the header it stands for, in lower case. `over_tls` has Strict-Transport-Security besides: over plain
    HTTP it must not be sent (RFC 6797 §7.2)."""

    __slots__ = ("over_tls", "plain")

    def __init__(self, security: SecurityHeaders) -> None:
        lines: list[tuple[bytes, bytes]] = []
        if security.no_sniff:
            lines.append((b"x-content-type-options", b"X-Content-Type-Options: nosniff"))
        if security.framing is Framing.DENY:
            lines.append((b"x-frame-options", b"X-Frame-Options: DENY"))
            lines.append((b"content-security-policy", b"Content-Security-Policy: frame-ancestors 'none'"))
        elif security.framing is Framing.SAME_ORIGIN:
            lines.append((b"x-frame-options", b"X-Frame-Options: SAMEORIGIN"))
            lines.append((b"content-security-policy", b"Content-Security-Policy: frame-ancestors 'self'"))
        if security.referrer_policy:
            lines.append((b"referrer-policy", f"Referrer-Policy: {security.referrer_policy}".encode()))
        self.plain = tuple(lines)
        if security.hsts_seconds:
            below = "; includeSubDomains" if security.hsts_subdomains else ""
            value = f"Strict-Transport-Security: max-age={security.hsts_seconds}{below}"
            lines.append((b"strict-transport-security", value.encode()))
        self.over_tls = tuple(lines)

    def lines(self, *, secure: bool) -> tuple[tuple[bytes, bytes], ...]:
        return self.over_tls if secure else self.plain
