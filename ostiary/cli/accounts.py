"""`ostiary orgs` and `ostiary apps`."""

from __future__ import annotations

import json

import click

from ostiary.cli.client import Client, Document, Listing, api_command, json_option, limit_option, segment
from ostiary.cli.table import table

ORGANIZATION_COLUMNS = ("id", "name", "created_at")
APP_COLUMNS = ("id", "organization_id", "name", "environment", "approval", "created_at")


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
@click.option("--website", metavar="URL", help="Where its users find it.")
@click.option(
    "--redirect-uri", "redirect_uris", multiple=True, metavar="URI", help="Where sign-in may lead. Repeatable."
)
@click.option(
    "--environment",
    type=click.Choice(["live", "test"]),
    default="live",
    show_default=True,
    help="An app for tests has test keys alone.",
)
@api_command
@json_option
def create_app(client: Client, name: str, organization_id: str, as_json: bool, **fields: object) -> None:
    """Create an app of an organization, and print its id.

    \b
    Example:
      ostiary apps create Shop --org $(ostiary orgs create Acme)
    """
    document = {"name": name, "organization_id": organization_id, **fields}
    print_created(client.post("/apps", document), as_json=as_json)


@apps.command("show")
@click.argument("app_id")
@api_command
@json_option
def show_app(client: Client, app_id: str, as_json: bool) -> None:
    """Show an app: what it is, and whether the platform approves of it.

    \b
    Example:
      ostiary apps show ID
    """
    print_one(client.get(f"/apps/{segment(app_id)}"), as_json=as_json)


@apps.command("update")
@click.argument("app_id")
@click.option("--name", help="Another name.")
@click.option("--description", metavar="TEXT", help="What the app is for.")
@click.option("--website", metavar="URL", help="Where its users find it; empty for nowhere.")
@click.option("--redirect-uri", "redirect_uris", multiple=True, metavar="URI", help="In place of all. Repeatable.")
@api_command
@json_option
def update_app(
    client: Client,
    app_id: str,
    name: str | None,
    description: str | None,
    website: str | None,
    redirect_uris: tuple[str, ...],
    as_json: bool,
) -> None:
    """Change an app. What is not given stays.

    \b
    Example:
      ostiary apps update ID --name Store --website https://store.example.com/
    """
    changes: dict[str, object] = {"name": name, "description": description}
    changes = {field: value for field, value in changes.items() if value is not None}
    if website is not None:
        changes["website"] = website or None
    if redirect_uris:
        changes["redirect_uris"] = list(redirect_uris)
    print_one(client.patch(f"/apps/{segment(app_id)}", changes), as_json=as_json)


def _decision(name: str, approval: str, says: str) -> click.Command:
    @click.argument("app_id")
    @click.option("--reason", required=True, metavar="TEXT", help="Why, for the app's people.")
    @api_command
    @json_option
    def decide(client: Client, app_id: str, reason: str, as_json: bool) -> None:
        decided = client.post(f"/apps/{segment(app_id)}/approval", {"approval": approval, "reason": reason})
        if as_json:
            click.echo(json.dumps(decided, indent=2))
        else:
            click.echo(f"{decided['name']} is {decided['approval']}: {decided['approval_reason']}")

    return click.command(name, help=f"{says}\n\n\b\nExample:\n  ostiary apps {name} ID --reason TEXT")(decide)


apps.add_command(_decision("approve", "approved", "Approve of an app: its live keys work."))
apps.add_command(_decision("reject", "rejected", "Reject an app: its test keys alone work."))
apps.add_command(_decision("suspend", "suspended", "Suspend an app: none of its keys works, within a second."))


@apps.command("delete")
@click.argument("app_id")
@api_command
@json_option
def delete_app(client: Client, app_id: str, as_json: bool) -> None:
    """Delete an app and its keys, all of which must be revoked or expired. What was metered stays.

    \b
    Example:
      ostiary apps delete ID
    """
    deleted = client.delete(f"/apps/{segment(app_id)}")
    click.echo(json.dumps(deleted, indent=2) if as_json else f"{deleted['name']} was deleted")


@apps.command("list")
@click.option("--org", "--organization", "organization_id", metavar="ID", help="Only the apps of this organization.")
@click.option(
    "--approval",
    type=click.Choice(["pending", "approved", "rejected", "suspended"]),
    help="Only those of which the platform has decided so.",
)
@api_command
@limit_option
@json_option
def list_apps(client: Client, limit: int, as_json: bool, **filters: object) -> None:
    """List apps, newest first.

    \b
    Example:
      ostiary apps list --org ID
      ostiary apps list --approval pending
    """
    listing = client.items("/apps", filters, limit=limit)
    print_list(listing, APP_COLUMNS, as_json=as_json)


def print_created(document: Document, *, as_json: bool) -> None:
    """The id alone, so that it can be used in the next command; or all of it as JSON."""
    click.echo(json.dumps(document, indent=2) if as_json else document["id"])


def print_one(document: Document, *, as_json: bool) -> None:
    """Field by field, or all of it as JSON."""
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    fields = [{"field": name.replace("_", " "), "value": value} for name, value in document.items()]
    click.echo(table(fields, ("field", "value"), heading=False))


def print_list(listing: Listing, columns: tuple[str, ...], *, as_json: bool) -> None:
    """A table, and on stderr how many more there are; or all of it as JSON."""
    if as_json:
        click.echo(json.dumps({"data": listing.items, "total": listing.total}, indent=2))
        return
    click.echo(table(listing.items, columns))
    if (more := listing.total - len(listing.items)) > 0:
        click.echo(f"{more} more; see --limit", err=True)
