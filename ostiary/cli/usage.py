"""`ostiary usage`."""

from __future__ import annotations

from importlib import import_module

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Listing, api_command, json_option, segment

COLUMNS = ("day", "calls", "errors", "avg_latency_ms")


_LOCAL = ("reconcile", "retention")


class _UsageGroup(click.Group):
    """Most ask the API and need nothing else; those that look into spool and database are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_LOCAL]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LOCAL:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(f"ostiary.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101  a programming error, not an input
        return command


@click.group(cls=_UsageGroup)
def usage() -> None:
    """Usage per day, over the control-plane API; and the proof that nothing of it was lost.

    \b
    Example:
      ostiary usage daily --app ID
      ostiary usage reconcile -c gateway.yaml
    """


@usage.command("daily")
@click.option("--app", "app_id", metavar="ID", help="Only this app's calls.")
@click.option("--org", "--organization", "organization_id", metavar="ID", help="Only this organization's calls.")
@click.option("--key", "key_id", metavar="ID", help="Only this key's calls.")
@click.option(
    "--days", type=click.IntRange(1, 366), default=30, show_default=True, help="How many days, today included."
)
@api_command
@json_option
def daily(
    client: Client, app_id: str | None, organization_id: str | None, key_id: str | None, days: int, as_json: bool
) -> None:
    """Calls, errors and average latency of each day (UTC), the oldest first.

    \b
    Example:
      ostiary usage daily --app ID --days 7
    """
    if app_id is not None:  # so that a mistyped app is an error, and not a month of zeros
        client.get(f"/apps/{segment(app_id)}")
    parameters = {"app_id": app_id, "organization_id": organization_id, "key_id": key_id, "days": days}
    page = client.get("/usage/daily", parameters)
    print_list(Listing(page["data"], page["total"]), COLUMNS, as_json=as_json)
