"""Where is listened: `gateway.listen`, `gateway.admin`, `control_plane.listen`."""

from __future__ import annotations

import os
from typing import Final

from ostiary.core.config.addresses import ListenHost
from ostiary.core.config.certificates import CERTIFICATE
from ostiary.core.config.fields import Field, Kind, OneOrMany, Record, Schema, Values, defaulted, optional
from ostiary.core.config.kinds import Integer, or_reference
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import Certificate, Listen


class Workers(Kind[int]):
    """`auto`, or a number of processes."""

    _NUMBER: Final = Integer(1, 256)

    def read(self, place: Place, reading: Reading) -> int | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        if text.value == "auto":  # the processors that this process may use: a container's share, where it is pinned
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self._NUMBER.read(place, reading)

    def schema(self) -> Schema:
        return or_reference({"anyOf": [{"const": "auto"}, self._NUMBER.schema()]})

    @property
    def words(self) -> str:
        return "`auto` (one per processor), or a whole number from 1 to 256"


_PORT = Integer(0, 65535)


def _address(host: str, port: int) -> tuple[Field[str], Field[int]]:
    """What every place to listen on has, by default here."""
    return (
        defaulted("host", ListenHost(), "The address to listen on.", host),
        defaulted("port", _PORT, "The port; 0 lets the system choose.", port),
    )


def _certificates(says: str) -> Field[tuple[Certificate, ...] | None]:
    """The field `tls` of a listener."""
    return optional("tls", OneOrMany(CERTIFICATE, high=100), says)


def _same_for_all_names(
    values: Values, field: Field[tuple[Certificate, ...] | None]
) -> tuple[Certificate, ...] | Refused:
    """The certificates, which must all ask the same of clients: a client that names one host in its SNI may name another in
    its Host header, and so choose what is asked of it (CVE-2025-23419 is the same by way of a resumed session)."""
    certificates = values[field] or ()
    if len({certificate.clients for certificate in certificates}) > 1:
        return values.problem(
            field,
            "asks for client certificates under one name and not, or of others, under another: a client chooses the name",
            "give all the same client_ca and client_certificate",
        )
    return certificates


_HOST, _LISTEN_PORT = _address("0.0.0.0", 8080)  # noqa: S104  a gateway is for everyone
_WORKERS = defaulted("workers", Workers(), "Worker processes.", "auto")
_TLS = _certificates("Certificates; without any, the gateway speaks plain HTTP.")


def _gateway_listen(values: Values) -> Listen | Refused:
    certificates = _same_for_all_names(values, _TLS)
    if isinstance(certificates, Refused):
        return certificates
    return Listen(host=values[_HOST], port=values[_LISTEN_PORT], workers=values[_WORKERS], tls=certificates)


LISTEN: Record[Listen] = Record(
    "Gateway listen", "Where clients connect.", (_HOST, _LISTEN_PORT, _WORKERS, _TLS), _gateway_listen
)

_ADMIN_HOST, _ADMIN_PORT = _address("127.0.0.1", 9090)
ADMIN: Record[Listen] = Record(
    "Admin listen",
    "Where operators look: /metrics /healthz /readyz /status.",
    (_ADMIN_HOST, _ADMIN_PORT),
    lambda values: Listen(host=values[_ADMIN_HOST], port=values[_ADMIN_PORT]),
)

_CONTROL_HOST, _CONTROL_PORT = _address("127.0.0.1", 8081)
_CONTROL_TLS = _certificates(
    "Certificates; without any, the control plane speaks plain HTTP. What is renewed takes effect without a restart."
)


def _control_listen(values: Values) -> Listen | Refused:
    certificates = _same_for_all_names(values, _CONTROL_TLS)
    if isinstance(certificates, Refused):
        return certificates
    return Listen(host=values[_CONTROL_HOST], port=values[_CONTROL_PORT], tls=certificates)


CONTROL_LISTEN: Record[Listen] = Record(
    "Control plane listen",
    "Where the API and the portal are.",
    (_CONTROL_HOST, _CONTROL_PORT, _CONTROL_TLS),
    _control_listen,
)
