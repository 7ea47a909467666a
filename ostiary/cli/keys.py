"""`ostiary keys`."""

from __future__ import annotations

import json

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, api_command, json_option, limit_option, segment

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
