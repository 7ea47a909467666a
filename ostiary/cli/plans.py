"""`ostiary plans`."""

from __future__ import annotations

import json

import click

from ostiary.cli.accounts import print_list, print_one
from ostiary.cli.client import Client, Document, Listing, api_command, json_option, segment

COLUMNS = ("name", "rate", "limits", "quotas", "concurrency", "overage")


@click.group()
def plans() -> None:
    """Plans in force, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary plans list
    """


@plans.command("list")
@api_command
@json_option
def list_plans(client: Client, as_json: bool) -> None:
    """List plans, by name.

    \b
    Example:
      ostiary plans list
      ostiary plans list --json
    """
    page = client.get("/plans")
    if as_json:
        click.echo(json.dumps({"data": page["data"], "total": page["total"]}, indent=2))
        return
    print_list(Listing([_in_words(plan) for plan in page["data"]], page["total"]), COLUMNS, as_json=False)


@plans.command("show")
@click.argument("name")
@api_command
@json_option
def show_plan(client: Client, name: str, as_json: bool) -> None:
    """Show a plan.

    \b
    Example:
      ostiary plans show standard
    """
    plan = client.get(f"/plans/{segment(name)}")
    print_one(plan if as_json else _in_words(plan), as_json=as_json)


def _in_words(plan: Document) -> Document:
    rate = plan["rate"]
    return {
        **plan,
        "rate": None if rate is None else f"{_limit(rate)} burst {rate['burst']}",
        "limits": [_limit(limit) for limit in plan["limits"]],
        "quotas": [_limit(quota) for quota in plan["quotas"]],
    }


def _limit(limit: Document) -> str:
    return f"{limit['requests']}/{limit['per']}" + (" in shadow" if limit["mode"] == "shadow" else "")
