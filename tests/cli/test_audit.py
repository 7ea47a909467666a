"""`ostiary audit list`, `export` and `head`, against a control plane in a process of its own."""

from __future__ import annotations

import csv
import io
import json

from tests.cli.conftest import Run


def test_what_was_done_by_command_is_listed_exported_and_anchored(run: Run) -> None:
    """Whoever is asked who did it would have to write SQL."""
    organization_id = run("orgs", "create", "Acme").stdout.strip()
    app_id = run("apps", "create", "Shop", "--org", organization_id).stdout.strip()
    listed = run("audit", "list", "--org", organization_id).stdout
    assert "createApp" in listed
    assert "operator" in listed
    document = json.loads(run("audit", "list", "--resource", "app", "--resource-id", app_id, "--json").stdout)
    (row,) = document["data"]
    assert (document["total"], row["operation"], row["after"]["name"]) == (1, "createApp", "Shop")
    nothing = json.loads(run("audit", "list", "--outcome", "refused", "--since", "1h", "--json").stdout)
    assert nothing == {"data": [], "total": 0}

    number, colon, digest = run("audit", "head").stdout.strip().partition(":")
    assert json.loads(run("audit", "head", "--json").stdout) == {"number": int(number), "hash": digest}
    assert (colon, len(digest)) == (":", 64)

    exported = list(csv.DictReader(io.StringIO(run("audit", "export", "--actor", "operator").stdout)))
    assert [each["operation"] for each in exported[:2]] == ["createApp", "createOrganization"]
    assert "listAudit" in run("audit", "list").stdout, "that it was exported is in it"

    absent = run("audit", "list", "--org", "00000000-0000-4000-8000-000000000000", exit_code=1)
    assert "no such organization" in absent.stderr
