"""`ostiary usage`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import ParamSpec

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Listing, api_command, json_option, segment

COLUMNS = ("day", "calls", "errors", "avg_latency_ms")
P = ParamSpec("P")

SHADOW_COLUMNS = ("route", "limit", "calls", "would_refuse")
QUOTA_COLUMNS = ("subject", "quota", "threshold", "calls_max", "reached_at", "period_ends")


class _UsageGroup(click.Group):
    """`daily` asks the API and needs nothing else; `reconcile` looks into spool and database, and is imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "reconcile"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "reconcile":
            return super().get_command(ctx, cmd_name)
        command = import_module("ostiary.cli.reconcile").reconcile
        assert isinstance(command, click.Command)  # noqa: S101  a programming error, not an input
        return command


@click.group(cls=_UsageGroup)
def usage() -> None:
    """Usage per day, over the control-plane API; and the proof that nothing of it was lost.

    \b
    Example:
      ostiary usage daily --app ID
      ostiary usage shadow --days 7
      ostiary usage quotas --days 31
      ostiary usage reconcile -c gateway.yaml
    """


def _whose(command: Callable[P, None]) -> Callable[P, None]:
    """The options that say whose calls, and of which days."""
    for option in (
        click.option(
            "--days", type=click.IntRange(1, 366), default=30, show_default=True, help="Days, today included."
        ),
        click.option("--key", "key_id", metavar="ID", help="Only this key's calls."),
        click.option(
            "--org", "--organization", "organization_id", metavar="ID", help="Only this organization's calls."
        ),
        click.option("--app", "app_id", metavar="ID", help="Only this app's calls."),
    ):
        command = option(command)
    return command


@usage.command("daily")
@_whose
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
    _print_page(client, "/usage/daily", COLUMNS, app_id, organization_id, key_id, days, as_json=as_json)


@usage.command("shadow")
@_whose
@api_command
@json_option
def shadow(
    client: Client, app_id: str | None, organization_id: str | None, key_id: str | None, days: int, as_json: bool
) -> None:
    """Calls that limits in shadow would have refused, by route and limit, beside all calls of the route.

    A limit that would have refused none is not listed.

    \b
    Example:
      ostiary usage shadow --days 7
    """
    _print_page(client, "/usage/shadow", SHADOW_COLUMNS, app_id, organization_id, key_id, days, as_json=as_json)


@usage.command("quotas")
@_whose
@api_command
@json_option
def quotas(
    client: Client, app_id: str | None, organization_id: str | None, key_id: str | None, days: int, as_json: bool
) -> None:
    """Who reached 50, 80, 90 and 100 % of a quota, and when; the latest first.

    --key, --app and --org are for quotas that count a key, an app, an organization.

    \b
    Example:
      ostiary usage quotas --app ID
    """
    _print_page(client, "/usage/quotas", QUOTA_COLUMNS, app_id, organization_id, key_id, days, as_json=as_json)


def _print_page(
    client: Client,
    path: str,
    columns: tuple[str, ...],
    app_id: str | None,
    organization_id: str | None,
    key_id: str | None,
    days: int,
    *,
    as_json: bool,
) -> None:
    if app_id is not None:  # so that a mistyped app is an error, and not an empty list
        client.get(f"/apps/{segment(app_id)}")
    parameters = {"app_id": app_id, "organization_id": organization_id, "key_id": key_id, "days": days}
    page = client.get(path, parameters)
    print_list(Listing(page["data"], page["total"]), columns, as_json=as_json)
