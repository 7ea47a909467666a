"""The JSON Schema and the reference are made of the same declarations that the loader reads by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ostiary.core.config.document import Mapping, Node, Resolved, Sequence, parse_document, resolve
from ostiary.core.config.schema import json_schema, reference
from ostiary.core.resources import resource_directory
from tests.core.config.loading import VALID, load, varied

REPOSITORY = Path(__file__).parents[3]


def plain(node: Node) -> Any:
    """What an editor with YAML 1.2 sees."""
    if isinstance(node, Mapping):
        return {key.text: plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    resolved = resolve(node)
    if resolved is Resolved.TEXT:
        return node.text
    return None if resolved is Resolved.NULL else yaml.safe_load(node.text)


def errors(text: str) -> list[str]:
    validator = Draft202012Validator(json_schema())
    return [error.message for error in validator.iter_errors(plain(parse_document(text, file="f")))]


def test_the_schema_in_the_repository_is_fresh() -> None:
    """Editors would mark fields that exist, and miss ones that do not. Mend: ostiary config schema > config/schema.json"""
    committed = (resource_directory("config") / "schema.json").read_text(encoding="utf-8")
    assert committed == json.dumps(json_schema(), indent=2) + "\n"
    Draft202012Validator.check_schema(json_schema())


def test_the_reference_in_the_documents_is_fresh() -> None:
    """The documents would describe another version. Mend: put what `ostiary config schema --markdown` prints after the
    heading "Every field"."""
    document = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document.endswith(reference().rstrip() + "\n")


def test_the_reference_links_only_to_what_it_has() -> None:
    """A reader would follow a link to nothing."""
    text = reference()
    headings = {line[4:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("### ")}
    links = {part.partition(")")[0] for part in text.split("](#")[1:]}
    assert links <= headings


@pytest.mark.parametrize("path", sorted(resource_directory("config").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_valid_under_the_schema(path: Path) -> None:
    """An editor would mark mistakes in a file that has none."""
    assert errors(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("version: 1", 'version: 1\ngateway: {listen: {port: "${PORT:-1}", workers: "${N:-2}"}, drain: "${D:-5s}"}'),
        ("version: 1", "version: 1\nstores: {spool_max: 1048576, redis_deadline: 5ms}"),
        (
            "version: 1",
            'version: 1\nusage: {record: {ip: "${IP:-none}"}, retention: {events: 30d, minutes: "${M:-1d}"}}',
        ),
        ("version: 1", "version: 1\nusage: {country_database: GeoLite2-Country.mmdb, record: {user_agent: product}}"),
        ("requests: 100, per: minute", 'requests: "${R:-7}", per: "${P:-hour}"'),
        ("name: clients", 'name: "${NAME:-clients}"'),
        ("[GET, POST]", '["${M:-GET}", POST]'),
        ("{live: live, test: sandbox}", "live"),
        ("[bearer]", '["${S:-bearer}"]'),
        ("environment: test", "environment: test, expires_at: 2027-01-31T00:00:00Z"),
        ("    auth:", "    limits: [{requests: 1, per: day, by: ip}]\n    paths: raw\n    max_body: 10MB\n    auth:"),
    ],
)
def test_what_the_loader_accepts_the_schema_accepts(before: str, after: str) -> None:
    """An editor would mark what runs."""
    text = varied(before, after)
    load(text)
    assert errors(text) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: clients", "name: clients\n    naem: x"),
        ("name: clients", "name: 12"),
        ("requests: 100", "requests: 0"),
        ("requests: 100", 'requests: "100"'),
        ("version: 1", "version: 1\nusage: {record: {ip: masked}}"),
        ("version: 1", "version: 1\nusage: {retention: {events: 36h}}"),
        ("per: minute", "per: fortnight"),
        ("[bearer]", "[oauth]"),
        ('{targets: [{url: "http://127.0.0.1:9000"}]}', "{targets: []}"),
        ('"http://127.0.0.1:9000"', "ftp://x"),
        ("version: 1\n", ""),
    ],
)
def test_what_the_schema_can_tell_it_tells(before: str, after: str) -> None:
    """An editor that marks nothing is of no use."""
    assert errors(VALID) == []
    assert errors(varied(before, after)) != []
