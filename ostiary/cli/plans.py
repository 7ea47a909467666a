"""`ostiary plans`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from ostiary.cli.accounts import print_list, print_one
from ostiary.cli.client import Client, Document, Listing, api_command, json_option, segment
from ostiary.cli.limit_options import plan_calls, plan_rate

COLUMNS = ("name", "rate", "limits", "quotas", "concurrency", "overage")

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@click.group()
def plans() -> None:
    """Plans, over the control-plane API.

    Where the file of gateways and control plane says `routes: {from: control_plane}`, plans are published with the routes,
    and each change here makes the next version of them: see it with `ostiary routes history`, take it back with `ostiary
    routes rollback`. Elsewhere they stand in the file, and are changed there.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary plans list
      ostiary plans create gold --limit 10000/hour --quota 100000/day --overage warn
      ostiary plans replace gold --limit 20000/hour --quota 200000/day --note "spring offer"
      ostiary plans delete gold
    """


def _terms(function: FunctionT) -> FunctionT:
    """What a plan has. The command gets the fields of the API as its keyword `terms`."""

    @click.option("--rate", type=plan_rate, metavar="N/SPAN[+BURST]", help="Token bucket, as in 100/minute+600.")
    @click.option(
        "--limit",
        "limits",
        type=plan_calls,
        multiple=True,
        metavar="N/SPAN",
        help="Sliding window, as in 5000/hour; behind it ,shadow to try it out, ,charged to count refused calls, ,leased to "
        "count by slices. Repeatable.",
    )
    @click.option(
        "--quota", "quotas", type=plan_calls, multiple=True, metavar="N/PERIOD", help="As in 1000000/month. Repeatable."
    )
    @click.option("--concurrency", type=int, metavar="N", help="Calls under way at once.")
    @click.option("--concurrency-mode", type=click.Choice(["enforce", "shadow"]), help="Whether that bound refuses.")
    @click.option("--overage", type=click.Choice(["block", "warn", "charge"]), help="What happens past a quota.")
    @click.option("--by", type=click.Choice(["key", "app", "organization"]), help="Whose use is counted together.")
    @click.option("--note", help="Why, for the people who will ask; shown in the history of routes.")
    @functools.wraps(function)
    def command(
        *arguments: Any,
        rate: Document | None,
        limits: tuple[Document, ...],
        quotas: tuple[Document, ...],
        concurrency: int | None,
        concurrency_mode: str | None,
        overage: str | None,
        by: str | None,
        note: str | None,
        **options: Any,
    ) -> Any:
        terms = {
            "rate": rate,
            "limits": list(limits),
            "quotas": list(quotas),
            "concurrency": concurrency,
            "concurrency_mode": concurrency_mode,
            "overage": overage,
            "by": by,
            "note": note,
        }
        return function(*arguments, terms=terms, **options)

    return cast("FunctionT", command)


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


@plans.command("create")
@click.argument("name")
@_terms
@api_command
@json_option
def create_plan(client: Client, name: str, terms: Document, as_json: bool) -> None:
    """Add a plan, in force in every gateway within a second.

    \b
    Example:
      ostiary plans create gold --rate 100/minute+600 --limit 10000/hour --quota 1000000/month --overage charge
    """
    plan = client.post("/plans", {"name": name, **terms})
    print_one(plan if as_json else _in_words(plan), as_json=as_json)


@plans.command("replace")
@click.argument("name")
@_terms
@api_command
@json_option
def replace_plan(client: Client, name: str, terms: Document, as_json: bool) -> None:
    """Replace a plan, whole: what is not given is not part of it any more. In force within a second; what was used stays
    used.

    \b
    Example:
      ostiary plans show gold
      ostiary plans replace gold --limit 20000/hour --note "spring offer"
    """
    plan = client.put(f"/plans/{segment(name)}", terms)
    print_one(plan if as_json else _in_words(plan), as_json=as_json)


@plans.command("delete")
@click.argument("name")
@click.option("--note", help="Why, for the people who will ask; shown in the history of routes.")
@api_command
@json_option
def delete_plan(client: Client, name: str, note: str | None, as_json: bool) -> None:
    """Delete a plan that no key in force has.

    \b
    Example:
      ostiary plans delete gold
    """
    plan = client.delete(f"/plans/{segment(name)}", {} if note is None else {"note": note})
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    click.echo(f"plan {name} is gone with version {plan['version']}")


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
