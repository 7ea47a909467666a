"""`ostiary usage`."""

from __future__ import annotations

import json
import sys
from importlib import import_module

import click

from ostiary.cli.accounts import print_list
from ostiary.cli.client import Client, Document, Listing, api_command, json_option, limit_option
from ostiary.cli.table import table
from ostiary.cli.tail import LOG_COLUMNS, follow
from ostiary.cli.usage_options import Moment, csv_option, filter_options, must_exist, span_options, whose_options

FIGURES = (
    *("calls", "errors", "overage", "bytes_in", "bytes_out"),
    *("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms"),
)
SHADOW_COLUMNS = ("route", "limit", "calls", "would_refuse")
SHADOW_COLUMNS_BY_KEY = ("route", "key_id", "limit", "calls", "would_refuse")
QUOTA_COLUMNS = (
    *(
        "subject_type",
        "subject_id",
        "environment",
        "quota",
        "limit",
        "used",
        "remaining",
        "resets_at",
        "overage",
        "source",
    ),
)
QUOTA_EVENT_COLUMNS = ("subject", "quota", "threshold", "calls_max", "reached_at", "period_ends")
GROUPS_MAX = 1000  # of one answer


_LOCAL = ("consume", "reconcile", "retention", "stream")


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
    """What was called, what failed and how long it took, over the control-plane API; and the proof that nothing was lost.

    \b
    Example:
      ostiary usage summary --app ID --since 24h
      ostiary usage errors --since 1h
      ostiary usage logs --key ID --status 5xx
      ostiary usage tail --route clients
      ostiary usage shadow --days 7
      ostiary usage quotas --app ID
      ostiary usage quota-events --days 31
      ostiary usage reconcile -c gateway.yaml
      ostiary usage consume -c gateway.yaml
    """


@usage.command("summary")
@filter_options
@span_options
@click.option("--interval", type=click.Choice(["minute", "hour", "day"]), help="The same by minute, hour or day too.")
@api_command
@json_option
def summary(client: Client, asked: Document, span: Document, interval: str | None, as_json: bool) -> None:
    """Calls, errors, bytes, overage and latency of a span of time. Quantiles are off by at most 9.1 %.

    \b
    Example:
      ostiary usage summary --app ID --days 7
      ostiary usage summary --route clients --since 2h --interval minute
    """
    must_exist(client, asked)
    found = client.get("/usage/summary", {**asked, **span, "interval": interval})
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"from {found['since']} to {found['until']}")
    click.echo(table([found], FIGURES))
    if found["intervals"] is not None:
        click.echo(table(found["intervals"], ("start", *FIGURES)))


@usage.command("daily")
@filter_options
@span_options
@api_command
@csv_option
@json_option
def daily(client: Client, asked: Document, span: Document, as_csv: bool, as_json: bool) -> None:
    """The same of each day (UTC), the oldest first.

    \b
    Example:
      ostiary usage daily --app ID --days 7
      ostiary usage daily --org ID --since 2030-01-01 --until 2030-02-01 --csv
    """
    must_exist(client, asked)
    _print(client, "/usage/daily", {**asked, **span}, ("day", *FIGURES), as_csv=as_csv, as_json=as_json)


@usage.command("endpoints")
@filter_options
@span_options
@api_command
@limit_option
@csv_option
@json_option
def endpoints(client: Client, asked: Document, span: Document, limit: int, as_csv: bool, as_json: bool) -> None:
    """The same of each route and method, the most called first.

    \b
    Example:
      ostiary usage endpoints --since 24h
    """
    must_exist(client, asked)
    query = {**asked, **span, "limit": min(limit, GROUPS_MAX)}
    _print(client, "/usage/endpoints", query, ("route", "method", *FIGURES), as_csv=as_csv, as_json=as_json)


@usage.command("errors")
@filter_options
@span_options
@api_command
@limit_option
@csv_option
@json_option
def errors(client: Client, asked: Document, span: Document, limit: int, as_csv: bool, as_json: bool) -> None:
    """How often which error, by route and method, the most frequent first. Its share is of all calls of the two.

    \b
    Example:
      ostiary usage errors --since 1h --status 5xx
    """
    must_exist(client, asked)
    query = {**asked, **span, "limit": min(limit, GROUPS_MAX)}
    columns = ("route", "method", "status", "calls", "share")
    _print(client, "/usage/errors", query, columns, as_csv=as_csv, as_json=as_json)


@usage.command("overage")
@filter_options
@span_options
@api_command
@limit_option
@csv_option
@json_option
def overage(client: Client, asked: Document, span: Document, limit: int, as_csv: bool, as_json: bool) -> None:
    """Keys with calls past their quota, and how many: for the bill.

    \b
    Example:
      ostiary usage overage --since 2030-01-01 --until 2030-02-01 --csv > january.csv
    """
    must_exist(client, asked)
    columns = ("key_id", "app_id", "organization_id", "environment", "calls", "overage")
    query = {**asked, **span}
    _print(client, "/usage/overage", query, columns, limit=limit, as_csv=as_csv, as_json=as_json)


@usage.command("shadow")
@filter_options
@span_options
@click.option("--by", type=click.Choice(["route", "key"]), default="route", help="By route, or by route and key.")
@api_command
@csv_option
@json_option
def shadow(client: Client, asked: Document, span: Document, by: str, as_csv: bool, as_json: bool) -> None:
    """Calls that limits in shadow would have refused, by route and limit, beside all calls of the route.

    A limit that would have refused none is not listed.

    \b
    Example:
      ostiary usage shadow --days 7
      ostiary usage shadow --route clients --by key --since 24h
    """
    must_exist(client, asked)
    columns = SHADOW_COLUMNS_BY_KEY if by == "key" else SHADOW_COLUMNS
    _print(client, "/usage/shadow", {**asked, **span, "by": by}, columns, as_csv=as_csv, as_json=as_json)


@usage.command("quotas")
@whose_options
@api_command
@csv_option
@json_option
def quotas(client: Client, asked: Document, as_csv: bool, as_json: bool) -> None:
    """What is used and what is left of each quota that holds for a key, an app or an organization, and until when.

    Give --key, --app or --org. The figures are the limiter's own; where it can't be asked they are from metered calls, and
    the column `source` says so.

    \b
    Example:
      ostiary usage quotas --key ID
      ostiary usage quotas --org ID --json
    """
    must_exist(client, asked)
    if as_csv:
        client.download("/usage/quotas", {**asked, "format": "csv"}, sys.stdout.buffer)
        return
    found = client.get("/usage/quotas", asked)
    if as_json:
        click.echo(json.dumps({name: found[name] for name in ("data", "total", "note")}, indent=2))
        return
    print_list(Listing(found["data"], found["total"]), QUOTA_COLUMNS, as_json=False)
    if found["note"] is not None:
        click.echo(f"note: {found['note']}", err=True)


@usage.command("quota-events")
@whose_options
@span_options
@api_command
@csv_option
@json_option
def quota_events(client: Client, asked: Document, span: Document, as_csv: bool, as_json: bool) -> None:
    """Who reached 50, 80, 90 and 100 % of a quota, and when; the latest first.

    --key, --app and --org are for quotas that count a key, an app, an organization.

    \b
    Example:
      ostiary usage quota-events --app ID
    """
    must_exist(client, asked)
    _print(client, "/usage/quota-events", {**asked, **span}, QUOTA_EVENT_COLUMNS, as_csv=as_csv, as_json=as_json)


@usage.command("logs")
@filter_options
@click.option("--since", type=Moment(), metavar="TIME", help="From when on; 24h before the end if it is not given.")
@click.option("--until", type=Moment(), metavar="TIME", help="Up to when; now if it is not given.")
@api_command
@limit_option
@csv_option
@json_option
def logs(
    client: Client,
    asked: Document,
    since: str | None,
    until: str | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Single calls, the newest first.

    \b
    Example:
      ostiary usage logs --key ID --status 401 --since 7d
      ostiary usage logs --app ID --since 2030-01-31 --csv > calls.csv
    """
    must_exist(client, asked)
    query = {**asked, "since": since, "until": until}
    _print(client, "/usage/logs", query, LOG_COLUMNS, limit=limit, as_csv=as_csv, as_json=as_json)


@usage.command("tail")
@filter_options
@api_command
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line, for scripts.")
def tail(client: Client, asked: Document, as_json: bool) -> None:
    """Single calls as they come, until Ctrl-C. A call shows within some two seconds of its end.

    At most 1000 calls a second are shown; how many were left out is told.

    \b
    Example:
      ostiary usage tail --app ID --status 5xx
      ostiary usage tail --json | jq .latency_ms
    """
    must_exist(client, asked)
    follow(client, asked, as_json=as_json)


def _print(
    client: Client,
    path: str,
    query: Document,
    columns: tuple[str, ...],
    *,
    limit: int | None = None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """`limit` is for a list that has pages."""
    if as_csv:
        client.download(path, {**query, "format": "csv"}, sys.stdout.buffer)
        return
    if limit is None:
        page = client.get(path, query)
        listing = Listing(page["data"], page["total"])
    else:
        listing = client.items(path, query, limit=limit)
    print_list(listing, columns, as_json=as_json)
