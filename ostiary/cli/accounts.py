"""`ostiary orgs` and `ostiary apps`."""

from __future__ import annotations

import json

import click

from ostiary.cli.client import Client, Document, Listing, api_command, json_option, limit_option
from ostiary.cli.table import table

ORGANIZATION_COLUMNS = ("id", "name", "created_at")
APP_COLUMNS = ("id", "organization_id", "name", "created_at")


@click.group()
def orgs() -> None:
    """Organizations, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary orgs create Acme
      ostiary orgs list
    """


@orgs.command("create")
@click.argument("name")
@api_command
@json_option
def create_organization(client: Client, name: str, as_json: bool) -> None:
    """Create an organization, and print its id.

    \b
    Example:
      ostiary orgs create Acme
    """
    print_created(client.post("/organizations", {"name": name}), as_json=as_json)


@orgs.command("list")
@api_command
@limit_option
@json_option
def list_organizations(client: Client, limit: int, as_json: bool) -> None:
    """List organizations, newest first.

    \b
    Example:
      ostiary orgs list --limit 20
      ostiary orgs list --json
    """
    print_list(client.items("/organizations", {}, limit=limit), ORGANIZATION_COLUMNS, as_json=as_json)


@click.group()
def apps() -> None:
    """Apps, over the control-plane API.

    \b
    Example:
      export OSTIARY_OPERATOR_TOKEN=$(cat /etc/ostiary/operator-token)
      ostiary apps create Shop --org ID
      ostiary apps list
    """


@apps.command("create")
@click.argument("name")
@click.option("--org", "--organization", "organization_id", required=True, metavar="ID", help="The organization.")
@click.option("--description", metavar="TEXT", help="What the app is for.")
@api_command
@json_option
def create_app(client: Client, name: str, organization_id: str, description: str | None, as_json: bool) -> None:
    """Create an app of an organization, and print its id.

    \b
    Example:
      ostiary apps create Shop --org $(ostiary orgs create Acme)
    """
    document = {"name": name, "organization_id": organization_id, "description": description}
    print_created(client.post("/apps", document), as_json=as_json)


@apps.command("list")
@click.option("--org", "--organization", "organization_id", metavar="ID", help="Only the apps of this organization.")
@api_command
@limit_option
@json_option
def list_apps(client: Client, organization_id: str | None, limit: int, as_json: bool) -> None:
    """List apps, newest first.

    \b
    Example:
      ostiary apps list --org ID
    """
    listing = client.items("/apps", {"organization_id": organization_id}, limit=limit)
    print_list(listing, APP_COLUMNS, as_json=as_json)


def print_created(document: Document, *, as_json: bool) -> None:
    """The id alone, so that it can be used in the next command; or all of it as JSON."""
    click.echo(json.dumps(document, indent=2) if as_json else document["id"])


def print_list(listing: Listing, columns: tuple[str, ...], *, as_json: bool) -> None:
    """A table, and on stderr how many more there are; or all of it as JSON."""
    if as_json:
        click.echo(json.dumps({"data": listing.items, "total": listing.total}, indent=2))
        return
    click.echo(table(listing.items, columns))
    if (more := listing.total - len(listing.items)) > 0:
        click.echo(f"{more} more; see --limit", err=True)
