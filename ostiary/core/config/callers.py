"""What only the whole file can tell of issuers, client certificates and the routes that take them."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.core.config.fields import At
from ostiary.core.config.problems import shown, suggestion
from ostiary.core.config.reading import Reading
from ostiary.core.issuers import Issuer
from ostiary.core.model import Certificate, CertificateName, CertificateUse, Key, Route, Scheme


def asks_for_certificates(tls: tuple[Certificate, ...]) -> bool:
    """Whether clients may show one: all certificates of a gateway ask the same."""
    return bool(tls) and tls[0].clients is not None


def check_callers(
    reading: Reading,
    routes: tuple[At[Route], ...],
    keys: tuple[At[Key], ...],
    *,
    issuers: Mapping[str, At[Issuer]],
    certificates: tuple[At[CertificateUse], ...],
    asks_for_certificates: bool,
    keys_elsewhere: bool,
) -> None:
    """Each token has one issuer and each certificate one key, and a route can get what it asks for."""
    _check_issuers(reading, routes, issuers)
    _check_forms(reading, routes, keys)
    _check_certificates(reading, certificates, keys, keys_elsewhere=keys_elsewhere)
    taking = [route for route in routes if Scheme.MTLS in route.value.authentication.schemes]
    for _, place in taking:
        if not asks_for_certificates:
            reading.problem(
                place,
                "takes the scheme 'mtls', and the gateway asks no client for a certificate",
                "add client_ca to gateway.listen.tls; client_certificate: optional if others may do without",
            )
        elif not certificates:
            reading.warn(place, "takes the scheme 'mtls', and no certificate is any key", "add certificates")
    if certificates and not taking:
        reading.warn(certificates[0].place, "no route takes the scheme 'mtls'")


def _check_issuers(reading: Reading, routes: tuple[At[Route], ...], issuers: Mapping[str, At[Issuer]]) -> None:
    for route, place in routes:
        by_url: dict[str, str] = {}
        for name in route.authentication.issuers:
            if name in issuers and (other := by_url.setdefault(issuers[name].value.url, name)) != name:
                reading.problem(
                    place,
                    f"takes tokens of {other!r} and {name!r}, which are told apart by nothing: their `issuer` is the same",
                    "leave one of them, with all audiences",
                )
    for name in sorted(reading.unused("issuer")):
        if name in issuers:
            reading.warn(issuers[name].place, "no route takes tokens of this issuer")


def _check_forms(reading: Reading, routes: tuple[At[Route], ...], keys: tuple[At[Key], ...]) -> None:
    """A secret with two dots would be read as a token where a route takes both, and one with a colon as a signature."""
    bearer = [route for route, _ in routes if Scheme.BEARER in route.authentication.schemes]
    both = next((route for route in bearer if Scheme.JWT in route.authentication.schemes), None)
    for key, place in keys:
        secrets = [each.secret for each in (key, key.previous) if each is not None and each.secret is not None]
        if both is not None and any(secret.count(b".") == 2 for secret in secrets):
            reading.problem(
                place,
                f"its secret has two dots, as a token has, and the route {both.name!r} takes both",
                "give it a secret without dots",
            )
        if bearer and any(b":" in secret for secret in secrets):
            reading.warn(
                place,
                f"its secret has a colon, so in X-API-Key the route {bearer[0].name!r} takes it for a signature",
                "send it as Authorization: Bearer, or give it a secret without colons",
            )


def _check_certificates(
    reading: Reading, certificates: tuple[At[CertificateUse], ...], keys: tuple[At[Key], ...], *, keys_elsewhere: bool
) -> None:
    ids = {key.value.id for key in keys}
    first: dict[tuple[CertificateName, str], CertificateUse] = {}
    for use, place in certificates:
        if first.setdefault((use.by, use.value), use) is not use:
            reading.problem(
                place, f"names a certificate by {use.by} that an entry before it names", "leave one of them"
            )
        if use.key_id not in ids and not keys_elsewhere:
            reading.problem(
                place,
                f"there is no key {shown(use.key_id)}",
                suggestion(use.key_id, sorted(ids))
                or "add it under keys, or set stores.postgres for the control plane's",
            )
