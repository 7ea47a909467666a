"""`ostiary keys`."""

from __future__ import annotations

import json
import re

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Document, api_command, json_option, limit_option, segment
from ostiary.cli.key_limits import limits
from ostiary.cli.rewrap import rewrap
from ostiary.cli.table import table

COLUMNS = (
    "key_id",
    "name",
    "environment",
    "state",
    "plan",
    "scopes",
    "secret_hint",
    "last_used_at",
    "expires_at",
    "created_at",
)
GENERATION_COLUMNS = (
    "number",
    "secret_hint",
    "created_at",
    "ends_at",
    "last_used_at",
    "last_used_ip",
    "last_used_user_agent",
)
SHOWN_ONCE = "The secret is shown this once: keep it now."


def _seconds(value: str) -> int:
    """`7d`, `12h`, `30m`, `45s`, or 0; the API knows which are too long."""
    found = re.fullmatch(r"([0-9]{1,7})([dhms])", value)
    if found is None and value != "0":
        raise click.BadParameter(f"{value!r} is not like 7d, 12h, 30m or 0")
    return 0 if found is None else int(found[1]) * {"d": 86_400, "h": 3600, "m": 60, "s": 1}[found[2]]


@click.group()
def keys() -> None:
    """Keys, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary keys create --app ID --name phone --scope clients:read --plan standard
      ostiary keys list --app ID
      ostiary keys rotate ak_live_… --grace 7d
      ostiary keys show ak_live_…
    """


keys.add_command(limits)
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

    The secret is shown this once and is nowhere else: keep it now. A lost secret can't be brought back; rotate the key.

    \b
    Example:
      ostiary keys create --app ID --name "nightly import" --scope clients:read --plan standard
      ostiary keys create --app ID --name shop --environment live --expires-in-days 90 --allowed-ip 203.0.113.0/24
    """
    created = client.post(f"/apps/{segment(app_id)}/keys", fields)
    _print_secret(created, as_json=as_json)


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


@keys.command("show")
@click.argument("key_id")
@api_command
@json_option
def show(client: Client, key_id: str, as_json: bool) -> None:
    """Show a key: what it may do, which secrets it has, and when each was last used, from where and by what.

    What is used shows some seconds later. A secret is known by its last four characters.

    \b
    Example:
      ostiary keys show ak_live_…
      ostiary keys show ak_live_… --json
    """
    _print_key(client.get(f"/keys/{segment(key_id)}"), as_json=as_json)


@keys.command("rotate")
@click.argument("key_id")
@click.option(
    "--grace",
    "grace_seconds",
    type=_seconds,
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How long the secret before works too, as in 7d, 12h, 30m; 0 ends it at once.",
)
@api_command
@json_option
def rotate(client: Client, key_id: str, grace_seconds: int, as_json: bool) -> None:
    """Give a key another secret, and print it. Until the grace is over the secret before works too.

    A key has at most two secrets: rotating again ends the older one. No grace outlives the key.

    \b
    Example:
      ostiary keys rotate ak_live_… --grace 7d
      ostiary keys rotate ak_live_… --grace 0
    """
    rotated = client.post(f"/keys/{segment(key_id)}/rotate", {"grace_seconds": grace_seconds})
    _print_secret(rotated, as_json=as_json)
    before = rotated["generations"][1]
    ends = f"works until {before['ends_at']}" if rotated["state"] == "rotating" else "has ended"
    click.echo(f"The secret that ends in {before['secret_hint']} {ends}.", err=True)


@keys.command("end")
@click.argument("key_id")
@click.argument("generation", type=click.IntRange(min=1))
@api_command
@json_option
def end(client: Client, key_id: str, generation: int, as_json: bool) -> None:
    """End the secret before the present one, ahead of its time. Gateways refuse it within a second.

    GENERATION is its number, as `ostiary keys show` has it, with who used it last.

    \b
    Example:
      ostiary keys show ak_live_…
      ostiary keys end ak_live_… 1
    """
    _print_key(client.delete(f"/keys/{segment(key_id)}/generations/{generation}"), as_json=as_json)


@keys.command("update")
@click.argument("key_id")
@click.option("--name", help="What the key is for, for people.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What it may do from now on. Repeatable.")
@click.option("--no-scopes", is_flag=True, help="No scope any more.")
@click.option("--plan", metavar="NAME", help="The plan whose limits hold, by its name in the configuration.")
@click.option("--no-plan", is_flag=True, help="No plan any more: only the limits of routes hold.")
@click.option(
    "--allowed-ip", "allowed_ips", multiple=True, metavar="NETWORK", help="Only from there from now on. Repeatable."
)
@click.option("--no-allowed-ips", is_flag=True, help="From anywhere.")
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="Only from these pages. Repeatable."
)
@click.option("--no-allowed-origins", is_flag=True, help="From any page.")
@api_command
@json_option
def update(
    client: Client,
    key_id: str,
    as_json: bool,
    name: str | None,
    no_plan: bool,
    plan: str | None,
    **lists: tuple[str, ...] | bool,
) -> None:
    """Change what a key is called, may do or is held to; what is not given stays. In force within a second.

    A list that is given replaces the whole list.

    \b
    Example:
      ostiary keys update ak_live_… --scope clients:read --scope clients:write
      ostiary keys update ak_live_… --plan gold --allowed-ip 203.0.113.0/24
      ostiary keys update ak_live_… --no-allowed-ips
    """
    changes: Document = {}
    if name is not None:
        changes["name"] = name
    if plan is not None or no_plan:
        changes["plan"] = plan
    for field in ("scopes", "allowed_ips", "allowed_origins"):
        if lists[field] or lists[f"no_{field}"]:
            changes[field] = lists[field]
        if lists[field] and lists[f"no_{field}"]:
            raise click.UsageError(f"give {field}, or --no-{field.replace('_', '-')}")
    if plan is not None and no_plan:
        raise click.UsageError("give --plan, or --no-plan")
    _print_key(client.patch(f"/keys/{segment(key_id)}", changes), as_json=as_json)


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


def _print_secret(document: Document, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"key id  {document['key_id']}\nsecret  {document['secret']}")
    click.echo(SHOWN_ONCE, err=True)


def _print_key(document: Document, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    fields = [
        {"field": name.replace("_", " "), "value": value} for name, value in document.items() if name != "generations"
    ]
    click.echo(table(fields, ("field", "value"), heading=False))
    click.echo()
    click.echo(table(document["generations"], GENERATION_COLUMNS))
