"""`tls` of an upstream: how its targets are checked, and what certificate they are shown."""

from __future__ import annotations

from ostiary.core.config.addresses import ServerName
from ostiary.core.config.fields import Record, Values, optional
from ostiary.core.config.pem import NO_CERTIFICATE, PemFile, certificates, unfit
from ostiary.core.config.reading import Refused
from ostiary.core.upstream import TargetTls

_CA = optional(
    "ca", PemFile(), "The authorities that may have signed their certificates, PEM; the system's if not given."
)
_SERVER_NAME = optional(
    "server_name", ServerName(), "The name that is asked for (SNI) and verified; the target's host if not given."
)
_CERT = optional("cert", PemFile(), "The certificate that the gateway shows them, and its chain, PEM, its own first.")
_KEY = optional("key", PemFile(), "That certificate's private key, PEM, without a passphrase.")


def _tls(values: Values) -> TargetTls | Refused:
    ca, cert, key = values[_CA], values[_CERT], values[_KEY]
    if ca is not None and not ca.elsewhere and not certificates(ca):
        return values.problem(_CA, *NO_CERTIFICATE)
    if values.given(_CERT) is not values.given(_KEY):
        lone, other = (_CERT, "key") if values.given(_CERT) else (_KEY, "cert")
        return values.problem(lone, f"means nothing without {other}", f"add {other}, or remove it")
    if cert is not None and key is not None and not cert.elsewhere:
        chain = certificates(cert)
        if not chain:
            return values.problem(_CERT, *NO_CERTIFICATE)
        if (problem := unfit(chain[0], key)) is not None:
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


def tls_record(title: str, says: str) -> Record[TargetTls]:
    """The same of another kind of server."""
    return Record(title, says, (_CA, _SERVER_NAME, _CERT, _KEY), _tls)


TLS = tls_record(
    "Upstream tls",
    "How `https` targets are checked, which they always are, and what they are shown. A file that changes is read again.",
)
