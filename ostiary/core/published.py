"""Routes that the control plane publishes and gateways follow: what a gateway's own file says of them, and one version.

A version is the text that an operator applied, never what it stands for on a host: `${NAME}` and the files it names are put
in by each gateway, so that secrets are neither in Postgres nor in a snapshot on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

# What `pg_notify` announces a new version on; the payload is its number.
CHANNEL: Final = "ostiary_routes"

# Ten thousand routes are about 2 MiB.
DOCUMENT_BYTES_MAX: Final = 2 << 20

# What a published document has, besides `version`. Everything else is a host's own.
SECTIONS: Final = ("plans", "upstreams", "routes", "issuers", "certificates")


@dataclass(frozen=True, slots=True)
class PublishedRoutes:
    """`routes: {from: control_plane}`. `environment` are the variables that a version may name here, `files` the folder of
    those it may name, None for none. `file` and `text` are the host's own configuration, which each version completes."""

    environment: frozenset[str] = frozenset()
    files: str | None = None
    file: str = ""
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RouteVersion:
    """`published_at` is Unix seconds. Numbers begin with 1; each is one text for ever."""

    number: int
    text: str = field(repr=False)
    sha256: str
    published_at: float

    @property
    def intact(self) -> bool:
        return document_sha256(self.text) == self.sha256


def document_sha256(text: str) -> str:
    """Lower-case hexadecimal, of the UTF-8 text."""
    return sha256(text.encode()).hexdigest()
