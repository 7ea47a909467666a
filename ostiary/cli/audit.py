"""`ostiary audit`."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Document, api_command, json_option, limit_option, segment
from ostiary.cli.usage_options import Moment

COLUMNS = ("number", "occurred_at", "actor", "address", "operation", "resource_type", "resource_id", "outcome", "code")

_LOCAL = ("verify",)


class _AuditGroup(click.Group):
    """Most ask the API and need nothing else; what looks into the database is imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_LOCAL]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LOCAL:
            return super().get_command(ctx, cmd_name)
        command = import_module("ostiary.cli.audit_verify").verify
        assert isinstance(command, click.Command)  # noqa: S101  a programming error, not an input
        return command


@click.group(cls=_AuditGroup)
def audit() -> None:
    """Who changed what, from where, and what was refused, over the control-plane API; and the proof that it is all there.

    \b
    Example:
      ostiary audit list --operation revokeKey --since 7d
      ostiary audit export --since 2030-01-01 --until 2030-02-01 > january.csv
      ostiary audit head >> /elsewhere/anchors
      ostiary audit verify -c gateway.yaml --head "$(tail -n 1 /elsewhere/anchors)"
    """


def _filter_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--until", type=Moment(), metavar="TIME", help="Up to when."),
        click.option(
            "--since", type=Moment(), metavar="TIME", help="From when on: a time, a day, or as in 24h before now."
        ),
        click.option("--outcome", type=click.Choice(["done", "refused"]), help="Only what was done, or refused."),
        click.option("--operation", metavar="NAME", help="Only this operation, as in revokeKey; /docs names them."),
        click.option("--resource-id", metavar="ID", help="Only what was done to the thing with this id."),
        click.option("--resource", metavar="TYPE", help="Only what was done to this type of thing, as in key."),
        click.option("--org", "--organization", "organization_id", metavar="ID", help="Only this organization's."),
        click.option("--actor", metavar="PRINCIPAL", help="Only what this one did, as in operator."),
    ):
        function = option(function)
    return function


@audit.command("list")
@_filter_options
@api_command
@limit_option
@json_option
def list_audit(client: Client, limit: int, as_json: bool, **asked: str | None) -> None:
    """Changes and refusals, newest first. What was before and after is in --json.

    \b
    Example:
      ostiary audit list --actor operator --since 24h
      ostiary audit list --resource key --resource-id ID --json
    """
    path, query = _place(asked)
    print_list(client.items(path, query, limit=limit), COLUMNS, as_json=as_json)


@audit.command("export")
@_filter_options
@api_command
def export(client: Client, **asked: str | None) -> None:
    """All of the same as CSV, on standard output. That it was taken is written into the log itself.

    \b
    Example:
      ostiary audit export --since 2030-01-01 > audit.csv
    """
    path, query = _place(asked)
    client.download(path, {**query, "format": "csv"}, sys.stdout.buffer)


@audit.command("head")
@api_command
@json_option
def head(client: Client, as_json: bool) -> None:
    """Print the number and hash of the last row, to be kept where nobody who may write into the database can change it.

    \b
    Example:
      ostiary audit head >> /elsewhere/anchors
    """
    found = client.get("/audit/head")
    click.echo(json.dumps(found) if as_json else f"{found['number']}:{found['hash']}")


def _place(asked: Document) -> tuple[str, Document]:
    """An organization's own list says when there is no such organization, and is open to its admins."""
    organization_id = asked.pop("organization_id")
    return ("/audit" if organization_id is None else f"/organizations/{segment(organization_id)}/audit"), asked
