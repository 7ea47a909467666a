"""`ostiary apps`, `ostiary plans`, and shell completion, as an operator types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.cli.conftest import Run


def test_an_app_is_changed_decided_of_and_deleted_from_a_shell(run: Run) -> None:
    """The platform team would write JSON by hand to stop an app."""
    organization_id = run("orgs", "create", "Deciders").stdout.strip()
    app_id = run(
        *("apps", "create", "Shop", "--org", organization_id, "--website", "https://shop.example.com/"),
        *("--redirect-uri", "https://shop.example.com/cb", "--environment", "test"),
    ).stdout.strip()
    shown = json.loads(run("apps", "show", app_id, "--json").stdout)
    assert (shown["website"], shown["redirect_uris"], shown["environment"]) == (
        "https://shop.example.com/", ["https://shop.example.com/cb"], "test",
    )  # fmt: skip
    changed = json.loads(run("apps", "update", app_id, "--name", "Store", "--website", "", "--json").stdout)
    assert (changed["name"], changed["website"], changed["redirect_uris"]) == ("Store", None, shown["redirect_uris"])
    assert "give at least one field to change" in run("apps", "update", app_id, exit_code=1).stderr
    for command, approval in (("reject", "rejected"), ("approve", "approved"), ("suspend", "suspended")):
        assert f"Store is {approval}: why not" in run("apps", command, app_id, "--reason", "why not").stdout
    assert app_id in run("apps", "list", "--approval", "suspended").stdout
    assert app_id not in run("apps", "list", "--approval", "pending").stdout
    lines = run("apps", "show", app_id).stdout.splitlines()
    assert ["approval", "suspended"] in [line.split() for line in lines]
    assert "Store was deleted" in run("apps", "delete", app_id).stdout
    assert "no such app" in run("apps", "show", app_id, exit_code=1).stderr


def test_plans_are_listed_and_shown(run: Run) -> None:
    listed = run("plans", "list").stdout.splitlines()
    assert listed[0].split() == ["NAME", "RATE", "LIMITS", "QUOTAS", "CONCURRENCY", "OVERAGE"]
    assert listed[1].split()[:4] == ["standard", "100/minute", "burst", "600"]
    assert json.loads(run("plans", "list", "--json").stdout)["data"][0]["rate"]["burst"] == 600
    assert json.loads(run("plans", "show", "standard", "--json").stdout)["name"] == "standard"
    assert "100/minute burst 600" in run("plans", "show", "standard").stdout
    assert "no such plan" in run("plans", "show", "none", exit_code=1).stderr
    refused = run("plans", "create", "gold", "--limit", "5/hour,leased", exit_code=1)
    assert "routes: {from: control_plane}" in refused.stderr
    assert "is not like 5000/hour" in run("plans", "create", "gold", "--limit", "5", exit_code=2).stderr


def test_events_and_quotas_are_listed(run: Run) -> None:
    """Whoever runs a script instead of a webhook would have to write HTTP."""
    organization_id = run("orgs", "create", "Followed").stdout.strip()
    app_id = run("apps", "create", "Shop", "--org", organization_id).stdout.strip()
    (made,) = json.loads(run("events", "list", "--org", organization_id, "--kind", "app.created", "--json").stdout)[
        "data"
    ]
    assert (made["resource_id"], made["payload"]["after"]["name"]) == (app_id, "Shop")
    after = run("events", "list", "--after", str(made["number"] - 2), "--app", app_id).stdout.splitlines()
    assert after[0].split()[:3] == ["NUMBER", "OCCURRED", "AT"]
    assert after[1].split()[:1] == [str(made["number"])]
    assert json.loads(run("usage", "quotas", "--app", app_id, "--json").stdout) == {
        "data": [],
        "total": 0,
        "note": None,
    }
    assert run("usage", "quotas", "--app", app_id, "--csv").stdout.startswith("subject_type,subject_id,")
    assert "one of them alone" in run("usage", "quotas", exit_code=1).stderr


def _completing(instruction: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "from ostiary.cli.main import main; main(prog_name='ostiary')"],
        env={**os.environ, "_OSTIARY_COMPLETE": instruction, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_each_shell(shell: str) -> None:
    """The instruction in the documentation would do nothing."""
    script = _completing(f"{shell}_source")
    assert "_OSTIARY_COMPLETE" in script
    assert f"{shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = {"COMP_WORDS": "ostiary apps su", "COMP_CWORD": "su" if shell == "fish" else "2"}
    assert "suspend" in _completing(f"{shell}_complete", **words)
