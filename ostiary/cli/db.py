"""`ostiary db`: the Postgres schema."""

from __future__ import annotations

import asyncio
import json

import click

from ostiary.cli.configuration import config_option, postgres_of, read_configuration
from ostiary.cli.table import table


@click.group()
def db() -> None:
    """Migrate the Postgres schema, and see where it stands.

    \b
    Example:
      ostiary db status -c gateway.yaml
      ostiary db migrate -c gateway.yaml
    """


@db.command()
@config_option
@click.option(
    "--service-role",
    metavar="NAME",
    help="Give this role of the database what control plane and gateways need, and nothing else.",
)
def migrate(config_path: str, service_role: str | None) -> None:
    """Bring the schema up to date. Safe to run twice, and by two at once; each migration is applied whole or not at all.

    Run it as the owner of the tables. Where the control plane and the gateways connect as a role of their own
    (--service-role), they can't change the schema, nor a row of the audit log.

    \b
    Example:
      ostiary db migrate -c gateway.yaml
      OSTIARY_POSTGRES=postgresql://owner@db/ostiary ostiary db migrate -c gateway.yaml --service-role ostiary_service
    """
    from ostiary.control_plane.db import DatabaseUnavailable, MigrationError, grant
    from ostiary.control_plane.db import migrate as migrate_database

    url = postgres_of(read_configuration(config_path))
    try:
        applied = asyncio.run(migrate_database(url))
        granted = [] if service_role is None else asyncio.run(grant(url, service_role))
        if applied or granted:
            asyncio.run(_write_down(url, applied, service_role))
    except (DatabaseUnavailable, MigrationError) as error:
        raise click.ClickException(str(error)) from error
    for name in applied:
        click.echo(f"applied {name}")
    if not applied:
        click.echo("nothing to do: the schema is current")
    for rights in granted:
        click.echo(f"granted {rights}")


async def _write_down(url: str, applied: list[str], service_role: str | None) -> None:
    """Raises DatabaseUnavailable, MigrationError."""
    from ostiary.control_plane.audit.commands import Deed, by_command
    from ostiary.control_plane.db.schema import connected

    granted = {} if service_role is None else {"granted_to": service_role}
    async with connected(url) as connection:
        deed = Deed("migrateDatabase", resource="schema", by=by_command())
        await deed.note(connection, after={"applied": applied, **granted})


@db.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def status(config_path: str, as_json: bool) -> None:
    """Show every migration: applied, pending, changed after it was applied, or unknown to this version.

    Exit status 0 when the schema is current, else 1.

    \b
    Example:
      ostiary db status -c gateway.yaml || ostiary db migrate -c gateway.yaml
    """
    from ostiary.control_plane.db import DatabaseUnavailable, MigrationError, MigrationState, migration_status

    url = postgres_of(read_configuration(config_path))
    try:
        statuses = asyncio.run(migration_status(url))
    except (DatabaseUnavailable, MigrationError) as error:
        raise click.ClickException(str(error)) from error
    current = all(status.state is MigrationState.APPLIED for status in statuses)
    rows = [
        {
            "name": status.name,
            "state": status.state.value,
            "applied_at": status.applied_at.isoformat() if status.applied_at else None,
        }
        for status in statuses
    ]
    if as_json:
        click.echo(json.dumps({"current": current, "migrations": rows}, indent=2))
    else:
        click.echo(table(rows, ("name", "state", "applied_at")))
    if not current:
        raise click.exceptions.Exit(1)
