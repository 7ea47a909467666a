"""A smallest configuration to vary, and short ways to load it and to read what was refused."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

import pytest

from ostiary.core.config import ConfigurationError, Problem, load_text
from ostiary.core.model import Configuration

SECRET = "a-secret-of-the-tests-0123456789abcdef"

VALID = """\
version: 1
plans:
  standard: {limits: [{requests: 100, per: minute}]}
upstreams:
  live: {targets: [{url: "http://127.0.0.1:9000"}]}
  sandbox: {targets: [{url: "http://127.0.0.1:9001"}]}
routes:
  - name: clients
    match: {path: "/v1/clients/**", methods: [GET, POST]}
    upstream: {live: live, test: sandbox}
    auth: {schemes: [bearer], scopes: {GET: [clients:read], POST: [clients:write]}}
keys:
  - {id: ak_test_1, secret: "${SECRET}", plan: standard, scopes: [clients:read], environment: test}
"""


def load(text: str, environment: Mapping[str, str] | None = None) -> Configuration:
    return load_text(dedent(text), name="gateway.yaml", environment={"SECRET": SECRET, **(environment or {})})


def varied(before: str, after: str) -> str:
    """VALID with one part of it replaced; the part must be there."""
    assert before in VALID
    return VALID.replace(before, after)


def problems(text: str, environment: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as refused:
        load(text, environment)
    return refused.value.problems


def only_problem(text: str, environment: Mapping[str, str] | None = None) -> Problem:
    found = problems(text, environment)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]
