"""A file to a `Configuration`: read all of it, check what only the whole can tell, and refuse with every problem at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ostiary.core.config.callers import asks_for_certificates, check_callers
from ostiary.core.config.certificate_uses import USES
from ostiary.core.config.consistency import check_heads, check_keys, check_routes, check_stores
from ostiary.core.config.costs import check_costs, check_leasing
from ostiary.core.config.document import BYTES_MAX, Node, parse_document, too_large
from ostiary.core.config.fields import (
    At,
    Field,
    Kind,
    NameOrRecord,
    Record,
    Schema,
    Values,
    defaulted,
    required,
)
from ostiary.core.config.issuers import ISSUERS
from ostiary.core.config.keys import KEYS
from ostiary.core.config.kinds import Integer
from ostiary.core.config.plans import PLANS
from ostiary.core.config.problems import ConfigurationError, Problem
from ostiary.core.config.published import PUBLISHED_ROUTES
from ostiary.core.config.reading import Place, Reading, Refused, Source
from ostiary.core.config.routes import ROUTES
from ostiary.core.config.settings import CONTROL_PLANE, GATEWAY, STORES
from ostiary.core.config.upstreams import UPSTREAMS
from ostiary.core.config.usage import USAGE
from ostiary.core.issuers import Issuer
from ostiary.core.model import Configuration, Route
from ostiary.core.published import PublishedRoutes


class Version(Kind[int]):
    _NUMBER: Final = Integer(1, 1)

    def read(self, place: Place, reading: Reading) -> int | Refused:
        version = Integer(0, 10**9).read(place, reading)
        if isinstance(version, Refused) or version == 1:
            return version
        return reading.problem(place, f"this Ostiary reads version 1, not {place.shown}", "write version: 1")

    def schema(self) -> Schema:
        return {"const": 1}

    @property
    def words(self) -> str:
        return "`1`"


VERSION = required("version", Version(), "The version of this format.", missing="begin the file with version: 1")
_GATEWAY = defaulted("gateway", GATEWAY, "The data plane.", {})
_CONTROL_PLANE = defaulted("control_plane", CONTROL_PLANE, "The API that manages keys.", {})
_STORES = defaulted("stores", STORES, "Where state lives.", {})
_USAGE = defaulted("usage", USAGE, "What is recorded of calls, and for how long.", {})
PLANS_FIELD = defaulted("plans", PLANS, "What callers may use, by name.", {})
UPSTREAMS_FIELD = defaulted("upstreams", UPSTREAMS, "The services behind the gateway, by name.", {})
_ROUTES = required(
    "routes",
    NameOrRecord[tuple[At[Route], ...] | PublishedRoutes](ROUTES, PUBLISHED_ROUTES),
    "Which calls are taken, who may make them, and where they go.",
    missing="write routes: [] if this file is for a control plane alone",
)
_KEYS = defaulted("keys", KEYS, "Keys that the gateway knows without a control plane.", [])

ISSUERS_FIELD = defaulted("issuers", ISSUERS, "Whose tokens are taken (scheme `jwt`), by name.", {})
CERTIFICATES_FIELD = defaulted("certificates", USES, "Which client certificate is which key (scheme `mtls`).", [])


def _configuration(values: Values) -> Configuration | Refused:
    reading, upstreams, routes, keys = values.reading, values[UPSTREAMS_FIELD], values[_ROUTES], values[_KEYS]
    if isinstance(routes, PublishedRoutes):
        return _host(values, routes)
    reading.check_names()
    check_routes(reading, routes, upstreams)
    check_heads(reading, routes, values[_GATEWAY].client_limits.head_bytes)
    check_costs(reading, routes, values[PLANS_FIELD])
    check_leasing(reading, routes, values[PLANS_FIELD])
    check_keys(reading, keys, routes)
    check_callers(
        reading,
        routes,
        keys,
        issuers=values[ISSUERS_FIELD],
        certificates=values[CERTIFICATES_FIELD],
        asks_for_certificates=asks_for_certificates(values[_GATEWAY].listen.tls),
        keys_elsewhere=values[_STORES].postgres is not None,
    )
    check_stores(reading, values.place_of(_STORES), values[_STORES], routes, keys)
    return Configuration(
        gateway=values[_GATEWAY],
        control_plane=values[_CONTROL_PLANE],
        stores=values[_STORES],
        usage=values[_USAGE],
        plans=values[PLANS_FIELD],
        upstreams={name: upstream.value for name, upstream in upstreams.items()},
        routes=tuple(route.value for route in routes),
        keys={key.value.id: key.value for key in keys},
        issuers=named_issuers(values),
        certificates=tuple(use.value for use in values[CERTIFICATES_FIELD]),
        warnings=reading.warnings,
    )


def named_issuers(values: Values) -> dict[str, Issuer]:
    return {
        name: replace(issuer.value, name=name, plans=frozenset(values[PLANS_FIELD]))
        for name, issuer in values[ISSUERS_FIELD].items()
    }


def _host(values: Values, published: PublishedRoutes) -> Configuration | Refused:
    """A file whose routes come from the control plane: what they name, and plans of keys, is checked with each version."""
    beside: tuple[Field[object], ...] = (PLANS_FIELD, UPSTREAMS_FIELD, ISSUERS_FIELD, CERTIFICATES_FIELD)
    for field in beside:
        if values.given(field):
            values.problem(
                field, "stands beside routes that come from the control plane", "move it into the published document"
            )
    if values[_STORES].postgres is None:
        values.problem(_ROUTES, "come from the control plane, and there is no stores.postgres", "set stores.postgres")
    return Configuration(
        gateway=values[_GATEWAY],
        control_plane=values[_CONTROL_PLANE],
        stores=values[_STORES],
        usage=values[_USAGE],
        plans={},
        upstreams={},
        routes=(),
        keys={key.value.id: key.value for key in values[_KEYS]},
        warnings=values.reading.warnings,
        published=published,
    )


FILE: Record[Configuration] = Record(
    "The file",
    "One configuration, for the gateway and the control plane.",
    (
        *(VERSION, _GATEWAY, _CONTROL_PLANE, _STORES, _USAGE),
        *(PLANS_FIELD, UPSTREAMS_FIELD, _ROUTES, _KEYS, ISSUERS_FIELD, CERTIFICATES_FIELD),
    ),
    _configuration,
)


def load_file(path: Path, *, environment: Mapping[str, str] = os.environ) -> Configuration:
    """The checked configuration in `path`. Reads that file, and the files of secrets that it names, and nothing else.

    Raises ConfigurationError with all problems at once: also when the file is missing, too large or not text."""
    return load_text(read_text_of(path), name=str(path), environment=environment)


def read_text_of(path: Path) -> str:
    """The text of a file that may be a configuration. Raises ConfigurationError."""
    name = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)  # a file of any size, or an endless device, costs no more than this
    except OSError as error:
        raise ConfigurationError((Problem(name, 1, 1, "", f"can't be read: {error.strerror}"),)) from error
    except ValueError as error:
        raise ConfigurationError((Problem(name, 1, 1, "", "is no name of a file"),)) from error
    if len(content) > BYTES_MAX:
        raise ConfigurationError((Problem(name, 1, 1, "", too_large()),))
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        problem = Problem(name, line, column, "", "the file is not UTF-8 text", "save it as UTF-8")
        raise ConfigurationError((problem,)) from None


def load_text(text: str, *, name: str, environment: Mapping[str, str] = os.environ) -> Configuration:
    """The checked configuration in `text`. `name` is the file it came from: problems name it, and relative paths are
    relative to its folder. Raises ConfigurationError with all problems at once."""
    source = Source(name, environment, Path(name).parent)
    configuration = read_root(parse_document(text, file=name), Reading(source))
    if configuration.published is None:
        return configuration
    return replace(configuration, published=replace(configuration.published, file=name, text=text))


def read_root(root: Node, reading: Reading) -> Configuration:
    """The configuration that the whole of a file is. Raises ConfigurationError."""
    configuration = FILE.read(Place(root, "", ""), reading)
    reading.refuse_if_problems()
    if isinstance(configuration, Refused):  # a kind that refused without saying why would be our mistake
        raise AssertionError("the configuration was refused without a problem")
    return configuration
