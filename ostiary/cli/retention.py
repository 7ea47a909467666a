"""`ostiary usage retention`: drop usage that is no longer kept, now."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import asyncpg
import click

from ostiary.cli.configuration import config_option, postgres_of, read_configuration
from ostiary.control_plane.audit.commands import by_command
from ostiary.control_plane.db import DatabaseUnavailable
from ostiary.control_plane.usage.retention import RetentionBusy, Upkeep, connected, keep_up
from ostiary.core.usage import Retention


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def retention(config_path: str, dry_run: bool, as_json: bool) -> None:
    """Drop usage that is older than `usage.retention` says, and events of more than 30 days ago; make the partitions of the
    week to come.

    The control plane does so every hour. Safe on a running installation, to repeat, and to interrupt. What is dropped stays
    in the sums of `ostiary usage reconcile`.

    \b
    Example:
      ostiary usage retention -c gateway.yaml --dry-run
      ostiary usage retention -c gateway.yaml
    """
    configuration = read_configuration(config_path)
    try:
        done = asyncio.run(_run(postgres_of(configuration), configuration.usage.retention, dry_run))
    except (DatabaseUnavailable, RetentionBusy) as error:
        raise click.ClickException(str(error)) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        # Only Postgres' own words: others may quote the URL, and with it a password.
        reason = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
        raise click.ClickException(f"Postgres refused: {reason}; is `ostiary db migrate` done?") from error
    if as_json:
        document = {
            "dry_run": dry_run,
            "dropped": list(done.dropped),
            "days_deleted": done.days_deleted,
            "segments_deleted": done.segments_deleted,
            "events_deleted": done.events_deleted,
        }
        click.echo(json.dumps(document, indent=2))
        return
    verb = "would drop" if dry_run else "dropped"
    for partition in done.dropped:
        click.echo(f"{verb} {partition}")
    if done.days_deleted:
        click.echo(f"{verb} {done.days_deleted} roll-ups of days")
    if done.segments_deleted:
        click.echo(f"{verb} {done.segments_deleted} entries of the ledger")
    if done.events_deleted:
        click.echo(f"{verb} {done.events_deleted} events")
    if not done.something:
        click.echo("nothing to do: all that is there is kept")


async def _run(url: str, kept: Retention, dry_run: bool) -> Upkeep:
    async with connected(url) as connection:
        today = datetime.now(UTC).date()
        return await keep_up(connection, kept, today=today, by=by_command(), dry_run=dry_run)
