"""`routes: {from: control_plane}`, and the documents that the control plane publishes: plans, upstreams, routes, issuers and
certificates, in the words of the configuration file.

A document is checked twice: by the control plane, for any host, and by each gateway together with its own file."""

from __future__ import annotations

from enum import StrEnum

from ostiary.core.config.addresses import Directory
from ostiary.core.config.fields import ListOf, Record, defaulted, optional, required
from ostiary.core.config.kinds import Choice, TextKind
from ostiary.core.published import PublishedRoutes


class From(StrEnum):
    CONTROL_PLANE = "control_plane"


_FROM = required("from", Choice(From), "`ostiary routes apply` publishes them; gateways follow within a second.")
_ENVIRONMENT = defaulted(
    "environment",
    ListOf(TextKind(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable"), high=1000),
    "Which variables of this host's environment what is published may name as `${NAME}`. All others stay this host's own.",
    [],
)
_FILES = optional(
    "files", Directory(), "The folder of the files that what is published may name; without it, it may name none."
)

PUBLISHED_ROUTES: Record[PublishedRoutes] = Record(
    "Published routes",
    "Plans, upstreams, routes, issuers and certificates come from the control plane, and stand in no file of this host.",
    (_FROM, _ENVIRONMENT, _FILES),
    lambda values: PublishedRoutes(environment=frozenset(values[_ENVIRONMENT]), files=values[_FILES]),
)
