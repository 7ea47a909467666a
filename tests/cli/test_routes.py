"""`ostiary routes`, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

DOCUMENT = """\
version: 1
upstreams:
  origin: {targets: [{url: "http://10.0.0.1:9000"}]}
routes:
  - {name: clients, match: {path: /clients}, upstream: origin, auth: {schemes: [bearer], scopes: {"*": [clients:read]}}}
"""
OPEN = DOCUMENT.replace(', scopes: {"*": [clients:read]}', "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(DOCUMENT)
    return path


def test_routes_are_compared_applied_listed_shown_and_rolled_back(run: Run, file: Path) -> None:
    """The whole life of a change from a shell; in an incident there is no time to write JSON."""
    name = str(file)
    assert "no routes have been published yet" in run("routes", "status").stdout
    compared = run("routes", "diff", name)
    assert "added route clients: " in compared.stdout
    assert "against nothing" in compared.stderr
    applied = run("routes", "apply", name, "--note", "the first").stdout
    assert applied.endswith("version 1 is published\n")
    assert "no difference: version 1 does the same" in run("routes", "apply", name).stdout
    assert run("routes", "diff", name, "--exit-code").stdout == "no difference: both do the same\n"

    file.write_text(OPEN)
    compared = run("routes", "diff", name, "--exit-code", exit_code=1)
    assert "changed route clients: auth.scopes: " in compared.stdout
    assert "scope clients:read removed: no key gains or loses access" in compared.stdout
    assert "against version 1" in compared.stderr
    drift = run("routes", "status", "--file", name).stdout
    assert "version 1 is in force, with 1 routes, by operator token at " in drift
    assert "no gateway follows" in drift
    assert f"{name} is not what is in force; applying it would change:\nchanged route clients: " in drift
    assert len(json.loads(run("routes", "status", "--file", name, "--json").stdout)["drift"]["changes"]) == 1
    assert json.loads(run("routes", "apply", name, "--base", "1", "--json").stdout)["number"] == 2
    assert f"{name} is what is in force" in run("routes", "status", "--file", name).stdout

    refused = run("routes", "apply", name, "--base", "1", exit_code=1)
    assert "This was made from version 1, and version 2 is in force" in refused.stderr
    assert run("routes", "diff", "--number", "1").stdout.startswith("changed route clients: auth.scopes")
    assert "version 3 is published, with the document of 1" in run("routes", "rollback", "1", "--note", "back").stdout
    assert run("routes", "show").stdout == DOCUMENT
    assert run("routes", "show", "2").stdout == OPEN
    assert json.loads(run("routes", "show", "2", "--json").stdout)["content"]["routes"][0]["name"] == "clients"
    lines = run("routes", "history", "--limit", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["3", "2"]
    assert json.loads(run("routes", "history", "--json").stdout)["total"] == 3


def test_every_mistake_of_a_file_is_told_with_its_line(run: Run, file: Path) -> None:
    """Exit status 2 and one line a mistake, as `ostiary config check` does: scripts and editors read them."""
    file.write_text(DOCUMENT.replace("upstream: origin", "upstream: orgin").replace("bearer", "magic") + "stores: {}\n")
    for command in ("diff", "apply"):
        refused = run("routes", command, str(file), exit_code=2)
        lines = refused.stderr.splitlines()
        assert [line.partition(": ")[2].split(": ")[0] for line in lines[:3]] == [f"{file}:5", f"{file}:5", f"{file}:6"]
        assert "did you mean 'origin'?" in refused.stderr
        assert "'stores' is not published (leave it in each host's own file)" in refused.stderr
        assert lines[-1] == "nothing was published"
    assert "can't be read: No such file" in run("routes", "diff", str(file) + "x", exit_code=2).stderr
    assert "give FILE, or --number" in run("routes", "diff", exit_code=2).stderr


def test_waiting_for_gateways_that_are_not_there_ends(run: Run, file: Path) -> None:
    """A pipeline would hang, or go on as if the change were in force."""
    file.write_text(DOCUMENT.replace("clients:read", "clients:wait"))
    assert "no gateway runs version" in run("routes", "apply", str(file), "--wait", "0.2", exit_code=1).stderr
