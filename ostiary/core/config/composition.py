"""A published document, checked: for any host (`check_published`), and as a part of one host's configuration (`compose`)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping as AbstractMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ostiary.core.config.callers import check_callers
from ostiary.core.config.consistency import check_routes
from ostiary.core.config.costs import check_costs, check_leasing
from ostiary.core.config.document import Mapping, Node, Resolved, Scalar, parse_document, resolve
from ostiary.core.config.fields import Record, Values, required
from ostiary.core.config.load import (
    CERTIFICATES_FIELD,
    ISSUERS_FIELD,
    PLANS_FIELD,
    UPSTREAMS_FIELD,
    VERSION,
    load_text,
    named_issuers,
    read_root,
)
from ostiary.core.config.problems import PROBLEMS_MAX, ConfigurationError, Problem, shown, suggestion
from ostiary.core.config.reading import Place, Reading, Refused, Source
from ostiary.core.config.routes import ROUTES
from ostiary.core.model import Configuration
from ostiary.core.published import DOCUMENT_BYTES_MAX, SECTIONS, RouteVersion

# Larger numbers than of 15 digits are not the same numbers in every reader of JSON (RFC 8259 §6).
_DECIMAL: Final = re.compile(r"0|-?[1-9][0-9]{0,14}").fullmatch

_ROUTES = required("routes", ROUTES, "Which calls are taken.", missing="write routes: [] to publish that nothing is")

_KNOWN: Final = ("version", *SECTIONS)
_HOSTS_OWN: Final = ("gateway", "control_plane", "stores", "usage", "keys")

# What a document is completed by to be a configuration that can be compared with another.
_NO_HOST: Final = load_text("version: 1\nroutes: []\n", name="", environment={})


def _document(values: Values) -> Configuration:
    """What only the whole document can tell, as far as it does not depend on the host."""
    reading, routes, upstreams = values.reading, values[_ROUTES], values[UPSTREAMS_FIELD]
    reading.check_names()
    check_routes(reading, routes, upstreams)
    check_costs(reading, routes, values[PLANS_FIELD])
    check_leasing(reading, routes, values[PLANS_FIELD])
    check_callers(
        reading,
        routes,
        (),
        issuers=values[ISSUERS_FIELD],
        certificates=values[CERTIFICATES_FIELD],
        asks_for_certificates=True,
        keys_elsewhere=True,
    )
    return replace(
        _NO_HOST,
        plans=values[PLANS_FIELD],
        upstreams={name: upstream.value for name, upstream in upstreams.items()},
        routes=tuple(route.value for route in routes),
        issuers=named_issuers(values),
        certificates=tuple(use.value for use in values[CERTIFICATES_FIELD]),
        warnings=reading.warnings,
    )


DOCUMENT: Record[Configuration] = Record(
    "Published document",
    "What the control plane publishes.",
    (VERSION, PLANS_FIELD, UPSTREAMS_FIELD, _ROUTES, ISSUERS_FIELD, CERTIFICATES_FIELD),
    _document,
)


@dataclass(frozen=True, slots=True)
class CheckedDocument:
    """`configuration` has what the document says, with the defaults of what it leaves to hosts, to be compared with another.
    `references` are the values that each host completes, as they are written. `normal_form` is the document as JSON,
    without comments and aliases: texts, booleans, whole numbers, lists and objects."""

    configuration: Configuration
    references: frozenset[str]
    normal_form: object


def check_published(text: str, *, name: str) -> CheckedDocument:
    """A document to be published. Nothing of the host that checks it gets into it: no variable, no file. Raises
    ConfigurationError with all problems at once."""
    if len(text.encode("utf-8", "surrogatepass")) > DOCUMENT_BYTES_MAX:
        message = f"the document is larger than {DOCUMENT_BYTES_MAX >> 20} MiB"
        raise ConfigurationError((Problem(name, 1, 1, "", message),))
    root = _mapping(parse_document(text, file=name), name)
    foreign = _foreign(root, name)
    reading = Reading(Source(name, {}, None, published=True, elsewhere=True))
    try:
        configuration = DOCUMENT.read(Place(_published_alone(root), "", ""), reading)
        reading.refuse_if_problems()
    except ConfigurationError as error:
        problems = sorted((*foreign, *error.problems), key=lambda problem: (problem.line, problem.column))
        raise ConfigurationError(tuple(problems)) from None
    if foreign:
        raise ConfigurationError(foreign)
    if isinstance(configuration, Refused):
        raise AssertionError("the document was refused without a problem")
    references: set[str] = set()
    normal_form = _normal_form(root, references)
    return CheckedDocument(configuration, frozenset(references), normal_form)


def compose(
    host: Configuration, version: RouteVersion | None, *, environment: AbstractMapping[str, str] = os.environ
) -> Configuration:
    """The configuration of a host with a published version: its own file, read anew from the text of `host`, and what was
    published, in one. A host with routes of its own is given back as it is, and so is one without a version.

    Raises ConfigurationError with all problems of both."""
    published = host.published
    if published is None or version is None:
        return host
    own = _mapping(parse_document(published.text, file=published.file), published.file)
    name = f"version {version.number} of the routes"
    if not version.intact:
        raise ConfigurationError((Problem(name, 1, 1, "", "the text does not fit its checksum"),))
    theirs = _mapping(parse_document(version.text, file=name), name)
    if foreign := _foreign(theirs, name):
        raise ConfigurationError(foreign)
    entries = (
        *(entry for entry in own.entries if entry[0].text != "routes"),
        *(entry for entry in theirs.entries if entry[0].text != "version"),
    )
    given = {name: value for name, value in environment.items() if name in published.environment}
    files = None if published.files is None else Path(published.files)
    reading = Reading(
        Source(published.file, environment, Path(published.file).parent),
        published=(Source(name, given, files, published=True), frozenset(SECTIONS)),
    )
    configuration = read_root(Mapping(entries, own.line, own.column), reading)
    return replace(configuration, published=published)


def _mapping(root: Node, name: str) -> Mapping:
    if not isinstance(root, Mapping):
        raise ConfigurationError((Problem(name, root.line, root.column, "", "must be a mapping, with routes"),))
    return root


def _foreign(root: Mapping, name: str) -> tuple[Problem, ...]:
    """What is a host's own (keys, stores, listeners) is not published."""
    return tuple(
        Problem(
            name,
            key.line,
            key.column,
            "",
            f"{shown(key.text)} is not published",
            "leave it in each host's own file" if key.text in _HOSTS_OWN else suggestion(key.text, list(_KNOWN)),
        )
        for key, _ in root.entries
        if key.text not in _KNOWN
    )[:PROBLEMS_MAX]


def _published_alone(root: Mapping) -> Mapping:
    return Mapping(tuple(entry for entry in root.entries if entry[0].text in _KNOWN), root.line, root.column)


def _normal_form(node: Node, references: set[str]) -> object:
    if isinstance(node, Mapping):
        return {key.text: _normal_form(value, references) for key, value in node.entries}
    if not isinstance(node, Scalar):
        return [_normal_form(item, references) for item in node.items]
    if "${" in node.text:
        references.add(node.text)
    match resolve(node):
        case Resolved.NULL:
            return None
        case Resolved.BOOLEAN:
            return node.text.lower() == "true"
        case Resolved.INTEGER if _DECIMAL(node.text):
            return int(node.text)
        case _:
            return node.text
