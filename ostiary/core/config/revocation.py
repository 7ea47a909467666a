"""Revocation lists (CRL, RFC 5280 §5): which client certificates are no good although their authority has signed them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ostiary.core.config.pem import Pem, PemFile
from ostiary.core.config.reading import Place, Reading, Refused

if TYPE_CHECKING:
    from cryptography import x509

# A revoked certificate takes some 40 bytes, 55 in PEM: 150 000 of them.
_BYTES_MAX: Final = 8 << 20
_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n?", re.DOTALL)


class Revocations(NamedTuple):
    """`revoked` by the DER of the issuer's name and the serial number; `until` is when the first of the lists was to be
    renewed, Unix seconds."""

    revoked: frozenset[tuple[bytes, int]]
    until: float | None


NOTHING_REVOKED: Final = Revocations(frozenset(), None)


class RevocationFile(PemFile):
    """One or several lists in PEM form."""

    def __init__(self) -> None:
        super().__init__("a file of revocation lists in PEM form, relative to the configuration's folder", _BYTES_MAX)


def read_revocations(
    lists: Pem, authorities: list[x509.Certificate], place: Place, reading: Reading
) -> Revocations | Refused:
    """What the lists say, each of which one of the authorities must have signed. A list that is out of date still holds: to
    refuse everyone because a timer did not run would be worse, and nothing that it names becomes good by its age."""
    found = _parse(lists)
    if not found:
        return reading.problem(place, "has no revocation list in PEM form", "it begins with -----BEGIN X509 CRL-----")
    revoked: set[tuple[bytes, int]] = set()
    ends = []
    for each in found:
        if not any(_has_signed(authority, each) for authority in authorities):
            return reading.problem(
                place,
                "has a list that none of the authorities of client_ca has signed",
                "give that authority's list",
            )
        if (until := each.next_update_utc) is not None:
            ends.append(until.timestamp())
            if ends[-1] <= time.time():
                when = until.strftime("%Y-%m-%d %H:%M UTC")
                reading.warn(place, f"a list was to be renewed on {when}; it holds on", "fetch the next one")
        issuer = each.issuer.public_bytes()
        revoked.update((issuer, entry.serial_number) for entry in each)
    return Revocations(frozenset(revoked), min(ends, default=None))


def _parse(lists: Pem) -> list[x509.CertificateRevocationList]:
    """In their order; none if one of them can't be read."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return [x509.load_pem_x509_crl(block) for block in _LIST.findall(lists.content)]
    except (ValueError, UnsupportedAlgorithm):
        return []


def _has_signed(authority: x509.Certificate, each: x509.CertificateRevocationList) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    if authority.subject != each.issuer:
        return False
    try:
        return each.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # another kind of key: TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False
