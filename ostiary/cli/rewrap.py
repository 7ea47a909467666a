"""`ostiary keys rewrap`: every data key under the current key-encryption key."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import click

from ostiary.cli.configuration import BadConfiguration, config_option, postgres_of, read_configuration
from ostiary.cli.memory import keep_off_disk
from ostiary.cli.table import table

if TYPE_CHECKING:
    from ostiary.control_plane.keys.rewrap import KekUse, Progress

# Each row makes every gateway read its key again when it is next used: some 1 ms of Postgres for a hundred.
ROWS_PER_SECOND = 1000
TELL_SECONDS = 2.0


@click.command()
@config_option
@click.option("--check", is_flag=True, help="Only say which key-encryption keys are still needed. Changes nothing.")
@click.option("--dry-run", is_flag=True, help="Open every data key and wrap it anew, and write nothing.")
@click.option(
    "--rows-per-second",
    type=click.IntRange(1, 100_000),
    default=ROWS_PER_SECOND,
    show_default=True,
    help="How fast, at most: every gateway reads again what was rewrapped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def rewrap(config_path: str, check: bool, dry_run: bool, rows_per_second: int, as_json: bool) -> None:
    """Wrap every data key under the current key-encryption key (stores.key_encryption_keys.current).

    Safe while gateways serve, to be ended and begun again at any time, and by two at once. No secret changes, and no caller
    notices. The gateways and the control plane need both keys in their configuration before this runs; the old one may be
    removed when `--check` says that nothing needs it.

    Exit status: 0 when every data key is under the current key (or would be, with --dry-run), 1 when one is not or it could
    not be told, 2 for a bad configuration.

    \b
    Example:
      ostiary keys rewrap -c gateway.yaml --dry-run
      ostiary keys rewrap -c gateway.yaml
      ostiary keys rewrap -c gateway.yaml --check && echo "the old key may go"
    """
    from ostiary.control_plane.db import DatabaseUnavailable
    from ostiary.control_plane.keys import rewrap as rewrapping
    from ostiary.key_encryption import CannotUseKeyEncryption, key_wrappers

    if check and dry_run:
        raise click.UsageError("--check and --dry-run exclude each other")
    keep_off_disk()
    configuration = read_configuration(config_path)
    url, settings = postgres_of(configuration), configuration.stores.key_encryption
    if settings is None:
        raise BadConfiguration("stores.key_encryption_keys is not set: there is nothing to wrap under")
    progress = None
    try:
        keks = key_wrappers(settings)
        if check:
            uses = asyncio.run(rewrapping.uses(url, keks))
        else:
            progress, uses = asyncio.run(
                rewrapping.rewrap(url, keks, rows_per_second=rows_per_second, dry_run=dry_run, tell=_Teller().tell)
            )
    except CannotUseKeyEncryption as error:
        raise BadConfiguration(str(error)) from error
    except (DatabaseUnavailable, rewrapping.CannotRewrap) as error:
        raise click.ClickException(str(error)) from error
    left = sum(use.left for use in uses)
    if dry_run and progress is not None:
        left -= progress.rewrapped
    if as_json:
        click.echo(json.dumps(_document(progress, uses, left=left, dry_run=dry_run), indent=2))
    else:
        _print(progress, uses, left=left, dry_run=dry_run)
    if left or (progress is not None and progress.failed):
        raise click.exceptions.Exit(1)


class _Teller:
    """Progress on standard error, every so often: nothing of a run that is over before."""

    def __init__(self) -> None:
        self._due = time.monotonic() + TELL_SECONDS

    def tell(self, progress: Progress) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + TELL_SECONDS
            click.echo(f"so far {progress.rewrapped} data keys; {progress.failed} can't be opened", err=True)


def _document(progress: Progress | None, uses: list[KekUse], *, left: int, dry_run: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "complete": left == 0,
        "left": left,
        "key_encryption_keys": [
            {"name": use.name, "id": use.identity, "data_keys": use.rows, "to_rewrap": use.left} for use in uses
        ],
    }
    if progress is not None:
        document |= {
            "dry_run": dry_run,
            "rewrapped": progress.rewrapped,
            "changed_meanwhile": progress.elsewhere,
            "failed": progress.failed,
            "failures": progress.reasons,
        }
    return document


def _print(progress: Progress | None, uses: list[KekUse], *, left: int, dry_run: bool) -> None:
    if progress is not None:
        click.echo(
            f"{'would rewrap' if dry_run else 'rewrapped'} {progress.rewrapped} data keys"
            + (f"; {progress.elsewhere} were changed by others meanwhile" if progress.elsewhere else "")
        )
        for key_id, reason in progress.reasons.items():
            click.echo(f"{key_id}: {reason}", err=True)
        if progress.failed > len(progress.reasons):
            click.echo(f"... and {progress.failed - len(progress.reasons)} more", err=True)
    rows = [
        {
            "key_encryption_key": use.name or "(not configured here)",
            "id": use.identity,
            "data_keys": use.rows,
            "to_rewrap": use.left,
        }
        for use in uses
    ]
    click.echo(table(rows, ("key_encryption_key", "id", "data_keys", "to_rewrap")))
    if left == 0:
        click.echo("Every data key is under the current key-encryption key; no other is needed.")
    else:
        click.echo(f"{left} data keys are not under the current key-encryption key.")
        if progress is not None and not dry_run and not progress.failed:
            click.echo("They were made meanwhile: does every control plane run with the new `current`? Run this again.")
