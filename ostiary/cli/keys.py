"""`ostiary keys`."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Document, api_command, json_option, limit_option, segment
from ostiary.cli.rewrap import rewrap

COLUMNS = ("key_id", "name", "environment", "state", "plan", "scopes", "secret_hint", "expires_at", "created_at")


@click.group()
def keys() -> None:
    """Keys, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary keys create --app ID --name phone --scope clients:read --plan standard
      ostiary keys list --app ID
    """


keys.add_command(rewrap)


@keys.command("create")
@click.option("--app", "app_id", required=True, metavar="ID", help="The app that the key is for.")
@click.option("--name", required=True, help="What the key is for, for people.")
@click.option(
    "--environment",
    type=click.Choice(["live", "test"]),
    default="test",
    show_default=True,
    help="Which upstreams it reaches.",
)
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may do, as in clients:read. Repeatable."
)
@click.option("--plan", metavar="NAME", help="The plan whose limits hold, by its name in the configuration.")
@click.option("--expires-at", metavar="TIME", help="When it ends, as in 2030-01-31T00:00:00Z.")
@click.option("--expires-in-days", type=int, metavar="DAYS", help="After how many days it ends.")
@click.option("--allowed-ip", "allowed_ips", multiple=True, metavar="NETWORK", help="Only from there. Repeatable.")
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="Only from there. Repeatable."
)
@api_command
@json_option
def create(client: Client, app_id: str, as_json: bool, **fields: object) -> None:
    """Create a key, and print its id and its secret.

    The secret is shown this once and is nowhere else: keep it now. A lost secret can't be brought back; revoke the key and
    create another.

    \b
    Example:
      ostiary keys create --app ID --name "nightly import" --scope clients:read --plan standard
    """
    created = client.post(f"/apps/{segment(app_id)}/keys", fields)
    if as_json:
        click.echo(json.dumps(created, indent=2))
    else:
        click.echo(f"key id  {created['key_id']}\nsecret  {created['secret']}")
    click.echo("The secret is shown this once: keep it now.", err=True)


@keys.command("list")
@click.option("--app", "app_id", required=True, metavar="ID", help="The app whose keys to list.")
@api_command
@limit_option
@json_option
def list_keys(client: Client, app_id: str, limit: int, as_json: bool) -> None:
    """List the keys of an app, newest first; revoked and expired ones too.

    \b
    Example:
      ostiary keys list --app ID
      ostiary keys list --app ID --json
    """
    print_list(client.items(f"/apps/{segment(app_id)}/keys", {}, limit=limit), COLUMNS, as_json=as_json)


@keys.command("revoke")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why, for the people who will ask.")
@api_command
@json_option
def revoke(client: Client, key_id: str, reason: str, as_json: bool) -> None:
    """Revoke a key, for ever. Gateways refuse it within a second.

    \b
    Example:
      ostiary keys revoke ak_live_… --reason "leaked in a public repository"
    """
    revoked = client.post(f"/keys/{segment(key_id)}/revoke", {"reason": reason})
    if as_json:
        click.echo(json.dumps(revoked, indent=2))
    else:
        click.echo(f"{revoked['key_id']} was revoked at {revoked['revoked_at']}: {revoked['revoked_reason']}")


@keys.group("limits")
def limits() -> None:
    """Limits of one key in place of its plan's, part by part. In force within a second.

    \b
    Example:
      ostiary keys limits set ak_live_… --limit 20000/hour --concurrency 20 --reason "launch week"
      ostiary keys limits show ak_live_…
      ostiary keys limits remove ak_live_… --reason "launch is over"
    """


def _calls(value: str) -> dict[str, object]:
    """`REQUESTS/SPAN`; the API knows which spans there are."""
    found = re.fullmatch(r"([0-9]{1,13})/([a-z]+)", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not like 5000/hour")
    return {"requests": int(found[1]), "per": found[2]}


def _rate(value: str) -> dict[str, object]:
    """`REQUESTS/SPAN`, with `+BURST` behind it where another burst is meant."""
    calls, plus, burst = value.partition("+")
    if plus and re.fullmatch(r"[0-9]{1,13}", burst) is None:
        raise click.BadParameter(f"{value!r} is not like 100/minute+600")
    return _calls(calls) | ({"burst": int(burst)} if plus else {})


@limits.command("set")
@click.argument("key_id")
@click.option("--rate", type=_rate, metavar="N/SPAN[+BURST]", help="Token bucket, as in 100/minute+600.")
@click.option(
    "--limit",
    "limits",
    type=_calls,
    multiple=True,
    metavar="N/SPAN",
    help="Sliding window, as in 5000/hour. Repeatable.",
)
@click.option("--no-limits", is_flag=True, help="No sliding window, whatever the plan says.")
@click.option(
    "--quota", "quotas", type=_calls, multiple=True, metavar="N/PERIOD", help="As in 1000000/month. Repeatable."
)
@click.option("--no-quotas", is_flag=True, help="No quota, whatever the plan says.")
@click.option("--concurrency", type=int, metavar="N", help="Calls under way at once.")
@click.option("--overage", type=click.Choice(["block", "warn", "charge"]), help="What happens past a quota.")
@click.option("--reason", required=True, help="Why, for the people who will ask.")
@api_command
@json_option
def set_limits(
    client: Client,
    key_id: str,
    limits: tuple[dict[str, object], ...],
    no_limits: bool,
    quotas: tuple[dict[str, object], ...],
    no_quotas: bool,
    as_json: bool,
    **parts: object,
) -> None:
    """Replace parts of a key's plan for this key alone. What is not given is as the plan has it, whatever was set before.

    \b
    Example:
      ostiary keys limits set ak_live_… --rate 100/minute+600 --quota 2000000/month --reason "contract 2027"
    """
    if (limits and no_limits) or (quotas and no_quotas):
        raise click.UsageError("give limits, or --no-limits; quotas, or --no-quotas")
    document = {
        **parts,
        "limits": list(limits) if limits or no_limits else None,
        "quotas": list(quotas) if quotas or no_quotas else None,
    }
    _print_limits(client.put(f"/keys/{segment(key_id)}/limits", document), as_json=as_json)


@limits.command("show")
@click.argument("key_id")
@api_command
@json_option
def show_limits(client: Client, key_id: str, as_json: bool) -> None:
    """Show what holds for a key in place of its plan's limits, and who set it when and why.

    \b
    Example:
      ostiary keys limits show ak_live_…
    """
    _print_limits(client.get(f"/keys/{segment(key_id)}/limits"), as_json=as_json)


@limits.command("remove")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why, for the people who will ask.")
@api_command
@json_option
def remove_limits(client: Client, key_id: str, reason: str, as_json: bool) -> None:
    """Go back to the limits of the key's plan.

    \b
    Example:
      ostiary keys limits remove ak_live_… --reason "launch is over"
    """
    _print_limits(client.delete(f"/keys/{segment(key_id)}/limits", {"reason": reason}), as_json=as_json)


def _print_limits(found: Document, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    plan = f"plan {found['plan']}" if found["plan"] else "no plan"
    click.echo(f"{found['key_id']}  {plan}")
    for name in ("rate", "limits", "quotas", "concurrency", "overage"):
        click.echo(f"{name:<12} {_shown(found[name])}")
    if found["changed_at"] is not None:
        click.echo(f"changed {found['changed_at']} by {found['changed_by']}: {found['reason']}")


def _shown(part: Any) -> str:
    match part:
        case None:
            return "as in the plan"
        case []:
            return "none"
        case list():
            return ", ".join(_shown(each) for each in part)
        case {"requests": requests, "per": per, "burst": burst}:
            return f"{requests}/{per}+{burst}"
        case {"requests": requests, "per": per}:
            return f"{requests}/{per}"
        case _:
            return str(part)
