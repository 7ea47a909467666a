"""The section `certificates`: which client certificate is which key (scheme `mtls`)."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.config.fields import Kind, ListOf, Placed, Record, Schema, Values, optional, required
from ostiary.core.config.kinds import TextKind, or_reference, read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import CertificateName, CertificateUse


class Fingerprint(Kind[str]):
    """SHA-256 in hexadecimal, with or without colons, as `openssl x509 -fingerprint -sha256` prints it."""

    _FORM: Final = r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}"

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if re.fullmatch(self._FORM, text.value) is None:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return text.value.replace(":", "").lower()

    def schema(self) -> Schema:
        return or_reference({"type": "string", "pattern": f"^{self._FORM}$"})

    @property
    def words(self) -> str:
        return "a SHA-256 in hexadecimal digits, with colons or without (quote it)"


_SHA256 = optional("sha256", Fingerprint(), "This one certificate: `openssl x509 -in F -noout -fingerprint -sha256`.")
_SPKI = optional(
    "spki_sha256", Fingerprint(), "Every certificate of this public key, so that renewals with the same key go on."
)
_URI = optional(
    "uri", TextKind(r"[!-~]{1,512}", "a URI such as `spiffe://example.com/billing`"), "A URI among its names."
)
_DNS = optional("dns", TextKind(r"[a-z0-9.*-]{1,253}", "a DNS name", lower=True), "A DNS name among its names.")
_COMMON_NAME = optional(
    "common_name", TextKind(r".{1,64}", "a common name"), "The common name of its subject; for want of better ones."
)
_KEY = required(
    "key",
    TextKind(r"[A-Za-z0-9_]{4,64}", "the id of a key, of this file or of the control plane"),
    "The id of the key.",
)
_BY: Final = (
    (_SHA256, CertificateName.SHA256),
    (_SPKI, CertificateName.SPKI_SHA256),
    (_URI, CertificateName.URI),
    (_DNS, CertificateName.DNS),
    (_COMMON_NAME, CertificateName.COMMON_NAME),
)


def _use(values: Values) -> CertificateUse | Refused:
    given = [(by, value) for field, by in _BY if (value := values[field]) is not None]
    if len(given) != 1:
        names = ", ".join(by for _, by in _BY)
        return values.reading.problem(
            values.place, f"must have one of {names}, and not several", "write an entry for each"
        )
    by, value = given[0]
    return CertificateUse(by, value, values[_KEY])


USE: Record[CertificateUse] = Record(
    "Certificate use",
    "Which key a client certificate is. All names but fingerprints are believed of every authority in `client_ca`.",
    (_SHA256, _SPKI, _URI, _DNS, _COMMON_NAME, _KEY),
    _use,
)
USES = ListOf(Placed(USE), high=100_000)
