"""`ostiary events`."""

from __future__ import annotations

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, api_command, json_option, limit_option

COLUMNS = ("number", "occurred_at", "kind", "resource_type", "resource_id", "app_id", "organization_id")


@click.group()
def events() -> None:
    """What happened that others may want to hear of: keys, apps, members and plans that changed, quotas that were reached.

    Kept for 30 days. Who changed what is in `ostiary audit list`, for ever.

    \b
    Example:
      ostiary events list --kind quota.reached
    """


@events.command("list")
@click.option("--kind", metavar="KIND", help="Only events of this kind, as in key.revoked.")
@click.option("--app", "app_id", metavar="ID", help="Only of this app and its keys.")
@click.option("--org", "--organization", "organization_id", metavar="ID", help="Only of this organization.")
@click.option("--resource-id", metavar="ID", help="Only of this key, app, plan …")
@click.option(
    "--after", type=click.IntRange(min=0), metavar="NUMBER", help="Only events after this one, the oldest first."
)
@api_command
@limit_option
@json_option
def list_events(
    client: Client,
    kind: str | None,
    app_id: str | None,
    organization_id: str | None,
    resource_id: str | None,
    after: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List events, newest first; with --after, oldest first, for a script that remembers the last number it has seen.

    \b
    Example:
      ostiary events list --kind key.revoked --limit 10
      ostiary events list --after 4711 --json
    """
    asked = {
        "kind": kind,
        "app_id": app_id,
        "organization_id": organization_id,
        "resource_id": resource_id,
        "after": after,
    }
    print_list(client.items("/events", asked, limit=limit), COLUMNS, as_json=as_json)
